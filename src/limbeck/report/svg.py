"""Figures of a page: axes as SVG that follows the color scheme, with title, caption and legend."""

from __future__ import annotations

import io
import re
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from importlib.resources import files
from typing import Any

from limbeck.optional_imports import import_optional, install_command, is_installed
from limbeck.report.axes import CARD, COLORS, GRID, INK, QUIET, Axes
from limbeck.report.html import Markup, tag

_VARIABLES = {INK: "--ink", QUIET: "--quiet", GRID: "--grid", CARD: "--card", "#000000": "--ink"} | {
    value: f"--c{number}" for number, value in enumerate(COLORS)
}

_START, _PREFIX = "\x02", "\x03"
"""Placeholders for the start of a drawing and for the prefix of its ids. No text on a page can contain them."""


NO_FIGURES = f"This page has no figures, because matplotlib is not installed: `{install_command('report')}`."


def has_figures() -> bool:
    """Whether matplotlib is installed, which draws the figures."""
    return is_installed("matplotlib")


def figure(title: str, draw: Callable[[], Axes], caption: Any, *more: Any, kind: str = "") -> Markup:
    """Make a figure of a page with a title and a caption. Without matplotlib, only `more` is left of it.

    Args:
        title: The title.
        draw: Draws the figure. Its labeled artists are listed in a legend below it.
        caption: The caption.
        *more: What else belongs to it, such as a table of its numbers.
        kind: CSS class of the drawing.
    """
    if not has_figures():
        return tag("div", tag("h3", title), *more) if more else Markup()
    ax = draw()
    drawing, names = _drawing(ax, kind), _legend(ax)
    return tag("figure", tag("h3", title), tag("div", drawing, class_="draw"), names, tag("figcaption", caption), *more)


def standalone_svg(ax: Axes) -> str:
    """Return axes as an SVG file that loads nothing and has a light and a dark color scheme."""
    drawing = number_drawings(_drawing(ax, ""))
    # The first two blocks of variables in the style sheet are the light and the dark palette.
    light, dark = re.findall(r":root \{(.*?)\}", style_sheet(), re.S)[:2]
    style = (
        f"svg {{{light} background: var(--card); }} @media (prefers-color-scheme: dark) {{ svg {{{dark}}} }} "
        "text { font-family: system-ui, sans-serif; fill: var(--ink) } .plot * { stroke-linejoin: round }"
    )
    head, body = drawing.split(">", 1)
    return f'{head} xmlns="http://www.w3.org/2000/svg"><style>{" ".join(style.split())}</style>{body}\n'


def number_drawings(page: str) -> str:
    """Give the ids inside each drawing of a page a prefix of their own."""
    first, *drawings = page.split(_START)
    return first + "".join(drawing.replace(_PREFIX, f"f{i}") for i, drawing in enumerate(drawings))


def style_sheet() -> str:
    """Return the style of the page."""
    return files("limbeck.report").joinpath("page.css").read_text(encoding="utf-8")


@contextmanager
def page_style() -> Iterator[None]:
    """Draw with matplotlib's own defaults, whatever the user has set, and restore the user's settings."""
    if not has_figures():
        yield
        return
    matplotlib = import_optional("matplotlib", extra="report", purpose="A figure")
    style = import_optional("matplotlib.style", extra="report", purpose="A figure")
    own = {"svg.fonttype": "none", "svg.hashsalt": "limbeck"}
    with matplotlib.rc_context(), warnings.catch_warnings():
        style.use("default")
        matplotlib.rcParams.update(own)
        # The browser has the glyphs that matplotlib's own font lacks.
        warnings.filterwarnings("ignore", message="Glyph")
        yield


def _drawing(ax: Axes, kind: str) -> Markup:
    canvas: Any = ax.figure
    canvas.patch.set_visible(False)
    ax.patch.set_visible(False)
    buffer = io.StringIO()
    canvas.savefig(buffer, format="svg", metadata=dict.fromkeys(("Date", "Creator", "Format", "Type")))
    text = buffer.getvalue()
    body = _simplify(text[text.index('<g id="figure_1">') : text.rindex("</svg>")])
    width, height = (72 * length for length in canvas.get_size_inches())
    view = f"0 0 {width:g} {height:g}"
    svg = tag("svg", Markup(body), viewBox=view, role="img", aria_label=str(ax.get_label()),
              class_=f"plot {kind}".strip(), style=f"max-width:{width:g}px")  # fmt: skip
    return Markup(_START + svg)


def _simplify(body: str) -> str:
    """Turn matplotlib's SVG into part of a page: variables for colors, inherited fonts, tips, short numbers."""
    body = re.sub(r' transform="rotate\(-?0 [^"]*\)"', "", body)
    body = re.sub(r' style="([^"]*)"', _style, body)
    body = re.sub(r' (d|x|y|points)="([^"]*)"', _coordinates, body)
    body = re.sub(r'<g id="tip:([^"]*)">', r"<g><title>\1</title>", body)
    body = re.sub(r'<(g|image)( [^>]*?)? id="[^"]*"', r"<\1\2", body)
    body = re.sub(r'<g id="[^"]*"', "<g", body)
    body = body.replace("xlink:href", "href").replace("base64,\n", "base64,")
    body = re.sub(r' id="(?=[mpChi])', f' id="{_PREFIX}', body)
    body = re.sub(r'(href="#|url\(#)', rf"\g<1>{_PREFIX}", body)
    return re.sub(r">\s+<", "><", body).strip()


def _style(match: re.Match[str]) -> str:
    parts = (part.strip() for part in match[1].split(";"))
    kept = [part for part in parts if part and not part.startswith(("font-family", "stroke-linejoin", "image-render"))]
    text = "; ".join(kept)
    return f' style="{re.sub("#[0-9a-f]{6}", _variable, text)}"' if text else ""


def _variable(match: re.Match[str]) -> str:
    name = _VARIABLES.get(match[0])
    return match[0] if name is None else f"var({name})"


def _coordinates(match: re.Match[str]) -> str:
    numbers = re.sub(r"-?\d+\.\d+", lambda number: f"{float(number[0]):.1f}".removesuffix(".0"), match[2])
    return f' {match[1]}="{" ".join(numbers.split())}"'


def _legend(ax: Axes) -> Markup | None:
    """Make a legend of the labeled lines, with the marks that matplotlib draws for them."""
    handles, names = ax.get_legend_handles_labels()
    if not handles:
        return None
    samples = (tag("li", _sample(handle), name) for handle, name in zip(handles, names, strict=True))
    # On a page of several runs, their teachers may look the same.
    return tag("ul", list(dict.fromkeys(samples)), class_="legend")


def _sample(handle: Any) -> Markup:
    markers = import_optional("matplotlib.markers", extra="report", purpose="A figure")
    hollow = handle.get_markerfacecolor() == "none"
    paint = f"var({_VARIABLES.get(handle.get_color(), '--ink')})"
    style = f"fill: none; stroke: {paint}; stroke-width: 1.5" if hollow else f"fill: {paint}"
    if handle.get_marker() == "o":
        shape = tag("circle", cx=8, cy=8, r=5, style=style)
    else:
        outline = markers.MarkerStyle(handle.get_marker())
        points = outline.get_path().transformed(outline.get_transform()).to_polygons()[0]
        shape = tag("polygon", points=" ".join(f"{8 + 10 * x:.1f},{8 - 10 * y:.1f}" for x, y in points), style=style)
    return tag("svg", shape, viewBox="0 0 16 16", aria_hidden="true")
