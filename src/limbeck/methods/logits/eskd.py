"""Early-stopped distillation: the term of the teacher ends before the run does."""

from __future__ import annotations

from typing import Any

from limbeck.errors import ArgumentError
from limbeck.functional import check_hyper
from limbeck.losses import Objective
from limbeck.methods.arguments import validates_arguments
from limbeck.methods.card import MethodCard, SearchRange
from limbeck.methods.support import check_share, skip_at_zero
from limbeck.recipe import Recipe, Stage
from limbeck.schedule import Schedule
from limbeck.tasks import Task

CARD = MethodCard(
    name="eskd",
    title="On the Efficacy of Knowledge Distillation",
    authors="Cho and Hariharan",
    year=2019,
    arxiv="1910.01348",
    venue="ICCV 2019",
    claim="A small student cannot follow a large teacher to the end. The teacher helps at first, and then the student "
    "learns from the labels alone.",
    when="For a student that is much smaller than its teacher, if distillation does worse than labels alone. In the "
    "paper a teacher that is stopped early helps more; see early_stopped_teacher.",
    bibtex="""@inproceedings{cho2019efficacy,
  title = {On the Efficacy of Knowledge Distillation},
  author = {Cho, Jang Hyun and Hariharan, Bharath},
  booktitle = {IEEE/CVF International Conference on Computer Vision},
  year = {2019},
  eprint = {1910.01348},
  archivePrefix = {arXiv}
}""",
    labels="required",
    ranges={
        "stop": SearchRange(0.2, 1.0),
        "temperature": SearchRange(1.0, 20.0, log=True),
        "weight": SearchRange(0.0, 1.0),
    },
    tasks=("classification", "multi_label", "regression", "segmentation"),
    task_reason="it was not tried on texts",
    keywords=("early-stopped distillation", "early stopping"),
)


@validates_arguments
def eskd(
    teacher: Any,
    *,
    stop: float = 0.5,
    temperature: float = 4.0,
    weight: float = 0.9,
    task: str | Task = "classification",
    epochs: int | None = None,
) -> Recipe:
    r"""Minimize :math:`w T^2 KL(p \| q) + (1 - w) (-\log q_y)` up to a share of the steps, then :math:`-\log q_y`.

    Learning rate and optimizer go on unchanged, and the teacher is no longer asked. With ``stop=1`` it is `hinton`.

    Args:
        teacher: The teacher: a module, a `Teacher`, or the name of a model in the run.
        stop: The share of the steps after which the teacher is left, above 0 and at most 1.
        temperature: T, above 0; 4 in the paper.
        weight: w, the weight of the teacher until then, from 0 to 1; 0.9 in the paper.
        task: What the targets are; the losses are those of `hinton`.
        epochs: Passes over the data; by default the budget of the run.

    Raises:
        LimbeckError: If an argument is out of range, or the method cannot learn the task.

    Example:
        >>> from torch import nn
        >>> [repr(stage.objective) for stage in eskd(nn.Linear(4, 3)).stages()]
        ['until(0.5, 0.9, 0.0) * Loss(kl_divergence, temperature=4.0) + until(0.5, 0.1, 1.0) * Loss(cross_entropy)']

    Source: Cho and Hariharan, 2019, arXiv:1910.01348, section 4.
    """
    check_hyper(temperature=temperature)
    check_share(weight=weight)
    _check_stop(stop)
    task = CARD.get_task(task)
    soft: Objective = _until(stop, weight, 0.0) * skip_at_zero(task.distillation_loss(temperature=temperature))
    hard = _until(stop, round(1 - weight, 12), 1.0) * task.supervised_loss()
    return Recipe(Stage(soft + hard, teacher=teacher, epochs=epochs, name="eskd"))


def _check_stop(stop: float) -> None:
    if not 0 < stop <= 1:
        after = ", which is after the end" if stop > 1 else ""
        raise ArgumentError(
            f"stop is the share of the steps after which the teacher is left, above 0 and at most 1; got "
            f"{stop!r}{after}.",
            argument="stop",
            example="0.5",
        )


def _until(stop: float, before: float, after: float) -> Schedule:
    """A number that changes once, at a share of the steps; at share 1 it never changes."""
    return Schedule(lambda p: before if p.step < stop * p.steps else after, f"until({stop}, {before}, {after})")
