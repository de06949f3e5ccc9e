"""The commands, and how they end."""

from __future__ import annotations

import sys
import warnings
from collections.abc import Callable
from typing import Annotated, Any

import typer

from limbeck.cli.cache import cache
from limbeck.cli.options import TRUST, DataName, Json, Out, PrintJob, Settings, TeacherName, consent
from limbeck.cli.terminal import CommandGroup
from limbeck.errors import LimbeckError, LimbeckWarning, is_out_of_memory, printable

app = CommandGroup(
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
    help="Knowledge distillation that is right, paid once, and judged.",
)

_INTERRUPTED = 130
_OUT_OF_MEMORY = (
    "There is not enough memory. A smaller budget.batch_size with a larger budget.accumulate learns the same with "
    "less; so do workers: 1, and fewer or smaller examples. What is done is kept: `limbeck resume` goes on with it."
)


def _print_version(wanted: bool) -> bool:
    from importlib.metadata import version

    if wanted:
        typer.echo(f"limbeck {version('limbeck')}, torch {version('torch')}, Python {sys.version.split()[0]}")
        raise typer.Exit
    return wanted


@app.callback()
def _common(
    debug: Annotated[bool, typer.Option("--debug", help="Show the traceback of an error.")] = False,
    trust: Annotated[
        bool, typer.Option(TRUST, help="Run the Python files that a job names, also to read, print or resume it.")
    ] = False,
    version: Annotated[
        bool,
        typer.Option(
            "--version", callback=_print_version, is_eager=True, help="Print the versions of limbeck and PyTorch."
        ),
    ] = False,
) -> None:
    # `main` has looked for --debug already: it concerns how a command ends. --version has its callback.
    del trust, debug, version


@app.command()
def demo(out: Out = None, as_json: Json = False, seeds: Annotated[int, typer.Option(min=1)] = 5) -> None:
    """The whole story on data that is already on the machine: about two minutes on two cores."""
    from limbeck.cli.jobs import run_demo

    run_demo(out, as_json=as_json, seeds=seeds)


@app.command()
def distill(
    job: Annotated[str | None, typer.Argument(help="A job file; flags change what it says.")] = None,
    teacher: Annotated[
        str | None,
        typer.Option(help="resnet20, cnn (--set teacher.widths=[16,32]), my.py:build[@FILE], a folder, timm:NAME, ..."),
    ] = None,
    student: Annotated[str | None, typer.Option(help="The same, such as mlp --set student.hidden=[64].")] = None,
    data: Annotated[
        str | None, typer.Option(help="digits, mnist, cifar10, ..., a .npz or table, an image folder.")
    ] = None,
    method: Annotated[
        str | None, typer.Option(help="See `limbeck methods`; or my.py:function; hinton by default.")
    ] = None,
    seeds: Annotated[int | None, typer.Option(min=1, help="Runs of each arm; an interval needs two or more.")] = None,
    track: Annotated[str | None, typer.Option(help="tensorboard, or my.py:function: where reports go besides.")] = None,
    settings: Settings = None,
    out: Out = None,
    print_job: PrintJob = False,
    as_json: Json = False,
) -> None:
    """Distil a teacher into a student, beside control arms, and say whether it was worth it."""
    from limbeck.cli.jobs import job_from_flags, print_job_file, run_distill

    flags = {"teacher": teacher, "student": student, "data": data, "method": method, "seeds": seeds, "out": out}
    flags["track"] = track
    made = job_from_flags(job, flags, settings or [])
    if print_job:
        print_job_file(made)
    else:
        run_distill(made, as_json=as_json)


@app.command()
def compare(
    job: Annotated[str | None, typer.Argument(help="A job file; the options below change what it says.")] = None,
    methods: Annotated[str | None, typer.Option(help="Methods by name, with commas between.")] = None,
    seeds: Annotated[int | None, typer.Option(min=1, help="Runs of each arm; 5 unless the job says how many.")] = None,
    teacher: TeacherName = None,
    student: Annotated[
        str | None, typer.Option("--student", help="resnet20, cnn with --set student.widths=[16,32], ...")
    ] = None,
    data: DataName = None,
    settings: Settings = None,
    out: Out = None,
    print_job: PrintJob = False,
    as_json: Json = False,
) -> None:
    """Several methods beside all control arms, over seeds: a table with uncertainty, a verdict, a page."""
    from limbeck.cli.jobs import comparison, print_job_file, run_compare

    flags = {"methods": methods, "teacher": teacher, "student": student, "data": data, "seeds": seeds, "out": out}
    if print_job:
        print_job_file(comparison(job, flags, settings or []))
    else:
        run_compare(job, flags, settings or [], as_json=as_json)


@app.command()
def tune(
    job: Annotated[str | None, typer.Argument(help="A job file; the options below change what it says.")] = None,
    trials: Annotated[int, typer.Option(help="How many settings each arm tries, the baselines too.")] = 20,
    ranges: Annotated[
        list[str] | None,
        typer.Option("--range", help="Between which values: --range lr=1e-4..1e-2; or held fixed: --range epochs=20"),
    ] = None,
    methods: Annotated[str | None, typer.Option(help="Methods by name, with commas between.")] = None,
    teacher: TeacherName = None,
    student: Annotated[
        str | None, typer.Option("--student", help="resnet20, cnn with --set student.widths=[16,32], ...")
    ] = None,
    data: DataName = None,
    settings: Settings = None,
    out: Out = None,
    as_json: Json = False,
) -> None:
    """Choose every arm's settings on development data, with equal effort; stopped, it goes on where it was."""
    from limbeck.cli.tune import run_tune

    flags = {"methods": methods, "teacher": teacher, "student": student, "data": data, "out": out}
    run_tune(job, flags, settings or [], ranges or [], trials=trials, as_json=as_json)


@app.command()
def doctor(
    job: Annotated[str | None, typer.Argument(help="A job file; the options below change what it says.")] = None,
    teacher: TeacherName = None,
    student: Annotated[str | None, typer.Option(help="mlp with --set student.hidden=[64], ...")] = None,
    data: DataName = None,
    method: Annotated[str | None, typer.Option(help="As in `limbeck distill`.")] = None,
    methods: Annotated[str | None, typer.Option(help="As in `limbeck compare`: names, with commas between.")] = None,
    settings: Settings = None,
    as_json: Json = False,
) -> None:
    """Look at a job before it is paid for: a line for each check; exit code 1 if anything is wrong."""
    from limbeck.cli.doctor import run_doctor

    flags = {"teacher": teacher, "student": student, "data": data, "method": method, "methods": methods}
    run_doctor(job, flags, settings or [], as_json=as_json)


@app.command()
def resume(
    run: Annotated[str, typer.Argument(help="A run's folder.")], settings: Settings = None, as_json: Json = False
) -> None:
    """Go on with a run that was stopped; it ends in the same weights, bit for bit.

    With --set, go on with a setting changed: what does not depend on it is kept, such as the trained teacher; the arms
    that do are done again.
    """
    from limbeck.cli.jobs import run_resume

    run_resume(run, settings or [], as_json=as_json)


@app.command()
def export(
    run: Annotated[str, typer.Argument(help="A finished run's folder.")],
    to: Annotated[str, typer.Option("--to", help="folder, hf, onnx or int8.")],
    arm: Annotated[str | None, typer.Option(help="Whose student: 'student alone', ...; by default the best.")] = None,
    out: Annotated[str | None, typer.Option("--out", help="A new folder; RUN/export/TO by default.")] = None,
    raw: Annotated[
        bool, typer.Option("--raw", help="Put normalization, or a table's encoding, into the ONNX file.")
    ] = False,
    license: Annotated[str | None, typer.Option("--license", help="What the card says: apache-2.0, ...")] = None,
    calibration: Annotated[
        str | None, typer.Option(help="Of int8: minmax, entropy or percentile; by default the best of them.")
    ] = None,
    as_json: Json = False,
) -> None:
    """Ship a run's student: written, opened again, compared on test data, with a model card beside it."""
    from limbeck.cli.export import run_export

    run_export(run, to=to, arm=arm, out=out, raw=raw, license=license, calibration=calibration, as_json=as_json)


@app.command()
def cite(run: Annotated[str, typer.Argument(help="A finished run's folder.")], as_json: Json = False) -> None:
    """BibTeX of exactly what a run used."""
    from limbeck.cli.export import run_cite

    run_cite(run, as_json=as_json)


@app.command()
def report(
    runs: Annotated[list[str], typer.Argument(help="The folder of a finished run; several are set side by side.")],
    out: Annotated[
        str | None, typer.Option("--out", help="The page; RUN/report.html, or report.html here for several.")
    ] = None,
    as_json: Json = False,
) -> None:
    """One page about a run, or several of the same data: verdict, arms, cost, classes, examples, protocol."""
    from limbeck.cli.report import run_report

    run_report(runs, out=out, as_json=as_json)


@app.command()
def methods(
    name: Annotated[str | None, typer.Argument(help="One method's name, for its card.")] = None, as_json: Json = False
) -> None:
    """What methods there are, or one method's card."""
    from limbeck.cli.methods import show_card, show_methods

    if name is None:
        show_methods(as_json=as_json)
    else:
        show_card(name, as_json=as_json)


@app.command("job")
def show_job(
    job: Annotated[str | None, typer.Argument(help="A job file, to be printed with all that it leaves open.")] = None,
    keys: Annotated[bool, typer.Option("--keys", help="Print every key with its default and meaning.")] = False,
    only: Annotated[str, typer.Option(help="Of these, those that begin so: budget, data.t, ...")] = "",
    settings: Settings = None,
    as_json: Annotated[bool, typer.Option("--json", help="The keys as JSON.")] = False,
) -> None:
    """A job file with every default filled in, or what each key of one means."""
    from limbeck.cli.jobs import job_from_flags, print_job_file
    from limbeck.cli.methods import show_keys

    if keys or only:
        show_keys(only, as_json=as_json)
    elif job is None:
        raise LimbeckError("Type `limbeck job --keys` for every key of a job, or name a job file to print it in full.")
    else:
        print_job_file(job_from_flags(job, {}, settings or []))


@app.command()
def convert(
    file: Annotated[str, typer.Argument(help="A pickle of weights: .pt, .pth, .bin, .ckpt.")],
    yes: Annotated[bool, typer.Option("--yes", help="You trust where the file comes from.")] = False,
    out: Annotated[str | None, typer.Option("--out", help="The safetensors file to write.")] = None,
    key: Annotated[str | None, typer.Option("--key", help="Which of several weights: state_dict_ema.")] = None,
    prefix: Annotated[str | None, typer.Option("--prefix", help="Only names that begin so: student.")] = None,
) -> None:
    """Turn a pickle of weights into safetensors, after an explicit yes; no code in it is run."""
    from limbeck.models import convert_pickle

    typer.echo(f"Wrote {convert_pickle(file, out, yes=yes, key=key, prefix=prefix)}")


@app.command()
def reproduce(
    paper: Annotated[str, typer.Argument(help="hinton2015, beyer2021")],
    only: Annotated[list[str] | None, typer.Option("--only", help="An experiment; again for another.")] = None,
    scale: Annotated[
        str, typer.Option(help="quick, about a minute each; or full, whose numbers mean something.")
    ] = "quick",
    seeds: Annotated[int | None, typer.Option(min=1, help="One at quick, three at full by default.")] = None,
    out: Out = None,
    workers: Annotated[int | None, typer.Option(min=1, help="Tasks at a time; one for each core by default.")] = None,
    as_json: Json = False,
) -> None:
    """A paper's table beside ours; stopped, it goes on where it was."""
    from limbeck.cli.papers import run_reproduce

    run_reproduce(paper, only=only or [], scale=scale, seeds=seeds, out=out, workers=workers, as_json=as_json)


app.add_typer(cache, name="cache")


def main(arguments: list[str] | None = None) -> None:
    """Run a command; a user's mistake ends in one sentence and a non-zero exit, a bug in its traceback.

    Exit codes: 0 done, 1 something was wrong, 2 the command line was, 130 interrupted.
    """
    given = sys.argv[1:] if arguments is None else arguments
    debug, trust = "--debug" in given, TRUST in given
    # These flags may stand anywhere; typer wants a common option before the command.
    common = [word for word in ("--debug", TRUST) if word in given]
    words = [word for word in given if word not in common]
    try:
        with warnings.catch_warnings(), consent(words, trust=trust):
            warnings.showwarning = _noted(warnings.showwarning)
            code: Any = app(args=[*common, *words], prog_name="limbeck", standalone_mode=False)
    except LimbeckError as error:
        if debug:
            raise
        _say(f"Error: {error}")
        sys.exit(1)
    except (KeyboardInterrupt, typer.Abort):
        _say("Interrupted.")
        sys.exit(_INTERRUPTED)
    except Exception as error:
        _exit_on_usage(error)
        if debug or not (isinstance(error, OSError) or is_out_of_memory(error)):
            raise
        _say(f"Error: {_OUT_OF_MEMORY if is_out_of_memory(error) else error}")
        sys.exit(1)
    if code == _INTERRUPTED:
        _say("Interrupted.")
    sys.exit(code if isinstance(code, int) else 0)


def _exit_on_usage(error: Exception) -> None:
    """Typer's own errors (an unknown option, a missing argument) become a sentence and exit code 2."""
    shown = getattr(error, "format_message", None)
    if shown is not None:
        usage = getattr(getattr(error, "ctx", None), "command_path", "limbeck")
        # A command group typed alone has shown its help, and has nothing more to say.
        if sentence := shown().rstrip("."):
            _say(f"Error: {sentence}. See `{usage} --help`.")
        sys.exit(getattr(error, "exit_code", 2))


def _noted(usual: Callable[..., None]) -> Callable[..., None]:
    """A way to show warnings: what limbeck has to say as a sentence, all else as usual."""

    def show(message: Warning | str, category: type[Warning], *where: Any, **more: Any) -> None:
        if issubclass(category, LimbeckWarning):
            _say(f"Note: {message}")
        else:
            usual(message, category, *where, **more)

    return show


def _say(text: str) -> None:
    # One line, also where a library's own words came in several.
    print(printable(" ".join(text.split())), file=sys.stderr)
