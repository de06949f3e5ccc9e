"""How faithful students are near test images: gaps in confidence that an attack finds, and bounds that are certain."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import Any

import torch
from torch import nn

from limbeck.batch import Batch
from limbeck.compare.adversarial_teacher import attack_radii, is_radius, trained_radii
from limbeck.compare.corruptions import CorruptibleImages, select_pictures
from limbeck.compare.result import MetricContext, arms_with_every_method, first_device, load_student, over_seeds
from limbeck.errors import LimbeckError
from limbeck.metrics import CertifiedGap, ConfidenceGap, certified_gap, confidence_gap

EPSILONS = {"1/255": 1 / 255, "4/255": 4 / 255}
"""The largest changes of a pixel, as fractions of the range, by their names. Bounds of larger boxes are close to 1."""
TOLERANCE = 0.1
"""The largest gap in confidence of a faithful student."""
_EXAMPLES, _STEPS = 200, 20


def check_faithfulness(context: MetricContext, student: nn.Module) -> str:
    """Bound the untrained models on a few images, and describe the measurement.

    Raises:
        LimbeckError: If the data are not pictures, the teacher is no single network, or a network has no bounds.
    """
    images, teacher = select_pictures(context, _EXAMPLES, metric="faithfulness"), _find_teacher(context)
    few = images.batches[0].rows(torch.arange(min(4, images.batches[0].size)))
    _ = _measure(student, teacher, [few], images, min(EPSILONS.values()), steps=1)
    return f"faithfulness on {images.examples:,} test examples ({_STEPS} steps of an attack, and bounds)"


def measure_faithfulness(context: MetricContext) -> dict[str, Any]:
    """The gaps in confidence between teacher and students by an attack and by a proof, over seeds, for each epsilon.

    The radii are those of `EPSILONS`, and those that the job's teacher and its methods are trained with.
    """
    job, images = context.job, select_pictures(context, _EXAMPLES, metric="faithfulness")
    teacher = _find_teacher(context).to(first_device(job))
    radii = attack_radii(job, EPSILONS)
    rows: dict[str, Any] = {}
    for arm in arms_with_every_method(job, context.arm):
        students = [load_student(job, context.material, arm, seed) for seed in range(job.seeds)]
        measure = partial(_measure, teacher=teacher, batches=images.batches, images=images)
        rows[arm] = _row([[measure(one, epsilon=radius) for one in students] for radius in radii.values()])
    names, trained = list(radii), max(trained_radii(job), default=max(radii.values()))
    last = next(place for place, radius in enumerate(radii.values()) if is_radius(radius, trained))
    gaps = ", ".join(
        f"{row['attack'][last]['mean']:.2f} and {row['bound'][last]['mean']:.2f} in {arm}" for arm, row in rows.items()
    )
    sentence = (
        f"Faithfulness ({images.examples:,} test examples): with changes of up to {names[last]} the mean largest gap "
        f"in confidence from the teacher, as found by an attack and as a proven upper bound, is {gaps}."
    )
    return {
        "examples": images.examples, "epsilons": names, "tolerance": TOLERANCE, "arms": rows, "sentence": sentence
    }  # fmt: skip


def _find_teacher(context: MetricContext) -> nn.Module:
    models = list(context.models.values())
    if len(models) != 1:
        raise LimbeckError(
            f"faithfulness compares students with a teacher that is one network, and this one has {len(models)}. Leave "
            "faithfulness out of `also`."
        )
    return models[0]


def _measure(
    student: nn.Module,
    teacher: nn.Module,
    batches: Sequence[Batch],
    images: CorruptibleImages,
    epsilon: float,
    *,
    steps: int = _STEPS,
) -> tuple[ConfidenceGap, CertifiedGap]:
    """The gaps of one student: those of an attack, and their bounds."""
    unit = 1.0 if batches[0].inputs.is_floating_point() else 255.0
    floats = [batch._replace(inputs=batch.inputs.float()) for batch in batches]
    settings: dict[str, Any] = {
        "radius": epsilon * unit, "limits": (0.0, unit),
        "student_preprocess": images.preprocess, "teacher_preprocess": images.teacher,
    }  # fmt: skip
    return (
        confidence_gap(student, teacher, floats, steps=steps, **settings),
        certified_gap(student, teacher, floats, **settings),
    )


def _row(gaps: Sequence[Sequence[tuple[ConfidenceGap, CertifiedGap]]]) -> dict[str, Any]:
    """An arm's results; `gaps` has one entry for each epsilon and seed."""
    return {
        "disagreement": over_seeds([bound.disagreement.value for _, bound in gaps[0]]),
        "attack": [over_seeds([attack.mean.value for attack, _ in own]) for own in gaps],
        "bound": [over_seeds([bound.mean.value for _, bound in own]) for own in gaps],
        "faithful": [over_seeds([bound.within(TOLERANCE).value for _, bound in own]) for own in gaps],
    }
