"""Training curves of an arm, read from its metrics."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from itertools import pairwise
from pathlib import Path
from types import MappingProxyType
from typing import Any, NamedTuple

from limbeck.checksums import read_lines
from limbeck.errors import DataError
from limbeck.job.run_layout import METRICS, seed_folder_name, seed_folders

Curve = list[tuple[float, float]]
Curves = Mapping[str, list[Curve]]
"""Term -> one curve for each seed, of (optimizer step, value)."""

POINTS = 160
"""Curves are downsampled to about this many points, each the mean of its neighbors."""


def counted_reports(run: Path) -> dict[str, dict[int, int]]:
    """Return arm -> seed -> number of lines of its ``metrics.jsonl``, as the run recorded them, or an empty dict."""
    counts: dict[str, dict[int, int]] = {}
    try:
        lines = read_lines(run / METRICS).values
    except DataError:
        return counts
    for line in lines:
        seed, count = line.get("seed"), line.get("reports")
        if isinstance(seed, int) and isinstance(count, int):
            counts.setdefault(str(line.get("arm")), {})[seed] = count
    return counts


def read_curves(
    arm: Path, unknown: list[str] | None = None, counted: Mapping[int, int] = MappingProxyType({})
) -> Curves:
    """Read the curves of an arm's seeds from their ``metrics.jsonl`` files; empty if there are none.

    Args:
        arm: The folder of the arm.
        unknown: Receives a sentence for each file that is damaged or incomplete.
        counted: Seed -> number of lines that the run recorded.
    """
    curves: dict[str, list[Curve]] = {}
    unknown = [] if unknown is None else unknown
    folders = {**{seed: arm / seed_folder_name(seed) for seed in counted}, **seed_folders(arm)}
    for seed, folder in sorted(folders.items()):
        file = folder / METRICS
        try:
            lines = read_lines(file)
        except DataError as error:
            unknown.append(str(error))
            continue
        lines_read, count = len(lines.values), counted.get(seed)
        if lines.damaged:
            unknown.append(f"{lines.damaged} lines of {file} are damaged and missing in the curves.")
        elif count is not None and lines_read != count:
            unknown.append(
                f"{file} has {lines_read} lines but had {count} when the run ended; the curves are incomplete."
            )
        for term, curve in _term_curves(lines.values).items():
            curves.setdefault(term, []).append(downsample(curve))
    return curves


def read_losses(arm: Path) -> list[Curve]:
    """Read the total loss in the last stage of an arm's seeds, as (optimizer step, value); skip damaged files."""
    losses = []
    for folder in seed_folders(arm).values():
        try:
            lines = [line for line in read_lines(folder / METRICS).values if isinstance(line.get("step"), int)]
        except DataError:
            continue
        last = [line for line in lines if line.get("stage") == lines[-1].get("stage")]
        losses.append([(float(line["step"]), float(line["loss"])) for line in last if _is_finite(line.get("loss"))])
    return losses


_MANY_CUT_OFF = 0.25


class WrittenTexts(NamedTuple):
    """Figures of the texts that a model wrote while an arm was trained, over all seeds.

    Attributes:
        finished: The number of texts with an end token.
        cut_off: The number of texts without one.
        tokens_per_second: New tokens per second of writing.
        time_share: The share of the time that writing took.
        mean_age: How many batches before they were used the texts were written.
    """

    finished: float
    cut_off: float
    tokens_per_second: float
    time_share: float
    mean_age: float


def cut_off_advice(texts: WrittenTexts) -> str | None:
    """What to do if many of the texts were cut off; None for a few."""
    share = texts.cut_off / max(texts.finished + texts.cut_off, 1)
    if share < _MANY_CUT_OFF:
        return None
    return (
        f"{share:.0%} of the texts were cut off, and nothing is learned about the end of such a text: raise "
        "method.max_new_tokens, or let the student learn on given texts first."
    )


def read_written_texts(arm: Path) -> WrittenTexts | None:
    """Read the figures of written texts of an arm's seeds; None if no model wrote any. Damaged files are skipped."""
    reports = []
    for folder in seed_folders(arm).values():
        try:
            lines = [line.get("generation") for line in read_lines(folder / METRICS).values]
        except DataError:
            continue
        reports += [[line.get(name) for name in WrittenTexts._fields] for line in lines if isinstance(line, dict)]
    rows = [row for row in reports if all(map(_is_finite, row))]
    if not rows:
        return None
    finished, cut_off, *rest = zip(*rows, strict=True)
    return WrittenTexts(sum(finished), sum(cut_off), *(sum(column) / len(rows) for column in rest))


def _is_finite(value: Any) -> bool:
    return isinstance(value, (int, float)) and math.isfinite(value)


def _term_curves(lines: Sequence[Mapping[str, Any]]) -> dict[str, Curve]:
    curves: dict[str, Curve] = {}
    # `before` is the number of steps of all earlier stages.
    before, stage, last = 0, None, 0
    for line in lines:
        if line.get("stage") != stage:  # steps restart at 0 in each stage
            before, stage = before + last, line.get("stage")
        step = line.get("step")
        if not isinstance(step, int):
            continue
        last = step
        terms = line.get("terms")
        for term, value in terms.items() if isinstance(terms, dict) else ():
            if _is_finite(value):
                curves.setdefault(str(term), []).append((float(before + step), float(value)))
    return curves


def downsample(curve: Sequence[tuple[float, float]], points: int = POINTS) -> Curve:
    """Reduce a curve to at most `points` points, each the mean of neighbors.

    Example:
        >>> downsample([(1.0, 2.0), (2.0, 4.0), (3.0, 6.0), (4.0, 8.0)], points=2)
        [(1.5, 3.0), (3.5, 7.0)]
    """
    if len(curve) <= points:
        return list(curve)
    edges = [round(i * len(curve) / points) for i in range(points + 1)]
    parts = [curve[a:b] for a, b in pairwise(edges)]
    return [(sum(x for x, _ in part) / len(part), sum(y for _, y in part) / len(part)) for part in parts]
