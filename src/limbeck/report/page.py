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
    besides_section,
    classes_section,
    cost_section,
    examples_section,
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
from limbeck.report.sections.several import same_data

_MADE_BY = "limbeck report"
_PARTS = (
    ("arms", "Arms"), ("cost", "Cost"), ("fidelity", "Calibration"), ("classes", "Classes"), ("besides", "Besides"),
    ("training", "Training"), ("search", "Search"), ("examples", "Examples"), ("protocol", "Protocol"),
    ("unknown", "Not known"), ("next", "Next"),
)  # fmt: skip


def write_report(runs: Sequence[str | Path | RunData], out: str | Path | None = None) -> Path:
    """Write one page about a finished run, or about several of the same data, and say where it is.

    The page is whole in itself: it fetches nothing, needs no script, follows the reader's light or dark scheme, and
    prints.

    Args:
        runs: The runs' folders, or what was read of them.
        out: The page; ``report.html`` in the folder of a single run, or in the working folder, if None.

    Raises:
        LimbeckError: If a folder holds no finished run, two were judged on different data, or `out` is some other
            file.
    """
    if not runs:
        raise LimbeckError("A report is about at least one run: type `limbeck report RUN`.")
    evidences = [run if isinstance(run, RunData) else read_run(run) for run in runs]
    path = Path(out) if out is not None else (evidences[0].folder if len(runs) == 1 else Path()) / "report.html"
    check_place(path)
    page = report_page(evidences)
    for evidence in evidences:
        page = hide_private_paths(page, evidence.folder)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        write_text(page, path)
    except OSError as error:
        raise LimbeckError(f"{path} cannot be written: {error.strerror or error}. Give another --out.") from error
    return path


def check_place(path: Path) -> None:
    """Refuse to write over what is no report.

    Raises:
        LimbeckError: If there is a folder, or a file that no report was written to before.
    """
    if path.is_dir():
        raise LimbeckError(f"{path} is a folder; --out is the page's file, such as {path / 'report.html'}.")
    if path.is_file():
        with path.open("rb") as file:
            if _MADE_BY.encode() not in file.read(600):
                raise LimbeckError(f"{path} is there already and is no report; give another --out.")


def report_page(evidences: Sequence[RunData]) -> str:
    """The page's text.

    Raises:
        LimbeckError: If runs of different data stand in it.
    """
    same_data(list(evidences))
    loaded: dict[str, DataSplits | str] = {}
    first = evidences[0]
    data = str(first.data.get("name", "unknown data"))
    if len(evidences) == 1:
        title = f"{data}: {first.name}"
        there = {"search": first.search is not None, "besides": any(name in first.result for name in EXTRA_METRICS)}
        parts = [part for part in _PARTS if there.get(part[0], True)]
        body = join(_links(parts), tag("main", _run(first, loaded, "")))
    else:
        title = f"{data}: {len(evidences)} runs"
        names = _names(evidences)
        folded = [_folded(name, one, loaded, i) for i, (name, one) in enumerate(zip(names, evidences, strict=True))]
        links = (("runs", "Runs"), ("cost", "Cost"), *((f"run-{i}", name) for i, name in enumerate(names)))
        body = join(_links(links), tag("main", several_section(evidences, names), folded))
    return page_document(title, data, body)


def _run(evidence: RunData, loaded: dict[str, DataSplits | str], prefix: str) -> Markup:
    judged = evidence.judged
    classes = class_rows(evidence, ALONE, judged) if judged else []
    return join(
        top_section(evidence, classes, prefix=prefix),
        arms_section(evidence, prefix=prefix),
        cost_section(evidence, prefix=prefix),
        fidelity_section(evidence, prefix=prefix),
        classes_section(evidence, classes, prefix=prefix),
        besides_section(evidence, prefix=prefix),
        training_section(evidence, prefix=prefix),
        search_section(evidence, prefix=prefix),
        examples_section(evidence, ExampleView(evidence, loaded), prefix=prefix),
        protocol_section(evidence, prefix=prefix),
        unknown_section(evidence, prefix=prefix),
        next_section(evidence, prefix=prefix),
    )


def _folded(name: str, evidence: RunData, loaded: dict[str, DataSplits | str], number: int) -> Markup:
    """A run among several: all that its own page would show, folded away."""
    return tag(
        "details", tag("summary", tag("h2", name), tag("span", str(evidence.folder))),
        _run(evidence, loaded, f"run-{number}-"), id=f"run-{number}", class_="run",
    )  # fmt: skip


def _names(evidences: Sequence[RunData]) -> list[str]:
    """The folders' names; whole paths where two are called the same."""
    names = [evidence.name for evidence in evidences]
    return [name if names.count(name) == 1 else str(one.folder) for name, one in zip(names, evidences, strict=True)]


def _links(parts: Sequence[tuple[str, str]]) -> Markup:
    links = (tag("li", tag("a", name, href=f"#{identity}")) for identity, name in parts)
    return tag("nav", tag("ul", links), aria_label="Sections of this page")


def page_document(title: str, data: str, body: Markup) -> str:
    """A whole page around `body`: it fetches nothing and runs nothing."""
    style = Markup(files("limbeck.report").joinpath("page.css").read_text(encoding="utf-8"))
    head = tag(
        "head", tag("meta", charset="utf-8"), tag("meta", name="generator", content=_MADE_BY),
        tag("meta", name="viewport", content="width=device-width, initial-scale=1"),
        tag("meta", name="color-scheme", content="light dark"),
        # No request at all: a browser otherwise asks for an icon.
        tag("link", rel="icon", href="data:,"), tag("title", f"Distillation report, {title}"), tag("style", style),
    )  # fmt: skip
    heading = tag("header", tag("p", "Distillation report"), tag("h1", title))
    foot = tag("footer", tag("p", "Made by limbeck. This page fetches nothing and runs nothing."))
    skip = tag("a", "Skip to the verdict", href="#verdict", class_="skip")
    return f"<!doctype html>\n{tag('html', head, tag('body', skip, heading, body, foot), lang='en')}\n"
