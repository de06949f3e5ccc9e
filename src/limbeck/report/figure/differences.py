"""How much better or worse is one arm than others, and how sure is that?"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from limbeck.report.axes import Scale, around, mark, svg
from limbeck.report.markup import Markup, join, tag


class Difference(NamedTuple):
    """A paired difference of accuracies, fractions; `interval` is None where one seed is all there is."""

    name: str
    style: int
    mean: float
    interval: tuple[float, float] | None


_FAR = 8.0
_WIDTH, _LEFT, _RIGHT, _TOP, _ROW = 960.0, 220.0, 190.0, 34.0, 34.0


def differences_figure(rows: Sequence[Difference], *, worse: str, better: str) -> Markup:
    """Each difference with its 95 % interval on one scale around zero.

    Args:
        rows: From top to bottom.
        worse: What lies left of zero, in words.
        better: What lies right of it.
    """
    ends = [100 * end for row in _near(rows) for end in (row.interval or (row.mean, row.mean))]
    x = Scale(*around([*ends, 0.0], least=0.5), _LEFT, _WIDTH - _RIGHT)
    bottom = _TOP + _ROW * len(rows)
    parts = [
        [(tag("line", x1=x(t), x2=x(t), y1=_TOP - 4, y2=bottom, class_="zero" if t == 0 else "grid"),
          tag("text", f"{t:+g}" if t else "0", x=x(t), y=bottom + 17, class_="tick", text_anchor="middle"))
         for t in x.ticks],
        tag("text", f"← {worse}", x=x(0) - 10, y=_TOP - 14, class_="axis", text_anchor="end"),
        tag("text", f"{better} →", x=x(0) + 10, y=_TOP - 14, class_="axis"),
        tag("text", "points of accuracy on test data", x=(_LEFT + _WIDTH - _RIGHT) / 2, y=bottom + 36, class_="axis",
            text_anchor="middle"),
    ]  # fmt: skip
    drawn = [_row(row, x, _TOP + _ROW * (i + 0.5)) for i, row in enumerate(rows)]
    said = "; ".join(f"{row.name}: {_said(row)}" for row in rows)
    return svg(*parts, *drawn, width=_WIDTH, height=bottom + 46, label=f"Differences in points of accuracy. {said}.")


def _near(rows: Sequence[Difference]) -> Sequence[Difference]:
    """Those that the scale is made for: a shuffled teacher may be so far behind that nothing else could be seen.

    What is left out stands at the edge, with its number beside it.
    """
    far = sorted((max(map(abs, row.interval or (row.mean, row.mean))) for row in rows), reverse=True)
    if len(far) < 3 or far[0] < _FAR * max(far[1], 0.002):
        return rows
    return [row for row in rows if max(map(abs, row.interval or (row.mean, row.mean))) < far[0]]


def _row(row: Difference, x: Scale, y: float) -> Markup:
    whisker, beyond = None, not x.low <= 100 * row.mean <= x.high
    if row.interval is not None and not beyond:
        low, high = (x(100 * end) for end in row.interval)
        ends = [tag("line", x1=end, x2=end, y1=y - 6, y2=y + 6, class_="whisker") for end in (low, high)]
        whisker = join(tag("line", x1=low, x2=high, y1=y, y2=y, class_="whisker"), ends)
    return tag(
        "g",
        tag("text", short(row.name, 26), x=_LEFT - 14, y=y + 5, text_anchor="end"),
        whisker,
        _far_off(row, x, y) if beyond else mark(row.style, x(100 * row.mean), y, size=6.0, title=_titled(row)),
        tag("text", _said(row), x=_WIDTH - _RIGHT + 16, y=y + 5, class_="value"),
        class_=f"arm s{row.style}",
    )


def _far_off(row: Difference, x: Scale, y: float) -> Markup:
    """An arrow at the edge that it lies beyond."""
    right = row.mean > 0
    return tag("text", tag("title", _titled(row)), "far off →" if right else "← far off", x=x.end if right else x.start,
               y=y + 5, text_anchor="end" if right else "start", class_="axis")  # fmt: skip


def _titled(row: Difference) -> str:
    return f"{row.name}: {_said(row)}"


def _said(row: Difference) -> str:
    if row.interval is None:
        return f"{100 * row.mean:+.2f}, one seed"
    low, high = row.interval
    return f"{100 * row.mean:+.2f}  [{100 * low:+.2f}, {100 * high:+.2f}]"


def short(text: str, most: int) -> str:
    """A name that fits; what is cut off is in the tables.

    Example:
        >>> short("a very long name", 8)
        'a very …'
    """
    return text if len(text) <= most else f"{text[: most - 1]}…"
