"""AdaAlpha: the weight of the teacher is chosen for each class, by how reliable the teacher is there."""

from __future__ import annotations

import copy
import math
from collections.abc import Sequence
from typing import Any

import torch
from jaxtyping import Float, Integer
from torch import Tensor

from limbeck.batch import IGNORED, LOGITS, Batch, Outputs, Progress, Requirements, Term
from limbeck.errors import ArgumentError, LimbeckError
from limbeck.functional import KernelClaim, check_hyper, cross_entropy, kernel, kl_divergence, probabilities
from limbeck.functional.kernel import validates_pair
from limbeck.losses import Loss, LossContext, LossTerm, Objective, all_gather
from limbeck.losses.logit_rows import count_logit_rows, select_logit_rows
from limbeck.methods.arguments import validates_arguments
from limbeck.methods.card import MethodCard, SearchRange
from limbeck.methods.support import check_share
from limbeck.recipe import Recipe, Stage
from limbeck.tasks import Task


def measure_margins(
    teacher: Float[Tensor, "*batch classes"], labels: Integer[Tensor, "*batch"]
) -> Float[Tensor, "*batch"]:
    r"""Compute the teacher's margin at the label: :math:`p_y - \frac1{K - 1} \sum_{k \ne y} p_k`.

    It is 1 for a teacher that is sure and right, 0 for a uniform one, and negative where it is sure of something else.
    K is the number of classes that are not -inf. With one class it is 1.

    Example:
        >>> measure_margins(torch.tensor([[9.0, 9.0, 2.0]]).log(), torch.tensor([2]))
        tensor([-0.3500])
    """
    sure = probabilities(teacher).gather(-1, labels.long().unsqueeze(-1)).squeeze(-1)
    others = (teacher != -torch.inf).sum(-1) - 1
    return sure - (1 - sure).masked_fill(others < 1, 0.0) / others.clamp_min(1)


def measure_class_weights(
    teacher: Float[Tensor, "rows classes"], labels: Integer[Tensor, " rows"]
) -> Float[Tensor, " classes"]:
    r"""Compute the weight of the teacher for each class: :math:`\alpha_y = \max(0, \bar\gamma_y)`, its mean margin.

    Measure it on data that the teacher has not learned from: on its own training data a teacher is sure of everything.
    A class without examples, or a label of -100, gets 0.

    Args:
        teacher: Logits of the teacher on held-out examples.
        labels: Their labels.

    Example:
        >>> measure_class_weights(torch.tensor([[9.0, 0.0], [0.0, 0.0]]), torch.tensor([0, 1]))
        tensor([0.9998, 0.0000])

    Source: Lukasik, Bhojanapalli, Menon and Kumar, 2021, arXiv:2106.10494, section 5.
    """
    known = labels != IGNORED
    teacher, labels = teacher[known], labels[known].long()
    total = teacher.new_zeros(teacher.shape[-1]).index_add_(0, labels, measure_margins(teacher, labels))
    return (total / torch.bincount(labels, minlength=len(total)).clamp_min(1)).clamp_min(0.0)


@kernel(per="position")
@validates_pair
def class_weighted_kl(
    student: Float[Tensor, "*batch classes"],
    teacher: Float[Tensor, "*batch classes"],
    *,
    labels: Integer[Tensor, "*batch"],
    class_weights: float | Sequence[float] | Float[Tensor, " classes"] = 0.0,
    temperature: float = 1.0,
) -> Float[Tensor, "*batch"]:
    r"""Compute :math:`(1 - \alpha_y) (-\log q_y) + \alpha_y T^2 KL(p \| q)`, with a weight for each class, in nats.

    q of the first term is at temperature 1. A label of -100 gives 0.

    Args:
        student: Logits of the student.
        teacher: Logits of the teacher.
        labels: Class indices from 0 to classes - 1, or -100.
        class_weights: alpha, from 0 to 1: one for each class, or a number for all of them.
        temperature: T, above 0.

    Raises:
        LimbeckError: If the shapes differ, `temperature` is not above 0, or there is not one weight for each class.

    Example:
        >>> z, v = torch.zeros(1, 2), torch.tensor([[2.0, 0.0]])
        >>> class_weighted_kl(z, v, labels=torch.tensor([0]), class_weights=(1.0, 0.0)) - kl_divergence(z, v)
        tensor([0.])

    Source: Lukasik, Bhojanapalli, Menon and Kumar, 2021, arXiv:2106.10494, section 5.
    """
    known = labels != IGNORED
    weights = torch.as_tensor(class_weights, dtype=student.dtype, device=student.device)
    if weights.ndim == 0:
        weights = weights.expand(student.shape[-1])
    if len(weights) != student.shape[-1]:
        raise LimbeckError(
            f"There are {len(weights)} class weights for {student.shape[-1]} classes; give one for each class, in the "
            "order of the student's outputs."
        )
    alpha = weights[labels.masked_fill(~known, 0).long()]
    soft = kl_divergence(student, teacher, temperature=temperature)
    return ((1 - alpha) * cross_entropy(student, labels=labels) + alpha * soft).masked_fill(~known, 0.0)


CARD = MethodCard(
    name="ada_alpha",
    title="Teacher's pet: understanding and mitigating biases in distillation",
    authors="Lukasik, Bhojanapalli, Menon and Kumar",
    year=2021,
    arxiv="2106.10494",
    venue="TMLR 2022",
    claim="Distillation can harm rare classes, on which the teacher is unreliable. Each class has its own weight "
    "between teacher and labels: the teacher's mean margin there.",
    when="For data with rare classes, when the mean accuracy rises and that of some classes falls. Measure the weights "
    "on held-out data (`measure_class_weights`): on its training data the teacher looks reliable everywhere.",
    bibtex="""@article{lukasik2022teachers,
  title = {Teacher's pet: understanding and mitigating biases in distillation},
  author = {Lukasik, Michal and Bhojanapalli, Srinadh and Menon, Aditya Krishna and Kumar, Sanjiv},
  journal = {Transactions on Machine Learning Research},
  year = {2022},
  eprint = {2106.10494},
  archivePrefix = {arXiv}
}""",
    labels="required",
    ranges={"temperature": SearchRange(1.0, 20.0, log=True)},
    kernels=(KernelClaim(class_weighted_kl, hyper={"class_weights": 0.3, "temperature": 2.0},
                         invariances=("student_shift", "teacher_shift")),),
    tasks=("classification", "segmentation", "language_modeling"),
    task_reason="its weights belong to the class of the label, and such targets have no single class",
)  # fmt: skip


class AdaptiveClassWeights(LossTerm):
    """`class_weighted_kl` with weights that are measured during training: the mean margins of all examples so far.

    Its buffers are the sums of the margins and the numbers of examples of each class. A class without examples so far
    has the weight 0, so the first step learns labels alone.

    Args:
        temperature: T, above 0.
        classes: The dimension of the logits that holds the classes.
    """

    name, per = "class_weighted_kl", "position"
    margins: Tensor
    seen: Tensor

    def __init__(self, *, temperature: float, classes: int) -> None:
        super().__init__()
        self.temperature, self.classes, self.positions = temperature, classes, 1

    @property
    def requires(self) -> Requirements:
        """The logits of both models, and labels."""
        return Requirements(frozenset({LOGITS}), frozenset({LOGITS}), frozenset({"labels"}))

    @property
    def class_weights(self) -> Float[Tensor, " classes"]:
        """The weights of the classes so far."""
        return (self.margins / self.seen.clamp_min(1)).clamp_min(0.0)

    def setup(self, context: LossContext) -> AdaptiveClassWeights:
        """The loss for one stage, without examples so far."""
        logits = context.student[LOGITS].movedim(self.classes, -1)
        fitted = copy.copy(self)
        fitted.positions = math.prod(logits.shape[1:-1])
        for buffer in ("margins", "seen"):
            fitted.register_buffer(buffer, torch.zeros(logits.shape[-1], dtype=torch.float64))
        return fitted

    def term(self, student: Outputs, teacher: Outputs, batch: Batch, progress: Progress) -> Term:
        """The sum over the rows with a label."""
        ours, theirs, labels = self._rows(student, teacher, batch)
        values = class_weighted_kl(
            ours, theirs, labels=labels, class_weights=self.class_weights,
            temperature=self.temperature,
        )  # fmt: skip
        return Term(values.sum(), self.count(batch))

    def count(self, batch: Batch) -> float:
        """The number of rows with a label."""
        return count_logit_rows(batch, self.positions, labeled=True)

    def after_step(self, student: Outputs, teacher: Outputs, batch: Batch, progress: Progress) -> None:
        """Add the margins of the teacher."""
        _, theirs, labels = map(all_gather, self._rows(student, teacher, batch))
        self.margins.index_add_(0, labels, measure_margins(theirs, labels).to(self.margins))
        self.seen.index_add_(0, labels, torch.ones_like(labels, dtype=self.seen.dtype))

    def _rows(self, student: Outputs, teacher: Outputs, batch: Batch) -> tuple[Tensor, Tensor, Tensor]:
        rows = select_logit_rows(student, teacher, batch, classes=self.classes, labeled=True)
        if rows.labels is None:
            raise LimbeckError("ada_alpha needs labels, and this loader gives none.")
        return rows.student, rows.teacher, rows.labels

    def __repr__(self) -> str:
        return f"AdaptiveClassWeights(temperature={self.temperature}, classes={self.classes})"


@validates_arguments
def ada_alpha(
    teacher: Any,
    *,
    class_weights: Sequence[float] | None = None,
    temperature: float = 1.0,
    task: str | Task = "classification",
    epochs: int | None = None,
) -> Recipe:
    r"""Learn labels and soft targets by class: :math:`(1 - \alpha_y) (-\log q_y) + \alpha_y T^2 KL(p \| q)`.

    :math:`\alpha_y` is the teacher's mean margin on class y, and 0 where it is negative: a perfect teacher gives 1,
    soft targets alone, and one at chance 0, labels alone.

    Args:
        teacher: The teacher: a module, a `Teacher`, or the name of a model in the run.
        class_weights: alpha, one number from 0 to 1 for each class, measured on held-out data with
            `measure_class_weights`. By default they are measured on the training data while it learns.
        temperature: T, above 0.
        task: What the targets are.
        epochs: Passes over the data; by default the budget of the run.

    Raises:
        LimbeckError: If an argument is out of range, or the task has no single label.

    Example:
        >>> from torch import nn
        >>> [repr(stage.objective) for stage in ada_alpha(nn.Linear(4, 3)).stages()]
        ['AdaptiveClassWeights(temperature=1.0, classes=-1)']

    Source: Lukasik et al., 2021, arXiv:2106.10494, section 5.
    """
    check_hyper(temperature=temperature)
    task = CARD.get_task(task)
    objective: Objective = AdaptiveClassWeights(temperature=temperature, classes=task.classes_dim)
    if class_weights is not None:
        objective = Loss(
            class_weighted_kl, classes=task.classes_dim, class_weights=_read_weights(class_weights),
            temperature=temperature,
        )  # fmt: skip
    return Recipe(Stage(objective, teacher=teacher, epochs=epochs, name="ada_alpha"))


def _read_weights(values: Any) -> tuple[float, ...]:
    if isinstance(values, Tensor):
        values = values.tolist()
    if isinstance(values, (str, bytes)) or not isinstance(values, Sequence) or not values:
        raise ArgumentError(
            f"class_weights is a list with a number from 0 to 1 for each class; got {values!r}.",
            argument="class_weights",
        )
    for one in values:
        check_share(class_weights=one)
    return tuple(map(float, values))
