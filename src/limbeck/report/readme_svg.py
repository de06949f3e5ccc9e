"""Small SVG of a result, for a README."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from html import escape
from typing import Any

_WIDTH, _LEFT, _RIGHT, _TOP, _ROW = 760, 150, 120, 56, 44
_STYLE = """
text { font: 14px system-ui, sans-serif; fill: #1f2430 } .quiet { fill: #68707f; font-size: 12px }
.strong { font-weight: 600 } line { stroke: #d5d9e0 } .seed { fill: #8a93a5; fill-opacity: .65 }
.mean { stroke: #1f2430; stroke-width: 2.5 } .ours .seed { fill: #d1622b } .ours .mean { stroke: #d1622b }
@media (prefers-color-scheme: dark) {
  text { fill: #e8eaee } .quiet { fill: #9aa3b2 } line { stroke: #3a404c } .mean { stroke: #e8eaee }
  .ours .seed { fill: #f08a4b } .ours .mean { stroke: #f08a4b }
}"""


def arms_picture(result: Mapping[str, Any]) -> str:
    """Draw the test accuracy of every arm as SVG: a dot per seed, a bar for the mean, and the verdict.

    The SVG has no script, loads nothing, and supports light and dark color schemes.

    Args:
        result: The result of `limbeck.compare.run_job`.
    """
    arms = result["arms"]
    values = [v for arm in arms.values() for v in arm["measures"]["accuracy"]["values"] if v is not None]
    low, high, ticks = _scale(values or [0.0, 1.0])

    def place(value: float) -> float:
        return _LEFT + (value - low) / (high - low) * (_WIDTH - _LEFT - _RIGHT)

    bottom = _TOP + _ROW * len(arms)
    lines = _wrapped(result["verdict"]["sentence"], 104)
    height = bottom + 44 + 20 * len(lines)
    parts = [_axis(ticks, place, bottom)]
    verdict_arm = result["verdict"].get("arm", "distilled")  # results of earlier versions have no "arm"
    for row, (name, arm) in enumerate(arms.items()):
        parts.append(_arm(name, arm, place, _TOP + _ROW * (row + 0.5), is_ours=name == verdict_arm))
    parts += [f'<text x="16" y="{bottom + 44 + 20 * i}">{escape(line)}</text>' for i, line in enumerate(lines)]
    title = f'<text class="strong" x="16" y="26">Test accuracy, {escape(result["data"]["name"])}</text>'
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {_WIDTH} {height}" role="img" '
        f'aria-label="{escape(result["verdict"]["sentence"], quote=True)}"><style>{_STYLE}</style>\n'
        + "\n".join([title, *parts])
        + "\n</svg>\n"
    )


def _axis(ticks: Sequence[float], place: Any, bottom: int) -> str:
    return "\n".join(
        f'<line x1="{place(t):.1f}" x2="{place(t):.1f}" y1="{_TOP - 6}" y2="{bottom}"/>'
        f'<text class="quiet" x="{place(t):.1f}" y="{_TOP - 12}" text-anchor="middle">{100 * t:g} %</text>'
        for t in ticks
    )


def _arm(name: str, arm: Mapping[str, Any], place: Any, y: float, *, is_ours: bool) -> str:
    accuracy = arm["measures"]["accuracy"]
    values = [value for value in accuracy["values"] if value is not None]
    dots = "".join(f'<circle class="seed" cx="{place(v):.1f}" cy="{y:.1f}" r="5.5"/>' for v in values)
    return (
        f'<g class="{"ours" if is_ours else "other"}">'
        f'<text class="{"strong" if is_ours else ""}" x="16" y="{y + 5:.1f}">{escape(name)}</text>{dots}'
        + _mean(accuracy, place, y)
        + "</g>"
    )


def _mean(accuracy: Mapping[str, Any], place: Any, y: float) -> str:
    x = _WIDTH - _RIGHT + 18
    if accuracy["mean"] is None:
        return f'<text x="{x}" y="{y + 5:.1f}">-</text>'
    spread = f" ± {100 * accuracy['std']:.2f}" if len(accuracy["values"]) > 1 else ""
    at = f"{place(accuracy['mean']):.1f}"
    return (
        f'<line class="mean" x1="{at}" x2="{at}" y1="{y - 13:.1f}" y2="{y + 13:.1f}"/>'
        f'<text x="{x}" y="{y + 5:.1f}">{100 * accuracy["mean"]:.2f}{spread}</text>'
    )


def _scale(values: Sequence[float]) -> tuple[float, float, list[float]]:
    """Return the limits of the axis, within 0 and 1, and round ticks between them."""
    low, high = min(values), max(values)
    smallest_step = max(high - low, 0.004) / 4
    step = next(s * 10.0**e for e in range(-4, 1) for s in (1, 2, 5) if s * 10.0**e >= smallest_step)
    first = max(math.floor(low / step - 0.3), 0)
    last = min(math.ceil(high / step + 0.3), round(1 / step))
    return first * step, last * step, [step * i for i in range(first, last + 1)]


def _wrapped(text: str, width: int) -> list[str]:
    from textwrap import wrap

    return wrap(text, width)
