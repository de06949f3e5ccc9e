"""Training curves of an arm, read from its metrics."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from itertools import pairwise
from pathlib import Path
from types import MappingProxyType
from typing import Any

from limbeck.checksums import read_lines
from limbeck.errors import DataError

Curve = list[tuple[float, float]]
Curves = Mapping[str, list[Curve]]
"""Term -> one curve for each seed, of (optimizer step, value)."""

POINTS = 160
"""A curve is thinned to about so many points, each the mean of those it stands for."""


def counted_reports(run: Path) -> dict[str, dict[int, int]]:
    """Arm -> seed -> how many lines its ``metrics.jsonl`` had, from the run's own; empty where nobody counted."""
    found: dict[str, dict[int, int]] = {}
    try:
        lines = read_lines(run / "metrics.jsonl").values
    except DataError:
        return found
    for line in lines:
        seed, count = line.get("seed"), line.get("reports")
        if isinstance(seed, int) and isinstance(count, int):
            found.setdefault(str(line.get("arm")), {})[seed] = count
    return found


def curves_of(arm: Path, unknown: list[str] | None = None, counted: Mapping[int, int] = MappingProxyType({})) -> Curves:
    """The curves of one arm's seeds, from the ``metrics.jsonl`` of their folders; empty where there are none.

    Args:
        arm: The arm's folder.
        unknown: Gets a sentence for each file of which a part is damaged, or is gone.
        counted: Seed -> how many lines there were.
    """
    found: dict[str, list[Curve]] = {}
    unknown = [] if unknown is None else unknown
    for folder in sorted({*arm.glob("seed-*"), *(arm / f"seed-{seed}" for seed in counted)}):
        file = folder / "metrics.jsonl"
        try:
            lines = read_lines(file)
        except DataError as error:
            unknown.append(str(error))
            continue
        there, count = len(lines.values), counted.get(_number(folder))
        if lines.damaged:
            unknown.append(f"{lines.damaged} lines of {file} are damaged: the curves lack them.")
        elif count is not None and there != count:
            unknown.append(f"{file} has {there} lines, and had {count} when the run ended: the curves lack the others.")
        for term, curve in _one(lines.values).items():
            found.setdefault(term, []).append(downsample(curve))
    return found


def losses_of(arm: Path) -> list[Curve]:
    """The whole loss in the last stage of one arm's seeds, of (optimizer step, value); damaged files are left out."""
    found = []
    for folder in sorted(arm.glob("seed-*")):
        try:
            lines = [line for line in read_lines(folder / "metrics.jsonl").values if isinstance(line.get("step"), int)]
        except DataError:
            continue
        last = [line for line in lines if line.get("stage") == lines[-1].get("stage")]
        found.append([(float(line["step"]), float(line["loss"])) for line in last if _is_finite(line.get("loss"))])
    return found


def _number(folder: Path) -> int:
    seed = folder.name.removeprefix("seed-")
    return int(seed) if seed.isdecimal() else -1


def _is_finite(value: Any) -> bool:
    return isinstance(value, (int, float)) and math.isfinite(value)


def _one(lines: Sequence[Mapping[str, Any]]) -> dict[str, Curve]:
    curves: dict[str, Curve] = {}
    before, stage, last = 0, None, 0
    for line in lines:
        if line.get("stage") != stage:  # a second stage goes on where the first ended
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
    """The curve with at most so many points: means of neighbors, so that noise is shown as its middle.

    Example:
        >>> thinned([(1, 2.0), (2, 4.0), (3, 6.0), (4, 8.0)], points=2)
        [(1.5, 3.0), (3.5, 7.0)]
    """
    if len(curve) <= points:
        return list(curve)
    edges = [round(i * len(curve) / points) for i in range(points + 1)]
    parts = [curve[a:b] for a, b in pairwise(edges)]
    return [(sum(x for x, _ in part) / len(part), sum(y for _, y in part) / len(part)) for part in parts]
