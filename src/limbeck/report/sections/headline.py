"""Top section: verdict, answers and differences."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from limbeck.job import read_interval, read_suggestions
from limbeck.report.figures import ClassRow, DifferenceRow, differences_figure
from limbeck.report.html import figure, prose
from limbeck.report.markup import Markup, tag
from limbeck.report.row_layout import wide_and_narrow
from limbeck.report.run_data import ALONE, RunData
from limbeck.report.summary_text import Answer, Headline, answers, headline, interval_covers

_SIGNS = {"yes": "✓", "no": "✕", "unsure": "?"}


def top_section(run: RunData, classes: Sequence[ClassRow], *, prefix: str = "") -> Markup:
    """Return the verdict, the six answers, and the differences to the controls."""
    rows = differences_of(run)
    drawn = None
    if rows:
        drawing = wide_and_narrow(differences_figure, rows, worse="worse", better="better")
        drawn = figure(f"{run.method_arm} compared with each control", drawing, _caption(run), wide=True)
    return tag(
        "section", banner(headline(run)), _suggestions(run), _answers(answers(run, classes)), drawn,
        _controls(run),
        id=f"{prefix}verdict", aria_label="Verdict", class_="top",
    )  # fmt: skip


def _suggestions(run: RunData) -> Markup | None:
    """Return likely reasons and commands to try, if the verdict is not a clear yes."""
    suggestions = read_suggestions(run.result, run.folder)
    if not suggestions:
        return None
    rows = ((tag("dt", tag("strong", prose(item["why"] or "")), " ", prose(item["evidence"] or "")),
             tag("dd", tag("code", item["type"])) if item["type"] else tag("dd")) for item in suggestions)  # fmt: skip
    return tag("div", tag("h3", "Possible reasons, and what to try"), tag("dl", rows, class_="commands"), class_="why")


def banner(verdict: Headline) -> Markup:
    """Return the title and the sentence of the verdict."""
    return tag(
        "div",
        tag("span", _SIGNS[verdict.kind], class_="sign", aria_hidden="true"),
        tag("div", tag("h2", verdict.words), tag("p", verdict.sentence)),
        class_=f"banner {verdict.kind}",
    )


def _answers(entries: Sequence[Answer]) -> Markup:
    return tag(
        "dl",
        (
            tag("div", tag("dt", a.question), tag("dd", tag("strong", a.answer), " ", tag("span", prose(a.why))))
            for a in entries
        ),
        class_="answers",
    )


def differences_of(run: RunData) -> list[DifferenceRow]:
    """Return the differences between the verdict's arm and each control, the student alone first."""
    verdict = run.verdict
    comparisons = [(ALONE, verdict)] if ALONE in run.arms else []
    against = verdict.get("against")
    comparisons += [(str(name), row) for name, row in (against.items() if isinstance(against, Mapping) else ())]
    rows = []
    for name, row in comparisons:
        mean = row.get("difference") if isinstance(row, Mapping) else None
        if isinstance(mean, (int, float)):
            style = run.arms[name].style if name in run.arms else 7
            rows.append(DifferenceRow(f"over {name}", style, float(mean), read_interval(row)))
    return rows


def _caption(run: RunData) -> str:
    if run.seeds < 2:
        return "There is a single seed. A difference without an interval may be chance."
    return (
        f"Mean difference between arms with the same seeds and examples. Bars are 95 % intervals "
        f"{interval_covers(run)}, for this teacher. An interval that contains zero is no evidence of a difference."
    )


def _controls(run: RunData) -> Markup | None:
    """Return the sentences of the comparisons with the controls."""
    against = run.verdict.get("against")
    sentences = [row.get("sentence") for row in (against.values() if isinstance(against, Mapping) else ())
            if isinstance(row, Mapping) and row.get("sentence")]  # fmt: skip
    return tag("ul", (tag("li", str(sentence)) for sentence in sentences), class_="sentences") if sentences else None
