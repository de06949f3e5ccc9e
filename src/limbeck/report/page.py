"""The report as one HTML page."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path

import torch

from limbeck.atomic_io import make_folder, write_text
from limbeck.errors import LimbeckError
from limbeck.job import hide_private_paths, read_interval
from limbeck.report.arms import ArmRow
from limbeck.report.axes import COLORS
from limbeck.report.calibration import calibration_section
from limbeck.report.classes import class_rows, classes_section
from limbeck.report.costs import cost_figures, cost_section
from limbeck.report.examples import examples_section
from limbeck.report.extra_metrics import extra_metrics_section
from limbeck.report.html import Markup, join, megabytes_text, note, prose, section, sized, table, tag
from limbeck.report.outputs import outputs_section
from limbeck.report.protocol import next_section, protocol_section, unknown_section
from limbeck.report.run_data import ALONE, RunData, load_run
from limbeck.report.scores import DifferenceRow, arms_section, draw_differences
from limbeck.report.summary import Headline, banner, headline, top_section
from limbeck.report.svg import NO_FIGURES, figure, has_figures, number_drawings, page_style, style_sheet
from limbeck.report.texts import texts_section
from limbeck.report.training import search_section, training_section
from limbeck.tasks import Classification, LanguageModeling

_MADE_BY = "limbeck report"
_PARTS = (
    ("arms", "Arms"), ("cost", "Cost"), ("outputs", "Outputs"), ("texts", "Texts"),
    ("fidelity", "Calibration"), ("classes", "Classes"),
    ("extra-metrics", "Extra metrics"), ("training", "Training"), ("search", "Search"), ("examples", "Examples"),
    ("protocol", "Protocol"),
    ("unknown", "Not known"), ("next", "Next"),
)  # fmt: skip


def write_report(
    runs: Sequence[str | Path | RunData], out: str | Path | None = None, *, advice: Headline | None = None
) -> Path:
    """Write an HTML page about a finished run, or about several runs on the same data, and return its path.

    The page is one file: it loads nothing, needs no script, and supports light and dark color schemes and printing.

    Args:
        runs: The folders of the runs, or runs that were read with `read_run`.
        out: The file to write. By default ``report.html`` in the folder of a single run, or in the working folder for
            several runs.
        advice: What follows from several runs together; by default, how many of them show that distillation helps.

    Raises:
        LimbeckError: If a folder has no finished run, two runs used different test data, or `out` exists and is not a
            report.
    """
    if not runs:
        raise LimbeckError("Give at least one run: `limbeck report RUN`.")
    loaded_runs = [load_run(run) for run in runs]
    path = Path(out) if out is not None else (loaded_runs[0].folder if len(runs) == 1 else Path()) / "report.html"
    check_output(path)
    page = report_page(loaded_runs, advice)
    # Error messages on the page may contain absolute paths.
    for run in loaded_runs:
        page = hide_private_paths(page, run.folder)
    try:
        make_folder(path.parent)
        write_text(page, path)
    except OSError as error:
        raise LimbeckError(f"{path} cannot be written: {error.strerror or error}. Give another --out.") from error
    return path


def check_output(path: Path) -> None:
    """Refuse to overwrite anything but a report.

    Raises:
        LimbeckError: If the path is a folder or a file that is not a report.
    """
    if path.is_dir():
        raise LimbeckError(f"{path} is a folder; --out must be a file, such as {path / 'report.html'}.")
    if path.is_file():
        with path.open("rb") as file:
            if _MADE_BY.encode() not in file.read(600):
                raise LimbeckError(f"{path} exists and is not a report; give another --out.")


@page_style()
def report_page(runs: Sequence[RunData], advice: Headline | None = None) -> str:
    """Return the HTML of the page; `advice` is what follows from several runs together.

    Raises:
        LimbeckError: If the runs used different test data.
    """
    check_same_data(list(runs))
    first = runs[0]
    data = str(first.data.get("name", "unknown data"))
    if len(runs) == 1:
        title = f"{data}: {first.name}"
        main = _run(first)
        parts = [(identity, name) for identity, name in _PARTS if f'<section id="{identity}"' in main]
        body = join(_links(parts), tag("main", main))
    else:
        title = f"{data}: {len(runs)} runs"
        names = _names(runs)
        folded = [_folded(name, run, i) for i, (name, run) in enumerate(zip(names, runs, strict=True))]
        links = (("runs", "Runs"), ("cost", "Cost"), *((f"run-{i}", name) for i, name in enumerate(names)))
        body = join(_links(links), tag("main", several_section(runs, names, advice), folded))
    return page_document(title, data, body)


def _run(run: RunData) -> Markup:
    classes = class_rows(run, ALONE, run.method_arm) if run.method_arm else []
    one_class = isinstance(run.task, Classification)
    outputs = [calibration_section(run), classes_section(run, classes)] if one_class else [_outputs(run)]
    examples = examples_section(run) if one_class else None
    return join(
        top_section(run, classes), arms_section(run), cost_section(run), *outputs, extra_metrics_section(run),
        training_section(run), search_section(run), examples, protocol_section(run), unknown_section(run),
        next_section(run),
    )  # fmt: skip


def _outputs(run: RunData) -> Markup | None:
    return texts_section(run) if isinstance(run.task, LanguageModeling) else outputs_section(run)


def _folded(name: str, run: RunData, number: int) -> Markup:
    """One run of several in a `details` element: what is compared between runs. Its own page has everything."""
    prefix = f"run-{number}-"
    classes = class_rows(run, ALONE, run.method_arm) if run.method_arm else []
    return tag(
        "details", tag("summary", tag("h2", name), tag("span", str(run.folder))),
        note(prose(f"Costs, calibration, classes, curves and examples of this run: `limbeck report {run.folder}`.")),
        top_section(run, classes, prefix=prefix), arms_section(run, prefix=prefix), search_section(run, prefix=prefix),
        protocol_section(run, prefix=prefix), unknown_section(run, prefix=prefix), id=f"run-{number}", class_="run",
    )  # fmt: skip


def _names(runs: Sequence[RunData]) -> list[str]:
    """Return the names of the folders, or their paths where two names are equal."""
    names = [run.name for run in runs]
    return [name if names.count(name) == 1 else str(run.folder) for name, run in zip(names, runs, strict=True)]


def _links(parts: Sequence[tuple[str, str]]) -> Markup:
    links = (tag("li", tag("a", name, href=f"#{identity}")) for identity, name in parts)
    return tag("nav", tag("ul", links), aria_label="Sections of this page")


def page_document(title: str, data: str, body: Markup) -> str:
    """Wrap `body` in an HTML document that loads nothing and runs no script."""
    style = Markup(style_sheet())
    head = tag(
        "head", tag("meta", charset="utf-8"), tag("meta", name="generator", content=_MADE_BY),
        tag("meta", name="viewport", content="width=device-width, initial-scale=1"),
        tag("meta", name="color-scheme", content="light dark"),
        # An empty icon: without it, browsers request /favicon.ico.
        tag("link", rel="icon", href="data:,"), tag("title", f"Distillation report, {title}"), tag("style", style),
    )  # fmt: skip
    heading = tag("header", tag("p", "Distillation report"), tag("h1", title))
    foot = tag("footer", tag("p", "Made with limbeck. This page loads nothing and runs no script."))
    skip = tag("a", "Skip to the verdict", href="#verdict", class_="skip")
    missing = None if has_figures() else tag("div", note(prose(NO_FIGURES)), class_="missing")
    page = tag("html", head, tag("body", skip, heading, missing, body, foot), lang="en")
    return f"<!doctype html>\n{number_drawings(page)}\n"


# --- several runs ---------------------------------------------------------------------------------------------------


def check_same_data(runs: list[RunData]) -> None:
    """Refuse to compare runs on different data.

    Raises:
        LimbeckError: If two runs have different test examples.
    """
    first = runs[0]
    for other in runs[1:]:
        for key in ("name", "test", "classes"):
            ours, theirs = first.data.get(key), other.data.get(key)
            if ours is not None and theirs is not None and ours != theirs:
                raise _different_data(first, other, f"{key} {ours} and {theirs}")
        if first.labels is not None and other.labels is not None and not torch.equal(first.labels, other.labels):
            raise _different_data(first, other, "other labels")


def _different_data(first: RunData, other: RunData, how: str) -> LimbeckError:
    return LimbeckError(
        f"{first.folder} and {other.folder} have different test data ({how}), so their numbers cannot be compared. "
        "Give runs on the same data, or write one report for each."
    )


def several_section(runs: Sequence[RunData], names: Sequence[str], advice: Headline | None = None) -> Markup:
    """Return the verdicts of all runs on one scale, a table, and the costs of the students.

    Args:
        runs: The runs, on the same data.
        names: A unique name for each run.
        advice: The headline; by default, how many runs show that distillation helps.
    """
    order = sorted(
        range(len(runs)), key=lambda i: runs[i].task.primary.rank(_number(_development(runs[i]))), reverse=True
    )
    return join(
        tag("section", banner(advice or _verdict(runs, names)), _differences(runs, names), id="verdict",
            aria_label="Verdict", class_="top"),
        section("runs", "The runs", _table([(i, names[i], runs[i]) for i in order]),
                note(prose("Each run is compared with its own controls. Differences between runs are not tested. "
                           "To test them, run one comparison: `limbeck compare JOB --methods a,b`."))),
        section("cost", f"{runs[0].score.title.capitalize()} against cost",
                cost_figures(_students(runs, names), runs[0].score)),
    )  # fmt: skip


def _verdict(runs: Sequence[RunData], names: Sequence[str]) -> Headline:
    heads = [headline(run) for run in runs]
    helped = [i for i, head in enumerate(heads) if head.kind == "yes"]
    count = f"{len(helped)} of {len(runs)} runs show that distillation is worth it"
    scored = [
        (runs[i].task.primary.rank(score), i)
        for i in helped or range(len(runs))
        if (score := _development(runs[i])) is not None
    ]
    if not scored:
        return Headline("yes" if helped else "no", count, "The development accuracies were not saved, so no student "
                        "is selected here.")  # fmt: skip
    _, best = max(scored, key=lambda pair: pair[0])
    which = "Best of these on development data" if helped else "None does; best on development data"
    # The development accuracy is not shown: it was used for the selection and is biased upward.
    sentence = f"{which}: {names[best]} ({runs[best].method_arm}). {heads[best].sentence}"
    return Headline("yes" if helped else "no", count, sentence)


def _number(value: float | None) -> float:
    return math.nan if value is None else value


def _development(run: RunData) -> float | None:
    return run.arms[run.method_arm].development.mean if run.method_arm else None


def _differences(runs: Sequence[RunData], names: Sequence[str]) -> Markup | None:
    rows = [
        DifferenceRow(name, run.arms[run.method_arm].style if run.method_arm else 0, float(mean),
                   read_interval(run.verdict))
        for name, run in zip(names, runs, strict=True)
        if isinstance(mean := run.verdict.get("difference"), (int, float))
    ]  # fmt: skip
    if not rows:
        return None
    title = "Each run's student compared with the same student trained alone"
    caption = "95 % intervals, as computed by each run; a run with a single seed has none."
    return figure(title, lambda: draw_differences(rows, runs[0].score), caption)


def _table(runs: Sequence[tuple[int, str, RunData]]) -> Markup:
    head = ("run", "verdict", "arm", f"test {runs[0][2].score.label}", "development",
            "difference to student alone", "teacher", "MB", "ms/example", "seeds")  # fmt: skip
    rows = []
    for number, name, run in runs:
        arm = run.arms.get(run.method_arm or "")
        teacher, score = run.teacher_arm, run.score
        mean, interval = run.verdict.get("difference"), read_interval(run.verdict)
        difference = "-" if not isinstance(mean, (int, float)) else score.difference(mean)
        difference += "" if interval is None else f" [{', '.join(score.ends(*interval))}]"
        rows.append((
            tag("a", name, href=f"#run-{number}"), headline(run).words, run.method_arm or "-",
            score.mean_std(arm.score) if arm else "-", score.mean_std(arm.development) if arm else "-",
            difference,
            score.mean_std(teacher.score) if teacher else "-",
            megabytes_text(arm.number("megabytes") if arm else None), _cost(arm, "milliseconds"),
            run.seeds,
        ))  # fmt: skip
    return table("The student of every run, the best on development data first", head, rows, words=3, class_="runs")


def _cost(arm: ArmRow | None, key: str) -> str:
    value = arm.number(key) if arm else None
    return "-" if value is None else sized(value)


def _students(runs: Sequence[RunData], names: Sequence[str]) -> list[ArmRow]:
    """Return the student of each run, and each teacher once."""
    students = []
    for number, (name, run) in enumerate(zip(names, runs, strict=True)):
        if run.method_arm:
            students.append(run.arms[run.method_arm]._replace(name=name, style=_STYLES[number % len(_STYLES)]))
    teachers = {}
    for run in runs:
        for arm in run.arms.values():
            if arm.role == "teacher":
                teachers[arm.score.mean, arm.number("parameters")] = arm
    return [*students, *teachers.values()]


_STYLES = (0, *range(2, len(COLORS)))
