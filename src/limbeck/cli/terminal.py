"""Terminal output: progress bars or lines, and control characters escaped."""

from __future__ import annotations

import sys
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import AbstractContextManager, contextmanager, redirect_stderr, redirect_stdout
from importlib.metadata import version
from typing import Any, TextIO, assert_never, cast

from limbeck.errors import printable
from limbeck.events import (
    ArmFinished,
    ArmsPlanned,
    EnsemblePlanned,
    Event,
    ImagesDecoded,
    Message,
    OutputsCached,
    StepsTaken,
    TrialFinished,
    TrialsPlanned,
)
from limbeck.optional_imports import is_installed


class ProgressLines:
    """Prints a line for each finished arm and seed, and the current status every `interval` seconds.

    A thread prints the repeated line, because some parts of a job (measuring corruptions, for example) report nothing
    for minutes. It is a daemon, so it never keeps a process alive.

    Args:
        interval: Seconds without a line after which one is printed.
        write: Where lines go; standard error by default, as bars do.
    """

    def __init__(self, *, interval: float = 30.0, write: Callable[[str], None] | None = None) -> None:
        self._interval = interval
        self._write = write or _write_to_stderr
        self._lock = threading.Lock()
        self._stop = threading.Event()
        self._thread: threading.Thread | None = None
        self._start = self._last = time.monotonic()
        self._status = "starting"
        self._total = self._done = 0

    def start(self) -> None:
        """Start the thread."""
        self._start = self._last = time.monotonic()
        self._thread = threading.Thread(target=self._repeat, name="limbeck-progress", daemon=True)
        self._thread.start()

    def stop(self) -> None:
        """Stop; no line is printed after this returns."""
        self._stop.set()
        if self._thread is not None:
            self._thread.join()

    def update(self, event: Event) -> None:
        """Handle an event of a job."""
        match event:
            case Message(text):
                # The message itself is printed by the caller.
                self._remember(text, printed=True)
            case ArmsPlanned(count) | TrialsPlanned(count):
                self._total, self._done = count, 0
                # Steps in other processes are not reported, so the line must not stay at what came before.
                self._remember(f"training: {count:,} runs")
            case EnsemblePlanned(members):
                self._remember(f"teacher: {members} to train" if members > 1 else "teacher")
            case ImagesDecoded(done, total):
                self._remember(f"decoding images: {done:,} of {total:,}")
            case OutputsCached(done, total):
                self._remember(f"teacher's outputs: {done:,} of {total:,}")
            case StepsTaken():
                self._remember(_describe_steps(event))
            case ArmFinished() | TrialFinished():
                self._count(_describe_result(event))
            case _:
                assert_never(event)

    def _remember(self, status: str, *, printed: bool = False) -> None:
        with self._lock:
            self._status = status
            if printed:
                self._last = time.monotonic()

    def _count(self, text: str) -> None:
        with self._lock:
            self._done += 1
            # After a resume, arms that were finished before are reported too, so the count may exceed the plan.
            of = f"{self._done} of {max(self._total, self._done)}" if self._total else f"{self._done}"
            self._print(f"{text} ({of}, {self._elapsed()})")
            self._status = f"training: {of} runs done"

    def _repeat(self) -> None:
        while not self._stop.wait(min(self._interval / 4, 1.0)):
            with self._lock:
                if time.monotonic() - self._last >= self._interval:
                    self._print(f"... {self._status} ({self._elapsed()})")

    def _print(self, line: str) -> None:
        self._last = time.monotonic()
        if not self._stop.is_set():
            self._write(line)

    def _elapsed(self) -> str:
        seconds = int(time.monotonic() - self._start)
        return f"{seconds // 60}:{seconds % 60:02d} min" if seconds >= 60 else f"{seconds} s"


def _describe_steps(event: StepsTaken) -> str:
    speed = f"{event.run}: step {event.step:,} of {event.steps:,}, {event.rate:,.0f} examples/s"
    return f"{speed}, {_describe_terms(event)}" if event.terms else speed


def _describe_terms(event: StepsTaken) -> str:
    terms = "  ".join(f"{name} {mean:.3g}" for name, mean in event.terms.items())
    texts = event.generation
    if not texts:
        return terms
    count = texts["finished"] + texts["cut_off"]
    age = f", age {texts['mean_age']:.1f}" if texts["mean_age"] else ""
    return (
        f"{terms}  texts {count:,.0f} ({texts['cut_off']:,.0f} cut off), {texts['tokens_per_second']:,.0f} tokens/s, "
        f"{100 * texts['time_share']:.0f} % of the time{age}"
    )


def _describe_result(event: ArmFinished | TrialFinished) -> str:
    which = f"seed {event.seed}" if isinstance(event, ArmFinished) else f"trial {event.number}"
    return f"{event.arm}, {which}: {event.text or f'{100 * event.score:.2f} %'}"


def _write_to_stderr(line: str) -> None:
    print(line, file=sys.stderr, flush=True)


def describe_versions() -> str:
    """The versions of limbeck, PyTorch and Python in one line."""
    return f"limbeck {version('limbeck')}, torch {version('torch')}, Python {sys.version.split()[0]}"


def print_message(text: str, *, to_error: bool) -> None:
    """Print a message, on standard error if standard output is reserved for JSON."""
    print(printable(text), file=sys.stderr if to_error else sys.stdout, flush=True)


def duration(seconds: float) -> str:
    """Format a number of seconds for people.

    Example:
        >>> duration(5400.0)
        '1.5 h'
    """
    if seconds < 90:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 5400 else f"{seconds / 3600:.1f} h"


class ProgressCallback(AbstractContextManager["ProgressCallback"]):
    """Shows the progress of a job: bars in a terminal, plain lines elsewhere.

    Args:
        to_error: Whether messages go to standard error.
    """

    def __init__(self, *, to_error: bool) -> None:
        self._to_error = to_error
        self._bars: Any = None
        self._lines: ProgressLines | None = None
        self._key: str | None = None
        self._task: Any = None
        self._arms: Any = None

    def __enter__(self) -> ProgressCallback:
        if sys.stderr.isatty() and is_installed("rich"):
            self._bars = _bars()
            self._bars.start()
        else:
            self._lines = ProgressLines()
            self._lines.start()
        return self

    def __exit__(self, *_: object) -> None:
        if self._bars is not None:
            self._bars.stop()
        if self._lines is not None:
            self._lines.stop()

    def __call__(self, event: Event, /) -> None:
        """Show one event of a job."""
        if isinstance(event, Message):
            print_message(event.text, to_error=self._to_error)
        if self._lines is not None:
            self._lines.update(event)
        if self._bars is not None:
            self._update_bars(event)

    def _update_bars(self, event: Event) -> None:
        match event:
            case Message():
                pass
            case ArmsPlanned(count):
                self._add_total("arms x seeds", count)
            case TrialsPlanned(count):
                self._add_total("trials", count)
            case EnsemblePlanned(members):
                self._show("teacher", "teacher", members)
            case StepsTaken():
                self._show_steps(event)
            case OutputsCached(done, total):
                self._show("outputs", "outputs", total)
                self._bars.update(self._task, completed=done)
            case ImagesDecoded(done, total):
                self._show("images", "decoding", total)
                self._bars.update(self._task, completed=done)
            case ArmFinished() | TrialFinished():
                if self._arms is not None:
                    self._bars.update(self._arms, advance=1, terms=_describe_result(event))
            case _:
                assert_never(event)

    def _add_total(self, title: str, count: int) -> None:
        """Add the bar that counts finished arms or trials."""
        self._clear()
        self._arms = self._bars.add_task(title, total=count, rate="", terms="")

    def _show_steps(self, event: StepsTaken) -> None:
        # Parallel branches have no title of their own and share the bar of their run.
        key, title = (f"{event.run} {event.part}", f"{event.run}: {event.title}") if event.title else (event.run,) * 2
        self._show(key, title, event.steps)
        self._bars.update(self._task, completed=event.step, rate=f"{event.rate:,.0f}/s", terms=_describe_terms(event))

    def _show(self, key: str, title: str, total: int) -> None:
        """Show a bar for the current task, in place of the previous one."""
        if key != self._key:
            self._clear()
            self._key, self._task = key, self._bars.add_task(title, total=total, rate="", terms="")

    def _clear(self) -> None:
        if self._task is not None:
            self._bars.remove_task(self._task)
        self._key = self._task = None


def _bars() -> Any:
    from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn
    from rich.table import Column
    from rich.text import Text

    class ProgressWithTerms(Progress):
        """Bars, and below each one its loss terms, on as many lines as the width of the terminal needs."""

        def get_renderables(self) -> Iterator[Any]:
            for task in self.tasks:
                yield self.make_tasks_table([task])
                if task.fields["terms"]:
                    yield Text(f"  {task.fields['terms']}", style="dim", overflow="fold")

    def fixed() -> Column:
        return Column(no_wrap=True)

    return ProgressWithTerms(
        TextColumn("{task.description}", table_column=fixed()),
        BarColumn(bar_width=12, table_column=fixed()),
        TextColumn("{task.percentage:>3.0f}%", table_column=fixed()),
        TextColumn("{task.fields[rate]}", table_column=fixed(), justify="right"),
        TimeRemainingColumn(compact=True, table_column=fixed()),
        console=make_console(stderr=True),
        transient=True,
        # Output that is redirected to a file must not go through the terminal.
        redirect_stdout=sys.stdout.isatty(),
    )


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
