"""Would every arm run? Found out before the teacher is paid for."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace

import torch
from torch import Tensor

from limbeck.compare.arms import SHUFFLED, is_taught, recipe_of
from limbeck.compare.asking import tried_out
from limbeck.compare.material import Material, setting_of, student_of
from limbeck.engine import Run, open_fabric
from limbeck.errors import LimbeckError, LimbeckWarning
from limbeck.job import Job, stream
from limbeck.models import seeded
from limbeck.recipe import Recipe, change_stages
from limbeck.tap import call, logits_of
from limbeck.teachers import Displaced, Teacher


def rehearse(job: Job, material: Material, teacher: Teacher) -> None:
    """One step of every stage of every arm, with a student that is thrown away and the teacher as it is.

    Whatever a job gets wrong (a name, a hyper-parameter, an address, a shape, a precision) comes to light here, as it
    would come to light after the teacher's training.

    Raises:
        LimbeckError: If an arm cannot run.
    """
    check_student(job, material, teacher)
    for arm in job.competitors:
        if arm == "teacher":
            continue
        # Nothing that a lazy layer draws at its first call may depend on what went before.
        with seeded(0), _explained(arm), tried_out(job, teacher) as asked:
            budget = job.budget_of(arm)
            run = Run(
                {"student": student_of(job, material, seed=0, teacher=teacher)}, shortened(recipe_of(job, arm, asked)),
                stream(material.train, budget, seed=0, cache=job.cache, mixed=is_taught(job, arm)),
                setting=setting_of(job, budget, material, seed=0),
                fabric=open_fabric(precision=job.precision, devices=job.devices, strategy=job.strategy),
            ).finish()  # fmt: skip
            if arm == SHUFFLED and not any(isinstance(stage.teacher, Displaced) for stage in run.stages):
                raise LimbeckError(
                    f"No stage of {job.learners.get(arm, job.method).name} asks the teacher, so there are no answers "
                    f"to shuffle: leave that arm out, --set arms=[{','.join(a for a in job.arms if a != SHUFFLED)}]."
                )


@contextmanager
def _explained(arm: str) -> Iterator[None]:
    """What a person's own module raises in its first step, as a sentence; ``--debug`` shows where."""
    try:
        with warnings.catch_warnings():
            # Of a teacher that has learnt nothing yet there is nothing to be said.
            warnings.simplefilter("ignore", LimbeckWarning)
            yield
    except LimbeckError:
        raise
    except Exception as error:
        said = str(error).strip().partition("\n")[0]
        raise LimbeckError(f"The arm {arm!r} cannot take its first step: {type(error).__name__}: {said}") from error


def check_student(job: Job, material: Material, teacher: Teacher | None = None) -> None:
    """Build the student and show it two examples to learn from, and one to test.

    Raises:
        LimbeckError: If it cannot be built, refuses them, or knows another number of classes.
    """
    student = student_of(job, material, seed=0, teacher=teacher).eval()
    first = material.data.reads(material.train.take(torch.tensor([0, min(1, len(material.train) - 1)])))
    shape = "x".join(map(str, material.input_shape))
    with torch.no_grad():
        logits = answered(lambda: logits_of(call(student, first)), f"The student {job.student.model}", shape)
        tested = material.data.reads(material.data.test.take(torch.tensor([0])))
        answered(lambda: logits_of(call(student, tested)), f"The student {job.student.model}", shape_to_test(material))
    check_classes(logits, f"The student {job.student.model}", material.classes)


def shape_to_test(material: Material) -> str:
    """How a test example looks to a model, for a sentence: what a model can learn from it may not be able to test."""
    first = material.data.reads(material.data.test.take(torch.tensor([0])))
    shape = "x".join(map(str, first.shape[1:])) if isinstance(first, Tensor) else "unknown"
    return f"{shape}, those of the test data"


def answered(ask: Callable[[], Tensor], who: str, shape: str) -> Tensor:
    """What a model says to examples of the data.

    Raises:
        LimbeckError: If it raises; a person's own module may raise anything.
    """
    try:
        return ask()
    except LimbeckError:
        raise
    except Exception as error:
        said = str(error).strip().partition("\n")[0] or type(error).__name__
        raise LimbeckError(f"{who} refuses inputs of shape {shape}: {said}") from error


def check_classes(logits: Tensor, who: str, classes: int) -> None:
    """Refuse a model that knows another number of classes than the data have.

    Raises:
        LimbeckError: With both numbers.
    """
    if logits.shape[-1] != classes:
        raise LimbeckError(f"{who} knows {logits.shape[-1]} classes and the data have {classes}.")


def shortened(recipe: Recipe) -> Recipe:
    """The same recipe with a single step to each stage."""
    return change_stages(recipe, lambda stage: replace(stage, epochs=None, steps=1))
