"""All arms by all metrics."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from limbeck.job import list_custom_metrics, read_interval, read_size_notes
from limbeck.methods import method, names
from limbeck.metrics import METRICS
from limbeck.report.arms import MEMBER, ArmRow, SeedStat
from limbeck.report.figures import DifferenceRow, accuracies_figure, differences_figure
from limbeck.report.html import details, figure, note, section, table
from limbeck.report.markup import Markup, join, tag
from limbeck.report.numbers import sized
from limbeck.report.row_layout import both
from limbeck.report.run_data import ALONE, RunData
from limbeck.report.summary_text import interval_covers
from limbeck.report.terminal_table import most_frequent_of

_WHAT = {
    "teacher": "the teacher",
    "student alone": "the same student, taught by labels only",
    "label smoothing": "labels only, softened",
    "shuffled teacher": "taught with answers about other examples",
    "one member": "one of the teacher's networks",
    "combined teacher": "the teacher and its specialists, as one",
}


def arms_section(evidence: RunData, *, prefix: str = "") -> Markup:
    """The table of arms, their accuracies drawn, and all measures folded away."""
    arms = list(evidence.arms.values())
    judged = [i for i, arm in enumerate(arms) if arm.name == evidence.judged]
    own = list_custom_metrics(evidence.result)
    head = ("arm", "test accuracy, %", "development, %", "NLL, nats", "ECE, %", "agrees with teacher, %", *own,
            "parameters", "MB", "ms/example", "training, s")  # fmt: skip
    members = ", of a teacher's members over them" if MEMBER in evidence.arms else ""
    most = most_frequent_of(evidence.result)
    beside = f"; always answering the most frequent class: {100 * most:.2f} % of the test examples" if most else ""
    whole = table(f"Every arm: mean ± standard deviation over seeds{members}{beside}", head,
                  (_row(arm, own) for arm in arms), strong=judged, class_="arms")  # fmt: skip
    about = [name for name in (ALONE, evidence.judged) if name is not None]
    drawn = figure("Test accuracy, seed by seed", both(accuracies_figure, arms, kept=about),
                   "A mark for every seed, a bar for the mean, a band for ± one standard deviation. "
                   "Arms are compared in pairs of seeds on the same examples, so bands may overlap where a difference "
                   "is sure.",
                   wide=True)  # fmt: skip
    return section(
        f"{prefix}arms",
        "The arms",
        whole,
        _sizes(evidence),
        _one_seed(evidence),
        drawn,
        _methods(evidence),
        _measures(arms),
    )


def _row(arm: ArmRow, own: Sequence[str]) -> tuple[object, ...]:
    return (
        join(arm.name, tag("span", _what(arm))),
        mean_ci_text(arm.accuracy, 2, 100), mean_ci_text(arm.development, 2, 100), mean_ci_text(_or(arm, "nll"), 3),
        mean_ci_text(arm.measure("ece"), 2, 100),
        "" if arm.role == "teacher" else mean_ci_text(_or(arm, "agreement"), 1, 100),
        *(mean_ci_text(arm.measure(name), 4) for name in own),
        _count(arm.number("parameters")), _cost(arm.number("megabytes")), _cost(arm.number("milliseconds")),
        _cost(arm.number("seconds")),
    )  # fmt: skip


def _what(arm: ArmRow) -> str:
    """What an arm learns from, in a few words."""
    if arm.role != "method":
        return _WHAT.get(arm.name, arm.role)
    asked = arm.row.get("method")
    name = asked.get("name") if isinstance(asked, Mapping) else None
    alone = name in names() and not method(str(name)).has_teacher
    return "learns without the teacher" if alone else "taught by the teacher"


def mean_ci_text(found: SeedStat, digits: int, scale: float | int = 1) -> str:
    """A mean ± the standard deviation over seeds; a dash where there is none."""
    if found.mean is None:
        return "-"
    text = f"{scale * found.mean:,.{digits}f}"
    return text if found.std is None else f"{text} ± {scale * found.std:.{digits}f}"


def _or(arm: ArmRow, name: str) -> SeedStat:
    """A measure; the plain number where the result holds no seeds of it."""
    found = arm.measure(name)
    plain = arm.number(name)
    return found if found.values or plain is None else SeedStat((plain,), plain, None)


def _count(value: float | None) -> str:
    return "-" if value is None else f"{value:,.0f}" if value < 1e7 else f"{value / 1e6:,.1f} M"


def _cost(value: float | None) -> str:
    return "-" if value is None else "0" if value == 0 else sized(value)


def _sizes(evidence: RunData) -> Markup | None:
    found = read_size_notes(evidence.result)
    return note(f"{'; '.join(found)}.") if found else None


def _one_seed(evidence: RunData) -> Markup | None:
    if evidence.seeds > 1:
        return None
    return note("One seed: no interval is given, as one run says nothing about the next. Type --seeds 5 to have them.")


def _methods(evidence: RunData) -> Markup | None:
    """Every method against the student alone."""
    found = evidence.verdict.get("methods")
    if not isinstance(found, Mapping) or len(found) < 2:
        return None
    rows = [
        DifferenceRow(str(name), evidence.arms[name].style, float(one["difference"]), read_interval(one))
        for name, one in found.items()
        if name in evidence.arms and isinstance(one, Mapping) and isinstance(one.get("difference"), (int, float))
    ]
    if not rows:
        return None
    if "comparisons" in evidence.verdict:
        how = f"Intervals ({interval_covers(evidence)}) and p-values hold for all of them together (Bonferroni): "
    else:  # of an earlier version
        how = "Each interval stands for itself, over seeds alone; p-values are Holm's, for all methods together: "
    return figure(f"Every method over the {ALONE}", both(differences_figure, rows, worse="worse", better="better"),
                  f"{how}{_p_values(found)}. The method is chosen on development data.", wide=True)  # fmt: skip


def _p_values(found: Mapping[str, object]) -> str:
    told = {name: one.get("p") for name, one in found.items() if isinstance(one, Mapping)}
    said = [f"{name} {p:.2g}" for name, p in told.items() if isinstance(p, float)]
    return ", ".join(said) or "not known"


def _measures(arms: list[ArmRow]) -> Markup:
    """A table of every measure that the result holds."""
    names = list(dict.fromkeys(name for arm in arms for name in _mapping(arm.row.get("measures"))))
    head = ("measure", "unit", "better", *(arm.name for arm in arms))
    rows = [(name, *_kind(name), *(mean_ci_text(arm.measure(name), 4) for arm in arms)) for name in names]
    costs = list(dict.fromkeys(name for arm in arms for name in _mapping(arm.row.get("cost"))))
    cost_rows = [(name, *(_value(_mapping(arm.row.get("cost")).get(name)) for arm in arms)) for name in costs]
    more = table("More of what each arm costs", ("cost", *(arm.name for arm in arms)), cost_rows) if costs else None
    caption = "Every measure on the test data, mean ± standard deviation over seeds"
    return details("Every measure and every cost", table(caption, head, rows, words=3) if rows else None, more)


def _kind(name: str) -> tuple[str, str]:
    known = METRICS.get(name)
    if known is None:
        return "", ""
    better = known.higher_is_better
    return known.unit, "neither" if better is None else "higher" if better else "lower"


def _value(value: object) -> Markup | str:
    if isinstance(value, bool) or value is None:
        return "-" if value is None else str(value)
    if isinstance(value, (int, float)):
        return f"{value:,}" if isinstance(value, int) else sized(value) if value > 0 else str(value)
    if isinstance(value, Mapping):
        return join(tag("div", f"{key}: ", _value(one)) for key, one in value.items())
    return str(value)


def _mapping(value: object) -> Mapping[str, object]:
    return value if isinstance(value, Mapping) else {}
