"""`limbeck doctor`."""

from __future__ import annotations

import json
import sys
import textwrap
import time
import warnings
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from limbeck.cli.progress import print_message

if TYPE_CHECKING:
    from limbeck.doctor import Finding
    from limbeck.job import Job

_STYLES = {"ok": "green", "look": "yellow", "wrong": "bold red"}
_KEYS = ("name", "state", "value", "sentence")


def run_doctor(path: str | None, flags: Mapping[str, Any], settings: Sequence[str], *, as_json: bool) -> None:
    """Look at a job, line by line; exit code 1 if anything is wrong."""
    from limbeck.compare import checkup
    from limbeck.compare.run_storage import to_json_safe

    job = _job(path, flags, settings)
    began, found = time.perf_counter(), list[Any]()
    line = _line()
    with warnings.catch_warnings():
        # What a library has to say of a step that is thrown away; limbeck's own notes have their line.
        warnings.simplefilter("ignore")
        for one in checkup(job):
            found.append(one)
            if not as_json:
                line(one)
    fine = all(one.state != "wrong" for one in found)
    if as_json:
        checks = [{key: to_json_safe(getattr(one, key)) for key in _KEYS} for one in found]
        print(json.dumps({"checks": checks, "ok": fine}, allow_nan=False))
    else:
        _say_in_all(found, time.perf_counter() - began)
    if not fine:
        sys.exit(1)


def _job(path: str | None, flags: Mapping[str, Any], settings: Sequence[str]) -> Job:
    """The job of `distill`; of several methods that of `compare`, with its arms and seeds."""
    from limbeck.cli.jobs import comparison, job_from_flags
    from limbeck.job import read_job

    several = flags.get("methods") or (path is not None and read_job(path).get("methods"))
    if several:
        return comparison(path, flags, settings)
    return job_from_flags(path, {key: value for key, value in flags.items() if key != "methods"}, settings)


def _line() -> Any:
    """A way to show one finding: state, name, number, and the sentence beside or below."""
    from rich.text import Text

    from limbeck.cli.terminal import make_console

    console = make_console()
    width = console.width if console.is_terminal else 120

    def show(one: Finding) -> None:
        head = Text(f"{one.state:<6}", style=_STYLES[one.state]).append(
            f"{one.name:<20}{one.shown:>16}  ", style="default"
        )
        room = width - len(head)
        if room < 40:  # a narrow terminal: the sentence has lines of its own
            console.print(head, soft_wrap=True)
            print(textwrap.indent(textwrap.fill(one.sentence, max(width - 6, 20)), " " * 6))
            _show_details(one)
            return
        first, *rest = textwrap.wrap(one.sentence, room, break_on_hyphens=False) or [""]
        console.print(head.append(first), soft_wrap=True, highlight=False)
        for more in rest:
            print(" " * (width - room) + more)
        _show_details(one)

    return show


def _show_details(one: Finding) -> None:
    for line in one.details:
        print(" " * 6 + line)


def _say_in_all(found: Sequence[Finding], seconds: float) -> None:
    counts = {state: sum(one.state == state for one in found) for state in _STYLES}
    said = ", ".join(f"{count} {state}" for state, count in counts.items() if count)
    then = "Mend what is wrong before you pay for it." if counts["wrong"] else "Nothing is in the way of this job."
    print_message(f"\n{said}, in {seconds:.0f} s. {then}", to_error=False)
