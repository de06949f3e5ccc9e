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
    first_device,
    load_student,
    over_seeds,
    own_preprocess,
)
from limbeck.data import ShuffledLoader, subsample
from limbeck.metrics import LayerCKA, layer_cka
from limbeck.metrics.cka import Reading, named_layers

EXAMPLES = 1000
"""The maximum number of test examples, stratified by class."""
_BATCH = 250
_NUMBERS = 50_000_000
"""The maximum number of activations of both models per batch: 200 MB in float32."""


def check_cka(context: MetricContext, student: nn.Module) -> str:
    """Compare the layers of the untrained models on a few examples, and describe the measurement.

    Raises:
        LimbeckError: If they cannot be compared.
    """
    _ = _compare_layers(context, student, next(iter(context.models.values())), [_first_examples(context)])
    return f"cka of {min(EXAMPLES, len(context.material.data.test)):,} test examples"


def measure_cka(context: MetricContext) -> dict[str, Any]:
    """CKA of each pair of a student's and the teacher's layers, over seeds; of an ensemble the first member's."""
    job, name, teacher = context.job, *next(iter(context.models.items()))
    teacher, examples = teacher.to(first_device(job)), subsample(context.material.data.test, EXAMPLES, 0)
    arms: dict[str, Any] = {}
    teacher_layers: tuple[str, ...] = ()
    for arm in arms_to_measure(job, context.arm):
        results = []
        for seed in range(job.seeds):
            student = load_student(job, context.material, arm, seed)
            batches = list(
                ShuffledLoader(examples, batch_size=_choose_batch_size(context, student, teacher), shuffle=False)
            )
            results.append(_compare_layers(context, student, teacher, batches))
        arms[arm], teacher_layers = _row(results), results[0].teacher_layers
    return {
        "examples": results[0].examples,
        "teacher": name if len(context.models) > 1 else None,
        "teacher_layers": list(teacher_layers),
        "arms": arms,
        "sentence": _sentence(arms, results[0].examples, job.seeds),
    }


def mean_best_cka(values: Float[Tensor, "student teacher"]) -> float:
    """The mean over a student's layers of the CKA with the most similar teacher layer; NaN if all are NaN.

    Example:
        >>> mean_best_cka(torch.tensor([[0.5, 1.0], [0.25, torch.nan]]))
        0.625
    """
    best = torch.where(values.isnan(), -torch.inf, values).amax(1)
    return float(best[best.isfinite()].mean())


def _compare_layers(context: MetricContext, student: nn.Module, teacher: nn.Module, batches: list[Batch]) -> LayerCKA:
    preprocess = context.material.data.preprocess
    return layer_cka(
        student, teacher, batches, student_preprocess=preprocess, teacher_preprocess=_teacher_preprocess(context)
    )


def _teacher_preprocess(context: MetricContext) -> Reading:
    """The preprocessing of the teacher."""
    return own_preprocess(context.teacher) or context.material.data.preprocess


def _first_examples(context: MetricContext) -> Batch:
    test = context.material.data.test
    return test.take(torch.arange(min(8, len(test))))


def _choose_batch_size(context: MetricContext, student: nn.Module, teacher: nn.Module) -> int:
    """A batch size whose activations fit into memory."""
    first, preprocess = _first_examples(context), context.material.data.preprocess
    layers = [named_layers(student, first, preprocess), named_layers(teacher, first, _teacher_preprocess(context))]
    return min(_BATCH, max(8, _NUMBERS // sum(sum(sizes.values()) for sizes in layers)))


def _row(results: Sequence[LayerCKA]) -> dict[str, Any]:
    similarities = [mean_best_cka(result.values) for result in results]
    return {
        "student_layers": list(results[0].student_layers),
        "values": torch.stack([result.values for result in results]).nanmean(0).tolist(),
        "closest": over_seeds(similarities),
    }


def _sentence(arms: dict[str, Any], examples: int, seeds: int) -> str:
    means = [f"{row['closest']['mean']:.2f} in {arm}" for arm, row in arms.items()]
    return (
        "Layers: the similarity (linear CKA) of a student's layer to the most similar one of the teacher is on "
        f"average {', '.join(means)}; {examples:,} test examples, {seeds} seed{'s' * (seeds > 1)}."
    )
