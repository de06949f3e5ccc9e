"""The page about judged predictions."""

from __future__ import annotations

import math

from limbeck.job import rivals
from limbeck.judging.judgment import Comparison, Judgment
from limbeck.report.figures import DifferenceRow, differences_figure
from limbeck.report.html import figure, section, table
from limbeck.report.markup import Markup, join, tag
from limbeck.report.numbers import listed
from limbeck.report.page import page_document
from limbeck.report.row_layout import both
from limbeck.report.sections.headline import banner
from limbeck.report.summary_text import Headline

_STYLES = {"method": 0, "baseline": 1, "control": 2, "teacher": 3}


def judgment_page(found: Judgment) -> str:
    """The page's text: whole in itself, without a script or a request."""
    top = tag(
        "section", banner(_headline(found)), _differences(found),
        tag("ul", (tag("li", one.sentence) for one in found.against.values()), class_="sentences"),
        id="verdict", aria_label="Verdict", class_="top",
    )  # fmt: skip
    return page_document(found.title, found.title, tag("main", join(top, _arms(found), _meaning(found))))


def _headline(found: Judgment) -> Headline:
    interval = found.interval
    if interval is None:
        return Headline(
            "unsure", "Unknown: one seed" if found.seeds == 1 else "Unknown: one test example", found.sentence
        )
    if interval[1] < 0:
        return Headline("no", f"No: {found.arm} is worse", found.sentence)
    if interval[0] <= 0:
        return Headline("unsure", "Not shown to be worth it", found.sentence)
    better, equal = rivals({"against": {name: {"interval": one.interval} for name, one in found.against.items()}})
    if better:
        return Headline("unsure", f"It helps, but {listed(better)} does better", found.sentence)
    if equal:
        return Headline("unsure", f"It helps, but {listed(equal)} may do as well", found.sentence)
    return Headline("yes", "Yes: it is worth it", found.sentence)


def _differences(found: Judgment) -> Markup:
    rows = [(f"over {_baseline(found)}", found.verdict, "baseline")]
    rows += [(f"over {name}", one, "control") for name, one in found.against.items()]
    rows += [
        (f"{name} over {_baseline(found)}", one, "method") for name, one in found.methods.items() if name != found.arm
    ]
    factor = 100.0 if found.percent else _factor([one for _, one, _ in rows])
    shown = [DifferenceRow(name, _STYLES[role], *_scaled(one, factor)) for name, one, role in rows]
    metric = found.metric.replace("_", " ")
    unit = f"points of {metric}" if found.percent else f"{metric}{'' if factor == 1 else f' x {factor:g}'}"
    caption = (
        f"What is right of zero is better. Bars are 95 % intervals over {found.seeds} paired seeds and test examples."
    )
    drawn = both(differences_figure, shown, worse="worse", better="better", axis=f"{unit} on test data")
    return figure(f"{found.arm} beside each arm", drawn, caption, wide=True)


def _scaled(one: Comparison, factor: float) -> tuple[float, tuple[float, float] | None]:
    """The figure multiplies by 100, as fractions are shown in points."""
    by = factor / 100.0
    return by * one.gain, None if one.interval is None else (by * one.interval[0], by * one.interval[1])


def _factor(comparisons: list[Comparison]) -> float:
    """The power of ten that brings the differences to between 1 and 100, where two decimals show them."""
    ends = [abs(end) for one in comparisons for end in (one.gain, *(one.interval or ()))]
    largest = max(ends, default=0.0)
    return 1.0 if not largest else 10.0 ** -math.floor(math.log10(largest) - 0.5)


def _arms(found: Judgment) -> Markup:
    metric = found.metric.replace("_", " ")
    rows = [
        (name, one.role, found.show(one.mean), "-" if one.std is None else found.show(one.std), len(one.values))
        for name, one in found.arms.items()
    ]
    caption = f"{metric} on {found.examples:,} test examples; ± is the standard deviation over seeds"
    return section("arms", "The arms", table(caption, ("arm", "role", metric, "±", "seeds"), rows, words=2))


def _meaning(found: Judgment) -> Markup:
    chosen = (
        f" The method was chosen on {found.chosen_on}, and every interval allows for that." if found.chosen_on else ""
    )
    return section(
        "meaning", "What the interval means",
        tag("p", "It holds the true difference in 95 of 100 such experiments: with other seeds, and with other test "
            "examples of the same kind. It speaks of this teacher and this training data." + chosen),
    )  # fmt: skip


def _baseline(found: Judgment) -> str:
    return next(name for name, one in found.arms.items() if one.role == "baseline")
