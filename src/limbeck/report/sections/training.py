"""Training curves, term by term."""

from __future__ import annotations

from limbeck.report.figures import training_figure
from limbeck.report.html import figure, grid, legend, note, section
from limbeck.report.markup import Markup
from limbeck.report.run_data import RunData


def training_section(evidence: RunData, *, prefix: str = "") -> Markup:
    """A figure for each term of the losses, with all arms that have it."""
    terms: dict[str, dict[str, list[list[tuple[float, float]]]]] = {}
    for arm, curves in evidence.curves.items():
        for term, found in curves.items():
            terms.setdefault(term, {})[arm] = found
    if not terms:
        return section(f"{prefix}training", "Training", note("This folder holds no training curves (metrics.jsonl)."))
    figures = [
        figure(term, training_figure(term, evidence.arms, curves), _caption(curves),
               legend((arm, evidence.arms[arm].style) for arm in curves))
        for term, curves in terms.items()
    ]  # fmt: skip
    return section(f"{prefix}training", "Training, term by term", grid(*figures))


def _caption(curves: dict[str, list[list[tuple[float, float]]]]) -> str:
    seeds = max(len(found) for found in curves.values())
    many = f"A thin line for each of {seeds} seeds, a thick one for their mean." if seeds > 1 else (
        "One line for each arm; the mark is its end.")  # fmt: skip
    return f"{many} Values are means of the term before its weight, over the steps between two reports."
