"""Which values lie so far from all others that one scale for all of them would show nothing else?"""

from __future__ import annotations

from collections.abc import Collection, Sequence

from limbeck.report.axes import Scale
from limbeck.report.markup import Markup, tag

Span = tuple[float, float]
"""From where to where something reaches: an interval, or the same value twice."""

FAR = 4.0
"""Far off is what would leave the others less than a fifth of the scale."""


def far_off(spans: Sequence[Span | None], *, least: float, kept: Collection[int] = ()) -> dict[int, int]:
    """What stands at the edge of a scale, by its place among the spans: -1 lies far below the others, 1 far above.

    The others are more than half of all, the closest that lie together. All that is far off is further from them than
    four times what they take up, so that nothing which they could be compared with by eye is moved. Fewer than three
    spans are never far off each other.

    Args:
        spans: What the scale would hold; None is nowhere on it.
        least: In the scale's unit, what the others take up at least: nothing that is nearer than four times this moves.
        kept: The places of those that must stay on the scale.

    Example:
        >>> far_off([(90.0, 91.0), (89.0, 92.0), (12.0, 14.0)], least=1.0)
        {2: -1}
    """
    known = {place: span for place, span in enumerate(spans) if span is not None}
    order = sorted(known, key=lambda place: sum(known[place]))
    must = set(kept) & set(known)
    found: tuple[float, dict[int, int]] = (float("inf"), {})
    for first in range((len(order) + 1) // 2):
        for last in range(first + len(order) // 2, len(order)):
            inside = order[first : last + 1]
            low, high = min(known[one][0] for one in inside), max(known[one][1] for one in inside)
            below, above = order[:first], order[last + 1 :]
            if high - low >= found[0] or not must <= set(inside):
                continue
            room = FAR * max(high - low, least)
            if all(known[one][1] < low - room for one in below) and all(known[one][0] > high + room for one in above):
                found = high - low, {**dict.fromkeys(below, -1), **dict.fromkeys(above, 1)}
    return found[1]


def held(points: Sequence[float], ends: Sequence[float], *, least: float) -> list[float]:
    """What a scale is made for: all points, and the ends of their intervals but for those that lie far off.

    Two seeds may give an interval so wide that nothing else could be seen; `reach` draws it up to the edge.
    """
    every = [*points, *ends]
    cut = far_off([(value, value) for value in every], least=least, kept=range(len(points)))
    return [value for place, value in enumerate(every) if place not in cut]


def reach(scale: Scale, low: float, high: float) -> tuple[tuple[float, int], tuple[float, int]]:
    """Where an interval's ends are drawn, and which of them lies beyond the edge: -1 or 1, else 0."""
    return (
        (scale(max(low, scale.low)), -1 if low < scale.low else 0),
        (scale(min(high, scale.high)), 1 if high > scale.high else 0),
    )


def tip(x: float, y: float, side: int) -> Markup:
    """The head of an arrow at the end of a row: what it belongs to goes on beyond the edge."""
    return tag("polyline", points=f"{x - 6 * side:.1f},{y - 5:.1f} {x:.1f},{y:.1f} {x - 6 * side:.1f},{y + 5:.1f}",
               fill="none", class_="whisker")  # fmt: skip


def at_the_edge(side: int, x: Scale, y: float, *, title: str) -> Markup:
    """An arrow at the end of a row beyond which something lies; its number stands beside the row."""
    said, place, anchor = ("far off →", x.end, "end") if side > 0 else ("← far off", x.start, "start")
    return tag("text", tag("title", title), said, x=place, y=y + 5, text_anchor=anchor, class_="axis")


def named_far(names: Sequence[str]) -> str:
    """For those who hear a figure: who lies beyond its scale."""
    return f" Far off, beyond the scale: {', '.join(names)}." if names else ""
