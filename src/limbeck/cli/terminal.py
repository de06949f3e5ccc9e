"""Output to a terminal, with names from files escaped."""

from __future__ import annotations

import sys
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, redirect_stderr, redirect_stdout
from typing import Any, TextIO, cast

import typer
from typer.core import TyperCommand

from limbeck.errors import printable


class PrintableStream:
    """A stream whose every text goes through `printable`; all else is the stream's own.

    Args:
        wrapped: The stream.
    """

    def __init__(self, wrapped: Any) -> None:
        self.wrapped = wrapped

    def write(self, text: str) -> int:
        """Write a text with its control characters spelled out."""
        # tqdm, in which hubs and transformers show their progress, begins each of its writes so.
        begin = "\r" if text.startswith("\r") else ""
        self.wrapped.write(begin + printable(text.removeprefix(begin)))
        return len(text)

    def writelines(self, lines: Iterable[str]) -> None:
        """Write several texts."""
        for line in lines:
            self.write(line)

    def __getattr__(self, name: str) -> Any:
        return getattr(self.wrapped, name)


@contextmanager
def printable_output() -> Iterator[None]:
    """A block in which all that is printed has its control characters spelled out, whoever prints it."""
    out, err = (cast(TextIO, PrintableStream(stream)) for stream in (sys.stdout, sys.stderr))
    with redirect_stdout(out), redirect_stderr(err):
        yield


class PrintableCommand(TyperCommand):
    """A command whose output is printable; its help, which is limbeck's own, is printed before."""

    def invoke(self, ctx: Any) -> Any:
        """Run the command."""
        with printable_output():
            return super().invoke(ctx)


class CommandGroup(typer.Typer):
    """A group of commands whose output is printable."""

    def command(self, name: str | None = None, **options: Any) -> Any:
        """As `typer.Typer.command`, for a `PrintableCommand`."""
        return super().command(name, **{"cls": PrintableCommand, **options})


def make_console(*, stderr: bool = False, width: int | None = None, highlight: bool = True) -> Any:
    """A rich console whose colors reach the terminal, and whose texts are printable.

    Args:
        stderr: Whether it writes to standard error.
        width: Columns where there is no terminal; a file has no edge at which to break a line.
        highlight: Whether numbers are colored.
    """
    from rich.console import Console
    from rich.segment import Segment

    class PrintableConsole(Console):
        """A console that spells out control characters in texts; its own colors are no text."""

        def render(self, renderable: Any, options: Any = None) -> Iterator[Any]:
            for text, style, control in super().render(renderable, options):
                yield Segment(text if control else printable(text), style, control)

    stream = sys.stderr if stderr else sys.stdout
    console = PrintableConsole(file=getattr(stream, "wrapped", stream), highlight=highlight)
    if width is not None and not console.is_terminal:
        console.width = width
    return console
