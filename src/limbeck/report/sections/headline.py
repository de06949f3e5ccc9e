"""The first screen: verdict and differences."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from limbeck.job import read_interval, read_suggestions
from limbeck.report.figures import ClassRow, DifferenceRow, differences_figure
from limbeck.report.html import figure, prose
from limbeck.report.markup import Markup, tag
from limbeck.report.row_layout import both
from limbeck.report.run_data import ALONE, RunData
from limbeck.report.summary_text import Answer, Headline, answers, headline, interval_covers

_SIGNS = {"yes": "✓", "no": "✕", "unsure": "?"}


def top_section(evidence: RunData, classes: Sequence[ClassRow], *, prefix: str = "") -> Markup:
    """The verdict, the six answers, and the differences they rest on."""
    rows = differences_of(evidence)
    drawn = None
    if rows:
        drawn = figure(
            f"{evidence.judged} beside each control", both(differences_figure, rows, worse="worse", better="better"),
            _caption(evidence), wide=True,
        )  # fmt: skip
    return tag(
        "section", banner(headline(evidence)), _suggestions(evidence), _answers(answers(evidence, classes)), drawn,
        _controls(evidence),
        id=f"{prefix}verdict", aria_label="Verdict", class_="top",
    )  # fmt: skip


def _suggestions(evidence: RunData) -> Markup | None:
    """After a verdict that is no clear yes: likely reasons, and what to type next."""
    found = read_suggestions(evidence.result, evidence.folder)
    if not found:
        return None
    rows = ((tag("dt", tag("strong", prose(one["why"] or "")), " ", prose(one["evidence"] or "")),
             tag("dd", tag("code", one["type"])) if one["type"] else tag("dd")) for one in found)  # fmt: skip
    return tag("div", tag("h3", "Why that may be, and what to try"), tag("dl", rows, class_="commands"), class_="why")


def banner(found: Headline) -> Markup:
    """The verdict in a few words, with its sentence."""
    return tag(
        "div",
        tag("span", _SIGNS[found.kind], class_="sign", aria_hidden="true"),
        tag("div", tag("h2", found.words), tag("p", found.sentence)),
        class_=f"banner {found.kind}",
    )


def _answers(found: Sequence[Answer]) -> Markup:
    return tag(
        "dl",
        (
            tag("div", tag("dt", a.question), tag("dd", tag("strong", a.answer), " ", tag("span", prose(a.why))))
            for a in found
        ),
        class_="answers",
    )


def differences_of(evidence: RunData) -> list[DifferenceRow]:
    """The judged arm's differences to each control, the student alone first."""
    verdict = evidence.verdict
    found = [(ALONE, verdict)] if ALONE in evidence.arms else []
    against = verdict.get("against")
    found += [(str(name), one) for name, one in (against.items() if isinstance(against, Mapping) else ())]
    rows = []
    for name, one in found:
        mean = one.get("difference") if isinstance(one, Mapping) else None
        if isinstance(mean, (int, float)):
            style = evidence.arms[name].style if name in evidence.arms else 7
            rows.append(DifferenceRow(f"over {name}", style, float(mean), read_interval(one)))
    return rows


def _caption(evidence: RunData) -> str:
    if evidence.seeds < 2:
        return "One seed: a difference without an interval may be luck alone."
    return (
        f"Mean difference, each arm with the same seeds (pairs) on the same examples; bars are 95 % intervals "
        f"{interval_covers(evidence)}, for this one teacher. A bar that crosses zero is no evidence of a difference."
    )


def _controls(evidence: RunData) -> Markup | None:
    """What each control said, in its sentence."""
    against = evidence.verdict.get("against")
    said = [one.get("sentence") for one in (against.values() if isinstance(against, Mapping) else ())
            if isinstance(one, Mapping) and one.get("sentence")]  # fmt: skip
    return tag("ul", (tag("li", str(sentence)) for sentence in said), class_="sentences") if said else None
