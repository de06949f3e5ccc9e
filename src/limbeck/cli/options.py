"""Options and classes shared by the commands of typer."""

from __future__ import annotations

from typing import Annotated, Any

import typer
from typer.core import TyperCommand

from limbeck.cli.terminal import printable_output

Json = Annotated[
    bool, typer.Option("--json", help="Print one JSON object to standard output; messages go to standard error.")
]

Out = Annotated[str | None, typer.Option("--out", help="The output folder. Default: a new one in runs/.")]

TeacherName = Annotated[
    str | None,
    typer.Option(
        "--teacher",
        help="A model folder, my.py:build@WEIGHTS, hf:NAME or timm:NAME (pretrained unless teacher.pretrained=false), "
        "or http://host:8000/v1 for a server that scores texts.",
    ),
]

AnyTeacher = Annotated[
    str | None,
    typer.Option(
        help="resnet20, cnn (--set teacher.widths=[16,32]), my.py:build@WEIGHTS, a folder, hf:NAME, timm:NAME, or "
        "http://host:8000/v1 for a server that scores texts."
    ),
]

AnyData = Annotated[
    str | None,
    typer.Option(help="digits, mnist, cifar10, ..., a .npz, .csv, .parquet, .txt or .jsonl file, or an image folder."),
]

Track = Annotated[str | None, typer.Option(help="Also log metrics to a tracker: tensorboard, or my.py:function.")]

StudentName = Annotated[
    str | None,
    typer.Option("--student", help="As in `limbeck distill`: resnet20, cnn with --set student.widths=[16,32], ..."),
]

Shrink = Annotated[
    str | None,
    typer.Option(
        "--shrink",
        help="Make the student of the teacher: 4x (four times fewer parameters), 0.25, 25%, or a limit measured on "
        "this machine: 2ms, 500kB. --set student.by=layers, channels, low_rank or narrow.",
    ),
]

TaskName = Annotated[
    str | None,
    typer.Option(
        "--task",
        help="classification, multi_label, regression, segmentation or language_modeling; inferred by default from "
        "the data.",
    ),
]

DataName = Annotated[str | None, typer.Option("--data", help="Name of a data set, or path of a file or folder.")]

Settings = Annotated[
    list[str] | None,
    typer.Option("--set", help="Set a key of the job, as in --set budget.epochs=5 --set method.temperature=8."),
]

PrintJob = Annotated[bool, typer.Option("--print-job", help="Print the resulting job file and exit.")]


class PrintableCommand(TyperCommand):
    """A command whose output is escaped. Its help text needs no escaping and is printed before."""

    def invoke(self, ctx: Any) -> Any:
        """Run the command."""
        with printable_output():
            return super().invoke(ctx)


class CommandGroup(typer.Typer):
    """A group of commands whose output is escaped."""

    def command(self, name: str | None = None, **options: Any) -> Any:
        """Register a `PrintableCommand`; otherwise as `typer.Typer.command`."""
        return super().command(name, **{"cls": PrintableCommand, **options})
