"""Which options do several commands share?"""

from __future__ import annotations

from typing import Annotated

import typer

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
