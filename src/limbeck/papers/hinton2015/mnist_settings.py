"""The search for settings of teacher and student on MNIST, judged on training images that neither learns from."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from limbeck.papers.experiment import Experiment, ExperimentScale, Figures, Row
from limbeck.papers.hinton2015.mnist_training import (
    QUICK_EPOCHS,
    STUDENT,
    TEACHER,
    MnistTeacherTraining,
    MnistTraining,
    constrained_adam,
    student_task,
    teacher_task,
)
from limbeck.recipe import Optimizer
from limbeck.task_runner import WorkItem

_TEACHERS = {
    "SGD 0.1, norm 3": MnistTeacherTraining(epochs=60, optimizer=TEACHER, development=True),
    "Adam 0.001, norm 3.5": MnistTeacherTraining(
        epochs=60, optimizer=replace(TEACHER, name=constrained_adam), development=True
    ),
}
_STUDENTS_TEACHER = "Adam 0.001, norm 3.5"


def _sgd(lr: float, *, warmup: float = 0.01) -> Optimizer:
    return Optimizer(name="sgd", lr=lr, warmup=warmup, options={"momentum": 0.9, "nesterov": True})


_STUDENTS: Mapping[str, Mapping[str, Any]] = {
    "Adam 0.001": {"optimizer": STUDENT},
    "Adam 0.003": {"optimizer": replace(STUDENT, lr=3e-3)},
    "Adam 0.01": {"optimizer": replace(STUDENT, lr=1e-2)},
    "SGD 0.03, batches of 100": {"optimizer": _sgd(0.03), "batch": 100},
    "SGD 0.1, batches of 100": {"optimizer": _sgd(0.1), "batch": 100},
    # A higher rate diverges without a longer warm-up.
    "SGD 0.2, batches of 100, warm-up of a tenth": {"optimizer": _sgd(0.2, warmup=0.1), "batch": 100},
    "SGD 0.1, batches of 100, soft targets alone": {"optimizer": _sgd(0.1), "batch": 100, "weight": 1.0},
}
_ALONE = {name: changes for name, changes in _STUDENTS.items() if "weight" not in changes}
"""The settings that are tried for labels alone, too: a control has the right to its own."""
_EPOCHS = 20


def _teacher_path(name: str) -> str:
    return f"settings/teacher/{_slug(name)}"


def _student_path(kind: str, name: str, seed: int) -> str:
    return f"settings/{kind}/{_slug(name)}/seed-{seed}"


def _slug(name: str) -> str:
    return name.lower().replace(",", "").replace(" ", "-")


def _tasks(scale: ExperimentScale) -> list[WorkItem]:
    tasks = [teacher_task(scale, _teacher_path(name), lesson, 0) for name, lesson in _TEACHERS.items()]
    common = MnistTraining(epochs=scale.pick(QUICK_EPOCHS, _EPOCHS), development=True)
    distilled = replace(common, teachers=(_teacher_path(_STUDENTS_TEACHER),))
    for kind, lesson, settings in (("distilled", distilled, _STUDENTS), ("alone", common, _ALONE)):
        for name, changes in settings.items():
            lesson_of_it = replace(lesson, **changes)
            tasks += [student_task(scale, _student_path(kind, name, s), lesson_of_it, s) for s in scale.seeds]
    return tasks


def _rows(scale: ExperimentScale, results: Mapping[str, Figures]) -> list[Row]:
    rows = [Row(f"teacher: {name}", [results[_teacher_path(name)]["errors"]], "errors") for name in _TEACHERS]
    for kind, word, settings in (("distilled", "soft targets T=20", _STUDENTS), ("alone", "labels alone", _ALONE)):
        for name in settings:
            values = [results[_student_path(kind, name, seed)]["errors"] for seed in scale.seeds]
            rows.append(Row(f"{word}: {name}", values, "errors"))
    return rows


SETTINGS = Experiment(
    "settings",
    "Which optimizer and learning rate suit teacher and student? On training images that are held out.",
    _tasks,
    _rows,
)
