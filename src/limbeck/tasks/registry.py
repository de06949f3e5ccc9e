"""Tasks by name, and from the plain values in a file."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import fields
from pathlib import Path
from typing import Any

from limbeck.errors import ArgumentError, LimbeckError, unknown_name_error
from limbeck.models import read_config
from limbeck.tasks.classification import Classification
from limbeck.tasks.language_modeling import LanguageModeling
from limbeck.tasks.multi_label import MultiLabel
from limbeck.tasks.regression import Regression
from limbeck.tasks.segmentation import Segmentation
from limbeck.tasks.task import Task

_TASKS: dict[str, type[Task]] = {
    one.name: one for one in (Classification, MultiLabel, Regression, Segmentation, LanguageModeling)
}


def task_names() -> tuple[str, ...]:
    """The names of all tasks.

    Example:
        >>> task_names()
        ('classification', 'multi_label', 'regression', 'segmentation', 'language_modeling')
    """
    return tuple(_TASKS)


def get_task(task: str | Task, **settings: Any) -> Task:
    """Make a task from its name and settings; a task is returned as it is.

    Raises:
        UnknownNameError: If there is no such task or setting. The message has the nearest name.
        LimbeckError: If a setting has the wrong type.

    Example:
        >>> get_task("regression", standardize=False)
        Regression(standardize=False, names=(), mean=(), std=())
    """
    if isinstance(task, Task):
        return task
    if not isinstance(task, str):
        raise ArgumentError(f"task is the name of a task, or a task; got {task!r}.", argument="task")
    name = task.replace("-", "_")
    if name not in _TASKS:
        raise unknown_name_error("task", task, _TASKS, argument="task")
    kinds = {field.name: field.type for field in fields(_TASKS[name])}  # type: ignore[arg-type]
    for key, value in settings.items():
        if key not in kinds:
            raise unknown_name_error(f"setting of the task {name}", key, kinds, argument="task")
        if kinds[key] == "bool" and not isinstance(value, bool):
            raise LimbeckError(f"task.{key} is true or false; got {value!r}.")
    return _TASKS[name](**settings)


def task_from_dict(values: Mapping[str, Any] | None) -> Task:
    """Read a task from the plain values of a file (`Task.to_dict`); classification if there are none.

    Raises:
        UnknownNameError: If the file names a task that this version does not have.

    Example:
        >>> task_from_dict({"name": "multi_label", "labels": 2, "names": ["a", "b"]})
        MultiLabel(labels=2, names=('a', 'b'))
    """
    values = dict(values or {})
    name = str(values.pop("name", "classification"))
    if name not in _TASKS:
        raise unknown_name_error("task", name, _TASKS, argument="task")
    known = {field.name for field in fields(_TASKS[name])}  # type: ignore[arg-type]
    settings = {key: tuple(one) if isinstance(one, list) else one for key, one in values.items() if key in known}
    return _TASKS[name](**settings)


def load_task(folder: str | Path) -> Task:
    """Load the task that a student was trained for, with the scale of its targets.

    The outputs of a student of regression are standardized; ``load_task(folder).keep(outputs)`` are in the unit of the
    targets.

    Args:
        folder: A student's folder.

    Raises:
        DataError: If the folder has no student.
        LimbeckError: If no task was saved with it.

    Example:
        >>> # estimates = limbeck.load_task("runs/rent/student").keep(student(inputs))
    """
    saved = read_config(Path(folder)).get("metadata", {}).get("task")
    if not saved:
        raise LimbeckError(f"{folder} does not say for which task its student was trained.")
    return task_from_dict(saved)
