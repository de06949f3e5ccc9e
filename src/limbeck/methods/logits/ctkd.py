"""CTKD: a temperature that is learned against the student, more and more."""

from __future__ import annotations

import copy
import math
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn

from limbeck.batch import LOGITS, Batch, Outputs, Progress, Requirements, Term
from limbeck.errors import ArgumentError, LimbeckError, unknown_name_error
from limbeck.functional import kl_divergence
from limbeck.functional.kernel import in_float32
from limbeck.losses import LossContext, LossTerm
from limbeck.losses.logit_rows import count_logit_rows, select_logit_rows
from limbeck.methods.arguments import validates_arguments
from limbeck.methods.card import MethodCard, SearchRange
from limbeck.methods.support import add_label_loss, check_share, check_weight
from limbeck.recipe import Recipe, Stage
from limbeck.tasks import Task

CARD = MethodCard(
    name="ctkd",
    title="Curriculum Temperature for Knowledge Distillation",
    authors="Li, Li, Yang, Zhao, Song, Luo, Li and Yang",
    year=2022,
    arxiv="2211.16231",
    venue="AAAI 2023",
    claim="The temperature is learned too, but to make the loss larger. The weight of this opposition grows, so the "
    "student has easy soft targets first and hard ones later.",
    when="To save the search for a temperature. One temperature for all examples is the default; one for each example "
    "costs a small network on the logits. Look at the temperature that is found: it may end at a bound.",
    bibtex="""@inproceedings{li2023curriculum,
  title = {Curriculum Temperature for Knowledge Distillation},
  author = {Li, Zheng and Li, Xiang and Yang, Lingfeng and Zhao, Borui and Song, Renjie and Luo, Lei and Li, Jun and
            Yang, Jian},
  booktitle = {Proceedings of the AAAI Conference on Artificial Intelligence},
  year = {2023},
  eprint = {2211.16231},
  archivePrefix = {arXiv}
}""",
    ranges={
        "lowest": SearchRange(0.5, 4.0, log=True),
        "spread": SearchRange(1.0, 40.0, log=True),
        "curriculum": SearchRange(0.0, 1.0),
        "weight": SearchRange(0.0, 1.0),
    },
    tasks=("classification", "segmentation", "language_modeling"),
    task_reason="it learns the temperature of a softmax",
)


class _ReversedGradient(torch.autograd.Function):
    """The identity; its gradient is multiplied by a negative number."""

    @staticmethod
    def forward(ctx: Any, value: Tensor, strength: float) -> Tensor:
        ctx.strength = strength
        return value.view_as(value)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None]:
        return -ctx.strength * grad, None


def reverse_gradient(value: Tensor, strength: float) -> Tensor:
    """Return the value, whose gradient in the backward pass is multiplied by minus the strength.

    Example:
        >>> x = torch.tensor(2.0, requires_grad=True)
        >>> torch.autograd.grad(3 * reverse_gradient(x, 0.5), x)
        (tensor(-1.5000),)

    Source: Ganin and Lempitsky, 2015, arXiv:1409.7495.
    """
    reversed_value: Tensor = _ReversedGradient.apply(value, strength)
    return reversed_value


def curriculum_strength(fraction: float, curriculum: float) -> float:
    """Half a cosine wave from 0 to 1, reached at the fraction `curriculum` of the stage; 1 if that is 0.

    Example:
        >>> [round(curriculum_strength(x, 0.5), 2) for x in (0.0, 0.25, 0.5, 1.0)]
        [0.0, 0.5, 1.0, 1.0]
    """
    return 1.0 if curriculum == 0 else 0.5 * (1 - math.cos(math.pi * min(fraction / curriculum, 1.0)))


@in_float32
def learned_temperature_kl(
    student: Float[Tensor, "*batch classes"],
    teacher: Float[Tensor, "*batch classes"],
    temperature: Float[Tensor, "*rows"],
) -> Float[Tensor, "*batch"]:
    r"""Compute :math:`T^2 KL(softmax(v / T) \| softmax(z / T))` in nats, with a gradient in T as well.

    Args:
        student: Logits z of the student.
        teacher: Logits v of the teacher.
        temperature: T, one for all rows, or one for each.

    Example:
        >>> z, v = torch.tensor([[0.0, 0.0]]), torch.tensor([[2.0, 0.0]])
        >>> learned_temperature_kl(z, v, torch.tensor(2.0)) - kl_divergence(z, v, temperature=2.0)
        tensor([0.])
    """
    divisor = temperature.unsqueeze(-1) if temperature.ndim else temperature
    scaled = []
    for logits in (student, teacher):
        # The slope of -inf / T in T is infinite, so a class that does not exist takes no part in the division.
        absent = logits == -torch.inf
        scaled.append((logits.masked_fill(absent, 0.0) / divisor).masked_fill(absent, -torch.inf))
    return temperature**2 * kl_divergence(*scaled)


class CurriculumTemperature(LossTerm):
    """The KL divergence at a learned temperature; the temperature's gradient has the opposite sign.

    Args:
        level: ``global``, one temperature, or ``instance``, one for each row of logits.
        lowest: The lower bound of the temperature.
        spread: How far above it the temperature may rise.
        curriculum: The fraction of the stage after which the reversed gradient has its full strength.
        classes: The dimension of the logits that holds the classes.
    """

    name, per = "curriculum_temperature", "position"
    score: Tensor
    predictor: nn.Sequential

    def __init__(self, *, level: str, lowest: float, spread: float, curriculum: float, classes: int) -> None:
        super().__init__()
        self.level, self.lowest, self.spread, self.curriculum = level, lowest, spread, curriculum
        self.classes, self.positions = classes, 1

    @property
    def requires(self) -> Requirements:
        """The logits of both models."""
        return Requirements(frozenset({LOGITS}), frozenset({LOGITS}))

    def setup(self, context: LossContext) -> CurriculumTemperature:
        """The loss for one stage, with the parameters of its temperature.

        Raises:
            LimbeckError: If the logits of the two models differ in shape.
        """
        ours, theirs = (outputs[LOGITS].movedim(self.classes, -1) for outputs in (context.student, context.teacher))
        if ours.shape != theirs.shape:
            raise LimbeckError(
                f"The student's logits have shape {tuple(ours.shape)}, and the teacher's {tuple(theirs.shape)}: give "
                "both the same classes in the same order."
            )
        fitted = copy.copy(self)
        fitted.positions = math.prod(ours.shape[1:-1])
        kind: dict[str, Any] = {"dtype": torch.promote_types(ours.dtype, torch.float32), "device": ours.device}
        if self.level == "global":
            fitted.score = nn.Parameter(torch.ones((), **kind))
        else:
            wide = 2 * ours.shape[-1]
            fitted.predictor = nn.Sequential(nn.Linear(wide, wide, **kind), nn.ReLU(), nn.Linear(wide, 1, **kind))
        return fitted

    def term(self, student: Outputs, teacher: Outputs, batch: Batch, progress: Progress) -> Term:
        """The sum over the rows that count."""
        rows = select_logit_rows(student, teacher, batch, classes=self.classes)
        strength = curriculum_strength(progress.fraction, self.curriculum)
        temperature = self.temperature(rows.student, rows.teacher, strength)
        values = learned_temperature_kl(rows.student, rows.teacher, temperature)
        return Term(values.sum(), self.count(batch))

    def temperature(
        self, student: Float[Tensor, "rows classes"], teacher: Float[Tensor, "rows classes"], strength: float = 1.0
    ) -> Float[Tensor, "*rows"]:
        """Compute the temperature: one number, or one for each row.

        The predictor sees the logits without their graph: the reversed gradient is for the temperature alone.
        """
        if self.level == "global":
            score = self.score
        else:
            # -inf marks classes that do not exist.
            seen = torch.cat([student, teacher], -1).detach()
            score = self.predictor(seen.masked_fill(seen == -torch.inf, 0.0)).squeeze(-1)
        return self.lowest + self.spread * reverse_gradient(score, strength).sigmoid()

    def count(self, batch: Batch) -> float:
        """The number of rows that count."""
        return count_logit_rows(batch, self.positions)

    def __repr__(self) -> str:
        return (
            f"CurriculumTemperature(level={self.level!r}, lowest={self.lowest}, spread={self.spread}, "
            f"curriculum={self.curriculum}, classes={self.classes})"
        )


_LEVELS = ("global", "instance")


@validates_arguments
def ctkd(
    teacher: Any,
    *,
    level: str = "global",
    lowest: float = 1.0,
    spread: float = 20.0,
    curriculum: float = 0.042,
    weight: float = 0.9,
    label_weight: float = 0.1,
    task: str | Task = "classification",
    epochs: int | None = None,
) -> Recipe:
    r"""Learn labels and soft targets at a learned temperature: :math:`-v \log q_y + w T^2 KL(p_T \| q_T)`.

    :math:`T = T_0 + R \sigma(s)` with s a parameter, or a small network on the logits of student and teacher. The
    gradient of s is multiplied by :math:`-\lambda`, with lambda from 0 to 1 along half a cosine wave.

    Args:
        teacher: The teacher: a module, a `Teacher`, or the name of a model in the run.
        level: ``global``, one temperature for all, or ``instance``, one for each row of logits.
        lowest: T_0, the lower bound of the temperature, above 0; 1 in the authors' script.
        spread: R, how far above it the temperature may rise, above 0; 20 in the authors' script.
        curriculum: The fraction of the stage in which lambda grows; 10 of 240 epochs in the authors' script. 0 for full
            strength from the start.
        weight: w, the weight of the soft targets; 0.9 in the authors' script.
        label_weight: v, the weight of the labels; 0.1 in the authors' script. 0 leaves them out.
        task: What the targets are.
        epochs: Passes over the data; by default the budget of the run.

    Raises:
        LimbeckError: If an argument is out of range, or the task has no classes.

    Example:
        >>> from torch import nn
        >>> [stage.name for stage in ctkd(nn.Linear(4, 3), level="instance").stages()]
        ['ctkd']

    Source: Li et al., 2022, arXiv:2211.16231, equations 3 to 7.
    """
    check_weight(lowest=lowest, spread=spread, weight=weight, label_weight=label_weight)
    check_share(curriculum=curriculum)
    if level not in _LEVELS:
        raise unknown_name_error("level of the temperature", level, _LEVELS, argument="level")
    if lowest == 0:
        raise ArgumentError("lowest=0 lets the temperature fall to 0; it is above 0.", argument="lowest")
    if spread == 0:
        raise ArgumentError(
            f"spread=0 leaves a temperature of {lowest:g} that nothing can change. Type a spread above 0, or use "
            f"hinton with temperature={lowest:g}.",
            argument="spread",
        )
    task = CARD.get_task(task)
    soft = CurriculumTemperature(
        level=level, lowest=lowest, spread=spread, curriculum=curriculum, classes=task.classes_dim
    )
    objective = add_label_loss(weight * soft, task, label_weight)
    return Recipe(Stage(objective, teacher=teacher, epochs=epochs, name="ctkd"))
