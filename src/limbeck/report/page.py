"""The report as one HTML page."""

from __future__ import annotations

from collections.abc import Sequence
from importlib.resources import files
from pathlib import Path

from limbeck.atomic_io import write_text
from limbeck.data import DataSplits
from limbeck.errors import LimbeckError
from limbeck.job import EXTRA_METRICS, hide_private_paths
from limbeck.report.markup import Markup, join, tag
from limbeck.report.predictions import class_rows
from limbeck.report.run_data import ALONE, RunData, read_run
from limbeck.report.sections import (
    arms_section,
    classes_section,
    cost_section,
    examples_section,
    extra_metrics_section,
    fidelity_section,
    next_section,
    protocol_section,
    search_section,
    several_section,
    top_section,
    training_section,
    unknown_section,
)
from limbeck.report.sections.examples import ExampleView
from limbeck.report.sections.several import check_same_data

_MADE_BY = "limbeck report"
_PARTS = (
    ("arms", "Arms"), ("cost", "Cost"), ("fidelity", "Calibration"), ("classes", "Classes"),
    ("extra-metrics", "Extra metrics"), ("training", "Training"), ("search", "Search"), ("examples", "Examples"),
    ("protocol", "Protocol"),
    ("unknown", "Not known"), ("next", "Next"),
)  # fmt: skip


def write_report(runs: Sequence[str | Path | RunData], out: str | Path | None = None) -> Path:
    """Write an HTML page about a finished run, or about several runs on the same data, and return its path.

    The page is one file: it loads nothing, needs no script, and supports light and dark color schemes and printing.

    Args:
        runs: The folders of the runs, or runs that were read with `read_run`.
        out: The file to write. By default ``report.html`` in the folder of a single run, or in the working folder for
            several runs.

    Raises:
        LimbeckError: If a folder has no finished run, two runs used different test data, or `out` exists and is not a
            report.
    """
    if not runs:
        raise LimbeckError("Give at least one run: `limbeck report RUN`.")
    loaded_runs = [run if isinstance(run, RunData) else read_run(run) for run in runs]
    path = Path(out) if out is not None else (loaded_runs[0].folder if len(runs) == 1 else Path()) / "report.html"
    check_output(path)
    page = report_page(loaded_runs)
    # Error messages on the page may contain absolute paths.
    for run in loaded_runs:
        page = hide_private_paths(page, run.folder)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
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


def report_page(runs: Sequence[RunData]) -> str:
    """Return the HTML of the page.

    Raises:
        LimbeckError: If the runs used different test data.
    """
    check_same_data(list(runs))
    loaded: dict[str, DataSplits | str] = {}
    first = runs[0]
    data = str(first.data.get("name", "unknown data"))
    if len(runs) == 1:
        title = f"{data}: {first.name}"
        optional = {
            "search": first.search is not None,
            "extra-metrics": any(name in first.result for name in EXTRA_METRICS),
        }
        parts = [part for part in _PARTS if optional.get(part[0], True)]
        body = join(_links(parts), tag("main", _run(first, loaded, "")))
    else:
        title = f"{data}: {len(runs)} runs"
        names = _names(runs)
        folded = [_folded(name, run, loaded, i) for i, (name, run) in enumerate(zip(names, runs, strict=True))]
        links = (("runs", "Runs"), ("cost", "Cost"), *((f"run-{i}", name) for i, name in enumerate(names)))
        body = join(_links(links), tag("main", several_section(runs, names), folded))
    return page_document(title, data, body)


def _run(run: RunData, loaded: dict[str, DataSplits | str], prefix: str) -> Markup:
    method_arm = run.method_arm
    classes = class_rows(run, ALONE, method_arm) if method_arm else []
    return join(
        top_section(run, classes, prefix=prefix),
        arms_section(run, prefix=prefix),
        cost_section(run, prefix=prefix),
        fidelity_section(run, prefix=prefix),
        classes_section(run, classes, prefix=prefix),
        extra_metrics_section(run, prefix=prefix),
        training_section(run, prefix=prefix),
        search_section(run, prefix=prefix),
        examples_section(run, ExampleView(run, loaded), prefix=prefix),
        protocol_section(run, prefix=prefix),
        unknown_section(run, prefix=prefix),
        next_section(run, prefix=prefix),
    )


def _folded(name: str, run: RunData, loaded: dict[str, DataSplits | str], number: int) -> Markup:
    """One run of several: its whole page inside a `details` element."""
    return tag(
        "details", tag("summary", tag("h2", name), tag("span", str(run.folder))),
        _run(run, loaded, f"run-{number}-"), id=f"run-{number}", class_="run",
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
    style = Markup(files("limbeck.report").joinpath("page.css").read_text(encoding="utf-8"))
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
    return f"<!doctype html>\n{tag('html', head, tag('body', skip, heading, body, foot), lang='en')}\n"
