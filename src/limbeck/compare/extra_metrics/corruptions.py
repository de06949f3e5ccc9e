"""Accuracy of teacher and students on corrupted images."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import replace
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from limbeck.batch import Batch
from limbeck.compare.arms import ALONE
from limbeck.compare.extra_metrics.context import (
    MetricContext,
    arms_to_measure,
    device_of,
    load_student,
    over_seeds,
    own_preprocess,
)
from limbeck.data import Identity, NormalizeImages, ShuffledLoader, subsample
from limbeck.data.transforms.validation import check_pixels
from limbeck.errors import LimbeckError
from limbeck.job import plain_name
from limbeck.metrics import CORRUPTIONS, Robustness, paired_difference, predict
from limbeck.metrics.corruptions import SEVERITIES, CorruptedPredictor, robustness_of
from limbeck.teachers.teacher import Preprocess

EXAMPLES = 500

"""Of the test data at most, the classes in their shares."""

_FEWEST = 100

_PIXELS = 25_000_000

"""Of all pictures together at most: large ones are fewer, so that it takes minutes."""

_BATCH = 100

_LEAVE = "Leave corruptions out of `also`."


class CorruptibleImages(NamedTuple):
    """Test examples, and how they are read.

    Attributes:
        batches: Bytes, or floats from 0 to 1, with the ids that the examples have in the test data.
        preprocess: The student's way to its inputs.
        teacher: The teacher's.
    """

    batches: list[Batch]
    preprocess: Preprocess
    teacher: Preprocess

    @property
    def examples(self) -> int:
        """How many there are."""
        return sum(batch.size for batch in self.batches)


def pictures_of(seen: MetricContext, most: int = EXAMPLES) -> CorruptibleImages:
    """Some test examples of a job, the same at every call.

    Raises:
        LimbeckError: If they are no pictures, or the teacher reads something else than what goes bad.
    """
    data, own = seen.material.data, own_preprocess(seen.teacher)
    first = data.test.take(torch.tensor([0])).inputs
    if not isinstance(first, Tensor) or first.ndim not in (3, 4):
        raise LimbeckError(
            f"corruptions are of pictures, and an example of {plain_name(data.name)} is {_told(first)}. {_LEAVE}"
        )
    if own is not None and not isinstance(own, (NormalizeImages, Identity)):
        raise LimbeckError(f"corruptions change what the student reads, and the teacher reads other inputs. {_LEAVE}")
    count = min(most, EXAMPLES, max(_FEWEST, _PIXELS // first.numel()))
    batches = list(ShuffledLoader(subsample(data.test, count, 0), batch_size=_BATCH, shuffle=False))
    found = _from_zero_to_one(CorruptibleImages(batches, data.preprocess, own or data.preprocess))
    for batch in found.batches:
        check_pixels(batch.inputs, who="corruptions")
    return found


def _from_zero_to_one(found: CorruptibleImages) -> CorruptibleImages:
    """The same, as floats where bytes do not mean 0 to 255: those of scikit-learn's digits end at 16."""
    scale = found.preprocess.scale if isinstance(found.preprocess, NormalizeImages) else 1 / 255
    if found.batches[0].inputs.is_floating_point() or abs(255 * scale - 1) < 1e-6:
        return found
    batches = [batch._replace(inputs=(batch.inputs.float() * scale).clamp(0, 1)) for batch in found.batches]
    return CorruptibleImages(batches, _scaled(found.preprocess, scale), _scaled(found.teacher, scale))


def _scaled(preprocess: Preprocess, scale: float) -> Preprocess:
    return (
        replace(preprocess, scale=preprocess.scale / scale) if isinstance(preprocess, NormalizeImages) else preprocess
    )


def _told(inputs: object) -> str:
    if not isinstance(inputs, Tensor):
        return "several tensors by name"
    return (
        f"a row of {inputs[0].numel()} numbers" if inputs.ndim == 2 else f"a tensor of shape {list(inputs.shape[1:])}"
    )


_TEACHER = "teacher"

_TRIED = 2_000_000

"""Pixels that show how long all will take; of small images a whole batch, as ten of them take as long as a hundred."""


def check_corruptions(seen: MetricContext, student: nn.Module) -> str:
    """Ask the models as they are now about a few bad images, and say how long all will take.

    Raises:
        LimbeckError: If the data are no pictures.
    """
    shown = pictures_of(seen)
    first = shown.batches[0]
    few = [first.rows(torch.arange(min(first.size, max(10, _TRIED // first.inputs[0].numel()))))]
    asked = {"student": CorruptedPredictor(student, shown.preprocess), **_teacher(seen, shown)}
    began = time.perf_counter()
    _ = robustness_of(asked, few, severities=[3])
    middle = time.perf_counter()
    for _name in CORRUPTIONS:
        _ = predict(student, few, preprocess=shown.preprocess)
    once, again = middle - began, time.perf_counter() - middle
    more = len(arms_to_measure(seen.job, "")) * seen.job.seeds - 1
    seconds = (once + more * again) * len(SEVERITIES) * shown.examples / few[0].size
    return f"corruptions of {shown.examples:,} test examples (about {_duration(seconds)} here)"


def corruptions_of(seen: MetricContext) -> dict[str, Any]:
    """The accuracy of teacher and students under every corruption at every severity, on the very same images."""
    job, shown = seen.job, pictures_of(seen)
    asked = {
        arm: [
            CorruptedPredictor(load_student(job, seen.material, arm, seed), shown.preprocess)
            for seed in range(job.seeds)
        ]
        for arm in arms_to_measure(job, seen.judged)
    }
    both = {name: [one] for name, one in _teacher(seen, shown).items()} | asked
    found = robustness_of(
        {f"{arm}/{i}": one for arm, some in both.items() for i, one in enumerate(some)}, shown.batches
    )
    rows = {arm: _row([found[f"{arm}/{i}"] for i in range(len(some))]) for arm, some in both.items()}
    return {
        "examples": shown.examples,
        "severities": list(SEVERITIES),
        "arms": rows,
        "sentence": _sentence(rows, seen.judged, shown.examples),
    }


def _teacher(seen: MetricContext, shown: CorruptibleImages) -> dict[str, CorruptedPredictor]:
    """The teacher, where it is one of the arms; an ensemble answers as one, on the CPU."""
    if _TEACHER not in seen.job.arms:
        return {}
    models = list(seen.models.values())
    one: Any = models[0].to(device_of(seen.job)) if len(models) == 1 else seen.teacher
    return {_TEACHER: CorruptedPredictor(one, shown.teacher)}


def _row(found: Sequence[Robustness]) -> dict[str, Any]:
    return {
        "clean": over_seeds([one.clean.value for one in found]),
        "mean": over_seeds([one.mean for one in found]),
        "by": {
            name: [over_seeds([one.corrupted[name][severity].value for one in found]) for severity in SEVERITIES]
            for name in CORRUPTIONS
        },
    }


def _sentence(rows: dict[str, Any], judged: str, examples: int) -> str:
    said = ", ".join(f"{arm} {100 * row['mean']['mean']:.2f} %" for arm, row in rows.items())
    return (
        f"Bad images ({len(CORRUPTIONS)} corruptions at {len(SEVERITIES)} severities, {examples:,} test examples): "
        f"mean accuracy {said}{_beside(rows, judged, examples)}."
    )


def _beside(rows: dict[str, Any], judged: str, examples: int) -> str:
    if ALONE not in rows:
        return ""
    ours, theirs = (rows[arm]["mean"]["values"] for arm in (judged, ALONE))
    step = 1 / (examples * len(CORRUPTIONS) * len(SEVERITIES))
    found = paired_difference(ours, theirs, resolution=step, largest=1.0)
    points = f"; {judged} less {ALONE} {100 * found.mean:+.2f} points"
    if found.low is None or found.high is None:
        return f"{points}, of this one seed"
    # Which pictures were right in each corruption is not kept, so the interval is over seeds, and says so.
    return (
        f"{points} (95 % interval {100 * found.low:+.2f} to {100 * found.high:+.2f}, {found.pairs} paired seeds, with "
        "the sampling of test examples left out)"
    )


def _duration(seconds: float) -> str:
    return f"{max(seconds, 1):.0f} s" if seconds < 90 else f"{seconds / 60:.0f} min"
