"""Section with all arms and all metrics."""

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
from limbeck.report.row_layout import wide_and_narrow
from limbeck.report.run_data import ALONE, RunData
from limbeck.report.summary_text import interval_covers
from limbeck.report.terminal_table import majority_accuracy

_WHAT = {
    "teacher": "the teacher",
    "student alone": "the same student, trained on labels only",
    "label smoothing": "labels only, smoothed",
    "shuffled teacher": "trained on the teacher's outputs for other examples",
    "one member": "one of the teacher's networks",
    "combined teacher": "the teacher combined with its specialists",
}


def arms_section(run: RunData, *, prefix: str = "") -> Markup:
    """Return the table of arms, the figure of their accuracies, and a fold-out table of all metrics."""
    arms = list(run.arms.values())
    strong = [i for i, arm in enumerate(arms) if arm.name == run.method_arm]
    own = list_custom_metrics(run.result)
    head = ("arm", "test accuracy, %", "development, %", "NLL, nats", "ECE, %", "agrees with teacher, %", *own,
            "parameters", "MB", "ms/example", "training, s")  # fmt: skip
    members = " (over the members for one of them)" if MEMBER in run.arms else ""
    most = majority_accuracy(run.result)
    beside = f"; always predicting the most frequent class: {100 * most:.2f} % of the test examples" if most else ""
    overview = table(f"Every arm: mean ± standard deviation over seeds{members}{beside}", head,
                  (_row(arm, own) for arm in arms), strong=strong, class_="arms")  # fmt: skip
    pinned = [name for name in (ALONE, run.method_arm) if name is not None]
    drawn = figure("Test accuracy, seed by seed", wide_and_narrow(accuracies_figure, arms, pinned=pinned),
                   "A mark for every seed, a bar for the mean, a band for ± one standard deviation. "
                   "Arms are compared seed by seed on the same examples, so bands may overlap although a difference "
                   "is significant.",
                   wide=True)  # fmt: skip
    return section(
        f"{prefix}arms",
        "The arms",
        overview,
        _sizes(run),
        _one_seed(run),
        drawn,
        _methods(run),
        _measures(arms),
    )


def _row(arm: ArmRow, own: Sequence[str]) -> tuple[object, ...]:
    return (
        join(arm.name, tag("span", _describe_arm(arm))),
        mean_std_text(arm.accuracy, 2, 100), mean_std_text(arm.development, 2, 100),
        mean_std_text(_stat(arm, "nll"), 3), mean_std_text(arm.measure("ece"), 2, 100),
        "" if arm.role == "teacher" else mean_std_text(_stat(arm, "agreement"), 1, 100),
        *(mean_std_text(arm.measure(name), 4) for name in own),
        _count(arm.number("parameters")), _cost(arm.number("megabytes")), _cost(arm.number("milliseconds")),
        _cost(arm.number("seconds")),
    )  # fmt: skip


def _describe_arm(arm: ArmRow) -> str:
    """Describe what an arm is trained on."""
    if arm.role != "method":
        return _WHAT.get(arm.name, arm.role)
    settings = arm.row.get("method")
    name = settings.get("name") if isinstance(settings, Mapping) else None
    alone = name in names() and not method(str(name)).has_teacher
    return "trained without the teacher" if alone else "distilled from the teacher"


def mean_std_text(stat: SeedStat, digits: int, scale: float | int = 1) -> str:
    """Format a mean ± its standard deviation over seeds; a dash if there is none."""
    if stat.mean is None:
        return "-"
    text = f"{scale * stat.mean:,.{digits}f}"
    return text if stat.std is None else f"{text} ± {scale * stat.std:.{digits}f}"


def _stat(arm: ArmRow, name: str) -> SeedStat:
    """Return a metric over seeds, or the single number of the result if it has no values per seed."""
    stat = arm.measure(name)
    plain = arm.number(name)
    return stat if stat.values or plain is None else SeedStat((plain,), plain, None)


def _count(value: float | None) -> str:
    return "-" if value is None else f"{value:,.0f}" if value < 1e7 else f"{value / 1e6:,.1f} M"


def _cost(value: float | None) -> str:
    return "-" if value is None else "0" if value == 0 else sized(value)


def _sizes(run: RunData) -> Markup | None:
    notes = read_size_notes(run.result)
    return note(f"{'; '.join(notes)}.") if notes else None


def _one_seed(run: RunData) -> Markup | None:
    if run.seeds > 1:
        return None
    return note("There is a single seed, so no intervals. Run with --seeds 5 to get them.")


def _methods(run: RunData) -> Markup | None:
    """Return the figure of every method compared with the student alone."""
    comparisons = run.verdict.get("methods")
    if not isinstance(comparisons, Mapping) or len(comparisons) < 2:
        return None
    rows = [
        DifferenceRow(str(name), run.arms[name].style, float(row["difference"]), read_interval(row))
        for name, row in comparisons.items()
        if name in run.arms and isinstance(row, Mapping) and isinstance(row.get("difference"), (int, float))
    ]
    if not rows:
        return None
    if "comparisons" in run.verdict:
        how = f"Intervals ({interval_covers(run)}) and p-values hold for all methods jointly (Bonferroni): "
    else:  # a result of an earlier version
        how = "Each interval is for one method, over seeds only; p-values are adjusted for all methods (Holm): "
    drawing = wide_and_narrow(differences_figure, rows, worse="worse", better="better")
    return figure(f"Every method compared with the {ALONE}", drawing,
                  f"{how}{_p_values(comparisons)}. The method is chosen on development data.", wide=True)  # fmt: skip


def _p_values(comparisons: Mapping[str, object]) -> str:
    values = {name: row.get("p") for name, row in comparisons.items() if isinstance(row, Mapping)}
    texts = [f"{name} {p:.2g}" for name, p in values.items() if isinstance(p, float)]
    return ", ".join(texts) or "not known"


def _measures(arms: list[ArmRow]) -> Markup:
    """Return the tables of all metrics and costs in the result."""
    names = list(dict.fromkeys(name for arm in arms for name in _mapping(arm.row.get("measures"))))
    head = ("metric", "unit", "better", *(arm.name for arm in arms))
    rows = [(name, *_kind(name), *(mean_std_text(arm.measure(name), 4) for arm in arms)) for name in names]
    costs = list(dict.fromkeys(name for arm in arms for name in _mapping(arm.row.get("cost"))))
    cost_rows = [(name, *(_value(_mapping(arm.row.get("cost")).get(name)) for arm in arms)) for name in costs]
    more = table("Further costs of each arm", ("cost", *(arm.name for arm in arms)), cost_rows) if costs else None
    caption = "Every metric on the test data, mean ± standard deviation over seeds"
    return details("All metrics and costs", table(caption, head, rows, words=3) if rows else None, more)


def _kind(name: str) -> tuple[str, str]:
    metric = METRICS.get(name)
    if metric is None:
        return "", ""
    better = metric.higher_is_better
    return metric.unit, "neither" if better is None else "higher" if better else "lower"


def _value(value: object) -> Markup | str:
    if isinstance(value, bool) or value is None:
        return "-" if value is None else str(value)
    if isinstance(value, (int, float)):
        return f"{value:,}" if isinstance(value, int) else sized(value) if value > 0 else str(value)
    if isinstance(value, Mapping):
        return join(tag("div", f"{key}: ", _value(inner)) for key, inner in value.items())
    return str(value)


def _mapping(value: object) -> Mapping[str, object]:
    return value if isinstance(value, Mapping) else {}
