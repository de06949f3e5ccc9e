"""How settings were chosen."""

from __future__ import annotations

from collections.abc import Iterable

from limbeck.job import ArmSearch, collect_settings
from limbeck.report.figures import SearchedArm, search_figure, trials_below
from limbeck.report.html import figure, legend, note, section, table
from limbeck.report.markup import Markup, tag
from limbeck.report.row_layout import both
from limbeck.report.run_data import RunData


def search_section(evidence: RunData, *, prefix: str = "") -> Markup | None:
    """The best so far on development data against trials, the settings chosen; None where nothing was searched."""
    search = evidence.search
    if search is None:
        return None
    changed = search.list_changes(
        collect_settings(evidence.job, {name: arm.row for name, arm in evidence.arms.items()})
    )
    apart = note("This run did not use all that was found: ", "; ".join(changed), ".") if changed else None
    arms = {
        name: SearchedArm(_style(evidence, name), arm.accuracies, arm.best_so_far, arm.best_trial)
        for name, arm in search.arms.items()
    }
    below, lowest = trials_below(arms)
    cut = f" {below} trials lie below the figure; the lowest reached {lowest:.2f} %." if below else ""
    caption = (
        "A line for the best so far, a small mark for each trial, a large one for the trial whose settings were "
        "chosen; the first trial has the job's own. Two accuracies on so many examples may differ by "
        f"{100 * search.luck:.1f} points by luck: what lies in the band is not known to be worse than the best. The "
        f"best of many trials is flattered by that luck.{cut}"
    )
    drawn = figure("Best so far, trial by trial", both(search_figure, arms, luck=search.luck), caption,
                   legend((name, arm.style) for name, arm in arms.items()), wide=True)  # fmt: skip
    return section(
        f"{prefix}search",
        "How the settings were chosen",
        tag("p", chosen_how(evidence)),
        apart,
        drawn,
        _table(evidence),
    )


def chosen_how(evidence: RunData) -> str:
    """Where the settings came from, and whether all arms had as much of a search."""
    if evidence.search is None and evidence.job.get("search"):
        return "from a search of which nothing is known any more"
    if evidence.search is None:
        return "the job's own; no `limbeck tune` stands behind them"
    learners = [name for name, arm in evidence.arms.items() if arm.role in ("control", "method")]
    return evidence.search.describe_effort([name for name in learners if name != "shuffled teacher"])


def _style(evidence: RunData, name: str) -> int:
    """The arm's in all figures; an arm that was searched and not run has one that no usual control has."""
    return evidence.arms[name].style if name in evidence.arms else 7


def _table(evidence: RunData) -> Markup:
    head = ("arm", "chosen settings", "searched between", "trials", "job's own, %", "best, %", "found in trial",
            "diverged", "epochs in all", "time, s")  # fmt: skip
    arms = evidence.search.arms if evidence.search else {}
    rows = ((name, *_row(arm)) for name, arm in arms.items())
    return table("The search, on development data", head, rows, words=3, class_="search")


def _row(arm: ArmSearch) -> tuple[object, ...]:
    return (
        _lines(f"{name} {value:.4g}" for name, value in arm.chosen.items()),
        _lines(f"{name} {low:.4g}" + (f" to {high:.4g}" if low < high else "")
               for name, (low, high) in arm.between.items()),
        len(arm.accuracies), f"{100 * arm.accuracies[0]:.2f}", f"{100 * arm.best_so_far[-1]:.2f}", arm.best_trial + 1,
        arm.diverged, f"{arm.epochs:,}", f"{arm.seconds:,.0f}",
    )  # fmt: skip


def _lines(said: Iterable[str]) -> Markup:
    return tag("div", (tag("div", line) for line in said))
