"""Options that several commands share, and the consent to run a job's Python files."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import AbstractContextManager
from typing import Annotated

import typer

from limbeck.consent import only_typed, trusting

Json = Annotated[
    bool, typer.Option("--json", help="Print one JSON object on standard output, all else on standard error.")
]

Out = Annotated[str | None, typer.Option("--out", help="The folder that everything is written to.")]

TeacherName = Annotated[
    str | None,
    typer.Option(
        "--teacher",
        help="A student folder, my.py:build@FILE, hf:NAME or timm:NAME (trained; teacher.pretrained=false: not), ...",
    ),
]

DataName = Annotated[str | None, typer.Option("--data", help="A data set's name, a file or a folder.")]

Settings = Annotated[
    list[str] | None, typer.Option("--set", help="Any key of the job: --set budget.epochs=5 --set method.temperature=8")
]

PrintJob = Annotated[bool, typer.Option("--print-job", help="Print the job that this amounts to, and stop.")]


TRUST = "--trust"

_TRAINING = {"demo", "distill", "compare", "tune", "reproduce"}

"""Who gives a job to one of these wants it run. `resume` is none: it is given a folder, which may be anybody's."""

_GROUPS = {"cache"}


def consent(words: Sequence[str], *, trust: bool) -> AbstractContextManager[None]:
    """The block in which a command is run: see `limbeck.consent`.

    Args:
        words: The command line, without the name of the program.
        trust: Whether ``--trust`` was typed.
    """
    names = [word for word in words if not word.startswith("-")]
    command = " ".join(names[: 2 if names[:1] and names[0] in _GROUPS else 1])
    trains = command in _TRAINING or command == "cache build"
    if trust or (trains and "--print-job" not in words):
        return trusting()
    doing = f"limbeck {command} --print-job" if "--print-job" in words else f"limbeck {command}"
    return only_typed(f"`{doing}`", words)
