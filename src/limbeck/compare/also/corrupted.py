"""How much of their accuracy do teacher and students keep when images go bad?"""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import Any

import torch
from torch import nn

from limbeck.compare.also.pictures import Pictures, pictures_of
from limbeck.compare.also.seen import Seen, over_seeds
from limbeck.compare.also.students import device_of, looked_at, trained
from limbeck.compare.arms import ALONE
from limbeck.measure import CORRUPTIONS, Robustness, paired_difference, predict
from limbeck.measure.robustness import SEVERITIES, Asked, robustness_of

_TEACHER = "teacher"
_TRIED = 2_000_000
"""Pixels that show how long all will take; of small images a whole batch, as ten of them take as long as a hundred."""


def check_corruptions(seen: Seen, student: nn.Module) -> str:
    """Ask the models as they are now about a few bad images, and say how long all will take.

    Raises:
        LimbeckError: If the data are no pictures.
    """
    shown = pictures_of(seen)
    first = shown.batches[0]
    few = [first.rows(torch.arange(min(first.size, max(10, _TRIED // first.inputs[0].numel()))))]
    asked = {"student": Asked(student, shown.reads), **_teacher(seen, shown)}
    began = time.perf_counter()
    _ = robustness_of(asked, few, severities=[3])
    middle = time.perf_counter()
    for _name in CORRUPTIONS:
        _ = predict(student, few, reads=shown.reads)
    once, again = middle - began, time.perf_counter() - middle
    more = len(looked_at(seen.job, "")) * seen.job.seeds - 1
    seconds = (once + more * again) * len(SEVERITIES) * shown.examples / few[0].size
    return f"corruptions of {shown.examples:,} test examples (about {_duration(seconds)} here)"


def corruptions_of(seen: Seen) -> dict[str, Any]:
    """The accuracy of teacher and students under every corruption at every severity, on the very same images."""
    job, shown = seen.job, pictures_of(seen)
    asked = {
        arm: [Asked(trained(job, seen.material, arm, seed), shown.reads) for seed in range(job.seeds)]
        for arm in looked_at(job, seen.judged)
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


def _teacher(seen: Seen, shown: Pictures) -> dict[str, Asked]:
    """The teacher, where it is one of the arms; an ensemble answers as one, on the CPU."""
    if _TEACHER not in seen.job.arms:
        return {}
    models = list(seen.models.values())
    one: Any = models[0].to(device_of(seen.job)) if len(models) == 1 else seen.teacher
    return {_TEACHER: Asked(one, shown.teacher)}


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
