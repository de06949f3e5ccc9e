"""`limbeck compare`: several methods, or several students of one teacher."""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from shlex import quote
from typing import TYPE_CHECKING, Any

from limbeck.cli.jobs import check_methods, free_folder, named_methods, requested_job, run_distill, run_resume
from limbeck.cli.terminal import ProgressCallback, print_message
from limbeck.consent import TRUST
from limbeck.errors import LimbeckError, printable
from limbeck.job import RunLayout

if TYPE_CHECKING:
    from limbeck.job import Job


_SEEDS = 5

"""Default number of seeds of a comparison. An interval needs at least two; five detect a gain of one point."""


def run_compare(path: str | None, flags: Mapping[str, Any], settings: Sequence[str], *, as_json: bool) -> None:
    """Run every method and control arm for every seed, and write the report page; for several students a run each."""
    from limbeck.job import expand_students

    request = requested_job(path, {**flags, "methods": named_methods(flags)}, settings)
    several = expand_students(request)
    if several is None:
        run_distill(_comparison(request), as_json=as_json, stem="compare")
        return
    jobs, margin = several
    _compare_students({name: _comparison(one) for name, one in jobs.items()}, margin, as_json=as_json)


def resume_comparison(run: str, settings: Sequence[str] = (), *, as_json: bool) -> None:
    """Continue a comparison of several students, or any other run; see `limbeck.cli.jobs.run_resume`."""
    from limbeck.compare.students import read_students
    from limbeck.job import make_job, with_settings

    students = None if RunLayout(Path(run)).job.is_file() else read_students(run)
    if students is None:
        run_resume(run, settings, as_json=as_json)
        return
    keys = [setting.partition("=")[0].strip().partition(".")[0] for setting in settings]
    if "student" in keys:
        raise LimbeckError(
            f"The runs in {run} differ in their students. For more of them, repeat `limbeck compare JOB --shrink ... "
            f"--out {quote(run)}`: what is finished is kept."
        )
    if "out" in keys:
        raise LimbeckError(f"A resumed run stays in its folder. Move the folder {run} and type its new path.")
    jobs = {name: make_job({**with_settings(values, settings), "out": run}) for name, values in students[0].items()}
    _compare_students(jobs, students[1], change=bool(settings), as_json=as_json)


def comparison(path: str | None, flags: Mapping[str, Any], settings: Sequence[str]) -> Job:
    """Make the job of a comparison: all arms unless the job file lists them, and five seeds unless it sets a number.

    A method without a teacher, or one whose texts a model writes, has no shuffled teacher.
    """
    return _comparison(requested_job(path, {**flags, "methods": named_methods(flags)}, settings))


def _comparison(request: dict[str, Any]) -> Job:
    from limbeck.compare.arm_recipes import TEXTS
    from limbeck.compare.prompt_texts import compares_written_texts
    from limbeck.consent import may_run
    from limbeck.job import ARMS, ROUNDED, make_job
    from limbeck.methods import method
    from limbeck.models import UserFile

    request.setdefault("seeds", _SEEDS)
    job = make_job(request)
    check_methods(job)
    if "arms" in request:
        return job
    # `--print-job` must not run the Python file of a method, so that file counts as a method with a teacher.
    own = UserFile.parse(job.method.name)
    is_unknown = own is not None and not may_run(own.file)
    shuffled = is_unknown or (method(job.method.name).has_teacher and not job.method.written_share)
    left_out = {"shuffled teacher"} if not shuffled else set()
    left_out |= {ROUNDED} if job.student.quantize is None else set()
    left_out |= set() if compares_written_texts(job) else {TEXTS}
    return make_job({**request, "arms": [arm for arm in ARMS if arm not in left_out]})


def _compare_students(jobs: Mapping[str, Job], margin: float, *, as_json: bool, change: bool = False) -> None:
    """Run a job for each student, print a table, and say which student to ship."""
    first = next(iter(jobs.values()))
    out = first.out or free_folder("runs/students")
    again = f"limbeck resume {quote(out)}{f' {TRUST}' if first.names_files else ''}"
    try:
        with ProgressCallback(to_error=as_json) as callback:
            from limbeck.compare import run_students

            result = run_students(jobs, out, margin=margin, change=change, callback=callback)
    except KeyboardInterrupt:
        begun = any(RunLayout(Path(out) / name).job.is_file() for name in jobs)
        then = f"To continue: `{again}`." if begun else "Run the same command to start again."
        print(f"Interrupted. {then}", file=sys.stderr)
        sys.exit(130)
    except LimbeckError as error:
        if change or not any(RunLayout(Path(out) / name).teacher.is_dir() for name in jobs):
            raise
        raise LimbeckError(
            f"{error} Finished work is saved: `{again}` continues, and with --set KEY=VALUE with a changed setting."
        ) from error
    if as_json:
        print(json.dumps(result, allow_nan=False))
    else:
        _show(result)


def _show(result: Mapping[str, Any]) -> None:
    from rich.table import Table

    from limbeck.cli.terminal import make_console
    from limbeck.job import export_options
    from limbeck.job.result import read_result, read_task

    score = read_task(read_result(Path(result["run"]) / result["students"][0]["name"])).primary
    table = Table(box=None, pad_edge=False, header_style="bold")
    for name in ("student", "of the teacher's\nparameters", "parameters", f"development\n{score.title}",
                 f"test\n{score.title}", "ms per\nexample", "arm"):  # fmt: skip
        table.add_column(name, justify="left" if name in ("student", "arm") else "right")
    for row in result["students"]:
        table.add_row(
            printable(row["name"]), f"{100 * row['size']:.3g} %", f"{row['parameters']:,}",
            *("-" if row[part] is None else score.format(row[part]) for part in ("development", "test")),
            f"{row['milliseconds']:.3g}",
            printable(row["arm"]),
        )  # fmt: skip
    console = make_console()
    if not console.is_terminal:
        console.width = 120
    console.print()
    console.print(table)
    print_message(f"\n{result['sentence']}", to_error=False)
    print(f"\nOpen the report in a browser:\n    {result['report']}")
    if result["ship"] is not None:
        run = Path(result["run"]) / result["ship"]
        options = export_options(run / "student", run)
        print(f"The student is in {run / 'student'}. To export it:\n    limbeck export {quote(str(run))} {options}")
