"""Development and test examples that a teacher which came with its weights may have learnt from."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import nn

from limbeck.compare.class_order import has_weights
from limbeck.compare.comparison_data import ComparisonData
from limbeck.compare.estimator import EstimatorModule
from limbeck.job import Job


def find_seen_rows(job: Job, material: ComparisonData, models: Mapping[str, nn.Module]) -> dict[str, Any] | None:
    """Which parts were carved from the training data of a teacher that was trained elsewhere, and the sentence on it.

    Such a teacher was trained before limbeck drew those parts, perhaps on the whole file: nobody can tell. Its accuracy
    there may then be too high, and so may be that of students which imitate it.

    Args:
        job: The job.
        material: Its data, with the development part that is used.
        models: What the teacher is made of, before anything is trained here.

    Returns:
        ``parts`` (``development``, ``test``) and ``sentence``; None where the teacher is trained here, or the data
        bring both parts with them.
    """
    if not has_weights(job.teacher) and not any(isinstance(m, EstimatorModule) and m.fitted for m in models.values()):
        return None
    parts = [] if material.data.development is not None else ["development"]
    parts += ["test"] if material.data.held_out else []
    if not parts:
        return None
    sentence = (
        f"The {' and '.join(parts)} examples were taken out of the training data, and the teacher was trained before "
        "that: it may have learnt from them, and its accuracy there may be too high."
    )
    if "test" in parts:
        sentence += " Test data of their own, which no teacher has seen, settle it."
    return {"parts": parts, "sentence": sentence}
