"""Section with several runs side by side."""

from __future__ import annotations

from collections.abc import Sequence

import torch

from limbeck.errors import LimbeckError
from limbeck.job import read_interval
from limbeck.report.arms import ArmRow
from limbeck.report.axes import STYLES
from limbeck.report.figures import DifferenceRow, differences_figure
from limbeck.report.html import figure, note, prose, section, table
from limbeck.report.markup import Markup, join, tag
from limbeck.report.numbers import sized
from limbeck.report.row_layout import wide_and_narrow
from limbeck.report.run_data import RunData
from limbeck.report.sections.arms import mean_std_text
from limbeck.report.sections.cost import cost_figures
from limbeck.report.sections.headline import banner
from limbeck.report.summary_text import Headline, headline


def check_same_data(runs: list[RunData]) -> None:
    """Refuse to compare runs on different data.

    Raises:
        LimbeckError: If two runs have different test examples.
    """
    first = runs[0]
    for other in runs[1:]:
        for key in ("name", "test", "classes"):
            ours, theirs = first.data.get(key), other.data.get(key)
            if ours is not None and theirs is not None and ours != theirs:
                raise _different_data(first, other, f"{key} {ours} and {theirs}")
        if first.labels is not None and other.labels is not None and not torch.equal(first.labels, other.labels):
            raise _different_data(first, other, "other labels")


def _different_data(first: RunData, other: RunData, how: str) -> LimbeckError:
    return LimbeckError(
        f"{first.folder} and {other.folder} have different test data ({how}), so their numbers cannot be compared. "
        "Give runs on the same data, or write one report for each."
    )


def several_section(runs: Sequence[RunData], names: Sequence[str]) -> Markup:
    """Return the verdicts of all runs on one scale, a table, and the costs of the students.

    Args:
        runs: The runs, on the same data.
        names: A unique name for each run.
    """
    order = sorted(range(len(runs)), key=lambda i: -(_development(runs[i]) or -1.0))
    return join(
        tag("section", banner(_verdict(runs, names)), _differences(runs, names), id="verdict",
            aria_label="Verdict", class_="top"),
        section("runs", "The runs", _table([(i, names[i], runs[i]) for i in order]),
                note(prose("Each run is compared with its own controls. Differences between runs are not tested. "
                           "To test them, run one comparison: `limbeck compare JOB --methods a,b`."))),
        section("cost", "Accuracy against cost", cost_figures(_students(runs, names))),
    )  # fmt: skip


def _verdict(runs: Sequence[RunData], names: Sequence[str]) -> Headline:
    heads = [headline(run) for run in runs]
    helped = [i for i, head in enumerate(heads) if head.kind == "yes"]
    count = f"{len(helped)} of {len(runs)} runs show that distillation is worth it"
    scored = [(score, i) for i in helped or range(len(runs)) if (score := _development(runs[i])) is not None]
    if not scored:
        return Headline("yes" if helped else "no", count, "The development accuracies were not saved, so no student "
                        "is selected here.")  # fmt: skip
    _, best = max(scored, key=lambda pair: pair[0])
    which = "Best of these on development data" if helped else "None does; best on development data"
    # The development accuracy is not shown: it was used for the selection and is biased upward.
    sentence = f"{which}: {names[best]} ({runs[best].method_arm}). {heads[best].sentence}"
    return Headline("yes" if helped else "no", count, sentence)


def _development(run: RunData) -> float | None:
    return run.arms[run.method_arm].development.mean if run.method_arm else None


def _differences(runs: Sequence[RunData], names: Sequence[str]) -> Markup | None:
    rows = [
        DifferenceRow(name, run.arms[run.method_arm].style if run.method_arm else 0, float(mean),
                   read_interval(run.verdict))
        for name, run in zip(names, runs, strict=True)
        if isinstance(mean := run.verdict.get("difference"), (int, float))
    ]  # fmt: skip
    if not rows:
        return None
    return figure("Each run's student compared with the same student trained alone",
                  wide_and_narrow(differences_figure, rows, worse="worse", better="better"),
                  "95 % intervals, as computed by each run; a run with a single seed has none.", wide=True)  # fmt: skip


def _table(runs: Sequence[tuple[int, str, RunData]]) -> Markup:
    head = ("run", "verdict", "arm", "test accuracy, %", "development, %", "difference to student alone", "teacher, %",
            "MB", "ms/example", "seeds")  # fmt: skip
    rows = []
    for number, name, run in runs:
        arm = run.arms.get(run.method_arm or "")
        teacher = next((other for other in run.arms.values() if other.role == "teacher"), None)
        mean, interval = run.verdict.get("difference"), read_interval(run.verdict)
        difference = "-" if not isinstance(mean, (int, float)) else f"{100 * mean:+.2f}"
        difference += "" if interval is None else f" [{100 * interval[0]:+.2f}, {100 * interval[1]:+.2f}]"
        rows.append((
            tag("a", name, href=f"#run-{number}"), headline(run).words, run.method_arm or "-",
            mean_std_text(arm.accuracy, 2, 100) if arm else "-", mean_std_text(arm.development, 2, 100) if arm else "-",
            difference,
            mean_std_text(teacher.accuracy, 2, 100) if teacher else "-",
            _cost(arm, "megabytes"), _cost(arm, "milliseconds"),
            run.seeds,
        ))  # fmt: skip
    return table("The student of every run, the best on development data first", head, rows, words=3, class_="runs")


def _cost(arm: ArmRow | None, key: str) -> str:
    value = arm.number(key) if arm else None
    return "-" if value is None else sized(value)


def _students(runs: Sequence[RunData], names: Sequence[str]) -> list[ArmRow]:
    """Return the student of each run, and each teacher once."""
    students = []
    for number, (name, run) in enumerate(zip(names, runs, strict=True)):
        if run.method_arm:
            students.append(run.arms[run.method_arm]._replace(name=name, style=_STYLES[number % len(_STYLES)]))
    teachers = {}
    for run in runs:
        for arm in run.arms.values():
            if arm.role == "teacher":
                teachers[arm.accuracy.mean, arm.number("parameters")] = arm
    return [*students, *teachers.values()]


_STYLES = (0, *range(2, STYLES))
