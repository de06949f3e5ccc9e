"""`limbeck demo`, `distill`, `compare` and `resume`."""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from shlex import quote
from typing import TYPE_CHECKING, Any

from limbeck.cli.terminal import ProgressCallback, print_message
from limbeck.consent import TRUST
from limbeck.errors import LimbeckError, ServerError, printable
from limbeck.job import RunLayout
from limbeck.job.several_teachers import is_url
from limbeck.optional_imports import install_command, is_installed

if TYPE_CHECKING:
    from rich.console import Console
    from rich.text import Text

    from limbeck.job import Job


def run_demo(out: str | None, *, as_json: bool, seeds: int) -> None:
    """Run the demo: print its description, run its job, and print the table and the verdict."""
    from limbeck.demo import DESCRIPTION, demo_job

    print_message(f"limbeck demo\n\n{DESCRIPTION}\n", to_error=as_json)
    folder = out or free_folder("runs/demo")
    from limbeck.job import make_job

    run_distill(make_job(demo_job(folder, seeds=seeds)), as_json=as_json)


def job_from_flags(path: str | None, flags: Mapping[str, Any], settings: Sequence[str]) -> Job:
    """Make a job from a file, with flags and then settings applied."""
    from limbeck.job import make_job

    return make_job(requested_job(path, flags, settings))


def requested_job(path: str | None, flags: Mapping[str, Any], settings: Sequence[str]) -> dict[str, Any]:
    """Return the same job as a dictionary that is not validated yet."""
    from limbeck.job import read_job, read_shrink_flag, with_settings

    job: dict[str, Any] = dict(read_job(path)) if path is not None else {}
    flags = dict(flags)
    if (smaller := flags.pop("shrink", None)) is not None:
        if flags.get("student") is not None:
            raise LimbeckError(f"--shrink {smaller} makes the student of the teacher: leave out --student.")
        flags["student"] = read_shrink_flag(smaller)
    if flags.get("methods"):
        job["methods"] = [_method_settings(job, name) for name in flags["methods"]]
        job.pop("method", None)
    for key, value in ((key, value) for key, value in flags.items() if key != "methods"):
        if value is not None:
            job[key] = _replace_named(job.get(key), key, value)
    job = with_settings(job, settings)
    job.setdefault("out", None)
    return job


def named_methods(flags: Mapping[str, Any]) -> list[str]:
    """Split the value of ``--methods`` into names.

    Raises:
        LimbeckError: If the option is given without a name.
    """
    option = flags.get("methods")
    names = [name.strip() for name in (option or "").split(",") if name.strip()]
    if option is not None and not names:
        raise LimbeckError("--methods needs names separated by commas, as in --methods hinton,logit_matching.")
    return names


def check_methods(job: Job) -> None:
    """Refuse a job that would run the same method twice.

    Raises:
        LimbeckError: If two methods have the same name and settings.
    """
    for index, method in enumerate(job.methods):
        if method in job.methods[:index]:
            raise LimbeckError(
                f"The method {method.name} is listed twice with the same settings, which would give the same numbers. "
                "List it once, or give one of them other settings in a job file."
            )


def print_job_file(job: Job) -> None:
    """Print the job file to standard output."""
    from limbeck.job import job_text

    sys.stdout.write(job_text(job))


def run_distill(job: Job, *, as_json: bool, stem: str | None = None) -> None:
    """Run a job in its folder, or else in the first free folder under ``runs/`` with the name of its method."""
    name = stem or job.method.name.rpartition(":")[2]
    job = job if job.out is not None else job.model_copy(update={"out": free_folder(f"runs/{name}")})
    _run(job, as_json=as_json, resume=False)


def run_resume(run: str, settings: Sequence[str] = (), *, as_json: bool) -> None:
    """Continue the run in a folder, with `settings` changed, or show its result if it is finished."""
    from limbeck.job import make_job, read_run_job, with_settings

    folder = Path(run)
    if not folder.is_dir():
        raise LimbeckError(f"There is no run at {run!r}.")
    if not RunLayout(folder).job.is_file():
        raise LimbeckError(f"{run} contains no job.yaml to resume from; {_describe_folder(folder)}.")
    if RunLayout(folder).result.is_file() and not settings:
        result = _read_finished(folder)
        try:
            read_run_job(folder)
        except LimbeckError as error:
            print_message(f"Note: {error}", to_error=True)
        print_message(f"{run} is finished. Its result:", to_error=True)
        _show(result, as_json=as_json)
        return
    changed = with_settings(dict(read_run_job(folder)), settings)
    if any(setting.partition("=")[0].strip() == "out" for setting in settings):
        raise LimbeckError(f"A resumed run stays in its folder. Move the folder {run} and type its new path.")
    before = _student_hash(folder)
    _run(make_job({**changed, "out": run}), as_json=as_json, resume=True, change=bool(settings))
    if settings and before not in (None, _student_hash(folder)):
        _note_stale_exports(folder)


def _student_hash(run: Path) -> str | None:
    """The hash of the weights that the run recommends; None if there are none yet."""
    from limbeck.models import is_student_folder, read_config

    return str(read_config(RunLayout(run).student)["sha256"]) if is_student_folder(RunLayout(run).student) else None


def _note_stale_exports(run: Path) -> None:
    """Say which exports were made from the student before the change."""
    exports = sorted(path for path in (run / "export").glob("*") if path.is_dir() and not path.name.startswith("."))
    if exports:
        old = ", ".join(map(str, exports))
        print_message(
            f"Note: exported before this change, so not from the present student: {old}. Delete what you want to "
            "replace, and repeat `limbeck export`.",
            to_error=True,
        )


def _read_finished(folder: Path) -> dict[str, Any]:
    """Read the result of a finished run with its current paths; write the report page if it is missing."""
    from limbeck.job import read_suggestions
    from limbeck.job.result import read_result
    from limbeck.report import write_report

    result = read_result(folder)
    if not RunLayout(folder).report.is_file():  # the run was killed between writing the result and the page
        write_report([folder])
    if isinstance(result.get("verdict"), dict):
        result["verdict"]["advice"] = read_suggestions(result, folder)
    if isinstance(result.get("shipped"), dict):
        result["shipped"]["path"] = str(RunLayout(folder).student)
    return {**result, "run": str(folder), "report": str(RunLayout(folder).report)}


def _describe_folder(folder: Path) -> str:
    """Say what kind of folder this is, if it is no run of a job, and what to type."""
    if RunLayout(folder).search.is_file():
        return (
            f"it is a search: to continue, repeat `limbeck tune JOB --out {quote(str(folder))}` with the same options"
        )
    from limbeck.job import trust_option
    from limbeck.job.result import is_run

    run = next((parent for parent in folder.resolve().parents if is_run(parent)), None)
    if run is not None:
        return f"it is a part of the run {run}: type `limbeck resume {quote(str(run))}{trust_option(run)}`"
    if (folder / "students.json").is_file():
        again = f"limbeck compare JOB --out {quote(str(folder))}"
        return f"it holds a comparison of several students from an earlier version: to continue, repeat `{again}`"
    if (folder / "reproduction.json").is_file():
        return f"it holds experiments of a paper: to continue, repeat `limbeck papers PAPER --out {quote(str(folder))}`"
    if (folder / "run.json").is_file():
        return "it was written by a Python script: run the script again with distill(..., resume=True)"
    return "it is not the folder of a run"


def _run(job: Job, *, as_json: bool, resume: bool, change: bool = False) -> None:
    try:
        with ProgressCallback(to_error=as_json) as callback:
            from limbeck.compare import run_job

            result = run_job(job, callback=callback, resume=resume, change=change)
    except KeyboardInterrupt:
        # Printed here because typer turns Ctrl-C into a silent exit.
        print(_interrupted_message(job), file=sys.stderr)
        sys.exit(130)
    except LimbeckError as error:
        raise LimbeckError(f"{error}{_resume_hint(job, error)}") from error
    from limbeck.compare import is_rank_zero

    if is_rank_zero(job):
        _show(result, as_json=as_json)


def _resume_hint(job: Job, error: LimbeckError) -> str:
    """Return the sentence to add to the error of a run whose finished work can be reused."""
    out = Path(job.out or "")
    if not RunLayout(out).teacher.is_dir() or not RunLayout(out).job.is_file() or RunLayout(out).result.is_file():
        return ""
    again = f"limbeck resume {quote(str(out))}{_trust_flag(job)}"
    # Only what failed outside of the job may work the next time without a change.
    same = f"`{again}` continues, and " if isinstance(error, ServerError) else ""
    return f" Finished work is saved: {same}`{again} --set KEY=VALUE` continues with a changed setting."


def _interrupted_message(job: Job) -> str:
    out = Path(job.out or "")
    if not RunLayout(out).job.is_file():
        return "Interrupted before anything was written. Run the same command to start again."
    has_weights = not job.methods and RunLayout(out).seed("distilled", 0).is_dir()
    what = "the student trained so far" if has_weights else "an untrained student; its training had not started"
    return (
        f"Interrupted. {out / 'student'} contains {what}. {_lost_training(out)}"
        f"To continue: `limbeck resume {quote(str(out))}{_trust_flag(job)}`."
    )


def _lost_training(out: Path) -> str:
    """Return a sentence about the runs of arms that start again because they have no checkpoint."""
    arms = RunLayout(out).arms
    begun = sorted(path.parent for path in arms.glob("*/*/run.json"))
    lost = [str(run.relative_to(arms)) for run in begun if not (run / "checkpoint.safetensors").is_file()]
    return f"Without a checkpoint so far, and therefore trained from the start: {', '.join(lost)}. " if lost else ""


def _trust_flag(job: Job) -> str:
    """Return ` --trust` if the job names Python files, which `resume` runs only with that option."""
    return f" {TRUST}" if job.names_files else ""


def _show(result: Mapping[str, Any], *, as_json: bool) -> None:
    if as_json:
        print(json.dumps(result, allow_nan=False))
        return
    if is_installed("rich"):
        _show_table(result)
    else:
        _show_plain_table(result)
    seconds = result.get("seconds")
    took = f"{seconds:.0f} s. " if isinstance(seconds, (int, float)) else ""
    # Plain `print`: rich would wrap paths, which people copy, and read brackets in them as markup.
    print(f"\n{took}All files are in {result['run']}. Open the report in a browser:")
    print(f"    {Path(result['run']) / 'report.html'}\nLoad the student in Python:", flush=True)
    print("\n".join(opening_lines(Path(result["run"]))))


def _show_plain_table(result: Mapping[str, Any]) -> None:
    """Print accuracies and the verdict where rich is not installed."""
    from limbeck.job import recommend

    width = max(map(len, result["arms"]))
    print()
    for name, arm in result["arms"].items():
        accuracy = arm["accuracy"]
        spread = f" ± {100 * accuracy['std']:.2f}" if len(accuracy["values"]) > 1 else ""
        print(printable(f"{name:<{width}}  {100 * accuracy['mean']:.2f}{spread} %, {arm['parameters']:,} parameters"))
    print(printable(f"\n{result['verdict']['sentence']}\n{recommend(result).sentence}"))
    print(f"For all commands, metrics and progress bars: {install_command('cli')}.")


def _show_table(result: Mapping[str, Any]) -> None:
    from limbeck.cli.terminal import make_console
    from limbeck.job import EXTRA_METRICS, read_suggestions, recommend
    from limbeck.report import arms_tables, table_notes

    console = make_console()
    if not console.is_terminal:
        console.width = 120  # a file or a pipe has no width of its own
    console.print()
    console.print(*arms_tables(result, console), sep="\n\n")
    console.print(table_notes(result), highlight=False)
    verdict = result["verdict"]
    console.print(_sentence(verdict) or "This result has no verdict.", style="bold", highlight=False)
    extra = [result[name] for name in EXTRA_METRICS if isinstance(result.get(name), dict)]
    for text in filter(None, map(_sentence, [*verdict.get("against", {}).values(), *extra])):
        console.print(text, highlight=False, markup=False)  # the name of a group may look like markup, as [b] does
    console.print(recommend(result).sentence, highlight=False, markup=False)
    _show_suggestions(read_suggestions(result, Path(result["run"])), console)


def _show_suggestions(suggestions: Sequence[Mapping[str, str | None]], console: Console) -> None:
    """Print likely reasons and what to try. Commands are not wrapped, because people copy them."""
    from limbeck.job import split_rerun

    if suggestions:
        console.print("\nPossible reasons, and what to try:", style="bold", highlight=False)
    rerun = None
    for item in suggestions:
        console.print(f"- {item['why']} {item['evidence']}", highlight=False, markup=False)
        if item["type"] is not None:
            parts = split_rerun(item["type"])
            rerun = rerun or (parts and parts[0])
            print(f"    {parts[1] if parts else item['type']}")
    if rerun is not None:
        console.print("To run the job again with such a setting, into a new folder NEW:", highlight=False)
        print(f"    {rerun} --set ...")


def _sentence(verdict: Mapping[str, Any]) -> Text | None:
    """Return a verdict's sentence as text in which brackets are not markup."""
    from rich.text import Text

    return Text(verdict["sentence"]) if isinstance(verdict.get("sentence"), str) else None


def opening_lines(run: Path) -> list[str]:
    """Return the Python lines that load a run's student, short enough for a terminal of 80 columns."""
    from limbeck.job import model_to_build, opening_code, read_job, unit_statements, wrap_statements

    model = model_to_build(read_job(RunLayout(run).job))
    student_path = RunLayout(run).student
    opening = opening_code(student_path, _relative_to_here(model), path=str(student_path), place=run)
    return [*wrap_statements(opening), *unit_statements(student_path, path=str(student_path))]


def _relative_to_here(model: Mapping[str, Any]) -> dict[str, Any]:
    """Return the model with the path of its Python file relative to the working folder, if it lies in there."""
    from limbeck.job import shared_path
    from limbeck.models import UserFile

    own = UserFile.parse(str(model.get("model")))
    return {**model, "model": f"{shared_path(own.file)}:{own.function}"} if own is not None else dict(model)


def _method_settings(job: Mapping[str, Any], name: str) -> Any:
    """Return a method by name, with the settings that the job file has for it."""
    for method in [job.get("method"), *(job.get("methods") or ())]:
        if isinstance(method, Mapping) and method.get("name", "hinton") == name:
            return dict(method)
    return name


def _replace_named(before: Any, key: str, value: Any) -> Any:
    """Replace a model in the job file by the value of a flag, dropping the arguments of the old model."""
    if key == "teacher" and is_url(value):
        served = {k: v for k, v in before.items() if k != "model"} if isinstance(before, Mapping) else {}
        return {**served, "url": value}
    if isinstance(before, Mapping) and key == "teacher":
        options = {k: before[k] for k in ("members", "mean", "train", "adversarial", "check") if k in before}
        return {**options, "model": value}
    return value


def free_folder(stem: str) -> str:
    """Return the first of ``stem``, ``stem-2``, ``stem-3``, ... that does not exist or is empty."""
    # An empty folder is free: a run that failed before its first file leaves one.
    number, path = 1, Path(stem)
    while path.exists() and not (path.is_dir() and not any(path.iterdir())):
        number += 1
        path = Path(f"{stem}-{number}")
    return str(path)
