"""Section with extra metrics: CKA, corruptions, groups."""

from __future__ import annotations

import logging
import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from statistics import fmean
from typing import Any

from limbeck.job import EXTRA_METRICS
from limbeck.report.arms import SeedStat, read_stat
from limbeck.report.figures import Decline, cka_figure, corruptions_figure
from limbeck.report.html import details, figure, grid, legend, note, section, table
from limbeck.report.markup import Markup, join, tag
from limbeck.report.run_data import RunData
from limbeck.report.sections.arms import mean_std_text

_log = logging.getLogger(__name__)


def extra_metrics_section(run: RunData, *, prefix: str = "") -> Markup | None:
    """Return layer similarity, accuracy on corrupted images, and worst groups; None if the job has no `also`."""
    results = {name: run.result[name] for name in EXTRA_METRICS if name in run.result}
    if not results:
        return None
    parts = [_part(name, result, run) for name, result in results.items()]
    return section(f"{prefix}extra-metrics", "Extra metrics", *parts)


def _part(name: str, result: Any, run: RunData) -> Markup:
    """Return one metric, or only a sentence if it was not measured or cannot be shown."""
    if isinstance(result, Mapping) and list(result) == ["sentence"] and isinstance(result["sentence"], str):
        return note(result["sentence"])  # the measurement failed
    draw = {"cka": _layers, "corruptions": _corruptions, "groups": _groups}[name]
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
    return join(tag("p", f"{result['sentence']}"), grid(*maps))


def _map(arm: str, row: Mapping[str, Any], teacher: list[str], result: Mapping[str, Any], run: RunData) -> Markup:
    student = [str(name) for name in row["student_layers"]]
    values = [[math.nan if value is None else float(value) for value in line] for line in row["values"]]
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
    lines = ((name, *map(_two, line)) for name, line in zip(student, values, strict=True))
    numbers = table("Linear CKA, student's layers by teacher's", ("layer", *teacher), lines)
    drawing = cka_figure(values, student, teacher, who=arm)
    return figure(f"Layers: teacher and {arm}", drawing, caption, details("Numbers", numbers))


def _two(value: float) -> str:
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
    styles = legend((line.name, line.style) for line in lines)
    drawn = figure("Accuracy on corrupted images", corruptions_figure(lines), caption, styles)
    rows = [_cells("none", (read_stat(result["arms"][arm]["clean"]) for arm in arms))]
    rows += [_cells(kind, (_mean_of(result["arms"][arm]["by"][kind]) for arm in arms)) for kind in kinds]
    rows += [_cells("mean of all", (read_stat(result["arms"][arm]["mean"]) for arm in arms))]
    title = "Accuracy by corruption, %, mean over severities"
    numbers = table(title, ("corruption", *arms), rows, strong=(len(rows) - 1,))
    return join(tag("p", f"{result['sentence']}"), grid(drawn, numbers))


def _cells(kind: str, stats: Iterable[SeedStat]) -> tuple[str, ...]:
    return kind.replace("_", " "), *map(_percent, stats)


def _decline(arm: str, row: Mapping[str, Any], run: RunData) -> Decline:
    """Return an arm's mean accuracy over corruptions, clean and at each severity."""
    levels = zip(*row["by"].values(), strict=True)
    stats = [read_stat(row["clean"]), *(_mean_of(level) for level in levels)]
    style = run.arms[arm].style if arm in run.arms else 7
    return Decline(arm, style, [_mean_value(stat) for stat in stats], [stat.std for stat in stats])


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


def _seeds(stat: SeedStat) -> str:
    return f"mean of {len(stat.values)} seeds" if len(stat.values) > 1 else "one seed"
