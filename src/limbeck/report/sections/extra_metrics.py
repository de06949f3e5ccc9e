"""Extra metrics: CKA, corruptions, groups."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from statistics import fmean
from typing import Any

from limbeck.job import EXTRA_METRICS
from limbeck.report.arms import SeedStat
from limbeck.report.arms import figure as over_seeds
from limbeck.report.figures import Decline, cka_figure, corruptions_figure
from limbeck.report.html import details, figure, grid, legend, note, section, table
from limbeck.report.markup import Markup, join, tag
from limbeck.report.run_data import RunData
from limbeck.report.sections.arms import mean_ci_text


def besides_section(evidence: RunData, *, prefix: str = "") -> Markup | None:
    """Heat maps of layers, accuracy against severity, the worst groups; None where nothing was measured besides."""
    found = {name: evidence.result[name] for name in EXTRA_METRICS if name in evidence.result}
    if not found:
        return None
    drawn = [_part(name, one, evidence) for name, one in found.items()]
    return section(f"{prefix}besides", "Measured besides", *drawn)


def _part(name: str, found: Any, evidence: RunData) -> Markup:
    """One of them; the sentence alone where it was not measured, or cannot be read."""
    draw = {"cka": _layers, "corruptions": _corruptions, "groups": _groups}[name]
    try:
        return draw(found, evidence)
    except (KeyError, TypeError, ValueError, IndexError, AttributeError, ArithmeticError):
        sentence = found.get("sentence") if isinstance(found, Mapping) else None
        return note(sentence if isinstance(sentence, str) else f"Not known: this result's {name} cannot be read.")


# --- layers ---------------------------------------------------------------------------------------------------------


def _layers(found: Mapping[str, Any], evidence: RunData) -> Markup:
    teacher = [str(name) for name in found["teacher_layers"]]
    maps = [_map(arm, row, teacher, found, evidence) for arm, row in found["arms"].items()]
    return join(tag("p", f"{found['sentence']}"), grid(*maps))


def _map(arm: str, row: Mapping[str, Any], teacher: list[str], found: Mapping[str, Any], evidence: RunData) -> Markup:
    student = [str(name) for name in row["student_layers"]]
    values = [[math.nan if value is None else float(value) for value in line] for line in row["values"]]
    if len(values) != len(student) or {len(line) for line in values} != {len(teacher)}:
        raise ValueError("a value for each pair of layers")
    member = f" The teacher is an ensemble: its {found['teacher']}." if found.get("teacher") else ""
    closest = over_seeds(row["closest"])
    known = all(math.isfinite(value) for line in values for value in line)
    constant = "" if known else " A dash: a layer that gives the same for every example."
    caption = join(
        f"Linear CKA of {found['examples']:,} test examples, {_seeds(closest)}: 1 is the same but for rotation and "
        f"scale, 0 nothing in common; both maps have this scale. The mean of each row's largest is "
        f"{mean_ci_text(closest, 2)}."
        f"{constant}{member} After ",
        tag("cite", "Kornblith et al., Similarity of neural network representations revisited, 2019"),
        ", arXiv:1905.00414.",
    )
    lines = ((name, *map(_two, line)) for name, line in zip(student, values, strict=True))
    numbers = table("Linear CKA, student's layers by teacher's", ("layer", *teacher), lines)
    drawing = cka_figure(values, student, teacher, who=arm)
    return figure(f"Layers: teacher and {arm}", drawing, caption, details("The numbers", numbers))


def _two(value: float) -> str:
    return f"{value:.2f}" if math.isfinite(value) else "-"


# --- bad images -----------------------------------------------------------------------------------------------------


def _corruptions(found: Mapping[str, Any], evidence: RunData) -> Markup:
    arms = list(found["arms"])
    severities = [int(one) for one in found["severities"]]
    lines = [_decline(arm, found["arms"][arm], evidence) for arm in arms]
    kinds = list(found["arms"][arms[0]]["by"])
    caption = join(
        f"{found['examples']:,} test examples, the same bad images for every arm; {len(kinds)} corruptions at "
        f"severities {severities[0]} to {severities[-1]}. Bars are ± one standard deviation over seeds. After ",
        tag("cite", "Hendrycks and Dietterich, Benchmarking neural network robustness, 2019"),
        ", arXiv:1903.12261.",
    )
    styles = legend((line.name, line.style) for line in lines)
    drawn = figure("Accuracy as images get worse", corruptions_figure(lines), caption, styles)
    rows = [_cells("none", (over_seeds(found["arms"][arm]["clean"]) for arm in arms))]
    rows += [_cells(kind, (_mean_of(found["arms"][arm]["by"][kind]) for arm in arms)) for kind in kinds]
    rows += [_cells("mean of all", (over_seeds(found["arms"][arm]["mean"]) for arm in arms))]
    name = "Accuracy by corruption, %, mean over severities"
    numbers = table(name, ("corruption", *arms), rows, strong=(len(rows) - 1,))
    return join(tag("p", f"{found['sentence']}"), grid(drawn, numbers))


def _cells(kind: str, found: Iterable[SeedStat]) -> tuple[str, ...]:
    return kind.replace("_", " "), *map(_percent, found)


def _decline(arm: str, row: Mapping[str, Any], evidence: RunData) -> Decline:
    """The mean over corruptions at each severity, and before any."""
    levels = zip(*row["by"].values(), strict=True)
    at = [over_seeds(row["clean"]), *(_mean_of(level) for level in levels)]
    style = evidence.arms[arm].style if arm in evidence.arms else 7
    return Decline(arm, style, [_known(one) for one in at], [one.std for one in at])


def _mean_of(several: Sequence[Any]) -> SeedStat:
    """Seed by seed the mean of several figures."""
    seeds = zip(*(over_seeds(one).values for one in several), strict=True)
    return over_seeds({"values": [fmean(values) for values in seeds]})


def _known(found: SeedStat) -> float:
    if found.mean is None:
        raise ValueError("a value for each seed")
    return found.mean


def _percent(found: SeedStat) -> str:
    return mean_ci_text(found, 2, 100)


# --- groups ---------------------------------------------------------------------------------------------------------


def _groups(found: Mapping[str, Any], evidence: RunData) -> Markup:
    arms, sizes = found["arms"], found["examples"]
    kind = "class" if found["by"] == "classes" else "group"
    by = "Groups: they are the classes, as the data name no others." if kind == "class" else f"Groups by {found['by']}."
    worst = table(
        f"The {kind} in which each arm is least often right",
        ("arm", f"worst {kind}", "accuracy there, %", "test examples"),
        list(_worst(arms)), words=2,
        strong=[i for i, arm in enumerate(arms) if arm == evidence.judged],
    )  # fmt: skip
    rows = ((name, f"{size:,}", *(_percent(over_seeds(arms[arm]["accuracy"].get(name))) for arm in arms))
            for name, size in sizes.items())  # fmt: skip
    every = details(f"All {len(sizes):,}", table(f"Accuracy in each {kind}, %", (kind, "test examples", *arms), rows))
    few = f"{by} One with few examples is the worst by chance, and the worst of many looks worse than it is."
    return join(tag("p", few), worst, every)


def _worst(arms: Mapping[str, Any]) -> Iterator[tuple[str, ...]]:
    for arm, row in arms.items():
        worst = row["worst"]
        yield arm, str(worst["name"]), _percent(over_seeds(worst)), f"{worst['examples']:,}"


def _seeds(found: SeedStat) -> str:
    return f"mean of {len(found.values)} seeds" if len(found.values) > 1 else "one seed"
