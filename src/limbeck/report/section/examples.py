"""On which examples do teacher and student part?"""

from __future__ import annotations

from limbeck.report.evidence import Evidence
from limbeck.report.judged import Parted, parted
from limbeck.report.markup import Markup, tag
from limbeck.report.parts import note, section
from limbeck.report.shown import Shown

_MOST = 8


def examples_section(evidence: Evidence, shown: Shown, *, prefix: str = "") -> Markup:
    """Some of the examples on which they part, by who is right, shown as what they are."""
    title = "Where teacher and student part"
    found = parted(evidence, most=_MOST)
    if not found:
        return section(f"{prefix}examples", title, note("Not known: this run kept no predictions of both."))
    names = evidence.classes
    groups = [_group(title, rows, names, shown) for title, rows in found.items()]
    why = note(shown.why) if shown.why else None
    said = f"{evidence.shown_student}; those first on which both are surest of their own class."
    return section(f"{prefix}examples", title, tag("p", said), why, groups)


def _group(title: str, rows: list[Parted], names: tuple[str, ...], shown: Shown) -> Markup:
    if not rows:
        return tag("div", tag("h3", title), tag("p", "None."))
    return tag("div", tag("h3", title), tag("ul", (_card(row, names, shown) for row in rows), class_="cards"))


def _card(row: Parted, names: tuple[str, ...], shown: Shown) -> Markup:
    said = [
        tag("tr", tag("th", who, scope="row"),
            tag("td", _named(names, named), class_="right" if named == row.label else "wrong"),
            tag("td", f"{100 * sure:.0f} %", class_="number"))
        for who, (named, sure) in row.said.items()
    ]  # fmt: skip
    return tag(
        "li",
        shown.example(row.row),
        tag(
            "p",
            "is ",
            tag("strong", _named(names, row.label)),
            tag("span", f" · test example {row.row}", class_="quiet"),
        ),
        tag("table", tag("tbody", said), class_="said"),
    )


def _named(names: tuple[str, ...], number: int) -> str:
    return names[number] if number < len(names) else str(number)
