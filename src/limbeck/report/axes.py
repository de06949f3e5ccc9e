"""Matplotlib axes in the style of the report: colors, shapes, limits, and values far off the scale."""

from __future__ import annotations

import math
from collections.abc import Collection, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from limbeck.optional_imports import import_optional
from limbeck.report.html import clean_text

if TYPE_CHECKING:
    from matplotlib.axes import Axes as Axes
else:
    Axes = Any  # matplotlib is imported only when a figure is drawn; type hints still resolve

WIDTH = 520.0
"""Width of a figure in points. On the page a point is a CSS pixel."""
ROW = 44.0
"""Height of a row in a figure with a row for each arm or class."""
TEXT = 12.0
"""Font size."""

# The light palette of page.css. On the page these colors become its variables, so that they follow the color scheme.
INK, QUIET, GRID, CARD = "#1d2330", "#5b6474", "#ebe9e4", "#ffffff"
WHITE = "#fefefe"  # white in both schemes
COLORS = ("#c8460d", "#49505d", "#0b67a8", "#00795a", "#a24688", "#a97300", "#3b8fc0", "#6d6a2c", "#6a3fa0", "#1f7a8c",
          "#8f2d3f", "#4f6b1d")  # fmt: skip
MARKERS = "soD^vPph<>Xd"
"""A shape for each color, so that figures can be read without colors."""
WORSE, BETTER = COLORS[0], COLORS[2]

Number = float | int
Interval = tuple[Number, Number]


def color(style: int) -> str:
    """Return the color of a style. Further arms reuse colors."""
    return COLORS[style % len(COLORS)]


def marker(style: int) -> str:
    """Return the shape of a style."""
    return MARKERS[style % len(MARKERS)]


def mark(style: int, size: float, **properties: Any) -> dict[str, Any]:
    """Return the properties of a mark for `Axes.plot`, with a thin edge that separates marks that overlap."""
    usual = {"marker": marker(style), "color": color(style), "markersize": size, "markeredgecolor": CARD,
             "markeredgewidth": 1.0, "linestyle": "none", "clip_on": False}  # fmt: skip
    return {**usual, **properties}


def new_axes(
    ax: Axes | None, *, height: float, left: float = 66.0, right: float = 20.0, top: float = 18.0, bottom: float = 52.0
) -> Axes:
    """Return `ax`, or the axes of a new figure that no pyplot state knows. Lengths are in points."""
    if ax is not None:
        return ax
    module = import_optional("matplotlib.figure", extra="report", purpose="A figure")
    figure = module.Figure(figsize=(WIDTH / 72, height / 72), facecolor=CARD)
    inside = (left / WIDTH, bottom / height, (WIDTH - left - right) / WIDTH, (height - top - bottom) / height)
    ax = figure.add_axes(inside, facecolor=CARD)
    ax.spines[:].set_visible(False)
    ax.grid(color=GRID, linewidth=1.0)
    ax.set_axisbelow(True)
    ax.tick_params(length=0, pad=6, labelsize=TEXT, labelcolor=QUIET)
    for axis in (ax.xaxis, ax.yaxis):
        axis.label.set(size=TEXT, color=INK)
    # Fixed places: text is larger on a narrow page, and measuring it takes a third of the time of a figure.
    ax.xaxis.set_label_coords(0.5, (16 - bottom) / (height - top - bottom))
    ax.yaxis.set_label_coords((11 - left) / (WIDTH - left - right), 0.5)
    return ax


def row_axes(ax: Axes | None, names: Sequence[str], values: Sequence[str], *, top: float = 8.0, row: float = ROW
             ) -> Axes:  # fmt: skip
    """Return axes with a row for each name, the first on top. Name and value are above the marks of their row."""
    last = max(len(names), 1) - 0.62
    ax = new_axes(ax, height=top + row * (last + 0.68) + 48.0, left=14.0, right=14.0, top=top, bottom=48.0)
    ax.set_ylim(last, -0.68)
    above = [index - 0.44 for index in range(len(names))]
    ax.set_yticks(above, [shorten(name, 30) for name in names], ha="left", **text_style(ax))
    ax.tick_params(axis="y", length=0, pad=-4)  # inside the axes
    ax.grid(visible=False, axis="y")
    place: dict[str, Any] = {"transform": ax.get_yaxis_transform(), "ha": "right", "va": "center"}
    for y, value in zip(above, values, strict=True):
        ax.text(0.992, y, literal(value), **place, **text_style(ax))
    return ax


def matrix_axes(ax: Axes | None, rows: Sequence[str], columns: Sequence[str], *, x_label: str, y_label: str,
                left: float = 112.0) -> Axes:  # fmt: skip
    """Return axes for a matrix of cells of size 1, the first row on top, with the names of rows and columns."""
    few, is_own = max(len(rows), len(columns)) <= LETTERED, ax is None
    leaning = max(map(len, columns), default=0) > 3
    right = 34.0 if leaning else 20.0
    top = 96.0 if leaning else 54.0
    cell = min((WIDTH - left - right) / max(len(columns), 1), 56.0)
    high = cell if few else cell * len(columns) / max(len(rows), 1)
    wide = cell * len(columns)
    ax = new_axes(ax, height=top + high * len(rows) + 12.0, left=left, right=WIDTH - left - wide, top=top, bottom=12.0)
    ax.set(xlim=(0, len(columns)), ylim=(len(rows), 0), xlabel=x_label, ylabel=y_label)
    ax.grid(visible=False)
    shown_rows, shown_columns = _labeled(len(rows)), _labeled(len(columns))
    ax.set_yticks([i + 0.5 for i in shown_rows], [shorten(rows[i], 13) for i in shown_rows])
    ax.xaxis.tick_top()
    ax.xaxis.set_label_position("top")
    ax.tick_params(length=0, pad=4)
    turn: dict[str, Any] = {"rotation": 55, "ha": "left", "rotation_mode": "anchor"} if leaning else {}
    ax.set_xticks([i + 0.5 for i in shown_columns], [shorten(columns[i], 11) for i in shown_columns], **turn)
    if is_own:
        ax.xaxis.set_label_coords(0.5, 1 + (top - 10) / (high * max(len(rows), 1)))
        ax.yaxis.set_label_coords((10 - left) / wide, 0.5)
    return ax


LETTERED = 24
"""With more rows or columns than this there is no room for text, and the cells become one image."""


def _labeled(count: int) -> list[int]:
    """Return the rows to label: all, or the first and the last."""
    return list(range(count)) if count <= LETTERED else [0, count - 1]


def fill_cells(ax: Axes, shades: Any, texts: Sequence[Sequence[str]], *, worse: Any = None) -> None:
    """Fill a matrix with one color whose opacity is the shade, so that it suits any background.

    Args:
        ax: What `matrix_axes` returns.
        shades: ``[rows, columns]`` between 0 and 1.
        texts: The texts of the cells; left out if there is no room.
        worse: ``[rows, columns]``, where cells have the color of what is worse. By default all have the other color.
    """
    rgba = import_optional("matplotlib.colors", extra="report", purpose="A figure").to_rgba
    rows, columns = shades.shape
    colors = np.empty((rows, columns, 4))
    colors[:] = rgba(BETTER)
    if worse is not None:
        colors[worse] = rgba(WORSE)
    roomy = max(rows, columns) <= LETTERED
    # In a large matrix a rare error is one pixel: it needs a shade that can be seen.
    colors[..., 3] = shades if roomy else np.maximum(shades, 0.06 * (shades > 0))
    ax.imshow(colors, interpolation="none", extent=(0, columns, rows, 0), aspect="auto")
    for i, j in np.ndindex(rows, columns) if roomy else ():
        if texts[i][j]:
            ax.text(j + 0.5, i + 0.5, texts[i][j], ha="center", va="center", fontsize=TEXT - 1,
                    color=WHITE if shades[i, j] > 0.6 else ink(ax))  # fmt: skip


# --- text -----------------------------------------------------------------------------------------------------------


def ink(ax: Axes) -> Any:
    """Return the color of text on these axes: ours, or that of the user's own figure."""
    return ax.xaxis.label.get_color()


def text_style(ax: Axes, color: str | None = None) -> dict[str, Any]:
    """Return size and color of text on these axes, as keyword arguments."""
    return {"fontsize": ax.xaxis.label.get_fontsize(), "color": color or ink(ax)}


def literal(text: str) -> str:
    """Return text that matplotlib prints as it is: no formulas between dollars, no control characters."""
    return " ".join(clean_text(text).split("\n")).replace("$", r"\$")


def shorten(text: str, most: int) -> str:
    """Shorten a name to `most` characters, as literal text. The tables have the full names.

    Example:
        >>> shorten("a very long name", 8)
        'a very …'
    """
    return literal(text if len(text) <= most else f"{text[: most - 1]}…")


def set_tip(artists: Sequence[Any], text: str) -> None:
    """Give artists a text that the page shows under the pointer."""
    for artist in artists:
        artist.set_gid(f"tip:{clean_text(text)}")


# --- limits ---------------------------------------------------------------------------------------------------------


def round_ticks(axis: Any, *, most: int = 5) -> None:
    """Put ticks at a few round values, written in full."""
    ticker = import_optional("matplotlib.ticker", extra="report", purpose="A figure")
    axis.set_major_locator(ticker.MaxNLocator(most, steps=[1, 2, 2.5, 5, 10]))
    axis.set_major_formatter("{x:g}")


def padded_limits(
    values: Sequence[Number], *, least: Number = 0.004, floor: Number | None = None, ceiling: Number | None = None,
    margin: float = 0.08,
) -> Interval:  # fmt: skip
    """Return limits that contain all values with a margin, within `floor` and `ceiling`, at least `least` wide."""
    finite = [value for value in values if math.isfinite(value)] or [0.0, 1.0]
    low, high = min(finite), max(finite)
    wide = max(high - low, least)
    middle = (low + high) / 2
    low, high = min(low, middle - wide / 2) - margin * wide, max(high, middle + wide / 2) + margin * wide
    low = low if floor is None else max(low, floor)
    high = high if ceiling is None else min(high, ceiling)
    return (low, high) if high > low else (low - least, high + least)


def log_limits(values: Sequence[Number]) -> Interval:
    """Return the limits of a logarithmic scale."""
    logarithms = [math.log10(value) for value in values if value > 0 and math.isfinite(value)] or [0.0]
    low, high = padded_limits(logarithms, least=0.6, margin=0.14)
    return 10.0**low, 10.0**high


def log_ticks(low: Number, high: Number) -> list[Number]:
    """Return 1, 2 and 5 times powers of ten between two limits, or only the powers if these are more than six."""
    powers = range(math.floor(math.log10(low)), math.ceil(math.log10(high)) + 1)
    inside = [m * 10.0**power for power in powers for m in (1, 2, 5) if low <= m * 10.0**power <= high]
    return inside if len(inside) <= 6 else [value for value in inside if f"{value:.0e}"[0] == "1"]


FAR = 4.0
"""A value is an outlier if the others would have less than a fifth of the scale."""


def outliers(spans: Sequence[Interval | None], *, least: Number, pinned: Collection[int] = ()) -> dict[int, int]:
    """Find spans that are drawn at the edge of a scale. Returns index -> -1 (far below the others) or 1 (far above).

    The others are the closest group with more than half of the spans. An outlier is further from them than four times
    their own width, so that values which can still be compared by eye stay on the scale. With fewer than three spans
    there are no outliers.

    Args:
        spans: The intervals on the scale; None for no value.
        least: Smallest width of the group of others, in the unit of the scale.
        pinned: Indices that must stay on the scale.

    Example:
        >>> outliers([(90.0, 91.0), (89.0, 92.0), (12.0, 14.0)], least=1.0)
        {2: -1}
    """
    placed = {index: span for index, span in enumerate(spans) if span is not None}
    order = sorted(placed, key=lambda index: sum(placed[index]))
    must = set(pinned) & set(placed)
    best: tuple[float, dict[int, int]] = (float("inf"), {})
    # Every contiguous group with more than half of the spans is a candidate; the narrowest one wins.
    for first in range((len(order) + 1) // 2):
        for last in range(first + len(order) // 2, len(order)):
            inside = order[first : last + 1]
            low, high = min(placed[i][0] for i in inside), max(placed[i][1] for i in inside)
            below, above = order[:first], order[last + 1 :]
            if high - low >= best[0] or not must <= set(inside):
                continue
            room = FAR * max(high - low, least)
            if all(placed[i][1] < low - room for i in below) and all(placed[i][0] > high + room for i in above):
                best = high - low, {**dict.fromkeys(below, -1), **dict.fromkeys(above, 1)}
    return best[1]


def axis_values(points: Sequence[Number], ends: Sequence[Number], *, least: Number) -> list[Number]:
    """Return the values that determine a scale: all points, and the interval ends that are not outliers.

    Two seeds may give an interval so wide that nothing else could be seen; it is drawn up to the edge.
    """
    every = [*points, *ends]
    cut = outliers([(value, value) for value in every], least=least, pinned=range(len(points)))
    return [value for index, value in enumerate(every) if index not in cut]


def draw_interval(ax: Axes, low: Number, high: Number, y: Number, *, style: int, cap: str = "|") -> None:
    """Draw a horizontal interval with caps, or with arrows where it continues beyond the limits of the axes."""
    left, right = ax.get_xlim()
    ends = [(max(low, left), cap if low >= left else "<"), (min(high, right), cap if high <= right else ">")]
    ax.plot([end for end, _ in ends], [y, y], color=color(style), linewidth=2.0, solid_capstyle="butt")
    for end, shape in ends:
        ax.plot([end], [y], shape, color=color(style), markersize=10.0 if shape == cap else 7.0, markeredgewidth=2.0,
                clip_on=False)  # fmt: skip


def draw_outlier(ax: Axes, side: int, y: Number, text: str, *, style: int) -> None:
    """Draw an arrow with its number at the edge of a row, in place of a value far off the scale."""
    words = f"{text}, off scale →" if side > 0 else f"← off scale, {text}"
    x, ha = (0.992, "right") if side > 0 else (0.008, "left")
    ax.text(x, y, literal(words), transform=ax.get_yaxis_transform(), ha=ha, va="center",
            **text_style(ax, color(style)))  # fmt: skip


def outlier_sentence(names: Sequence[str]) -> str:
    """Return the sentence for screen readers that lists the outliers of a figure."""
    return f" Outliers beyond the scale: {', '.join(names)}." if names else ""


def describe(ax: Axes, text: str) -> Axes:
    """Attach the description for screen readers to the axes: their label."""
    ax.set_label(text)
    return ax
