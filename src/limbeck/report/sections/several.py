"""Several runs side by side."""

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
from limbeck.report.row_layout import both
from limbeck.report.run_data import RunData
from limbeck.report.sections.arms import mean_ci_text
from limbeck.report.sections.cost import cost_figures
from limbeck.report.sections.headline import banner
from limbeck.report.summary_text import Headline, headline


def same_data(evidences: list[RunData]) -> None:
    """Refuse to set runs of different data beside each other.

    Raises:
        LimbeckError: If two runs were judged on different test examples.
    """
    first = evidences[0]
    for other in evidences[1:]:
        for key in ("name", "test", "classes"):
            ours, theirs = first.data.get(key), other.data.get(key)
            if ours is not None and theirs is not None and ours != theirs:
                raise _differ(first, other, f"{key} {ours} and {theirs}")
        if first.labels is not None and other.labels is not None and not torch.equal(first.labels, other.labels):
            raise _differ(first, other, "other labels")


def _differ(first: RunData, other: RunData, how: str) -> LimbeckError:
    return LimbeckError(
        f"{first.folder} and {other.folder} were judged on different data ({how}), so their numbers cannot be set "
        "beside each other. Give runs of the same data, or make a report of each."
    )


def several_section(evidences: Sequence[RunData], names: Sequence[str]) -> Markup:
    """Each run's verdict on one scale, a table, and what each student costs.

    Args:
        evidences: The runs, of the same data.
        names: What each is called, all different.
    """
    order = sorted(range(len(evidences)), key=lambda i: -(_development(evidences[i]) or -1.0))
    return join(
        tag("section", banner(_verdict(evidences, names)), _differences(evidences, names), id="verdict",
            aria_label="Verdict", class_="top"),
        section("runs", "The runs", _table([(i, names[i], evidences[i]) for i in order]),
                note(prose("Each run is judged against its own controls. Which run is the better one is not tested: "
                           "for that make them methods of one comparison, `limbeck compare JOB --methods a,b`."))),
        section("cost", "Accuracy against cost", cost_figures(_students(evidences, names))),
    )  # fmt: skip


def _verdict(evidences: Sequence[RunData], names: Sequence[str]) -> Headline:
    heads = [headline(evidence) for evidence in evidences]
    helped = [i for i, head in enumerate(heads) if head.kind == "yes"]
    count = f"{len(helped)} of {len(evidences)} runs show that distilling is worth it"
    known = [(score, i) for i in helped or range(len(evidences)) if (score := _development(evidences[i])) is not None]
    if not known:
        return Headline("yes" if helped else "no", count, "How the students did on development data was not kept, so "
                        "none of them is picked here.")  # fmt: skip
    _, best = max(known, key=lambda one: one[0])
    which = "Best of these on development data" if helped else "None of them does; best on development data"
    # The development accuracy that it was picked by is too high to be shown as its own.
    sentence = f"{which}: {names[best]} ({evidences[best].judged}). {heads[best].sentence}"
    return Headline("yes" if helped else "no", count, sentence)


def _development(evidence: RunData) -> float | None:
    return evidence.arms[evidence.judged].development.mean if evidence.judged else None


def _differences(evidences: Sequence[RunData], names: Sequence[str]) -> Markup | None:
    rows = [
        DifferenceRow(name, evidence.arms[evidence.judged].style if evidence.judged else 0, float(mean),
                   read_interval(evidence.verdict))
        for name, evidence in zip(names, evidences, strict=True)
        if isinstance(mean := evidence.verdict.get("difference"), (int, float))
    ]  # fmt: skip
    if not rows:
        return None
    return figure("Each run's student over the same student trained alone",
                  both(differences_figure, rows, worse="worse", better="better"),
                  "95 % intervals, each as its own run gives it; a run with one seed has none.", wide=True)  # fmt: skip


def _table(runs: Sequence[tuple[int, str, RunData]]) -> Markup:
    head = ("run", "verdict", "arm", "test accuracy, %", "development, %", "over student alone", "teacher, %", "MB",
            "ms/example", "seeds")  # fmt: skip
    rows = []
    for number, name, evidence in runs:
        arm = evidence.arms.get(evidence.judged or "")
        teacher = next((one for one in evidence.arms.values() if one.role == "teacher"), None)
        mean, interval = evidence.verdict.get("difference"), read_interval(evidence.verdict)
        apart = "-" if not isinstance(mean, (int, float)) else f"{100 * mean:+.2f}"
        apart += "" if interval is None else f" [{100 * interval[0]:+.2f}, {100 * interval[1]:+.2f}]"
        rows.append((
            tag("a", name, href=f"#run-{number}"), headline(evidence).words, evidence.judged or "-",
            mean_ci_text(arm.accuracy, 2, 100) if arm else "-", mean_ci_text(arm.development, 2, 100) if arm else "-",
            apart,
            mean_ci_text(teacher.accuracy, 2, 100) if teacher else "-",
            _cost(arm, "megabytes"), _cost(arm, "milliseconds"),
            evidence.seeds,
        ))  # fmt: skip
    return table("Every run's student, the best on development data first", head, rows, words=3, class_="runs")


def _cost(arm: ArmRow | None, key: str) -> str:
    value = arm.number(key) if arm else None
    return "-" if value is None else sized(value)


def _students(evidences: Sequence[RunData], names: Sequence[str]) -> list[ArmRow]:
    """Each run's student and, once, each teacher, named by run."""
    found = []
    for number, (name, evidence) in enumerate(zip(names, evidences, strict=True)):
        if evidence.judged:
            found.append(evidence.arms[evidence.judged]._replace(name=name, style=_STYLES[number % len(_STYLES)]))
    teachers = {}
    for evidence in evidences:
        for arm in evidence.arms.values():
            if arm.role == "teacher":
                teachers[arm.accuracy.mean, arm.number("parameters")] = arm
    return [*found, *teachers.values()]


_STYLES = (0, *range(2, STYLES))
