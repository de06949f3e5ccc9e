"""Whether a model takes the data's examples, and has as many classes."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from limbeck.compare.comparison_data import ComparisonData, student_of
from limbeck.data import Dataset
from limbeck.errors import LimbeckError
from limbeck.job import Job
from limbeck.tap import call, logits_of
from limbeck.teachers import Teacher


def check_student(job: Job, material: ComparisonData, teacher: Teacher | None = None) -> None:
    """Build the student and show it two examples to learn from, and one of each part to judge on.

    Raises:
        LimbeckError: If it cannot be built, refuses them, or knows another number of classes.
    """
    student = student_of(job, material, seed=0, teacher=teacher).eval()
    first = material.data.preprocess(material.train.take(torch.tensor([0, min(1, len(material.train) - 1)])))
    shape = "x".join(map(str, material.input_shape))
    with torch.no_grad():
        logits = answered(partial(_logits, student, first), f"The student {job.student.model}", shape)
        for part, examples in judged_parts(material).items():
            read = material.data.preprocess(examples.take(torch.tensor([0])))
            ask = partial(_logits, student, read)
            answered(ask, f"The student {job.student.model}", shape_in(part, read))
    check_classes(logits, f"The student {job.student.model}", material.classes)


def _logits(model: nn.Module, read: Any) -> Tensor:
    return logits_of(call(model, read))


def judged_parts(material: ComparisonData) -> dict[str, Dataset]:
    """The parts that models are judged on, by their names: data may bring them in files of their own."""
    return {"test": material.data.test, "development": material.development}


def shape_in(part: str, read: Any) -> str:
    """How an example of a part looks to a model, for a sentence: a model may learn from examples of another shape."""
    shape = "x".join(map(str, read.shape[1:])) if isinstance(read, Tensor) else "unknown"
    return f"{shape}, those of the {part} data"


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
