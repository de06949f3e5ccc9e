"""Accuracy of teacher and students on corrupted images, and on images that were changed to make them wrong."""

from __future__ import annotations

import time
from collections.abc import Iterable, Sequence
from dataclasses import replace
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from limbeck.batch import Batch
from limbeck.compare.adversarial_teacher import attack_radii
from limbeck.compare.arm_recipes import ALONE
from limbeck.compare.result import (
    MetricContext,
    arms_to_measure,
    arms_with_every_method,
    first_device,
    load_student,
    over_seeds,
    own_preprocess,
)
from limbeck.data import Identity, NormalizeImages, ShuffledLoader, subsample
from limbeck.data.adversarial_loader import Attack
from limbeck.data.transforms.common import check_pixels
from limbeck.errors import LimbeckError
from limbeck.job import plain_name
from limbeck.metrics import CORRUPTIONS, Robustness, paired_difference, predict, robust_accuracy
from limbeck.metrics.corruptions import SEVERITIES, CorruptedPredictor, robustness_of
from limbeck.teachers.teacher import Preprocess

EXAMPLES = 500

"""The maximum number of test examples, stratified by class."""

_FEWEST = 100

_PIXELS = 25_000_000

"""The maximum number of pixels in all pictures, to limit the time to minutes."""

_BATCH = 100


class CorruptibleImages(NamedTuple):
    """Test examples and their preprocessing.

    Attributes:
        batches: Bytes, or floats from 0 to 1, with the ids that the examples have in the test data.
        preprocess: The preprocessing of the student.
        teacher: The preprocessing of the teacher.
    """

    batches: list[Batch]
    preprocess: Preprocess
    teacher: Preprocess

    @property
    def examples(self) -> int:
        """The number of examples."""
        return sum(batch.size for batch in self.batches)


def select_pictures(context: MetricContext, limit: int = EXAMPLES, *, metric: str = "corruptions") -> CorruptibleImages:
    """Select test examples, the same at every call.

    Args:
        context: The job, its data and its teacher.
        limit: The maximum number of examples.
        metric: The name in `also`, for errors.

    Raises:
        LimbeckError: If they are not pictures, or the teacher has inputs other than the pictures.
    """
    data, teacher_preprocess = context.material.data, own_preprocess(context.teacher)
    first, leave = data.test.take(torch.tensor([0])).inputs, f"Leave {metric} out of `also`."
    if not isinstance(first, Tensor) or first.ndim not in (3, 4):
        raise LimbeckError(
            f"{metric} needs images, but an example of {plain_name(data.name)} is {_describe_inputs(first)}. {leave}"
        )
    if teacher_preprocess is not None and not isinstance(teacher_preprocess, (NormalizeImages, Identity)):
        raise LimbeckError(f"{metric} changes the student's inputs, but the teacher has other inputs. {leave}")
    count = min(limit, EXAMPLES, max(_FEWEST, _PIXELS // first.numel()))
    batches = list(ShuffledLoader(subsample(data.test, count, 0), batch_size=_BATCH, shuffle=False))
    pictures = _from_zero_to_one(CorruptibleImages(batches, data.preprocess, teacher_preprocess or data.preprocess))
    for batch in pictures.batches:
        check_pixels(batch.inputs, who=metric)
    return pictures


def _from_zero_to_one(pictures: CorruptibleImages) -> CorruptibleImages:
    """Convert bytes to floats if their range is not 0 to 255; scikit-learn's digits end at 16."""
    scale = pictures.preprocess.scale if isinstance(pictures.preprocess, NormalizeImages) else 1 / 255
    if pictures.batches[0].inputs.is_floating_point() or abs(255 * scale - 1) < 1e-6:
        return pictures
    batches = [batch._replace(inputs=(batch.inputs.float() * scale).clamp(0, 1)) for batch in pictures.batches]
    return CorruptibleImages(batches, _scaled(pictures.preprocess, scale), _scaled(pictures.teacher, scale))


def _scaled(preprocess: Preprocess, scale: float) -> Preprocess:
    return (
        replace(preprocess, scale=preprocess.scale / scale) if isinstance(preprocess, NormalizeImages) else preprocess
    )


def _describe_inputs(inputs: object) -> str:
    if not isinstance(inputs, Tensor):
        return "several tensors by name"
    return (
        f"a row of {inputs[0].numel()} numbers" if inputs.ndim == 2 else f"a tensor of shape {list(inputs.shape[1:])}"
    )


_TEACHER = "teacher"

_TRIED = 2_000_000

"""The number of pixels to estimate the time with; small images need a whole batch, as ten take as long as a hundred."""


def check_corruptions(context: MetricContext, student: nn.Module) -> str:
    """Try the untrained models on a few corrupted images, and estimate the time of the measurement.

    Raises:
        LimbeckError: If the data are not pictures.
    """
    pictures = select_pictures(context)
    first = pictures.batches[0]
    few = [first.rows(torch.arange(min(first.size, max(10, _TRIED // first.inputs[0].numel()))))]
    predictors = {"student": CorruptedPredictor(student, pictures.preprocess), **_teacher(context, pictures)}
    start = time.perf_counter()
    _ = robustness_of(predictors, few, severities=[3])
    middle = time.perf_counter()
    for _name in CORRUPTIONS:
        _ = predict(student, few, preprocess=pictures.preprocess)
    once, again = middle - start, time.perf_counter() - middle
    more = len(arms_to_measure(context.job, "")) * context.job.seeds - 1
    seconds = (once + more * again) * len(SEVERITIES) * pictures.examples / few[0].size
    return f"corruptions of {pictures.examples:,} test examples (about {_duration(seconds)} here)"


def measure_corruptions(context: MetricContext) -> dict[str, Any]:
    """The accuracy of teacher and students for every corruption and severity, on the same images."""
    job, pictures = context.job, select_pictures(context)
    students = {
        arm: [
            CorruptedPredictor(load_student(job, context.material, arm, seed), pictures.preprocess)
            for seed in range(job.seeds)
        ]
        for arm in arms_to_measure(job, context.arm)
    }
    all_predictors = {name: [predictor] for name, predictor in _teacher(context, pictures).items()} | students
    results = robustness_of(
        {f"{arm}/{i}": predictor for arm, several in all_predictors.items() for i, predictor in enumerate(several)},
        pictures.batches,
    )
    rows = {arm: _row([results[f"{arm}/{i}"] for i in range(len(several))]) for arm, several in all_predictors.items()}
    return {
        "examples": pictures.examples,
        "severities": list(SEVERITIES),
        "arms": rows,
        "sentence": _sentence(rows, context.arm, pictures.examples),
    }


def _teacher(context: MetricContext, pictures: CorruptibleImages) -> dict[str, CorruptedPredictor]:
    """The teacher if it is an arm; an ensemble is evaluated as one model, on the CPU."""
    if _TEACHER not in context.job.arms:
        return {}
    models = list(context.models.values())
    teacher: Any = models[0].to(first_device(context.job)) if len(models) == 1 else context.teacher
    return {_TEACHER: CorruptedPredictor(teacher, pictures.teacher)}


def _row(results: Sequence[Robustness]) -> dict[str, Any]:
    return {
        "clean": over_seeds([result.clean.value for result in results]),
        "mean": over_seeds([result.mean for result in results]),
        "by": {
            name: [
                over_seeds([result.corrupted[name][severity].value for result in results]) for severity in SEVERITIES
            ]
            for name in CORRUPTIONS
        },
    }


def _sentence(rows: dict[str, Any], judged_arm: str, examples: int) -> str:
    means = ", ".join(f"{arm} {100 * row['mean']['mean']:.2f} %" for arm, row in rows.items())
    return (
        f"Corrupted images ({len(CORRUPTIONS)} corruptions at {len(SEVERITIES)} severities, {examples:,} test "
        f"examples): mean accuracy {means}{_describe_difference(rows, judged_arm, examples)}."
    )


def _describe_difference(rows: dict[str, Any], judged_arm: str, examples: int) -> str:
    if ALONE not in rows:
        return ""
    ours, theirs = (rows[arm]["mean"]["values"] for arm in (judged_arm, ALONE))
    step = 1 / (examples * len(CORRUPTIONS) * len(SEVERITIES))
    difference = paired_difference(ours, theirs, resolution=step, largest=1.0)
    points = f"; {judged_arm} less {ALONE} {100 * difference.mean:+.2f} points"
    if difference.low is None or difference.high is None:
        return f"{points} (one seed, no interval)"
    # The result has no correctness per picture and corruption, so the interval is over seeds only.
    return (
        f"{points} (95 % interval {100 * difference.low:+.2f} to {100 * difference.high:+.2f}, {difference.pairs} "
        "paired seeds; it does not include the sampling of test examples)"
    )


def _duration(seconds: float) -> str:
    return f"{max(seconds, 1):.0f} s" if seconds < 90 else f"{seconds / 60:.0f} min"


EPSILONS = {"2/255": 2 / 255, "8/255": 8 / 255}
"""The largest changes of a pixel by an attack, as fractions of the range, by their names."""
_ATTACKED, _STEPS = 200, 20


def check_attacks(context: MetricContext, student: nn.Module) -> str:
    """Attack an untrained student on a few images, and describe the measurement.

    Raises:
        LimbeckError: If the data are not pictures, or have no labels.
    """
    pictures = select_pictures(context, _ATTACKED, metric="attacks")
    few = pictures.batches[0].rows(torch.arange(min(4, pictures.batches[0].size)))
    _ = robust_accuracy(student, few, Attack(EPSILONS["2/255"], steps=1), preprocess=pictures.preprocess)
    return f"attacks on {pictures.examples:,} test examples ({_STEPS} steps)"


def measure_attacks(context: MetricContext) -> dict[str, Any]:
    """The accuracy of teacher and students on images that projected gradient ascent changed, from the same starts.

    The radii are those of `EPSILONS`, and those that the job's teacher was trained against.
    """
    job, pictures = context.job, select_pictures(context, _ATTACKED, metric="attacks")
    models, radii = list(context.models.values()), attack_radii(context.job, EPSILONS)
    rows: dict[str, Any] = {}
    if _TEACHER in job.arms and len(models) == 1:  # of an ensemble no gradient is known
        teacher = [models[0].to(first_device(job))]
        rows[_TEACHER] = _attacked(teacher, pictures.batches, pictures.teacher, radii.values())
    for arm in arms_with_every_method(job, context.arm):
        students = [load_student(job, context.material, arm, seed) for seed in range(job.seeds)]
        rows[arm] = _attacked(students, pictures.batches, pictures.preprocess, radii.values())
    largest = ", ".join(f"{arm} {100 * row['robust'][-1]['mean']:.1f} %" for arm, row in rows.items())
    sentence = (
        f"Attacks (projected gradient ascent of {_STEPS} steps, {pictures.examples:,} test examples): accuracy with "
        f"changes of up to {list(radii)[-1]} {largest}."
    )
    return {"examples": pictures.examples, "epsilons": list(radii), "arms": rows, "sentence": sentence}


def _attacked(
    models: Sequence[nn.Module], batches: list[Batch], preprocess: Preprocess, radii: Iterable[float]
) -> dict[str, Any]:
    results = [
        [robust_accuracy(model, batches, Attack(radius, steps=_STEPS), preprocess=preprocess) for model in models]
        for radius in radii
    ]
    clean = over_seeds([one.clean.value for one in results[0]])
    return {"clean": clean, "robust": [over_seeds([one.robust.value for one in own]) for own in results]}
