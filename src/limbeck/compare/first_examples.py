"""Whether a model takes the data's examples, and knows as many classes as they have."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from limbeck.compare.material import Material, student_of
from limbeck.errors import LimbeckError
from limbeck.job import Job
from limbeck.tap import call, logits_of
from limbeck.teachers import Teacher


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
