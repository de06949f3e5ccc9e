"""The commands `limbeck cache build`, `info` and `verify`."""

from __future__ import annotations

from typing import Annotated

import typer

from limbeck.cli.options import DataName, Json, Settings, TeacherName
from limbeck.cli.terminal import CommandGroup

cache = CommandGroup(no_args_is_help=True, help="The teacher's stored answers: asked once, checked, shared.")

Asked = Annotated[str | None, typer.Argument(help="A job file; --set changes what it says.")]


@cache.command("build")
def cache_build(
    job: Asked = None,
    teacher: TeacherName = None,
    data: DataName = None,
    settings: Settings = None,
    as_json: Json = False,
) -> None:
    """Ask the teacher about all training data; stopped, it goes on where it was."""
    from limbeck.cli.answers import run_build

    run_build(job, {"teacher": teacher, "data": data}, settings or [], as_json=as_json)


@cache.command("info")
def cache_info(
    job: Annotated[str | None, typer.Argument(help="A job file, or the folder of a store.")] = None,
    teacher: TeacherName = None,
    data: DataName = None,
    settings: Settings = None,
    as_json: Json = False,
) -> None:
    """Bytes, time and error of each encoding before anything is built; or what a store holds."""
    from limbeck.cli.answers import run_info

    run_info(job, {"teacher": teacher, "data": data}, settings or [], as_json=as_json)


@cache.command("verify")
def cache_verify(
    job: Annotated[str | None, typer.Argument(help="A job file, or the folder of a store.")] = None,
    teacher: TeacherName = None,
    data: DataName = None,
    settings: Settings = None,
    sample: Annotated[
        int, typer.Option(min=0, help="Ask the teacher again about so many examples; it needs a job.")
    ] = 0,
    seed: Annotated[
        int | None, typer.Option(min=0, help="Which examples --sample asks about; others every time by default.")
    ] = None,
    as_json: Json = False,
) -> None:
    """Read every byte of a store and compare its checksums; exit code 1 if anything is wrong."""
    from limbeck.cli.answers import run_verify

    run_verify(job, {"teacher": teacher, "data": data}, settings or [], sample=sample, seed=seed, as_json=as_json)
