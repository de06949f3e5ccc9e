"""Early-stopped teacher: a teacher that was trained for a share of its epochs teaches a small student."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, final

from limbeck.errors import ArgumentError
from limbeck.methods.arguments import validates_arguments
from limbeck.methods.card import MethodCard, SearchRange
from limbeck.methods.logits.eskd import CARD as ESKD
from limbeck.methods.support import check_count
from limbeck.methods.teachers.prepared import FreshTeacher, make_student_recipe
from limbeck.recipe import Models, Recipe, Stage, run_context
from limbeck.tasks import Task

CARD = MethodCard(
    name="early_stopped_teacher",
    title="On the Efficacy of Knowledge Distillation",
    authors="Cho and Hariharan",
    year=2019,
    arxiv="1910.01348",
    venue="ICCV 2019",
    claim="A better teacher is not a better teacher of a small student. A teacher that was trained for about a third "
    "of its epochs, with the whole schedule of its learning rate, teaches it more.",
    when="For a student that is much smaller than its teacher. The teacher is trained anew, for less than a full "
    "training. eskd needs no new teacher. Show the student's KL divergence from the teacher first: if it is small, the "
    "student can follow, and there is nothing to mend.",
    bibtex=ESKD.bibtex,
    labels="required",
    needs="the teacher's network, which is trained anew",
    ranges={"share": SearchRange(0.1, 1.0)},
    tasks=("classification", "multi_label", "regression", "segmentation"),
    task_reason="it was not tried on texts",
    keywords=("early stopping",),
)

TEACHER = "early-stopped"
"""The name of the teacher in the run."""


@validates_arguments
def early_stopped_teacher(
    teacher: Any,
    *,
    share: float = 0.35,
    teacher_epochs: int | None = None,
    method: str = "hinton",
    settings: Mapping[str, Any] | None = None,
    task: str | Task = "classification",
    epochs: int | None = None,
) -> Recipe:
    r"""Train the teacher's network anew for a share of its epochs, then the student by a method.

    The learning rate of the teacher reaches the end of its schedule: the schedule is compressed, not cut off. The model
    is ``early-stopped`` in the run. The teacher that you pass in is not changed, and its weights are not used.

    Args:
        teacher: The network of the teacher: a module, a `Teacher` around one, or the name of a model in the run.
        share: The share of the epochs, above 0 and at most 1. The paper uses 0.3 to 0.4 on CIFAR-10 and 0.4 to 0.7 on
            ImageNet. At least one epoch is trained.
        teacher_epochs: The epochs of a full training of the teacher, of which the share is taken; the run's budget by
            default.
        method: The method by which the student learns.
        settings: Hyper-parameters of that method. With `hinton` they are T = 4 and w = 0.9 by default, as in the paper.
        task: What the targets are.
        epochs: Passes of the student; the run's budget by default.

    Raises:
        LimbeckError: If an argument is out of range, the method takes no teacher or cannot learn the task, or the
            teacher is not one network.

    Example:
        >>> from torch import nn
        >>> early_stopped_teacher(nn.Linear(4, 3), share=0.4).parts[0].describe()
        {'share': 0.4, 'teacher_epochs': None}

    Source: Cho and Hariharan, 2019, arXiv:1910.01348, section 5.
    """
    if not 0 < share <= 1:
        raise ArgumentError(
            f"share is the part of the teacher's epochs that it is trained for, above 0 and at most 1; got {share!r}.",
            argument="share",
            example="0.35",
        )
    if teacher_epochs is not None:
        check_count(teacher_epochs=teacher_epochs)
    task = CARD.get_task(task)
    learn = make_student_recipe(
        method, TEACHER, settings, task=task, epochs=epochs, defaults={"temperature": 4.0, "weight": 0.9}
    )
    return Recipe(_ShortTraining(share, teacher_epochs, task), learn, makes={TEACHER: FreshTeacher(teacher)})


@final
@dataclass(frozen=True)
class _ShortTraining:
    """The stage of the teacher, when the run's budget is known."""

    share: float
    teacher_epochs: int | None
    task: Task

    def __call__(self, models: Models) -> Stage:
        """Make the stage, for a share of the epochs or steps."""
        budget = run_context(models)
        epochs = budget.epochs if self.teacher_epochs is None else self.teacher_epochs
        steps = budget.steps if epochs is None else None
        return Stage(
            self.task.supervised_loss(), trains=TEACHER, name="early-stopped teacher",
            epochs=None if epochs is None else max(1, round(self.share * epochs)),
            steps=None if steps is None else max(1, round(self.share * steps)),
        )  # fmt: skip

    def describe(self) -> dict[str, Any]:
        """The settings."""
        return {"share": self.share, "teacher_epochs": self.teacher_epochs}
