"""LLKD: learn from examples of which the teacher is sure and the student is not."""

from __future__ import annotations

import copy
import math
import warnings
from typing import Any, NamedTuple

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from limbeck.batch import LOGITS, Batch, Outputs, Progress, Requirements, Term
from limbeck.errors import ArgumentError, LimbeckError, LimbeckWarning
from limbeck.functional import compute_entropy, cross_entropy
from limbeck.functional.row_figures import count_share
from limbeck.losses import LossContext, LossTerm, RunningMean, all_gather, all_reduce_sum
from limbeck.methods.arguments import validates_arguments
from limbeck.methods.card import MethodCard, SearchRange
from limbeck.methods.support import check_share
from limbeck.recipe import Recipe, Stage

CARD = MethodCard(
    name="llkd",
    title="Learning with Less: Knowledge Distillation from Large Language Models via Unlabeled Data",
    authors="Li, Nag, Liu, Tang, Sarwar, Cui, Gu, Wang, He and Tang",
    year=2024,
    arxiv="2411.08028",
    venue="NAACL 2025 Findings",
    claim="Pseudo-labels of the teacher are learned where the teacher is sure of them and the student is not yet. Both "
    "thresholds are moving averages, so far fewer examples are learned from.",
    when="When there are many unlabeled examples and the teacher is a model with errors. Compare with hinton, which "
    "uses all of the teacher's distribution, and with all pseudo-labels. Tests here show that the selected "
    "pseudo-labels are right more often, and that a student learns as much, within a point, from an eighth of "
    "the examples; it was not better than with all of them. With one threshold for all classes whole classes "
    "are never selected, so each class has its own, a smallest share of every batch is kept, and a class that is "
    "left out is reported.",
    bibtex="""@inproceedings{li2025learning,
  title = {Learning with Less: Knowledge Distillation from Large Language Models via Unlabeled Data},
  author = {Li, Juanhui and Nag, Sreyashi and Liu, Hui and Tang, Xianfeng and Sarwar, Sheikh and Cui, Limeng and
            Gu, Hansu and Wang, Suhang and He, Qi and Tang, Jiliang},
  booktitle = {Findings of the Association for Computational Linguistics: NAACL 2025},
  year = {2025},
  eprint = {2411.08028},
  archivePrefix = {arXiv}
}""",
    labels="unused",
    ranges={"decay": SearchRange(0.5, 0.99), "smallest": SearchRange(0.0, 0.5)},
)


class Selection(NamedTuple):
    """Which examples of a batch are learned from.

    Attributes:
        labels: The pseudo-labels: the teacher's most likely class.
        confidence: The teacher's probability of it.
        uncertainty: The entropy of the student's prediction, as a share of the largest one, log(classes).
        chosen: Whether an example is learned from.
        weight: Confidence times uncertainty where it is, else 0.
    """

    labels: Int[Tensor, " batch"]
    confidence: Float[Tensor, " batch"]
    uncertainty: Float[Tensor, " batch"]
    chosen: Bool[Tensor, " batch"]
    weight: Float[Tensor, " batch"]


_ROUNDING = 1e-6  # the average of equal numbers may be one rounding above them


@torch.no_grad()
def select_examples(
    student: Float[Tensor, "batch classes"],
    teacher: Float[Tensor, "batch classes"],
    confidence_thresholds: Float[Tensor, " classes"],
    uncertainty_thresholds: Float[Tensor, " classes"],
    *,
    smallest: float,
) -> Selection:
    """Select the examples of which the teacher is sure and the student is not.

    An example is selected if both its confidence and its uncertainty are at least the threshold of its pseudo-label. If
    these are fewer than the share `smallest` of the batch, the others with the largest product of both are added.

    Args:
        student: The student's logits.
        teacher: The teacher's logits.
        confidence_thresholds: The smallest confidence for each pseudo-label.
        uncertainty_thresholds: The smallest uncertainty for each pseudo-label.
        smallest: The smallest share of selected examples, from 0 to 1.

    Example:
        >>> teacher = torch.tensor([[5.0, 0.0], [1.0, 0.0], [5.0, 0.0]])
        >>> student = torch.tensor([[0.0, 0.0], [0.0, 0.0], [9.0, 0.0]])
        >>> select_examples(student, teacher, torch.full((2,), 0.9), torch.full((2,), 0.5), smallest=0.0).chosen
        tensor([ True, False, False])
    """
    confidence, labels = teacher.softmax(-1).max(-1)
    uncertainty = compute_entropy(student) / math.log(student.shape[-1])
    score = confidence * uncertainty
    sure = confidence >= confidence_thresholds[labels] - _ROUNDING
    chosen = sure & (uncertainty >= uncertainty_thresholds[labels] - _ROUNDING)
    missing = int(count_share(torch.tensor([len(labels)]), smallest)) - int(chosen.sum())
    if missing > 0:
        others = score.masked_fill(chosen, -1.0).topk(missing).indices
        chosen = chosen.index_fill(0, others, True)
    return Selection(labels, confidence, uncertainty, chosen, score * chosen)


def relative_entropy(chosen: Float[Tensor, " classes"], every: Float[Tensor, " classes"]) -> float:
    r"""Compute :math:`\sum_c s_c \log(s_c / r_c)` in nats, from numbers of chosen and of all examples of each class.

    It is 0 if the chosen examples have the classes of all examples, and grows as classes are left out.

    Example:
        >>> round(relative_entropy(torch.tensor([5.0, 0.0]), torch.tensor([10.0, 10.0])), 4)
        0.6931
    """
    s, r = (counts / counts.sum().clamp_min(1.0) for counts in (chosen, every))
    return float(torch.where(s > 0, s * (s / r.clamp_min(1e-12)).log(), 0.0).sum())


class SelectedPseudoLabels(LossTerm):
    """The cross-entropy of the teacher's most likely classes on the examples of `select_examples`, of all ranks.

    Its buffers are the thresholds, and how many examples of each class there were and were selected.
    """

    name, per = "selected_pseudo_labels", "batch"
    confidence: RunningMean
    uncertainty: RunningMean
    seen: Tensor
    learned: Tensor

    def __init__(self, *, decay: float, smallest: float) -> None:
        super().__init__()
        self.decay, self.smallest = decay, smallest

    @property
    def requires(self) -> Requirements:
        """The logits of both models."""
        return Requirements(frozenset({LOGITS}), frozenset({LOGITS}), frozenset())

    def setup(self, context: LossContext) -> SelectedPseudoLabels:
        """The loss for one stage, without thresholds yet.

        Raises:
            LimbeckError: If the models do not give one row of logits for each example.
        """
        if context.student[LOGITS].ndim != 2 or context.classes is None:
            raise LimbeckError(
                f"llkd selects whole examples, and the student's logits have the shape "
                f"{tuple(context.student[LOGITS].shape)}. For positions of texts, se_kd selects the uncertain ones."
            )
        fitted = copy.copy(self)
        dtype = torch.promote_types(context.student[LOGITS].dtype, torch.float32)
        fitted.confidence = RunningMean(context.classes, decay=self.decay, dtype=dtype)
        fitted.uncertainty = RunningMean(context.classes, decay=self.decay, dtype=dtype)
        fitted.register_buffer("seen", torch.zeros(context.classes))
        fitted.register_buffer("learned", torch.zeros(context.classes))
        return fitted

    def term(self, student: Outputs, teacher: Outputs, batch: Batch, progress: Progress) -> Term:
        """The weighted mean over the selected examples of the whole batch."""
        ours, theirs = self._gather(student, batch), self._gather(teacher, batch)
        found = self._select(ours, theirs)
        losses = cross_entropy(ours, labels=found.labels)
        total = (losses * found.weight).sum() / found.weight.sum().clamp_min(1e-12)
        return Term(total, self.count(batch))

    def count(self, batch: Batch) -> float:
        """1, unless no example counts."""
        return min(all_reduce_sum(float(batch.valid.sum())), 1.0)

    def after_step(self, student: Outputs, teacher: Outputs, batch: Batch, progress: Progress) -> None:
        """Move the thresholds, and count the classes."""
        found = self._select(self._gather(student, batch), self._gather(teacher, batch))
        self.seen.index_add_(0, found.labels, torch.ones_like(found.labels, dtype=self.seen.dtype))
        self.learned.index_add_(0, found.labels, found.chosen.to(self.learned))
        self.confidence.update(found.labels, found.confidence)
        self.uncertainty.update(found.labels, found.uncertainty)
        if progress.step + 1 == progress.steps:
            self._warn_of_missing_classes()

    def _gather(self, outputs: Outputs, batch: Batch) -> Tensor:
        logits = outputs[LOGITS][batch.valid]
        return all_gather(logits.to(torch.promote_types(logits.dtype, torch.float32)))

    def _select(self, student: Tensor, teacher: Tensor) -> Selection:
        return select_examples(student, teacher, self.confidence.value, self.uncertainty.value, smallest=self.smallest)

    def _warn_of_missing_classes(self) -> None:
        missing = ((self.seen > 0) & (self.learned == 0)).nonzero().flatten().tolist()
        if missing:
            warnings.warn(
                f"llkd learned from no example that the teacher puts in class {', '.join(map(str, missing[:10]))}, "
                f"so the student does not know {'it' if len(missing) == 1 else 'them'} (relative entropy of the "
                f"selected classes: {relative_entropy(self.learned, self.seen):.2f} nats). Raise smallest=, or lower "
                "decay=.",
                LimbeckWarning,
                stacklevel=2,
            )

    def __repr__(self) -> str:
        return f"SelectedPseudoLabels(decay={self.decay}, smallest={self.smallest})"


@validates_arguments
def llkd(
    teacher: Any,
    *,
    decay: float = 0.9,
    smallest: float = 0.1,
    epochs: int | None = None,
) -> Recipe:
    r"""Learn the teacher's most likely class :math:`\tilde y` where the teacher is sure and the student is not.

    With the teacher's confidence :math:`c = p_{\tilde y}` and the student's uncertainty :math:`u = H(q) / \log C`, an
    example counts if :math:`c \ge \tau^T_{\tilde y}` and :math:`u \ge \tau^S_{\tilde y}`. Both thresholds are moving
    averages of c and u over the examples of a pseudo-label. The loss is the mean of :math:`-\log q_{\tilde y}` with the
    weights :math:`c u`.

    Args:
        teacher: The teacher: a module, a `Teacher`, or the name of a model in the run.
        decay: The decay of the thresholds, from 0 to below 1.
        smallest: The smallest share of a batch that is learned from, from 0 to 1.
        epochs: Passes over the data; by default the budget of the run.

    Raises:
        LimbeckError: If an argument is out of range.

    Example:
        >>> from torch import nn
        >>> [repr(stage.objective) for stage in llkd(nn.Linear(4, 3), smallest=0.2).stages()]
        ['SelectedPseudoLabels(decay=0.9, smallest=0.2)']

    Source: Li et al., 2024, arXiv:2411.08028, section 4.
    """
    check_share(decay=decay, smallest=smallest)
    if decay == 1:
        raise ArgumentError("decay=1 would never move the thresholds; it is below 1.", argument="decay")
    loss = SelectedPseudoLabels(decay=decay, smallest=smallest)
    return Recipe(Stage(loss, teacher=teacher, epochs=epochs, name="llkd"))
