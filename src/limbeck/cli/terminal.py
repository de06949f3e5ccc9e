"""Terminal output in which control characters of names from files are escaped."""

from __future__ import annotations

import sys
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, redirect_stderr, redirect_stdout
from typing import Any, TextIO, cast

import typer
from typer.core import TyperCommand

from limbeck.errors import printable


class PrintableStream:
    """A text stream that escapes control characters with `printable`.

    Args:
        wrapped: The stream to write to.
    """

    def __init__(self, wrapped: Any) -> None:
        self.wrapped = wrapped

    def write(self, text: str) -> int:
        """Write a text with its control characters escaped."""
        # tqdm, which transformers and hub downloads use, starts each update with a carriage return.
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
    """Escape control characters in everything that is printed inside the block, also by other libraries."""
    out, err = (cast(TextIO, PrintableStream(stream)) for stream in (sys.stdout, sys.stderr))
    with redirect_stdout(out), redirect_stderr(err):
        yield


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


def make_console(*, stderr: bool = False, width: int | None = None, highlight: bool = True) -> Any:
    """Make a rich console that escapes control characters in texts but keeps its own colors.

    Args:
        stderr: Whether to write to standard error.
        width: Number of columns if the output is not a terminal.
        highlight: Whether to color numbers.
    """
    from rich.console import Console
    from rich.segment import Segment

    class PrintableConsole(Console):
        """A console that escapes control characters in texts, and leaves its own color codes alone."""

        def render(self, renderable: Any, options: Any = None) -> Iterator[Any]:
            for text, style, control in super().render(renderable, options):
                yield Segment(text if control else printable(text), style, control)

    stream = sys.stderr if stderr else sys.stdout
    stream = stream.wrapped if isinstance(stream, PrintableStream) else stream
    console = PrintableConsole(file=stream, highlight=highlight)
    if width is not None and not console.is_terminal:
        console.width = width
    return console
