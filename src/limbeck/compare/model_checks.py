"""Checks that a model accepts the data and has the same number of classes."""

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
    """Build the student and call it on two training examples, and on one of each evaluation part.

    Raises:
        LimbeckError: If it cannot be built, fails on them, or has another number of classes.
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
    """The parts that models are evaluated on, by name; they may come from separate files."""
    return {"test": material.data.test, "development": material.development}


def shape_in(part: str, read: Any) -> str:
    """The input shape of a part as text; it may differ from that of the training data."""
    shape = "x".join(map(str, read.shape[1:])) if isinstance(read, Tensor) else "unknown"
    return f"{shape}, those of the {part} data"


def answered(ask: Callable[[], Tensor], who: str, shape: str) -> Tensor:
    """Call a model on examples of the data.

    Raises:
        LimbeckError: If it raises; a user's module may raise anything.
    """
    try:
        return ask()
    except LimbeckError:
        raise
    except Exception as error:
        reason = str(error).strip().partition("\n")[0] or type(error).__name__
        raise LimbeckError(f"{who} fails on inputs of shape {shape}: {reason}") from error


def check_classes(logits: Tensor, who: str, classes: int) -> None:
    """Check that a model has as many classes as the data.

    Raises:
        LimbeckError: With both numbers.
    """
    if logits.shape[-1] != classes:
        raise LimbeckError(f"{who} has {logits.shape[-1]} classes, but the data have {classes}.")
