"""The arms: their scores seed by seed, their differences, and the table of all metrics."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from textwrap import wrap
from typing import Any, Literal, NamedTuple

from limbeck.job import list_custom_metrics, read_interval, read_size_notes
from limbeck.job.result import read_task
from limbeck.methods import method, names
from limbeck.report import axes
from limbeck.report.arms import MEMBER, ArmRow, ScoreFormat, SeedStat, as_mapping, mean_std_text, read_arms, read_stat
from limbeck.report.axes import Axes
from limbeck.report.html import Markup, details, join, megabytes_text, note, section, sized, table, tag
from limbeck.report.run_data import ALONE, RunData, load_run
from limbeck.report.svg import figure, page_style, standalone_svg
from limbeck.report.tables import majority_accuracy
from limbeck.tasks import Task

# --- figures --------------------------------------------------------------------------------------------------------


class DifferenceRow(NamedTuple):
    """A paired difference of scores; `interval` is None for a single seed."""

    name: str
    style: int
    mean: float
    interval: axes.Interval | None


def plot_scores(run: RunData | str | Path, *, ax: Axes | None = None) -> Axes:
    """Plot the primary metric of every arm on the test data: a mark for each seed, a bar for the mean.

    The band is ± one standard deviation over seeds. An arm far from the others is an arrow with its number.

    Args:
        run: The folder of a finished run, or what `read_run` returns.
        ax: Axes to draw on; by default those of a new figure.

    Example:
        >>> ax = plot_scores("runs/demo")  # doctest: +SKIP
        >>> ax.figure.savefig("scores.pdf")  # doctest: +SKIP
    """
    run = load_run(run)
    pinned = [name for name in (ALONE, run.method_arm) if name is not None]
    return draw_scores(list(run.arms.values()), run.score, pinned=pinned, ax=ax)


def draw_scores(
    arms: Sequence[ArmRow], score: ScoreFormat, *, pinned: Collection[str] = (), ax: Axes | None = None,
    top: float = 8.0,
) -> Axes:  # fmt: skip
    """Draw the scores of arms, from top to bottom. Arms without a number are left out; `pinned` stay on the scale."""
    arms = [arm for arm in arms if arm.score.values]
    spans = [(score.factor * min(arm.score.values), score.factor * max(arm.score.values)) for arm in arms]
    far = axes.outliers(spans, least=score.least, pinned=[i for i, arm in enumerate(arms) if arm.name in pinned])
    points = [end for i, span in enumerate(spans) if i not in far for end in span]
    bands = [end for i, arm in enumerate(arms) if i not in far for end in _band(arm, score) or ()]
    limits = score.limits(axes.axis_values(points, bands, least=score.least))
    texts = [_score_text(arm, score) for arm in arms]
    ax = axes.row_axes(ax, [arm.name for arm in arms], texts, top=top)
    ax.set(xlim=limits, xlabel=f"test {score.label}")
    axes.round_ticks(ax.xaxis)
    for i, arm in enumerate(arms):
        if i in far:
            value = arm.score.values[0] if arm.score.mean is None else arm.score.mean
            axes.draw_outlier(ax, far[i], i, score.text(value), style=arm.style)
        else:
            _draw_arm(ax, arm, i, score)
    summary = "; ".join(f"{arm.name} {text}" for arm, text in zip(arms, texts, strict=True))
    outside = axes.outlier_sentence([arms[i].name for i in sorted(far)])
    return axes.describe(ax, f"Test {score.title} of every arm. {summary}.{outside}")


@page_style()
def result_svg(result: Mapping[str, Any]) -> str:
    """Draw the scores of every arm as an SVG file for a README, with a light and a dark color scheme.

    Args:
        result: The result of `limbeck.compare.run_job`.
    """
    verdict = result["verdict"]
    task = read_task(result)
    arms = read_arms(result["arms"], verdict_arm=verdict.get("arm"), metric=task.primary.name)
    score = ScoreFormat.of_task(task)
    lines = [f"Test {score.title}, {result['data']['name']}", *wrap(verdict["sentence"], 78)]
    pinned = [ALONE, str(verdict.get("arm"))]
    ax = draw_scores(list(arms.values()), score, pinned=pinned, top=16.0 + 17.0 * len(lines))
    ax.set_title("\n".join(map(axes.literal, lines)), loc="left", color=axes.ink(ax), fontsize=axes.TEXT)
    return standalone_svg(axes.describe(ax, f"{verdict['sentence']} {ax.get_label()}"))


def _draw_arm(ax: Axes, arm: ArmRow, y: int, score: ScoreFormat) -> None:
    values = [score.factor * value for value in arm.score.values]
    if (band := _band(arm, score)) is not None:
        ax.barh([y], [band[1] - band[0]], left=band[0], height=0.36, color=axes.color(arm.style), alpha=0.17)
    several = len(values) > 1
    axes.set_tip(ax.plot(values, [y] * len(values), **axes.mark(arm.style, 8.0 if several else 12.0, alpha=0.75)),
            f"{arm.name}: {', '.join(score.text(value) for value in arm.score.values)}")  # fmt: skip
    if several and arm.score.mean is not None:
        ax.plot([score.factor * arm.score.mean] * 2, [y - 0.2, y + 0.2], color=axes.color(arm.style), linewidth=3.0,
                solid_capstyle="butt")  # fmt: skip


def _band(arm: ArmRow, score: ScoreFormat) -> axes.Interval | None:
    mean, std = arm.score.mean, arm.score.std
    if mean is None or std is None:
        return None
    low, high = score.factor * (mean - std), score.factor * (mean + std)
    return (max(low, 0.0), min(high, 100.0)) if score.percent else (low, high)


def _score_text(arm: ArmRow, score: ScoreFormat) -> str:
    if arm.score.mean is None:
        return "not a number for every seed"
    if arm.score.std is not None and not score.percent:
        return score.mean_std(arm.score)
    std = "" if arm.score.std is None else f" ± {score.number(arm.score.std)}"
    return f"{score.text(arm.score.mean)}{std}"


def plot_differences(
    run: RunData | str | Path, *, against: Literal["controls", "methods"] = "controls", ax: Axes | None = None
) -> Axes:
    """Plot differences of the primary metric with their 95 % intervals; right of zero is better.

    Args:
        run: The folder of a finished run, or what `read_run` returns.
        against: ``controls``: the method of the verdict compared with each control. ``methods``: every method
            compared with the student alone.
        ax: Axes to draw on; by default those of a new figure.
    """
    run = load_run(run)
    rows = read_differences(run) if against == "controls" else read_methods(run)
    return draw_differences(rows, run.score, ax=ax)


def draw_differences(
    rows: Sequence[DifferenceRow], score: ScoreFormat, *, label: str | None = None, ax: Axes | None = None
) -> Axes:
    """Draw differences around zero; a value far off is an arrow with its number.

    Args:
        rows: From top to bottom.
        score: Names and formats of the values.
        label: The label of the scale, if it is not that of `score`.
        ax: Axes to draw on.
    """
    spans = [_span(row, score) for row in rows]
    far = axes.outliers([*spans, (0.0, 0.0)], least=score.least, pinned=[len(rows)])
    means = [0.0, *(score.factor * row.mean for i, row in enumerate(rows) if i not in far)]
    ends = [end for i, span in enumerate(spans) if i not in far for end in span]
    limits = axes.padded_limits(axes.axis_values(means, ends, least=score.least), least=0.5 * score.least)
    label = label or f"{'' if score.higher_is_better else f'{score.less} '}{score.points} on test data"
    ax = axes.row_axes(ax, [row.name for row in rows], [_difference_text(row, score) for row in rows], top=26.0)
    ax.set(xlim=limits, xlabel=label)
    axes.round_ticks(ax.xaxis)
    # Gains are drawn, so that right is better, also where less is better.
    sign = "+" if score.higher_is_better else ""
    ax.xaxis.set_major_formatter(lambda value, _: f"{value:{sign}g}" if value else "0")
    starts = [index - 0.24 for index in range(len(rows)) if index not in far]
    # In pieces, so that the line does not run through the text of a row.
    ax.vlines([0.0] * len(starts), starts, [start + 0.62 for start in starts], color=axes.ink(ax), linewidth=1.3)
    for x, text, side in ((0.0, "← worse", "left"), (1.0, "better →", "right")):
        ax.annotate(text, (x, 1.0), (0, 6), xycoords="axes fraction", textcoords="offset points", ha=side,
                    **axes.text_style(ax, axes.QUIET))  # fmt: skip
    for i, row in enumerate(rows):
        if i in far:
            axes.draw_outlier(ax, far[i], i, score.difference(row.mean), style=row.style)
            continue
        if row.interval is not None:
            axes.draw_interval(ax, *spans[i], i, style=row.style)
        axes.set_tip(ax.plot([score.factor * row.mean], [i], **axes.mark(row.style, 12.0)),
                f"{row.name}: {_difference_text(row, score)}")  # fmt: skip
    summary = "; ".join(f"{row.name}: {_difference_text(row, score)}" for row in rows)
    return axes.describe(
        ax, f"Differences in {label}. {summary}.{axes.outlier_sentence([rows[i].name for i in sorted(far)])}"
    )


def _span(row: DifferenceRow, score: ScoreFormat) -> axes.Interval:
    low, high = row.interval or (row.mean, row.mean)
    return score.factor * low, score.factor * high


def _difference_text(row: DifferenceRow, score: ScoreFormat) -> str:
    if row.interval is None:
        return f"{score.difference(row.mean)}, one seed"
    return f"{score.difference(row.mean)}  [{', '.join(score.ends(*row.interval))}]"


def read_differences(run: RunData) -> list[DifferenceRow]:
    """Return the differences between the verdict's arm and each control, the student alone first."""
    alone = [(ALONE, run.verdict)] if ALONE in run.arms else []
    comparisons = [*alone, *as_mapping(run.verdict.get("against")).items()]
    return [row._replace(name=f"over {row.name}") for row in _read_rows(run, comparisons)]


def read_methods(run: RunData) -> list[DifferenceRow]:
    """Return the difference between every method and the student alone; empty for a single method."""
    comparisons = as_mapping(run.verdict.get("methods"))
    rows = _read_rows(run, [(name, row) for name, row in comparisons.items() if name in run.arms])
    return rows if len(comparisons) > 1 else []


def _read_rows(run: RunData, comparisons: Sequence[tuple[str, Any]]) -> list[DifferenceRow]:
    return [
        DifferenceRow(name, run.style(name), float(row["difference"]), read_interval(row))
        for name, row in comparisons
        if isinstance(row, Mapping) and isinstance(row.get("difference"), (int, float))
    ]


# --- section --------------------------------------------------------------------------------------------------------

_WHAT = {
    "teacher": "the teacher",
    "student alone": "the same student, trained on {data} only",
    "label smoothing": "{data} only, smoothed",
    "teacher texts": "the same student, trained on the teacher's texts alone (sequence-level distillation)",
    "shuffled teacher": "trained on the teacher's outputs for other {examples}",
    "post-training quantization": "the same student as the first method's, rounded after its training",
    "one member": "one of the teacher's networks",
    "combined teacher": "the teacher combined with its specialists",
}


def arms_section(run: RunData, *, prefix: str = "") -> Markup:
    """Return the table of arms, the figure of their scores, and a fold-out table of all metrics."""
    arms = list(run.arms.values())
    return section(
        f"{prefix}arms",
        "The arms",
        _overview(run, arms),
        _remarks(run),
        _teacher_weights(arms),
        _figures(run),
        _measures(arms, run.task),
    )


_COLUMNS: dict[str, tuple[tuple[str, str, int | None, axes.Number], ...]] = {
    "classification": (("nll", "NLL, nats", 3, 1), ("ece", "ECE, %", 2, 100),
                       ("agreement", "agrees with teacher, %", 1, 100)),
    "multi_label": (("f1_macro", "macro F1, %", 2, 100), ("mean_average_precision", "mAP, %", 2, 100),
                    ("binary_nll", "NLL, nats", 3, 1), ("answer_agreement", "agrees with teacher, %", 1, 100)),
    "regression": (("rmse", "RMSE", None, 1), ("mae", "MAE", None, 1), ("mse_to_teacher", "MSE to teacher", None, 1)),
    "segmentation": (("pixel_accuracy", "pixel accuracy, %", 2, 100), ("pixel_nll", "NLL, nats", 3, 1),
                     ("pixel_agreement", "agrees with teacher, %", 1, 100)),
    "language_modeling": (("perplexity", "perplexity", None, 1),
                          ("kl_to_teacher", "KL to teacher, nats", 3, 1),
                          ("agreement", "agrees with teacher, %", 1, 100),
                          ("acceptance", "accepted as draft, %", 1, 100)),
}  # fmt: skip
"""Columns of each task after the primary metric: metric, title, digits, factor."""
_FIDELITY = (
    "agreement", "answer_agreement", "mse_to_teacher", "pixel_agreement", "kl_to_teacher", "acceptance",
)  # fmt: skip


def _overview(run: RunData, arms: Sequence[ArmRow]) -> Markup:
    own, score = list_custom_metrics(run.result), run.score
    columns = _COLUMNS.get(run.task.name, _COLUMNS["classification"])
    columns = tuple(one for one in columns if one[0] != run.task.primary.name)
    head = ("arm", f"test {score.label}", "development, %" if score.percent else "development",
            *(title for _, title, _, _ in columns), *own, "parameters", "MB", "ms/example", "training, s")  # fmt: skip
    members = " (over the members for one of them)" if MEMBER in run.arms else ""
    most = majority_accuracy(run.result)
    beside = f"; always predicting the most frequent class: {100 * most:.2f} % of the test examples" if most else ""
    return table(
        f"Every arm: mean ± standard deviation over seeds{members}{beside}", head,
        (_row(arm, own, score, columns) for arm in arms), class_="arms",
        strong=[i for i, arm in enumerate(arms) if arm.name == run.method_arm],
    )  # fmt: skip


def _row(
    arm: ArmRow, own: Sequence[str], score: ScoreFormat, columns: Sequence[tuple[str, str, int | None, axes.Number]]
) -> tuple[object, ...]:
    return (
        join(arm.name, tag("span", _describe_arm(arm, score))),
        score.mean_std(arm.score), score.mean_std(arm.development),
        *("" if arm.role == "teacher" and name in _FIDELITY else mean_std_text(_stat(arm, name), digits, scale)
          for name, _, digits, scale in columns),
        *(mean_std_text(arm.measure(name)) for name in own), _count(arm.number("parameters")),
        megabytes_text(arm.number("megabytes")), *(_cost(arm.number(key)) for key in ("milliseconds", "seconds")),
    )  # fmt: skip


def _describe_arm(arm: ArmRow, score: ScoreFormat) -> str:
    """Describe what an arm is trained on."""
    if arm.name == ALONE and score.examples == "prompts":
        return "the same student before training, as nothing can be learned without the teacher"
    if arm.role != "method":
        # A text is its own label.
        data = "labels" if score.examples == "examples" else score.examples
        return _WHAT.get(arm.name, arm.role).format(data=data, examples=score.examples)
    settings = arm.row.get("method")
    name = settings.get("name") if isinstance(settings, Mapping) else None
    alone = name in names() and not method(str(name)).has_teacher
    return "trained without the teacher" if alone else "distilled from the teacher"


def _stat(arm: ArmRow, name: str) -> SeedStat:
    """Return a metric over seeds, or the single number of the result if it has no values per seed."""
    stat, plain = arm.measure(name), arm.number(name)
    return stat if stat.values or plain is None else SeedStat((plain,), plain, None)


def _count(value: float | None) -> str:
    return "-" if value is None else f"{value:,.0f}" if value < 1e7 else f"{value / 1e6:,.1f} M"


def _cost(value: float | None) -> str:
    return "-" if value is None else "0" if value == 0 else sized(value)


def _remarks(run: RunData) -> Markup:
    notes = read_size_notes(run.result)
    single = "There is a single seed, so no intervals. Run with --seeds 5 to get them."
    return join(note(f"{'; '.join(notes)}.") if notes else None, note(single) if run.seeds <= 1 else None)


def _figures(run: RunData) -> Markup:
    scores = figure(
        f"Test {run.score.title}, seed by seed", lambda: plot_scores(run),
        "A mark for every seed, a bar for the mean, a band for ± one standard deviation. Arms are compared seed by "
        f"seed on the same {run.score.examples}, so bands may overlap although a difference is significant.",
    )  # fmt: skip
    if not read_methods(run):
        return scores
    methods = figure(f"Every method compared with the {ALONE}", lambda: plot_differences(run, against="methods"),
                     _methods_caption(run))  # fmt: skip
    return tag("div", scores, methods, class_="grid-2")


def _teacher_weights(arms: Sequence[ArmRow]) -> Markup | None:
    """Return the weights of several teachers in each arm; None for a run with one teacher."""
    weights = {arm.name: as_mapping(arm.row.get("teacher_weights")) for arm in arms}
    teachers = list(dict.fromkeys(name for row in weights.values() for name in row))
    if not teachers:
        return None
    rows = [(arm, *(mean_std_text(read_stat(row[name]), 3) if name in row else "-" for name in teachers))
            for arm, row in weights.items() if row]  # fmt: skip
    caption = (
        "Weights of the teachers at the end of the training, mean ± standard deviation over seeds (of rl_kd: how often "
        "each is selected)"
    )
    return table(caption, ("arm", *teachers), rows)


def _methods_caption(run: RunData) -> str:
    if "comparisons" in run.verdict:
        how = f"Intervals ({run.interval_covers}) and p-values hold for all methods jointly (Bonferroni): "
    else:  # a result of an earlier version
        how = "Each interval is for one method, over seeds only; p-values are adjusted for all methods (Holm): "
    rows = {name: row.get("p") for name, row in run.verdict["methods"].items() if isinstance(row, Mapping)}
    values = ", ".join(f"{name} {p:.2g}" for name, p in rows.items() if isinstance(p, float)) or "not known"
    return f"{how}{values}. The method is chosen on development data."


def _measures(arms: list[ArmRow], task: Task) -> Markup:
    """Return the tables of all metrics and costs in the result."""
    metrics = list(dict.fromkeys(name for arm in arms for name in as_mapping(arm.row.get("measures"))))
    head = ("metric", "unit", "better", *(arm.name for arm in arms))
    rows = [(name, *_kind(name, task), *(mean_std_text(arm.measure(name)) for arm in arms)) for name in metrics]
    costs = list(dict.fromkeys(name for arm in arms for name in as_mapping(arm.row.get("cost"))))
    cost_rows = [(name, *(_value(as_mapping(arm.row.get("cost")).get(name)) for arm in arms)) for name in costs]
    more = table("Further costs of each arm", ("cost", *(arm.name for arm in arms)), cost_rows) if costs else None
    caption = "Every metric on the test data, mean ± standard deviation over seeds"
    return details("All metrics and costs", table(caption, head, rows, words=3) if rows else None, more)


def _kind(name: str, task: Task) -> tuple[str, str]:
    metric = task.metrics.get(name)
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
