"""USKD: a student without a teacher makes its own soft labels, from its answers and an earlier layer."""

from __future__ import annotations

import copy

import torch
from jaxtyping import Bool, Float, Integer
from torch import Tensor, nn

from limbeck.batch import IGNORED, LOGITS, Batch, Outputs, Progress, Requirements, Term
from limbeck.errors import LimbeckError
from limbeck.functional import KernelClaim, cross_entropy, kernel, label_smoothing, probabilities
from limbeck.functional.closed_form import guarded_log_softmax
from limbeck.functional.kernel import validates_student
from limbeck.functional.row_blocks import compute_by_rows
from limbeck.losses import LossContext, LossTerm, all_gather, all_reduce_sum
from limbeck.methods.arguments import validates_arguments
from limbeck.methods.card import MethodCard, SearchRange
from limbeck.methods.logits.nkd import CARD as NKD
from limbeck.methods.relations.pretext_teacher import pool_channels
from limbeck.methods.support import check_weight
from limbeck.recipe import Recipe, Stage

_SMOOTHING = 0.1
"""The smoothing of the labels of the weak logits, as in the authors' code."""


@kernel(per="batch")
@validates_student
def smoothed_target_cross_entropy(
    student: Float[Tensor, "*batch classes"], *, labels: Integer[Tensor, "*batch"]
) -> Float[Tensor, ""]:
    r"""Compute the mean of :math:`-P_y \log S_y` over the rows with a label, in nats.

    S are the student's probabilities, and :math:`P_y = S_y^2 + 1 - mean(S_y^2)` is the soft label of the labeled class:
    above 1 for examples of which the student is surer than of the batch, below 1 for others, and 1 in the mean. P is
    constant in the backward pass. Without a labeled row the value is 0.

    Args:
        student: Logits of the student.
        labels: Class indices from 0 to classes - 1, or -100.

    Example:
        >>> z = torch.tensor([[0.0, 0.0], [0.0, 0.0]])
        >>> smoothed_target_cross_entropy(z, labels=torch.tensor([0, 1]))
        tensor(0.6931)

    Source: Yang, Zeng, Li, Zhang, Yuan and Li, 2023, arXiv:2303.13005, section 3.3.
    """
    known = labels != IGNORED
    count = known.sum().clamp_min(1)
    surprise = cross_entropy(student, labels=labels)
    squares = (-2 * surprise.detach()).exp().masked_fill(~known, 0.0)
    return ((squares + 1 - squares.sum() / count) * surprise).sum() / count


@kernel(per="position")
@validates_student
def zipf_cross_entropy(
    student: Float[Tensor, "*batch classes"],
    weak: Float[Tensor, "*batch classes"],
    *,
    labels: Integer[Tensor, "*batch"],
) -> Float[Tensor, "*batch"]:
    r"""Compute the cross-entropy of the other classes with soft labels by their ranks, in nats.

    :math:`-\sum_{c \ne y} z_c \log \hat s_c`, where :math:`\hat s` and :math:`\hat w` are the distributions of student
    and weak logits over the classes that are not the label, each with the sum 1. The class with the r-th largest
    :math:`\hat s_c + \hat w_c` has the soft label :math:`z_c = \frac{1 / r}{\sum_{r'} 1 / r'}`, Zipf's law. Of equal
    classes the first comes first. The soft labels are constant in the backward pass, so nothing is learned by the weak
    logits. With two classes, and for a label of -100, the value is 0. A class that is -inf in the student has no rank.

    Args:
        student: Logits of the student.
        weak: Logits that an earlier layer gives.
        labels: Class indices from 0 to classes - 1, or -100.

    Raises:
        LimbeckError: If the shapes differ.

    Example:
        >>> z = torch.tensor([[5.0, 0.0, 0.0]])
        >>> zipf_cross_entropy(z, torch.tensor([[0.0, 1.0, 2.0]]), labels=torch.tensor([0]))
        tensor([0.6931])

    Source: Yang, Zeng, Li, Zhang, Yuan and Li, 2023, arXiv:2303.13005, section 3.3.
    """
    if student.shape != weak.shape:
        raise LimbeckError(f"The student's logits are {tuple(student.shape)} and the weak ones {tuple(weak.shape)}.")

    def compute(student: Tensor, weak: Tensor, labels: Tensor) -> Tensor:
        known = labels != IGNORED
        label = labels.masked_fill(~known, 0).long().unsqueeze(-1)
        others = student.scatter(-1, label, -torch.inf)
        soft = _rank_labels(others.detach(), weak.detach().scatter(-1, label, -torch.inf))
        return -(soft * guarded_log_softmax(others, 1.0)).sum(-1).masked_fill(~known, 0.0)

    return compute_by_rows(compute, student, weak, labels)


def _rank_labels(student: Tensor, weak: Tensor) -> Float[Tensor, "*batch classes"]:
    """The soft labels of the classes that are not -inf in the student."""
    exists = student > -torch.inf
    scores = (probabilities(student) + probabilities(weak)).masked_fill(~exists, -1.0)
    rank = scores.argsort(dim=-1, descending=True, stable=True).argsort(-1)
    shares = (1 / (rank + 1).to(student.dtype)).masked_fill(~exists, 0.0)
    return shares / shares.sum(-1, keepdim=True).clamp_min(torch.finfo(shares.dtype).tiny)


class OwnLabels(LossTerm):
    """The losses of a student's own soft labels, over the labeled examples of all ranks.

    Alpha times `smoothed_target_cross_entropy`, plus beta times `zipf_cross_entropy`, plus mu times the cross-entropy
    of smoothed labels of the weak logits: a linear layer on the mean over positions of an earlier layer. It is trained
    with the student and dropped after the stage.

    Args:
        student_at: The address of the earlier layer.
        target_weight: Alpha.
        non_target_weight: Beta.
        weak_weight: Mu.
    """

    name, per = "own_labels", "batch"

    def __init__(self, student_at: str, *, target_weight: float, non_target_weight: float, weak_weight: float) -> None:
        super().__init__()
        self.student_at, self.weights = student_at, (target_weight, non_target_weight, weak_weight)
        self.weak: nn.Module = nn.Identity()

    @property
    def requires(self) -> Requirements:
        """The student's logits and earlier layer, and labels."""
        return Requirements(frozenset({LOGITS, self.student_at}), frozenset(), frozenset({"labels"}))

    def setup(self, context: LossContext) -> OwnLabels:
        """A copy with a layer for the weak logits."""
        features, logits = pool_channels(context.student[self.student_at]), context.student[LOGITS]
        if logits.ndim != 2:
            raise LimbeckError(
                f"uskd needs one row of logits for each example, [batch, classes]; got {tuple(logits.shape)}."
            )
        fitted = copy.copy(self)
        fitted.weak = nn.Linear(features.shape[1], logits.shape[1]).to(features)
        return fitted

    def term(self, student: Outputs, teacher: Outputs, batch: Batch, progress: Progress) -> Term:
        """The value of the whole batch."""
        counted, count = self._find_counted(batch), self.count(batch)
        with torch.autocast(counted.device.type, enabled=False):
            features = pool_channels(student[self.student_at])[counted]
            logits = student[LOGITS].to(features.dtype)[counted]
            logits, weak = all_gather(logits), all_gather(self.weak(features))
            if not count:
                return Term((logits.sum() + weak.sum()) * 0.0, 0.0)
            labels = all_gather(_read_labels(batch)[counted])
            values = (
                smoothed_target_cross_entropy(logits, labels=labels),
                zipf_cross_entropy(logits, weak, labels=labels).mean(),
                label_smoothing(weak, labels=labels, smoothing=_SMOOTHING).mean(),
            )
        total = sum((weight * value for weight, value in zip(self.weights, values, strict=True)), start=0 * values[0])
        return Term(total, count)

    def count(self, batch: Batch) -> float:
        """1, unless no example counts."""
        return min(all_reduce_sum(float(self._find_counted(batch).sum())), 1.0)

    def _find_counted(self, batch: Batch) -> Bool[Tensor, " batch"]:
        return batch.valid & (_read_labels(batch) != IGNORED)

    def __repr__(self) -> str:
        return f"OwnLabels({self.student_at!r}, weights={self.weights})"


def _read_labels(batch: Batch) -> Integer[Tensor, " batch"]:
    if batch.labels is None:
        raise LimbeckError(
            "uskd needs one label for each example, and this loader gives none, or mixes two examples (mix=)."
        )
    return batch.labels


CARD = MethodCard(
    name="uskd",
    title="From Knowledge Distillation to Self-Knowledge Distillation: A Unified Approach with Normalized Loss and "
    "Customized Soft Labels",
    authors="Yang, Zeng, Li, Zhang, Yuan and Li",
    year=2023,
    arxiv="2303.13005",
    venue="ICCV 2023",
    claim="A student without a teacher learns soft labels that it makes itself: for the label from its own answer, "
    "for the other classes from their ranks, with Zipf's law.",
    when="Where there is no teacher and no time for one: it costs one linear layer. Compare with label_smoothing, "
    "which treats all other classes alike. With a teacher use nkd, of the same paper.",
    bibtex=NKD.bibtex,
    reads=(),
    labels="required",
    example={"student_at": "layer2"},
    ranges={
        "target_weight": SearchRange(0.05, 2.0, log=True),
        "non_target_weight": SearchRange(0.02, 1.0, log=True),
    },
    kernels=(
        KernelClaim(smoothed_target_cross_entropy, stop_gradient=True, invariances=("student_shift",)),
        KernelClaim(zipf_cross_entropy, student=("student", "weak"), invariances=("student_shift",)),
    ),
    task_reason="its soft labels are for the class of a label, and for the ranks of the others",
    keywords=("self-distillation", "Zipf"),
)  # fmt: skip


@validates_arguments
def uskd(
    *,
    student_at: str,
    target_weight: float = 0.1,
    non_target_weight: float = 0.1,
    weak_weight: float = 0.1,
    epochs: int | None = None,
) -> Recipe:
    r"""Learn labels, and soft labels that the student makes itself.

    :math:`-\log S_y - \alpha P_y \log S_y - \beta \sum_{c \ne y} z_c \log \hat s_c + \mu L_{weak}`, see
    `smoothed_target_cross_entropy` and `zipf_cross_entropy`. The ranks are those of the student's probabilities and of
    weak logits together. The weak logits are a linear layer on the mean over positions of an earlier layer, and
    :math:`L_{weak}` is their cross-entropy with labels that are smoothed by 0.1.

    Args:
        student_at: Name of the earlier layer; in the paper the stage before the last.
        target_weight: Alpha, at least 0; 0.1 in the authors' configuration for CIFAR-100, 1 for ImageNet.
        non_target_weight: Beta, at least 0; 0.1 in both configurations.
        weak_weight: Mu, at least 0; 0.1 in the authors' configuration for CIFAR-100, 0.005 for ImageNet.
        epochs: Passes over the data; by default the budget of the run.

    Raises:
        LimbeckError: If a weight is negative.

    Example:
        >>> [repr(stage.objective) for stage in uskd(student_at="layer2").stages()]
        ["Loss(cross_entropy) + OwnLabels('layer2', weights=(0.1, 0.1, 0.1))"]

    Source: Yang, Zeng, Li, Zhang, Yuan and Li, 2023, arXiv:2303.13005, section 3.3.
    """
    check_weight(target_weight=target_weight, non_target_weight=non_target_weight, weak_weight=weak_weight)
    own = OwnLabels(
        student_at, target_weight=target_weight, non_target_weight=non_target_weight, weak_weight=weak_weight
    )
    return Recipe(Stage(CARD.get_task("classification").supervised_loss() + own, epochs=epochs, name="uskd"))
