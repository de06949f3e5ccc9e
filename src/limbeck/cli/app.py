"""The commands and their options."""

from __future__ import annotations

from typing import Annotated

import typer

from limbeck.cli.cache import cache
from limbeck.cli.options import (
    AnyData,
    AnyTeacher,
    CommandGroup,
    DataName,
    Json,
    Out,
    PrintJob,
    Settings,
    Shrink,
    StudentName,
    TaskName,
    TeacherName,
    Track,
)
from limbeck.consent import TRUST
from limbeck.errors import LimbeckError

app = CommandGroup(
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
    help="Knowledge distillation in PyTorch: train a small student model from a large teacher, and measure the gain.",
)


def _print_version(requested: bool) -> bool:
    from limbeck.cli.terminal import describe_versions

    if requested:
        typer.echo(describe_versions())
        raise typer.Exit
    return requested


@app.callback()
def _common(
    debug: Annotated[bool, typer.Option("--debug", help="Show the full traceback of an error.")] = False,
    trust: Annotated[
        bool, typer.Option(TRUST, help="Allow the command to run the Python files that a job or folder refers to.")
    ] = False,
    version: Annotated[
        bool,
        typer.Option(
            "--version", callback=_print_version, is_eager=True, help="Print the versions of limbeck and PyTorch."
        ),
    ] = False,
) -> None:
    # `main` handles --debug and --trust before typer runs, and --version has its own callback.
    del trust, debug, version


@app.command()
def demo(
    out: Out = None,
    as_json: Json = False,
    seeds: Annotated[int, typer.Option(min=1, help="Number of runs per arm.")] = 5,
) -> None:
    """Distill an ensemble of five networks into one on small images of digits (about two minutes on two cores)."""
    from limbeck.cli.jobs import run_demo

    run_demo(out, as_json=as_json, seeds=seeds)


@app.command()
def distill(
    job: Annotated[str | None, typer.Argument(help="A job file (YAML). Options override its values.")] = None,
    teacher: AnyTeacher = None,
    student: Annotated[
        str | None, typer.Option(help="As for --teacher, for example mlp with --set student.hidden=[64].")
    ] = None,
    shrink: Shrink = None,
    data: AnyData = None,
    task: TaskName = None,
    method: Annotated[
        str | None, typer.Option(help="A name from `limbeck methods`, or my.py:function. Default: hinton.")
    ] = None,
    seeds: Annotated[
        int | None, typer.Option(min=1, help="Number of runs per arm. A confidence interval needs two or more.")
    ] = None,
    track: Track = None,
    settings: Settings = None,
    out: Out = None,
    print_job: PrintJob = False,
    as_json: Json = False,
) -> None:
    """Distill a teacher into a student, and report whether this helped.

    For comparison, the same student is trained without the teacher, alone and with label smoothing (control arms).
    """
    from limbeck.cli.jobs import job_from_flags, print_job_file, run_distill

    flags = {"teacher": teacher, "student": student, "data": data, "method": method, "seeds": seeds, "out": out}
    flags |= {"track": track, "task": task, "shrink": shrink}
    resolved = job_from_flags(job, flags, settings or [])
    if print_job:
        print_job_file(resolved)
    else:
        run_distill(resolved, as_json=as_json)


@app.command()
def compare(
    job: Annotated[str | None, typer.Argument(help="A job file (YAML). Options override its values.")] = None,
    methods: Annotated[str | None, typer.Option(help="Method names, separated by commas.")] = None,
    seeds: Annotated[
        int | None, typer.Option(min=1, help="Number of runs per arm. Default: 5, or the value in the job file.")
    ] = None,
    teacher: TeacherName = None,
    student: StudentName = None,
    shrink: Shrink = None,
    data: DataName = None,
    task: TaskName = None,
    settings: Settings = None,
    out: Out = None,
    print_job: PrintJob = False,
    as_json: Json = False,
) -> None:
    """Compare several methods and all control arms (students without the teacher) over several seeds, with a report."""
    from limbeck.cli.comparison import comparison, run_compare
    from limbeck.cli.jobs import print_job_file

    flags = {"methods": methods, "teacher": teacher, "student": student, "data": data, "seeds": seeds, "out": out}
    flags |= {"task": task, "shrink": shrink}
    if print_job:
        print_job_file(comparison(job, flags, settings or []))
    else:
        run_compare(job, flags, settings or [], as_json=as_json)


@app.command()
def tune(
    job: Annotated[str | None, typer.Argument(help="A job file (YAML). Options override its values.")] = None,
    trials: Annotated[int, typer.Option(help="Number of trials for each arm, baselines included.")] = 20,
    ranges: Annotated[
        list[str] | None,
        typer.Option(
            "--range",
            help="Search range of a setting, as in --range lr=1e-4..1e-2, or a fixed value: --range epochs=20.",
        ),
    ] = None,
    methods: Annotated[str | None, typer.Option(help="Method names, separated by commas.")] = None,
    teacher: TeacherName = None,
    student: StudentName = None,
    data: DataName = None,
    task: TaskName = None,
    settings: Settings = None,
    out: Out = None,
    as_json: Json = False,
) -> None:
    """Tune the hyperparameters of every arm on development data, with the same number of trials for each.

    If it is interrupted, the same command continues.
    """
    from limbeck.cli.experiments import run_tune

    flags = {"methods": methods, "teacher": teacher, "student": student, "data": data, "out": out, "task": task}
    run_tune(job, flags, settings or [], ranges or [], trials=trials, as_json=as_json)


@app.command()
def doctor(
    job: Annotated[str | None, typer.Argument(help="A job file (YAML). Options override its values.")] = None,
    teacher: TeacherName = None,
    student: Annotated[str | None, typer.Option(help="As in `limbeck distill`.")] = None,
    data: DataName = None,
    task: TaskName = None,
    method: Annotated[str | None, typer.Option(help="As in `limbeck distill`.")] = None,
    methods: Annotated[str | None, typer.Option(help="As in `limbeck compare`: names, separated by commas.")] = None,
    settings: Settings = None,
    out: Annotated[
        str | None, typer.Option(help="Also write the findings to this file, as JSON (.json) or Markdown (.md).")
    ] = None,
    as_json: Json = False,
) -> None:
    """Check a job before training. Prints one line per check; the exit code is 1 if a check fails."""
    from limbeck.cli.doctor import run_doctor

    flags = {"teacher": teacher, "student": student, "data": data, "method": method, "methods": methods, "task": task}
    run_doctor(job, flags, settings or [], as_json=as_json, out=out)


@app.command()
def resume(
    run: Annotated[str, typer.Argument(help="The folder of a run.")], settings: Settings = None, as_json: Json = False
) -> None:
    """Continue an interrupted run. The final weights are bit for bit those of an uninterrupted run.

    With --set, continue with a changed setting. Only the arms that depend on it are trained again.
    Add --trust if the job uses Python files of yours.
    """
    from limbeck.cli.comparison import resume_comparison

    resume_comparison(run, settings or [], as_json=as_json)


@app.command()
def export(
    run: Annotated[str, typer.Argument(help="The folder of a finished run.")],
    to: Annotated[str, typer.Option("--to", help="Format: folder, hf, onnx or int8.")],
    arm: Annotated[
        str | None,
        typer.Option(help="Export the student of this arm, such as 'student alone'. Default: the recommended one."),
    ] = None,
    out: Annotated[str | None, typer.Option("--out", help="A new folder. Default: RUN/export/TO.")] = None,
    raw: Annotated[
        bool,
        typer.Option("--raw", help="Include the input normalization, or the encoding of a table, in the ONNX file."),
    ] = False,
    license: Annotated[
        str | None, typer.Option("--license", help="License for the model card: apache-2.0, ...")
    ] = None,
    calibration: Annotated[
        str | None,
        typer.Option(help="Calibration for int8: minmax, entropy or percentile. Default: the best of the three."),
    ] = None,
    as_json: Json = False,
) -> None:
    """Export the student of a run, check the exported file on test data, and write a model card.

    Add --trust if the job uses Python files of yours.
    """
    from limbeck.cli.results import run_export

    run_export(run, to=to, arm=arm, out=out, raw=raw, license=license, calibration=calibration, as_json=as_json)


@app.command()
def cite(run: Annotated[str, typer.Argument(help="The folder of a finished run.")], as_json: Json = False) -> None:
    """Print BibTeX entries for the methods, data and software that a run used.

    Add --trust if the job uses Python files of yours.
    """
    from limbeck.cli.results import run_cite

    run_cite(run, as_json=as_json)


@app.command()
def generate(
    teacher: Annotated[
        str, typer.Option(help="hf:NAME, a folder, my.py:build@WEIGHTS, or the address of a server: http://HOST/v1.")
    ],
    data: Annotated[str, typer.Option(help="Prompts: a .jsonl file with prompt or messages, or a .txt file of lines.")],
    out: Annotated[str, typer.Option(help="The file of the texts, such as texts.jsonl.")],
    samples: Annotated[int, typer.Option(min=1, help="Number of texts for each prompt.")] = 4,
    temperature: Annotated[float, typer.Option(help="Temperature of the draws; 0 takes the most likely token.")] = 0.8,
    top_p: Annotated[float, typer.Option(help="Draw among the most likely tokens with this probability.")] = 1.0,
    top_k: Annotated[int | None, typer.Option(help="Draw among the k most likely tokens.")] = None,
    max_new_tokens: Annotated[int, typer.Option(min=1, help="Largest number of new tokens of a text.")] = 256,
    filters: Annotated[
        list[str] | None,
        typer.Option(
            "--filter",
            help="exact_answer[:MARKER], majority[:SHARE], schema:FILE, program, length:LEAST-MOST, finished, "
            "duplicates, or my.py:function; several times. exact_answer without MARKER compares words as whole texts.",
        ),
    ] = None,
    prompt: Annotated[str, typer.Option(help="The column of the prompts.")] = "prompt",
    answer: Annotated[str | None, typer.Option(help="The column of the right answers. Default: answer.")] = None,
    chat: Annotated[bool, typer.Option("--chat", help="Send each prompt as the message of a user in a chat.")] = False,
    tokenizer: Annotated[str | None, typer.Option(help="The folder of the tokenizer. Default: the teacher's.")] = None,
    model: Annotated[str | None, typer.Option(help="The name of the model on a server.")] = None,
    batch_size: Annotated[int | None, typer.Option(min=1, help="Number of texts that are written at a time.")] = None,
    seed: Annotated[int, typer.Option(help="The seed of all draws.")] = 0,
    as_json: Json = False,
) -> None:
    """Let a teacher write texts for a student to learn, and keep those that pass the filters.

    If it is interrupted, the same command continues. Another filter, more samples or further prompts cost only what is
    new.
    """
    from limbeck.cli.generate import run_generate
    from limbeck.generated_texts import DecodingOptions
    from limbeck.generation import GenerationConfig

    config = GenerationConfig(max_new_tokens, temperature, top_k, top_p)
    run_generate(
        teacher, data, out, options=DecodingOptions(config, seed, chat), samples=samples, filters=filters or [],
        prompt=prompt, answer=answer, tokenizer=tokenizer, model=model, batch_size=batch_size, as_json=as_json,
    )  # fmt: skip


@app.command()
def report(
    runs: Annotated[
        list[str], typer.Argument(help="The folder of a finished run, or of several to show side by side.")
    ],
    out: Annotated[
        str | None,
        typer.Option(
            "--out", help="The HTML file to write. Default: RUN/report.html, or ./report.html for several runs."
        ),
    ] = None,
    as_json: Json = False,
) -> None:
    """Write an HTML report about one run, or about several runs on the same data."""
    from limbeck.cli.results import run_report

    run_report(runs, out=out, as_json=as_json)


@app.command()
def methods(
    name: Annotated[str | None, typer.Argument(help="A method to show, or words to search for in all cards.")] = None,
    new: Annotated[str | None, typer.Option(metavar="NAME", help="Write the files of a new method.")] = None,
    family: Annotated[str, typer.Option(help="The family of the new method: logits, features, ...")] = "logits",
    task: Annotated[str | None, typer.Option(help="List only methods for this task: language_modeling, ...")] = None,
    as_json: Json = False,
) -> None:
    """List the methods, show the card of one, or search all cards: limbeck methods "attention maps"."""
    from limbeck.cli.methods import create_method, show_method, show_methods

    if new is not None:
        create_method(new, family)
    elif name is None:
        show_methods(task=task, as_json=as_json)
    else:
        show_method(name, task=task, as_json=as_json)


@app.command("job")
def show_job(
    job: Annotated[str | None, typer.Argument(help="A job file, to print with all defaults filled in.")] = None,
    keys: Annotated[bool, typer.Option("--keys", help="List every key with its default and meaning.")] = False,
    only: Annotated[str, typer.Option(help="List only the keys with this prefix: budget, data.t, ...")] = "",
    settings: Settings = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print the keys as JSON.")] = False,
) -> None:
    """Print a job file with all defaults filled in, or list the keys that a job file can have."""
    from limbeck.cli.jobs import job_from_flags, print_job_file
    from limbeck.cli.methods import show_keys

    if keys or only:
        show_keys(only, as_json=as_json)
    elif job is None:
        raise LimbeckError("Give a job file to print it in full, or type `limbeck job --keys` to list every key.")
    else:
        print_job_file(job_from_flags(job, {}, settings or []))


@app.command()
def convert(
    file: Annotated[str, typer.Argument(help="A pickled checkpoint: .pt, .pth, .bin or .ckpt.")],
    yes: Annotated[bool, typer.Option("--yes", help="Confirm that you trust the origin of the file.")] = False,
    out: Annotated[str | None, typer.Option("--out", help="The safetensors file to write.")] = None,
    key: Annotated[
        str | None, typer.Option("--key", help="Entry to convert if there are several, such as state_dict_ema.")
    ] = None,
    prefix: Annotated[
        str | None, typer.Option("--prefix", help="Convert only the weights with this prefix, such as student.")
    ] = None,
) -> None:
    """Convert a pickled checkpoint to safetensors. Needs --yes; code inside the file is never run."""
    from limbeck.models import convert_pickle

    typer.echo(f"Wrote {convert_pickle(file, out, yes=yes, key=key, prefix=prefix)}")


@app.command()
def papers(
    paper: Annotated[str | None, typer.Argument(help="A name; or words, which list the papers about them.")] = None,
    only: Annotated[
        list[str] | None, typer.Option("--only", help="Run only this experiment. Can be given several times.")
    ] = None,
    scale: Annotated[
        str, typer.Option(help="quick is short training on few examples (minutes); full gives comparable numbers.")
    ] = "quick",
    seeds: Annotated[
        int | None, typer.Option(min=1, help="Number of seeds. Default: that of the paper, see the list.")
    ] = None,
    out: Out = None,
    workers: Annotated[int | None, typer.Option(min=1, help="Number of parallel tasks. Default: one per core.")] = None,
    as_json: Json = False,
) -> None:
    """Run the experiments of a paper and print its numbers next to limbeck's, or list all papers.

    If it is interrupted, the same command continues.
    """
    from limbeck.cli.experiments import list_papers, run_papers

    if paper is None:
        list_papers(as_json=as_json)
        return
    run_papers(paper, only=only or [], scale=scale, seeds=seeds, out=out, workers=workers, as_json=as_json)


app.add_typer(cache, name="cache")
