"""What does a measure besides know?"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

from torch import Tensor, nn

from limbeck.compare.material import Material
from limbeck.compare.statistics import spread
from limbeck.job import Job
from limbeck.teachers import Teacher


class Seen(NamedTuple):
    """A job of which all arms are trained, or, before that, of which nothing is.

    Attributes:
        job: What was asked.
        material: The data.
        teacher: Who taught.
        models: What the teacher is made of, by name.
        judged: The arm that the verdict is about.
        answers: The teacher's logits for the test data; None before it was asked.
    """

    job: Job
    material: Material
    teacher: Teacher
    models: Mapping[str, nn.Module]
    judged: str = ""
    answers: Tensor | None = None


def over_seeds(values: list[float]) -> dict[str, Any]:
    """A figure as results have it: its mean, its standard deviation, and one value a seed."""
    return {"mean": sum(values) / len(values), "std": spread(values), "values": values}
