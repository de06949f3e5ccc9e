"""Command-line options shared by several commands, and the permission to run Python files."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import AbstractContextManager
from typing import Annotated

import typer

from limbeck.consent import allow_all, allow_only

Json = Annotated[
    bool, typer.Option("--json", help="Print one JSON object to standard output; messages go to standard error.")
]

Out = Annotated[str | None, typer.Option("--out", help="The output folder.")]

TeacherName = Annotated[
    str | None,
    typer.Option(
        "--teacher",
        help="A model folder, my.py:build@WEIGHTS, hf:NAME or timm:NAME (pretrained unless teacher.pretrained=false).",
    ),
]

DataName = Annotated[str | None, typer.Option("--data", help="Name of a data set, or path of a file or folder.")]

Settings = Annotated[
    list[str] | None,
    typer.Option("--set", help="Set a key of the job, as in --set budget.epochs=5 --set method.temperature=8."),
]

PrintJob = Annotated[bool, typer.Option("--print-job", help="Print the resulting job file and exit.")]


TRUST = "--trust"

_TRAINING = {"demo", "distill", "compare", "tune", "papers"}

"""Commands that run the Python files of a job without --trust. `resume` is not among them, because its argument is a
folder that may come from somebody else."""

_GROUPS = {"cache"}


def consent(words: Sequence[str], *, trust: bool) -> AbstractContextManager[None]:
    """Return the context in which a command may or may not run Python files; see `limbeck.consent`.

    Args:
        words: The command line without the program name.
        trust: Whether ``--trust`` was given.
    """
    names = [word for word in words if not word.startswith("-")]
    command = " ".join(names[: 2 if names[:1] and names[0] in _GROUPS else 1])
    trains = command in _TRAINING or command == "cache build"
    if trust or (trains and "--print-job" not in words):
        return allow_all()
    typed = f"limbeck {command} --print-job" if "--print-job" in words else f"limbeck {command}"
    return allow_only(f"`{typed}`", words)
