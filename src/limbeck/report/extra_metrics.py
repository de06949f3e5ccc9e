"""Extra metrics of a job: layer similarity (CKA), attacks, corrupted images, faithfulness, groups, sharpness."""

from __future__ import annotations

import logging
import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import takewhile
from pathlib import Path
from statistics import fmean
from typing import Any, NamedTuple

import numpy as np

from limbeck.job import EXTRA_METRICS
from limbeck.report import axes
from limbeck.report.arms import SeedStat, mean_std_text, read_stat
from limbeck.report.axes import Axes
from limbeck.report.html import Markup, details, join, note, section, table, tag
from limbeck.report.run_data import RunData, load_run
from limbeck.report.svg import figure

_log = logging.getLogger(__name__)

Values = Sequence[Sequence[float]]

# --- figures --------------------------------------------------------------------------------------------------------


def plot_cka(run: RunData | str | Path, arm: str | None = None, *, ax: Axes | None = None) -> Axes:
    """Plot the linear CKA of every layer of the student (row) and of the teacher (column), shaded from 0 to 1.

    Args:
        run: The folder of a finished run whose job has ``also: [cka]``, or what `read_run` returns.
        arm: The arm; by default that of the verdict.
        ax: Axes to draw on; by default those of a new figure.

    Raises:
        ValueError: If the run has no CKA of this arm.
    """
    run = load_run(run)
    name, result = str(run.method_arm if arm is None else arm), run.result.get("cka")
    row = result["arms"].get(name) if isinstance(result, Mapping) and "arms" in result else None
    if not isinstance(result, Mapping) or row is None:
        raise ValueError(f"this run has no CKA of {name!r}; set `also: [cka]` in the job")
    return draw_cka(_read_values(row), row["student_layers"], result["teacher_layers"], arm=name, ax=ax)


def draw_cka(
    values: Values, student: Sequence[str], teacher: Sequence[str], *, arm: str, ax: Axes | None = None
) -> Axes:
    """Draw the similarity of layers; nan is a layer that is constant over all examples.

    The scale is the same in every figure. Unbiased estimates can be slightly below 0; these are drawn as 0.
    """
    shades = np.nan_to_num(np.asarray(values, dtype=np.float64)).clip(0.0, 1.0)
    ax = axes.matrix_axes(ax, _short_names(student, 13), _short_names(teacher, 11), x_label="teacher's layers",
                     y_label="student's layers", left=132.0)  # fmt: skip
    roomy = len(teacher) <= 11
    axes.fill_cells(ax, shades, [[two_digits(value) if roomy else "" for value in row] for row in values])
    best = [max((value for value in row if math.isfinite(value)), default=math.nan) for row in values]
    named = zip(student, best, strict=True)
    summary = ", ".join(f"{name} {value:.2f}" for name, value in named if math.isfinite(value))
    return axes.describe(ax, f"Similarity of layers, {arm}. Highest similarity of each layer: {summary or 'none'}.")


def _short_names(names: Sequence[str], most: int) -> list[str]:
    """Shorten layer names: drop their common prefix and their middle. The table has the full names.

    Example:
        >>> _short_names(["encoder.layer.0.output.dense", "encoder.layer.11.output.dense"], 12)
        ['0.outp….dense', '11.out….dense']
    """
    parts = [name.split(".") for name in names]
    shared = len(list(takewhile(lambda column: len(set(column)) == 1, zip(*parts, strict=False))))
    own = [".".join(part[shared:]) or name for name, part in zip(names, parts, strict=True)]
    return [name if len(name) <= most else f"{name[: most // 2]}…{name[-(most // 2) :]}" for name in own]


class Decline(NamedTuple):
    """An arm's accuracy (fractions) on clean images and at each severity, averaged over corruptions.

    Attributes:
        name: The arm.
        style: Its color and shape.
        means: Accuracy from severity 0 (clean images) upward.
        stds: Standard deviations over the seeds; None for a single seed.
    """

    name: str
    style: int
    means: Sequence[float]
    stds: Sequence[float | None]


def plot_corruptions(run: RunData | str | Path, *, ax: Axes | None = None) -> Axes:
    """Plot accuracy on corrupted images against severity, a line for each arm, ± one standard deviation over seeds.

    Args:
        run: The folder of a finished run whose job has ``also: [corruptions]``, or what `read_run` returns.
        ax: Axes to draw on; by default those of a new figure.

    Raises:
        ValueError: If the run has no accuracy on corrupted images.
    """
    run = load_run(run)
    result = run.result.get("corruptions")
    if not isinstance(result, Mapping) or "arms" not in result:
        raise ValueError("this run has no accuracy on corrupted images; set `also: [corruptions]` in the job")
    ax = draw_corruptions([_decline(arm, row, run) for arm, row in result["arms"].items()], ax=ax)
    ax.legend(frameon=False)
    return ax


def draw_corruptions(arms: Sequence[Decline], *, ax: Axes | None = None) -> Axes:
    """Draw accuracy against severity. Bars are shifted a little, so that they do not overlap."""
    pairs = [pair for arm in arms for pair in zip(arm.means, arm.stds, strict=True)]
    ends = [100 * (mean + sign * (std or 0.0)) for mean, std in pairs for sign in (-1, 1)]
    last = max(len(arm.means) for arm in arms) - 1
    ax = axes.new_axes(ax, height=330.0)
    ax.set(xlim=(-0.1, last + 0.1), ylim=axes.padded_limits(ends, least=2.0, floor=0.0, ceiling=100.0))
    ax.set(xlabel="severity", ylabel="accuracy, %, mean over corruptions")
    ax.set_xticks(range(last + 1), ["clean", *map(str, range(1, last + 1))])
    axes.round_ticks(ax.yaxis)
    for i, arm in enumerate(arms):
        values = [100 * mean for mean in arm.means]
        bars = [(x + 0.05 * (i - (len(arms) - 1) / 2), max(y - 100 * std, 0.0), min(y + 100 * std, 100.0))
                for x, (y, std) in enumerate(zip(values, arm.stds, strict=True)) if std is not None]  # fmt: skip
        if bars:
            ax.vlines(*zip(*bars, strict=True), color=axes.color(arm.style), linewidth=2.0)
        line = ax.plot(range(len(values)), values, label=axes.shorten(arm.name, 60),
                       **{**axes.mark(arm.style, 9.0), "linestyle": "-", "linewidth": 2.0})  # fmt: skip
        axes.set_tip(line, f"{arm.name}: {', '.join(f'{value:.2f} %' for value in values)}")
    summary = "; ".join(f"{arm.name} from {100 * arm.means[0]:.1f} to {100 * arm.means[-1]:.1f} %" for arm in arms)
    return axes.describe(ax, f"Accuracy on corrupted images. {summary}.")


# --- section --------------------------------------------------------------------------------------------------------


def extra_metrics_section(run: RunData) -> Markup | None:
    """Return the results of `also`: layers, corrupted images, attacks, worst groups, ...; None if the job has none."""
    results = {name: run.result[name] for name in EXTRA_METRICS if name in run.result}
    if not results:
        return None
    parts = [_part(name, result, run) for name, result in results.items()]
    return section("extra-metrics", "Extra metrics", *parts)


def _part(name: str, result: Any, run: RunData) -> Markup:
    """Return one metric, or only a sentence if it was not measured or cannot be shown."""
    if isinstance(result, Mapping) and list(result) == ["sentence"] and isinstance(result["sentence"], str):
        return note(result["sentence"])  # the measurement failed
    draw = {
        "attacks": _attacks,
        "cka": _layers,
        "corruptions": _corruptions,
        "faithfulness": _faithfulness,
        "groups": _groups,
        "sharpness": _sharpness,
    }[name]
    try:
        return draw(result, run)
    except Exception as error:  # a damaged result or a bug; neither may lose the page
        _log.debug("The section on %s failed.", name, exc_info=error)
        why = f"{type(error).__name__}: {error}"
        return note(f"Failed: {name} of this result cannot be shown ({why}). --debug shows the traceback.")


# --- layers ---------------------------------------------------------------------------------------------------------


def _layers(result: Mapping[str, Any], run: RunData) -> Markup:
    teacher = [str(name) for name in result["teacher_layers"]]
    maps = [_map(arm, row, teacher, result, run) for arm, row in result["arms"].items()]
    return join(tag("p", f"{result['sentence']}"), tag("div", maps, class_="grid-2"))


def _map(arm: str, row: Mapping[str, Any], teacher: list[str], result: Mapping[str, Any], run: RunData) -> Markup:
    student, values = [str(name) for name in row["student_layers"]], _read_values(row)
    if len(values) != len(student) or {len(line) for line in values} != {len(teacher)}:
        raise ValueError("CKA needs a value for each pair of layers")
    member = f" The teacher is an ensemble; this is its {result['teacher']}." if result.get("teacher") else ""
    closest = read_stat(row["closest"])
    finite = all(math.isfinite(value) for line in values for value in line)
    constant = "" if finite else " A dash marks a layer that is constant over all examples."
    caption = join(
        f"Linear CKA of {result['examples']:,} test examples, {_seeds(closest)}: 1 means equal up to rotation and "
        f"scale, 0 means unrelated. Both maps have this scale. The mean of the largest value of each row is "
        f"{mean_std_text(closest, 2)}."
        f"{constant}{member} Reference: ",
        tag("cite", "Kornblith et al., Similarity of neural network representations revisited, 2019"),
        ", arXiv:1905.00414.",
    )
    lines = ((name, *map(two_digits, line)) for name, line in zip(student, values, strict=True))
    numbers = table("Linear CKA, student's layers by teacher's", ("layer", *teacher), lines)
    return figure(f"Layers: teacher and {arm}", lambda: draw_cka(values, student, teacher, arm=arm), caption,
                  details("Numbers", numbers), kind="matrix")  # fmt: skip


def _read_values(row: Mapping[str, Any]) -> list[list[float]]:
    return [[math.nan if value is None else float(value) for value in line] for line in row["values"]]


def two_digits(value: float) -> str:
    """Format a similarity; a dash for a layer that is constant over all examples."""
    return f"{value:.2f}" if math.isfinite(value) else "-"


# --- corrupted images -------------------------------------------------------------------------------------------------


def _corruptions(result: Mapping[str, Any], run: RunData) -> Markup:
    arms = list(result["arms"])
    severities = [int(severity) for severity in result["severities"]]
    lines = [_decline(arm, result["arms"][arm], run) for arm in arms]
    kinds = list(result["arms"][arms[0]]["by"])
    caption = join(
        f"{result['examples']:,} test examples, the same corrupted images for every arm; {len(kinds)} corruptions at "
        f"severities {severities[0]} to {severities[-1]}. Bars are ± one standard deviation over seeds. Reference: ",
        tag("cite", "Hendrycks and Dietterich, Benchmarking neural network robustness, 2019"),
        ", arXiv:1903.12261.",
    )
    drawn = figure("Accuracy on corrupted images", lambda: draw_corruptions(lines), caption)
    rows = [_cells("none", (read_stat(result["arms"][arm]["clean"]) for arm in arms))]
    rows += [_cells(kind, (_mean_of(result["arms"][arm]["by"][kind]) for arm in arms)) for kind in kinds]
    rows += [_cells("mean of all", (read_stat(result["arms"][arm]["mean"]) for arm in arms))]
    title = "Accuracy by corruption, %, mean over severities"
    numbers = table(title, ("corruption", *arms), rows, strong=(len(rows) - 1,))
    return join(tag("p", f"{result['sentence']}"), tag("div", drawn, numbers, class_="grid-2"))


def _cells(kind: str, stats: Iterable[SeedStat]) -> tuple[str, ...]:
    return kind.replace("_", " "), *map(_percent, stats)


def _decline(arm: str, row: Mapping[str, Any], run: RunData) -> Decline:
    """Return an arm's mean accuracy over corruptions, clean and at each severity."""
    levels = zip(*row["by"].values(), strict=True)
    stats = [read_stat(row["clean"]), *(_mean_of(level) for level in levels)]
    return Decline(arm, run.style(arm), [_mean_value(stat) for stat in stats], [stat.std for stat in stats])


def _mean_of(several: Sequence[Any]) -> SeedStat:
    """Average several statistics seed by seed."""
    seeds = zip(*(read_stat(entry).values for entry in several), strict=True)
    return read_stat({"values": [fmean(values) for values in seeds]})


def _mean_value(stat: SeedStat) -> float:
    if stat.mean is None:
        raise ValueError("a statistic needs a value for each seed")
    return stat.mean


def _percent(stat: SeedStat) -> str:
    return mean_std_text(stat, 2, 100)


# --- groups ---------------------------------------------------------------------------------------------------------


def _groups(result: Mapping[str, Any], run: RunData) -> Markup:
    arms, sizes = result["arms"], result["examples"]
    kind = "class" if result["by"] == "classes" else "group"
    by = (
        "The groups are the classes, because the data have no others."
        if kind == "class"
        else f"Groups by {result['by']}."
    )
    worst = table(
        f"The {kind} with the lowest accuracy of each arm",
        ("arm", f"worst {kind}", "accuracy there, %", "test examples"),
        list(_worst(arms)), words=2,
        strong=[i for i, arm in enumerate(arms) if arm == run.method_arm],
    )  # fmt: skip
    rows = ((name, f"{size:,}", *(_percent(read_stat(arms[arm]["accuracy"].get(name))) for arm in arms))
            for name, size in sizes.items())  # fmt: skip
    every = details(f"All {len(sizes):,}", table(f"Accuracy in each {kind}, %", (kind, "test examples", *arms), rows))
    remark = f"{by} A small group may be the worst by chance, and the worst of many groups looks worse than it is."
    return join(tag("p", remark), worst, every)


def _worst(arms: Mapping[str, Any]) -> Iterator[tuple[str, ...]]:
    for arm, row in arms.items():
        worst = row["worst"]
        yield arm, str(worst["name"]), _percent(read_stat(worst)), f"{worst['examples']:,}"


# --- attacks --------------------------------------------------------------------------------------------------------


def _attacks(result: Mapping[str, Any], run: RunData) -> Markup:
    rows = [
        (arm, *(_percent(read_stat(stat)) for stat in (row["clean"], *row["robust"])))
        for arm, row in result["arms"].items()
    ]
    title = f"Accuracy under attack, %, {result['examples']:,} test examples"
    columns = ("arm", "no attack", *(f"up to {epsilon}" for epsilon in result["epsilons"]))
    numbers = table(title, columns, rows, strong=[i for i, row in enumerate(rows) if row[0] == run.method_arm])
    remark = (
        "Every pixel may change by so much of its range. A stronger attack may find more, so these are upper bounds."
    )
    return join(tag("p", f"{result['sentence']} {remark}"), numbers)


# --- faithfulness ---------------------------------------------------------------------------------------------------


def _faithfulness(result: Mapping[str, Any], run: RunData) -> Markup:
    kinds = {"attack": "gap by attack", "bound": "proven bound", "faithful": "certainly faithful, %"}
    rows = [
        (
            arm, _percent(read_stat(row["disagreement"])),
            *(
                _percent(read_stat(stat)) if key == "faithful" else mean_std_text(read_stat(stat), 3)
                for stats in zip(*(row[key] for key in kinds), strict=True)
                for key, stat in zip(kinds, stats, strict=True)
            ),
        )
        for arm, row in result["arms"].items()
    ]  # fmt: skip
    columns = (
        "arm", "other class, %",
        *(f"{words}, up to {epsilon}" for epsilon in result["epsilons"] for words in kinds.values()),
    )  # fmt: skip
    title = f"Gap in confidence from the teacher, {result['examples']:,} test examples"
    numbers = table(title, columns, rows, strong=[i for i, row in enumerate(rows) if row[0] == run.method_arm])
    remark = (
        "The largest gap in the probability of the teacher's class while every pixel may change by so much of its "
        "range: an attack finds the first number, and interval arithmetic proves that none is above the second, which "
        f"is often loose. Certainly faithful: the proven bound is at most {result['tolerance']:g}."
    )
    return join(tag("p", f"{result['sentence']} {remark}"), numbers)


# --- sharpness ------------------------------------------------------------------------------------------------------


def _sharpness(result: Mapping[str, Any], run: RunData) -> Markup:
    rows = [
        (arm, *(mean_std_text(read_stat(row[key])) for key in ("top_eigenvalue", "trace")))
        for arm, row in result["arms"].items()
    ]
    title = f"Hessian of the cross-entropy on {result['examples']:,} training examples"
    columns = ("arm", "largest eigenvalue", "trace")
    numbers = table(title, columns, rows, strong=[i for i, row in enumerate(rows) if row[0] == run.method_arm])
    remark = (
        "Smaller is flatter. Both depend on the scale of the weights: compare students of one architecture that were "
        "trained alike."
    )
    return join(tag("p", f"{result['sentence']} {remark}"), numbers)


def _seeds(stat: SeedStat) -> str:
    return f"mean of {len(stat.values)} seeds" if len(stat.values) > 1 else "one seed"
