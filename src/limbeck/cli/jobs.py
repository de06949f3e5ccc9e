"""`limbeck demo`, `distill`, `compare` and `resume`."""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from shlex import quote
from typing import TYPE_CHECKING, Any

from limbeck.cli.progress import ProgressCallback, print_message
from limbeck.errors import LimbeckError

if TYPE_CHECKING:
    from rich.console import Console
    from rich.text import Text

    from limbeck.job import Job


def run_demo(out: str | None, *, as_json: bool, seeds: int) -> None:
    """The demo: the story, the runs, the table, the verdict."""
    from limbeck.demo import STORY, demo_job

    print_message(f"limbeck demo\n\n{STORY}\n", to_error=as_json)
    folder = out or free_folder("runs/demo")
    from limbeck.job import make_job

    run_distill(make_job(demo_job(folder, seeds=seeds)), as_json=as_json)


def job_from_flags(path: str | None, flags: Mapping[str, Any], settings: Sequence[str]) -> Job:
    """The job in a file, changed by flags, changed by settings."""
    from limbeck.job import make_job

    return make_job(requested_job(path, flags, settings))


def requested_job(path: str | None, flags: Mapping[str, Any], settings: Sequence[str]) -> dict[str, Any]:
    """The same, not looked at yet."""
    from limbeck.job import read_job, with_settings

    found: dict[str, Any] = dict(read_job(path)) if path is not None else {}
    if flags.get("methods"):
        found["methods"] = [_as_set(found, name) for name in flags["methods"]]
        found.pop("method", None)
    for key, value in ((key, value) for key, value in flags.items() if key != "methods"):
        if value is not None:
            found[key] = _named(found.get(key), key, value)
    found = with_settings(found, settings)
    found.setdefault("out", None)
    return found


def named_methods(flags: Mapping[str, Any]) -> list[str]:
    """The names in ``--methods``.

    Raises:
        LimbeckError: If it is there and holds none.
    """
    given = flags.get("methods")
    named = [name.strip() for name in (given or "").split(",") if name.strip()]
    if given is not None and not named:
        raise LimbeckError("--methods holds no name: type them with commas between, --methods hinton,logit_matching.")
    return named


def check_methods(job: Job) -> None:
    """Refuse to pay twice for the same method.

    Raises:
        LimbeckError: If two of a job's methods are the same to the last setting.
    """
    for place, one in enumerate(job.methods):
        if one in job.methods[:place]:
            raise LimbeckError(
                f"The method {one.name} stands twice with the same settings, and both would come to the same numbers: "
                "name it once, or give one of them other settings in a job file."
            )


def print_job_file(job: Job) -> None:
    """The job file on standard output."""
    from limbeck.job import job_text

    sys.stdout.write(job_text(job))


def run_distill(job: Job, *, as_json: bool, stem: str | None = None) -> None:
    """Run a job into its folder; without one, into the first free one under ``runs/``, called after its method."""
    called = stem or job.method.name.rpartition(":")[2]
    given = job if job.out is not None else job.model_copy(update={"out": free_folder(f"runs/{called}")})
    _run(given, as_json=as_json, resume=False)


def run_resume(run: str, settings: Sequence[str] = (), *, as_json: bool) -> None:
    """Take up a job's folder, with `settings` changed, or show its result if it is finished."""
    from limbeck.job import make_job, read_run_job, with_settings

    folder = Path(run)
    if not folder.is_dir():
        raise LimbeckError(f"There is no run at {run!r}.")
    if not (folder / "job.yaml").is_file():
        raise LimbeckError(f"{run} holds no job.yaml to go on from; {_what_else(folder)}.")
    if (folder / "result.json").is_file() and not settings:
        found = _again(folder)
        print_message(f"{run} is finished; this is what came of it.", to_error=True)
        _show(found, as_json=as_json)
        return
    asked = with_settings(dict(read_run_job(folder)), settings)
    if any(one.partition("=")[0].strip() == "out" for one in settings):
        raise LimbeckError(f"A run stays in its folder: move {run} itself, and type its new place.")
    _run(make_job({**asked, "out": run}), as_json=as_json, resume=True, change=bool(settings))


def _again(folder: Path) -> dict[str, Any]:
    """What a finished run came to, wherever its folder lies now; its page is made again if it is not there."""
    from limbeck.job import suggestions_of
    from limbeck.job.result import read_result
    from limbeck.report import write_report

    found = read_result(folder)
    if not (folder / "report.html").is_file():  # killed between the result and its page
        write_report([folder])
    if isinstance(found.get("verdict"), dict):
        found["verdict"]["advice"] = suggestions_of(found, folder)
    if isinstance(found.get("shipped"), dict):
        found["shipped"]["path"] = str(folder / "student")
    return {**found, "run": str(folder), "report": str(folder / "report.html")}


def _what_else(folder: Path) -> str:
    """What a folder without a job is, and what to type then."""
    if (folder / "search.json").is_file():
        return f"it is a search's: `limbeck tune JOB --out {quote(str(folder))}`, typed as before, goes on"
    from limbeck.job.result import is_run

    whole = next((one for one in folder.resolve().parents if is_run(one)), None)
    if whole is not None:
        return f"it is a part of the run {whole}: type `limbeck resume {quote(str(whole))}`"
    if (folder / "reproduction.json").is_file():
        return f"it is a paper's: `limbeck reproduce PAPER --out {quote(str(folder))}`, typed as before, goes on"
    if (folder / "run.json").is_file():
        return "it was made in Python: run the same script with distill(..., resume=True)"
    return "it is not a run's folder"


def _run(job: Job, *, as_json: bool, resume: bool, change: bool = False) -> None:
    try:
        with ProgressCallback(to_error=as_json) as callback:
            from limbeck.compare import run_job

            result = run_job(job, callback=callback, resume=resume, change=change)
    except KeyboardInterrupt:
        # Said here: typer turns Ctrl-C into a silent exit.
        print(_left_behind(job), file=sys.stderr)
        sys.exit(130)
    except LimbeckError as error:
        raise LimbeckError(f"{error}{_way_on(job)}") from error
    from limbeck.compare import is_rank_zero

    if is_rank_zero(job):
        _show(result, as_json=as_json)


def _way_on(job: Job) -> str:
    """What is said behind an error of a job that has left something which could be kept."""
    out = Path(job.out or "")
    if not (out / "teacher").is_dir() or not (out / "job.yaml").is_file() or (out / "result.json").is_file():
        return ""
    return f" What is done is kept: `limbeck resume {quote(str(out))} --set KEY=VALUE` goes on with a setting changed."


def _left_behind(job: Job) -> str:
    out = Path(job.out or "")
    if not (out / "job.yaml").is_file():
        return "Interrupted before anything was written; the same command begins again."
    begun = not job.methods and (out / "arms" / "distilled" / "seed-0").is_dir()
    what = "holds the student so far" if begun else "holds an untrained student: its turn had not come"
    return f"Interrupted. {out / 'student'} {what}; `limbeck resume {quote(str(out))}{_trust(job)}` goes on."


def _trust(job: Job) -> str:
    """What is typed behind `resume` where a job names files of a person's own."""
    from limbeck.cli.options import TRUST

    return f" {TRUST}" if job.names_files else ""


def _show(result: Mapping[str, Any], *, as_json: bool) -> None:
    if as_json:
        print(json.dumps(result, allow_nan=False))
        return
    from limbeck.cli.terminal import make_console
    from limbeck.job import ALSO, recommend, suggestions_of
    from limbeck.report import arms_tables, over_seeds

    console = make_console()
    if not console.is_terminal:
        console.width = 120  # a file or a pipe has no edge at which to break a line
    console.print()
    console.print(*arms_tables(result, console), sep="\n\n")
    console.print(over_seeds(result), highlight=False)
    verdict = result["verdict"]
    console.print(_said(verdict) or "This result holds no verdict.", style="bold", highlight=False)
    besides = [result[name] for name in ALSO if isinstance(result.get(name), dict)]
    for said in filter(None, map(_said, [*verdict.get("against", {}).values(), *besides])):
        console.print(said, highlight=False, markup=False)  # a group may be called [b]
    console.print(recommend(result).sentence, highlight=False, markup=False)
    _show_suggestions(suggestions_of(result, Path(result["run"])), console)
    # Paths are to be copied, so no line is broken in them, and a bracket in one is no markup.
    seconds = result.get("seconds")
    took = f"{seconds:.0f} s. " if isinstance(seconds, (int, float)) else ""
    print(f"\n{took}Everything is in {result['run']}; the whole story is a page for a browser:")
    print(f"    {Path(result['run']) / 'report.html'}\nThe student opens with", flush=True)
    print("\n".join(opening_lines(Path(result["run"]))))


def _show_suggestions(found: Sequence[Mapping[str, str | None]], console: Console) -> None:
    """Why, and what to type next; a command is to be copied, so no line is broken in it."""
    if found:
        console.print("\nWhy that may be, and what to try:", style="bold", highlight=False)
    for one in found:
        console.print(f"- {one['why']} {one['evidence']}", highlight=False, markup=False)
        if one["type"] is not None:
            print(f"    {one['type']}")


def _said(verdict: Mapping[str, Any]) -> Text | None:
    """A verdict's sentence; a bracket in a name is no markup."""
    from rich.text import Text

    return Text(verdict["sentence"]) if isinstance(verdict.get("sentence"), str) else None


def opening_lines(run: Path) -> list[str]:
    """What to type in Python to open a run's student, in lines that a terminal of 80 columns does not cut."""
    from limbeck.job import opening_code, read_job, within_width

    student = read_job(run / "job.yaml").get("student")
    model = {"model": student} if isinstance(student, str) else student or {}
    return within_width(opening_code(run / "student", _here(model), shown=str(run / "student"), place=run))


def _here(model: Mapping[str, Any]) -> dict[str, Any]:
    """A model whose file is named from the working folder, where it lies in there."""
    from limbeck.job import shared_path
    from limbeck.models import UserFile

    own = UserFile.parse(str(model.get("model")))
    return {**model, "model": f"{shared_path(own.file)}:{own.function}"} if own is not None else dict(model)


def _as_set(found: Mapping[str, Any], name: str) -> Any:
    """A method with what a job file sets in it already."""
    for one in [found.get("method"), *(found.get("methods") or ())]:
        if isinstance(one, Mapping) and one.get("name", "hinton") == name:
            return dict(one)
    return name


def _named(before: Any, key: str, value: Any) -> Any:
    """A flag replaces a name in the job file together with the arguments that belonged to it."""
    if isinstance(before, Mapping) and key == "teacher":
        kept = {k: before[k] for k in ("members", "mean", "train", "check") if k in before}
        return {**kept, "model": value}
    return value


def free_folder(stem: str) -> str:
    """The first of ``stem``, ``stem-2``, ``stem-3``, ... that is not taken."""
    number, path = 1, Path(stem)
    while path.exists() and not (path.is_dir() and not any(path.iterdir())):
        number += 1
        path = Path(f"{stem}-{number}")
    return str(path)


_SEEDS = 5

"""Of a comparison whose job says nothing of seeds: an interval needs several, and five find a gain of one point."""


def run_compare(path: str | None, flags: Mapping[str, Any], settings: Sequence[str], *, as_json: bool) -> None:
    """Run every method, every control and every seed; leave a page."""
    run_distill(comparison(path, flags, settings), as_json=as_json, stem="compare")


def comparison(path: str | None, flags: Mapping[str, Any], settings: Sequence[str]) -> Job:
    """The job of a comparison: all arms but those that a file leaves out, five seeds unless it says how many."""
    from limbeck.consent import may_run
    from limbeck.job import ARMS, make_job
    from limbeck.methods import method
    from limbeck.models import UserFile

    found = requested_job(path, {**flags, "methods": named_methods(flags)}, settings)
    found.setdefault("seeds", _SEEDS)
    job = make_job(found)
    check_methods(job)
    if "arms" in found:
        return job
    # A job that is only printed may name a file that nobody wants run.
    own = UserFile.parse(job.method.name)
    taught = (own is not None and not may_run(own.file)) or method(job.method.name).has_teacher
    return make_job({**found, "arms": [arm for arm in ARMS if taught or arm != "shuffled teacher"]})
