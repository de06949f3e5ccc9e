"""`limbeck doctor`."""

from __future__ import annotations

import json
import sys
import textwrap
import time
import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from limbeck.atomic_io import make_folder, write_text
from limbeck.cli.terminal import print_message
from limbeck.errors import ArgumentError

if TYPE_CHECKING:
    from limbeck.doctor import Finding
    from limbeck.job import Job

_STYLES = {"ok": "green", "look": "yellow", "crash": "magenta", "wrong": "bold red"}
_KEYS = ("name", "state", "value", "sentence")


def run_doctor(
    path: str | None, flags: Mapping[str, Any], settings: Sequence[str], *, as_json: bool, out: str | None = None
) -> None:
    """Run all checks of a job and print one line each; exit with code 1 if anything is wrong, 3 if a check crashed.

    Raises:
        ArgumentError: If `out` ends neither in .json nor in .md.
    """
    from limbeck.compare import checkup
    from limbeck.compare.run_storage import to_json_safe

    file = None if out is None else Path(out)
    if file is not None and file.suffix not in (".json", ".md"):
        raise ArgumentError(
            f"--out of limbeck doctor is a file: findings.json or findings.md; got {out}.", argument="out"
        )
    job = _job(path, flags, settings)
    start, findings = time.perf_counter(), list[Any]()
    show = _finding_printer()
    with warnings.catch_warnings():
        # Warnings of libraries about the trial steps would confuse; limbeck's own warnings are findings.
        warnings.simplefilter("ignore")
        for finding in checkup(job):
            findings.append(finding)
            if not as_json:
                show(finding)
    states = {finding.state for finding in findings}
    # A crashed check says nothing about the job, so without it the answer is unknown.
    ok = False if "wrong" in states else None if "crash" in states else True
    checks = [{key: to_json_safe(getattr(finding, key)) for key in _KEYS} for finding in findings]
    whole = json.dumps({"checks": checks, "ok": ok}, allow_nan=False)
    if file is not None:
        make_folder(file.absolute().parent)
        write_text(f"{whole}\n" if file.suffix == ".json" else _render_markdown(findings), file)
    if as_json:
        print(whole)
    else:
        _print_summary(findings, time.perf_counter() - start)
    if not ok:
        sys.exit(1 if ok is False else 3)


def _render_markdown(findings: Sequence[Finding]) -> str:
    """The findings as a table, with their details below."""
    rows = [
        f"| {finding.state} | {finding.name} | {finding.text or '-'} | {_one_line(finding.sentence)} |"
        for finding in findings
    ]
    details = [
        f"\n## {finding.name}\n\n```\n" + "\n".join(finding.details) + "\n```"
        for finding in findings
        if finding.details
    ]
    head = ["# Checks of a job", "", "| state | check | value | |", "|---|---|---|---|"]
    return "\n".join([*head, *rows, *details]) + "\n"


def _one_line(text: str) -> str:
    return " ".join(text.split()).replace("|", "\\|")


def _job(path: str | None, flags: Mapping[str, Any], settings: Sequence[str]) -> Job:
    """Make the job as `distill` does or, for several methods, as `compare` does."""
    from limbeck.cli.comparison import comparison
    from limbeck.cli.jobs import job_from_flags
    from limbeck.job import read_job

    several = flags.get("methods") or (path is not None and read_job(path).get("methods"))
    if several:
        return comparison(path, flags, settings)
    return job_from_flags(path, {key: value for key, value in flags.items() if key != "methods"}, settings)


def _finding_printer() -> Any:
    """Return a function that prints one finding: state, name, number and sentence."""
    from rich.text import Text

    from limbeck.cli.terminal import make_console

    console = make_console()
    width = console.width if console.is_terminal else 120

    def show(finding: Finding) -> None:
        head = Text(f"{finding.state:<6}", style=_STYLES[finding.state]).append(
            f"{finding.name:<20}{finding.text:>16}  ", style="default"
        )
        room = width - len(head)
        if room < 40:  # narrow terminal: print the sentence on lines of its own
            console.print(head, soft_wrap=True)
            print(textwrap.indent(textwrap.fill(finding.sentence, max(width - 6, 20)), " " * 6))
            _show_details(finding, width)
            return
        first, *rest = textwrap.wrap(finding.sentence, room, break_on_hyphens=False) or [""]
        console.print(head.append(first), soft_wrap=True, highlight=False)
        for more in rest:
            print(" " * (width - room) + more)
        _show_details(finding, width)

    return show


def _show_details(finding: Finding, width: int) -> None:
    for line in finding.details:
        indent = " " * (6 + len(line) - len(line.lstrip()))
        print(
            textwrap.fill(
                line.lstrip(), max(width, 40), initial_indent=indent, subsequent_indent=f"{indent}  ",
                break_on_hyphens=False, replace_whitespace=False,
            )
        )  # fmt: skip


def _print_summary(findings: Sequence[Finding], seconds: float) -> None:
    counts = {state: sum(finding.state == state for finding in findings) for state in _STYLES}
    summary = ", ".join(f"{count} {state}" for state, count in counts.items() if count)
    advice = "Fix what is wrong before training." if counts["wrong"] else "The job is ready to run."
    if counts["crash"]:
        advice += " A check crashed, which says nothing about the job; please report it."
    print_message(f"\n{summary}, in {seconds:.0f} s. {advice}", to_error=False)
