"""AGRE-KD: teachers count for an example as far as they pull the student away from a biased model."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from limbeck.batch import LOGITS, Batch, Outputs, Progress, Requirements, Term
from limbeck.errors import ArgumentError, LimbeckError, unknown_name_error
from limbeck.functional import KernelClaim, check_hyper, kernel, kl_divergence, probabilities
from limbeck.losses import LossContext, LossTerm
from limbeck.methods.arguments import validates_arguments
from limbeck.methods.card import MethodCard, SearchRange
from limbeck.methods.support import add_label_loss, check_share, check_weight, read_teachers
from limbeck.methods.teachers.member_outputs import MemberShares, member_addresses
from limbeck.recipe import Recipe, Stage
from limbeck.tasks import Task

_ROUNDING = 1e-9
"""One less a cosine that is 1 up to rounding."""


@kernel(per="position")
def group_robust_kl(
    student: Float[Tensor, "*batch classes"],
    teacher: Float[Tensor, "*batch classes"],
    biased: Float[Tensor, "*batch classes"],
    *,
    temperature: float = 4.0,
) -> Float[Tensor, "*batch"]:
    r"""Compute :math:`W(x)\, T^2 KL(p_t \| q)` in nats, with a small weight where the teacher agrees with a bias.

    With :math:`p_t, p_b, q` the softmax of the teacher's, the biased model's and the student's logits at temperature T,

    .. math:: W = 1 - \cos(q - p_t, \; q - p_b) \in [0, 2].

    These differences are the gradients of both divergences at the student's logits. The features cancel in the cosine
    of the gradients of its last layer, so W is one minus the cosine of these for the example. It is constant in the
    backward pass. With two classes it is 0 or 2: the teacher counts if it lies on the other side of the student than
    the biased model. W is 1 where one difference is 0.

    Args:
        student: The student's logits.
        teacher: The teacher's logits.
        biased: The biased model's logits.
        temperature: T, above 0.

    Example:
        >>> z, v = torch.zeros(1, 2), torch.tensor([[2.0, 0.0]])
        >>> group_robust_kl(z, v, v, temperature=1.0), group_robust_kl(z, v, -v, temperature=1.0)
        (tensor([0.]), tensor([0.6556]))

    Source: Kenfack, Aivodji and Ebrahimi Kahou, 2024, arXiv:2411.14984.
    """
    check_hyper(temperature=temperature)
    weight = disagreement(student, teacher, biased, temperature=temperature)
    return weight * kl_divergence(student, teacher, temperature=temperature)


def disagreement(
    student: Float[Tensor, "*batch classes"],
    teacher: Float[Tensor, "*batch classes"],
    biased: Float[Tensor, "*batch classes"],
    *,
    temperature: float,
) -> Float[Tensor, "*batch"]:
    r"""Compute :math:`W = 1 - \cos(q - p_t, q - p_b)`, from 0 to 2, without a graph; see `group_robust_kl`.

    Example:
        >>> z, v = torch.zeros(1, 2), torch.tensor([[2.0, 0.0]])
        >>> disagreement(z, v, -v, temperature=1.0)
        tensor([2.])
    """
    with torch.no_grad():
        # The product of two short vectors has no digits in float32.
        q, p, b = (probabilities(logits, temperature=temperature).double() for logits in (student, teacher, biased))
        one, other = q - p, q - b
        length = one.square().sum(-1).sqrt() * other.square().sum(-1).sqrt()
        cosine = ((one * other).sum(-1) / length.where(length > 0, 1.0)).where(length > 0, 0.0)
        weight = 1 - cosine.clamp(-1, 1)
        weight = weight.where(weight > _ROUNDING, 0.0)
        return weight.to(torch.promote_types(student.dtype, torch.float32))


class GroupRobustTeachers(LossTerm):
    """The loss of `agre_kd`, one value for each example.

    Attributes:
        shares: The mean weights of the last steps, which sum to 1; the biased model has none.
    """

    name, per = "agre_kd", "example"

    def __init__(self, names: Sequence[str], biased: str, *, temperature: float, floor: float | None) -> None:
        super().__init__()
        self.names, self.biased, self.temperature, self.floor = tuple(names), biased, temperature, floor
        self.own_temperatures = frozenset({temperature})
        self.shares = MemberShares(names)

    @property
    def requires(self) -> Requirements:
        """The logits of the student, the teachers and the biased model."""
        return Requirements(frozenset({LOGITS}), member_addresses([*self.names, self.biased]))

    def setup(self, context: LossContext) -> GroupRobustTeachers:
        """The same loss; raises if the models have other classes.

        Raises:
            LimbeckError: If student and teachers have different shapes.
        """
        shapes = {name: tuple(context.teacher[f"{name}.{LOGITS}"].shape[1:]) for name in (*self.names, self.biased)}
        shapes["student"] = tuple(context.student[LOGITS].shape[1:])
        if len(set(shapes.values())) > 1 or context.student[LOGITS].ndim != 2:
            raise LimbeckError(f"agre_kd needs one row of logits for each example and equal classes; shapes: {shapes}.")
        return self

    def weigh(self, student: Tensor, teachers: Sequence[Tensor], biased: Tensor) -> Float[Tensor, "teachers batch"]:
        """The weight of each teacher for each example, without a graph."""
        weights = torch.stack(
            [disagreement(student, teacher, biased, temperature=self.temperature) for teacher in teachers]
        )
        if self.floor is None:
            return weights / len(teachers)
        raised = weights.clamp_min(self.floor)
        total = raised.sum(0)
        return (raised / total.where(total > 0, 1.0)).where(total > 0, 0.0)

    def term(self, student: Outputs, teacher: Outputs, batch: Batch, progress: Progress) -> Term:
        """The weighted sum over the teachers, for the examples that count."""
        rows = batch.valid
        ours, biased = student[LOGITS][rows], teacher[f"{self.biased}.{LOGITS}"][rows]
        theirs = [teacher[f"{name}.{LOGITS}"][rows] for name in self.names]
        weights = self.weigh(ours, theirs, biased)
        values = torch.stack([kl_divergence(ours, one, temperature=self.temperature) for one in theirs])
        return Term((weights * values.where(weights > 0, 0.0)).sum(), self.count(batch))

    def after_step(self, student: Outputs, teacher: Outputs, batch: Batch, progress: Progress) -> None:
        """Follow the mean weights."""
        rows = batch.valid
        theirs = [teacher[f"{name}.{LOGITS}"][rows] for name in self.names]
        weights = self.weigh(student[LOGITS][rows], theirs, teacher[f"{self.biased}.{LOGITS}"][rows])
        total = weights.sum(0)
        self.shares.update_by_rows((weights / total)[:, total > 0])

    def count(self, batch: Batch) -> float:
        """The number of examples that count."""
        return float(batch.valid.sum())

    def __repr__(self) -> str:
        names = ("names", "biased", "temperature", "floor")
        return f"GroupRobustTeachers({', '.join(f'{name}={getattr(self, name)!r}' for name in names)})"


CARD = MethodCard(
    name="agre_kd",
    title="Adaptive Group Robust Ensemble Knowledge Distillation",
    authors="Kenfack, Aivodji and Ebrahimi Kahou",
    year=2024,
    arxiv="2411.14984",
    venue="Transactions on Machine Learning Research, 2025",
    claim="Each teacher of an ensemble counts for an example as far as it pulls the student away from a model that is "
    "known to be biased. So the accuracy of the worst group is regained, without group labels.",
    when="When the average of several teachers has learned a shortcut that some groups of examples do not follow, and "
    "groups are not known. One of the teachers, `biased`, is the model with the shortcut, such as one trained on "
    "labels alone; the others should be debiased, or at least some of them. Group labels serve only to measure the "
    "result.",
    bibtex="""@article{kenfack2025adaptive,
  title = {Adaptive Group Robust Ensemble Knowledge Distillation},
  author = {Kenfack, Patrik Joslin and A{\\"\\i}vodji, Ulrich and Ebrahimi Kahou, Samira},
  journal = {Transactions on Machine Learning Research},
  year = {2025},
  eprint = {2411.14984},
  archivePrefix = {arXiv}
}""",
    ranges={"temperature": SearchRange(1.0, 10.0, log=True), "weight": SearchRange(0.0, 1.0)},
    labels="optional",
    needs="two teachers or more, one of which is biased",
    example={"biased": "third"},
    trials=("several",),
    kernels=(
        KernelClaim(
            group_robust_kl, teacher=("teacher", "biased"), hyper={"temperature": 2.0}, stop_gradient=True,
            invariances=("student_shift", "teacher_shift"),
        ),
    ),
    keywords=("ensemble", "worst group", "spurious", "bias"),
)  # fmt: skip


@validates_arguments
def agre_kd(
    teacher: Any,
    *,
    biased: str,
    temperature: float = 4.0,
    weight: float = 1.0,
    floor: float = 0.01,
    normalize: bool = True,
    task: str | Task = "classification",
    epochs: int | None = None,
) -> Recipe:
    r"""Learn from each teacher t with a weight for each example: :math:`a \sum_t w_t(x)\, T^2 KL(p_t \| q)`.

    :math:`w_t = \max(W_t, f) / \sum_j \max(W_j, f)` with the W of `group_robust_kl` and the floor f. Where all teachers
    are on the side of the biased model, they have equal weights.

    Args:
        teacher: An `Ensemble` with names (``teachers:`` in a job), a mapping from names to teachers, or a list.
        biased: The name of the member that is biased. The student does not learn from it.
        temperature: T, above 0; 4 in a published re-implementation.
        weight: a, from 0 to 1; the loss of the labels has 1 - a. The paper's is 1: no labels.
        floor: f, at least 0. At 0 an example of which all W are 0 is skipped.
        normalize: Whether the weights of an example sum to 1. False is the sum of :math:`W_t / K`, without a floor.
        task: What the targets are.
        epochs: Passes over the data; by default the budget of the run.

    The mean weights of the last steps, which sum to 1, are in the result of a job.

    Raises:
        LimbeckError: If there is no member of this name, or an argument is out of range.

    Example:
        >>> from torch import nn
        >>> recipe = agre_kd({"a": nn.Linear(4, 3), "erm": nn.Linear(4, 3)}, biased="erm")
        >>> [stage.name for stage in recipe.stages()]
        ['agre_kd']

    Source: Kenfack, Aivodji and Ebrahimi Kahou, 2024, arXiv:2411.14984.
    """
    check_hyper(temperature=temperature)
    check_share(weight=weight)
    check_weight(floor=floor)
    source, names = read_teachers(teacher, "agre_kd")
    if biased not in names:
        raise unknown_name_error("teacher", biased, names, argument="biased")
    if weight == 0:
        raise ArgumentError("weight=0 leaves the labels alone; use the method supervised.", argument="weight")
    others = [name for name in names if name != biased]
    loss = GroupRobustTeachers(others, biased, temperature=temperature, floor=floor if normalize else None)
    objective = add_label_loss(loss if weight == 1 else weight * loss, CARD.get_task(task), 1 - weight)
    return Recipe(Stage(objective, teacher=source, epochs=epochs, name="agre_kd"))
