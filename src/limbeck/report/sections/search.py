"""Section with the search for the settings."""

from __future__ import annotations

from collections.abc import Iterable

from limbeck.job import ArmSearch, collect_settings
from limbeck.report.figures import SearchedArm, search_figure, trials_below
from limbeck.report.html import figure, legend, note, section, table
from limbeck.report.markup import Markup, tag
from limbeck.report.row_layout import wide_and_narrow
from limbeck.report.run_data import RunData


def search_section(run: RunData, *, prefix: str = "") -> Markup | None:
    """Return the best accuracy against trials, and the chosen settings; None if there was no search."""
    search = run.search
    if search is None:
        return None
    changed = search.list_changes(collect_settings(run.job, {name: arm.row for name, arm in run.arms.items()}))
    deviations = note("This run did not use all chosen settings: ", "; ".join(changed), ".") if changed else None
    arms = {
        name: SearchedArm(_style(run, name), arm.accuracies, arm.best_so_far, arm.best_trial)
        for name, arm in search.arms.items()
    }
    below, lowest = trials_below(arms)
    cut = f" {below} trials are below the figure; the lowest accuracy is {lowest:.2f} %." if below else ""
    caption = (
        "A line for the best accuracy so far, a small mark for each trial, and a large mark for the trial whose "
        "settings were chosen. The first trial has the settings of the job. With this many examples, accuracies may "
        f"differ by {100 * search.luck:.1f} points by chance: trials in the band are not known to be worse than the "
        f"best. For the same reason, the best of many trials is biased upward.{cut}"
    )
    drawn = figure("Best accuracy so far", wide_and_narrow(search_figure, arms, luck=search.luck), caption,
                   legend((name, arm.style) for name, arm in arms.items()), wide=True)  # fmt: skip
    return section(
        f"{prefix}search",
        "How the settings were chosen",
        tag("p", chosen_how(run)),
        deviations,
        drawn,
        _table(run),
    )


def chosen_how(run: RunData) -> str:
    """Say where the settings came from, and whether the search effort was equal for all arms."""
    if run.search is None and run.job.get("search"):
        return "from a search that is not available"
    if run.search is None:
        return "those of the job file; not tuned with `limbeck tune`"
    trained_arms = [name for name, arm in run.arms.items() if arm.role in ("control", "method")]
    return run.search.describe_effort([name for name in trained_arms if name != "shuffled teacher"])


def _style(run: RunData, name: str) -> int:
    """Return the style of an arm in all figures. An arm that was tuned but not run has style 7."""
    return run.arms[name].style if name in run.arms else 7


def _table(run: RunData) -> Markup:
    head = ("arm", "chosen settings", "search range", "trials", "job's settings, %", "best, %", "best trial",
            "diverged", "total epochs", "time, s")  # fmt: skip
    arms = run.search.arms if run.search else {}
    rows = ((name, *_row(arm)) for name, arm in arms.items())
    return table("Search on development data", head, rows, words=3, class_="search")


def _row(arm: ArmSearch) -> tuple[object, ...]:
    return (
        _lines(f"{name} {value:.4g}" for name, value in arm.chosen.items()),
        _lines(f"{name} {low:.4g}" + (f" to {high:.4g}" if low < high else "")
               for name, (low, high) in arm.between.items()),
        len(arm.accuracies), f"{100 * arm.accuracies[0]:.2f}", f"{100 * arm.best_so_far[-1]:.2f}", arm.best_trial + 1,
        arm.diverged, f"{arm.epochs:,}", f"{arm.seconds:,.0f}",
    )  # fmt: skip


def _lines(lines: Iterable[str]) -> Markup:
    return tag("div", (tag("div", line) for line in lines))
