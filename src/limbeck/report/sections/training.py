"""Section with training curves of each loss term."""

from __future__ import annotations

from limbeck.report.figures import training_figure
from limbeck.report.html import figure, grid, legend, note, section
from limbeck.report.markup import Markup
from limbeck.report.run_data import RunData


def training_section(run: RunData, *, prefix: str = "") -> Markup:
    """Return a figure for each loss term, with all arms that have it."""
    terms: dict[str, dict[str, list[list[tuple[float, float]]]]] = {}
    for arm, curves in run.curves.items():
        for term, seeds in curves.items():
            terms.setdefault(term, {})[arm] = seeds
    if not terms:
        return section(f"{prefix}training", "Training", note("This run has no training curves (metrics.jsonl)."))
    figures = [
        figure(term, training_figure(term, run.arms, curves), _caption(curves),
               legend((arm, run.arms[arm].style) for arm in curves))
        for term, curves in terms.items()
    ]  # fmt: skip
    return section(f"{prefix}training", "Training curves", grid(*figures))


def _caption(curves: dict[str, list[list[tuple[float, float]]]]) -> str:
    seeds = max(len(by_seed) for by_seed in curves.values())
    many = f"A thin line for each of {seeds} seeds, a thick one for their mean." if seeds > 1 else (
        "One line for each arm, with a mark at its end.")  # fmt: skip
    return f"{many} Values are means of the unweighted term over the steps between two reports."
