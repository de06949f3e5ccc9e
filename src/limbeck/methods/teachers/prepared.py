"""What methods that prepare a teacher share: new and copied teachers, and the stages of the student that follow."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, final

from torch import nn

from limbeck.errors import ArgumentError
from limbeck.methods import check_task, method
from limbeck.models import check_fresh, reinitialize
from limbeck.recipe import Models, Recipe, teacher_module
from limbeck.tasks import Task
from limbeck.teachers import as_teacher


@final
@dataclass(frozen=True)
class FreshTeacher:
    """Makes a newly initialized model of the teacher's architecture. A job's teacher itself never learns.

    Attributes:
        teacher: A module, a `Teacher` around one, or the name of a model of the run.
    """

    teacher: Any

    def __call__(self, models: Models) -> nn.Module:
        """Copy the network without its weights."""
        return reinitialize(teacher_module(self.teacher, models)).requires_grad_(True)

    def check(self, models: Models) -> None:
        """Check that the teacher, if it exists already, is one network that can be initialized anew.

        Raises:
            LimbeckError: If it is not.
        """
        if _exists(self.teacher, models):
            check_fresh(teacher_module(self.teacher, models))


@final
@dataclass(frozen=True)
class CopiedTeacher:
    """Makes a copy of the teacher with its weights, which learns on.

    Attributes:
        teacher: A module, a `Teacher` around one, or the name of a model of the run.
    """

    teacher: Any

    def __call__(self, models: Models) -> nn.Module:
        """Copy the network."""
        return copy.deepcopy(teacher_module(self.teacher, models)).requires_grad_(True)

    def check(self, models: Models) -> None:
        """Check that the teacher, if it exists already, is one network.

        Raises:
            LimbeckError: If it is not.
        """
        if _exists(self.teacher, models):
            teacher_module(self.teacher, models)


def _exists(teacher: Any, models: Models) -> bool:
    """Whether a teacher is no model that the recipe makes later."""
    return as_teacher(teacher).names <= frozenset(models)


def make_student_recipe(
    name: str,
    teacher: Any,
    settings: Any,
    *,
    task: Task,
    epochs: int | None,
    defaults: Mapping[str, Any] | None = None,
) -> Recipe:
    """Make the recipe by which the student learns from a teacher that was prepared.

    Args:
        name: The name of a method that takes a teacher.
        teacher: The prepared teacher, usually the name of a model of the run.
        settings: The hyper-parameters of that method; None for its own, or for `defaults`.
        task: What the targets are.
        epochs: Passes over the data.
        defaults: The settings of `hinton` in the paper, which hold if the method is `hinton` and `settings` is None.

    Raises:
        UnknownNameError: If there is no such method or hyper-parameter.
        ArgumentError: If the method takes no teacher, or `settings` is no mapping.
        LimbeckError: If a hyper-parameter is out of range, or the method cannot learn the task.

    Example:
        >>> from limbeck.tasks import get_task
        >>> recipe = make_student_recipe("hinton", nn.Linear(4, 3), None, task=get_task("classification"), epochs=2)
        >>> [(stage.name, stage.epochs) for stage in recipe.stages()]
        [('hinton', 2)]
    """
    if settings is not None and not isinstance(settings, Mapping):
        raise ArgumentError(
            f"settings are the hyper-parameters of {name} by name, such as {{temperature: 4}}; got {settings!r}.",
            argument="settings",
        )
    call = method(name)
    if not call.has_teacher:
        raise ArgumentError(
            f"method is one that learns from a teacher, and {name} takes none; use hinton, or list the others: "
            "limbeck methods.",
            argument="method",
        )
    check_task(name, task)
    arguments = dict(settings if settings is not None else (defaults or {}) if name == "hinton" else {})
    arguments |= {"task": task} if "task" in call.parameters else {}
    arguments |= {"epochs": epochs} if "epochs" in call.parameters and "epochs" not in arguments else {}
    return call(teacher=teacher, **arguments)
