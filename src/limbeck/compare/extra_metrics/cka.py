"""CKA between the layers of students and teacher."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn

from limbeck.batch import Batch
from limbeck.compare.extra_metrics.context import (
    MetricContext,
    arms_to_measure,
    device_of,
    load_student,
    over_seeds,
    own_preprocess,
)
from limbeck.data import ShuffledLoader, subsample
from limbeck.metrics import LayerCKA, layer_cka
from limbeck.metrics.cka import Reading, named_layers

EXAMPLES = 1000
"""Of the test data at most, the classes in their shares."""
_BATCH = 250
_NUMBERS = 50_000_000
"""That the layers of both models give for a batch at most: 200 MB in float32."""


def check_cka(seen: MetricContext, student: nn.Module) -> str:
    """Compare the layers of the models as they are now, on a few examples, and say on how many all will be.

    Raises:
        LimbeckError: If they cannot be.
    """
    _ = _compared(seen, student, next(iter(seen.models.values())), [_first(seen)])
    return f"cka of {min(EXAMPLES, len(seen.material.data.test)):,} test examples"


def cka_of(seen: MetricContext) -> dict[str, Any]:
    """Each layer of a student set beside each of the teacher's (of an ensemble the first member's), over the seeds."""
    job, name, teacher = seen.job, *next(iter(seen.models.items()))
    teacher, examples = teacher.to(device_of(job)), subsample(seen.material.data.test, EXAMPLES, 0)
    arms: dict[str, Any] = {}
    shown: tuple[str, ...] = ()
    for arm in arms_to_measure(job, seen.judged):
        found = []
        for seed in range(job.seeds):
            student = load_student(job, seen.material, arm, seed)
            batches = list(ShuffledLoader(examples, batch_size=_batch(seen, student, teacher), shuffle=False))
            found.append(_compared(seen, student, teacher, batches))
        arms[arm], shown = _row(found), found[0].teacher_layers
    return {
        "examples": found[0].examples,
        "teacher": name if len(seen.models) > 1 else None,
        "teacher_layers": list(shown),
        "arms": arms,
        "sentence": _sentence(arms, found[0].examples, job.seeds),
    }


def mean_best_cka(values: Float[Tensor, "student teacher"]) -> float:
    """The mean, over a student's layers, of the similarity to the most similar of the teacher's; nan if none has any.

    Example:
        >>> closest(torch.tensor([[0.5, 1.0], [0.25, torch.nan]]))
        0.625
    """
    best = torch.where(values.isnan(), -torch.inf, values).amax(1)
    return float(best[best.isfinite()].mean())


def _compared(seen: MetricContext, student: nn.Module, teacher: nn.Module, batches: list[Batch]) -> LayerCKA:
    preprocess = seen.material.data.preprocess
    return layer_cka(student, teacher, batches, student_preprocess=preprocess, teacher_preprocess=_taught_by(seen))


def _taught_by(seen: MetricContext) -> Reading:
    """The teacher's way from a batch to its inputs."""
    return own_preprocess(seen.teacher) or seen.material.data.preprocess


def _first(seen: MetricContext) -> Batch:
    test = seen.material.data.test
    return test.take(torch.arange(min(8, len(test))))


def _batch(seen: MetricContext, student: nn.Module, teacher: nn.Module) -> int:
    """So many examples that what all layers give for them fits into memory."""
    first, preprocess = _first(seen), seen.material.data.preprocess
    layers = [named_layers(student, first, preprocess), named_layers(teacher, first, _taught_by(seen))]
    return min(_BATCH, max(8, _NUMBERS // sum(sum(found.values()) for found in layers)))


def _row(found: Sequence[LayerCKA]) -> dict[str, Any]:
    likeness = [mean_best_cka(one.values) for one in found]
    return {
        "student_layers": list(found[0].student_layers),
        "values": torch.stack([one.values for one in found]).nanmean(0).tolist(),
        "closest": over_seeds(likeness),
    }


def _sentence(arms: dict[str, Any], examples: int, seeds: int) -> str:
    said = [f"{row['closest']['mean']:.2f} in {arm}" for arm, row in arms.items()]
    return (
        "Layers: the similarity (linear CKA) of a student's layer to the most similar one of the teacher is on "
        f"average {', '.join(said)}; {examples:,} test examples, {seeds} seed{'s' * (seeds > 1)}."
    )
