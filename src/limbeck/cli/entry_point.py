"""Entry point of the command line: permissions, errors and exit codes."""

from __future__ import annotations

import argparse
import logging
import sys
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from typing import Any

from limbeck.cli.terminal import describe_versions
from limbeck.consent import TRUST, allow_all, allow_only
from limbeck.errors import LimbeckError, LimbeckWarning, is_out_of_memory, printable
from limbeck.optional_imports import install_command, is_installed, missing_package_error

_INTERRUPTED = 130
_OUT_OF_MEMORY = (
    "Out of memory. Set a smaller budget.batch_size and a larger budget.accumulate: training is the same, with less "
    "memory. Setting workers: 1, or using fewer or smaller examples, also helps. Finished work is saved; to continue, "
    "type `limbeck resume RUN`."
)


def main(arguments: list[str] | None = None) -> None:
    """Run a command. User errors print one sentence; unexpected errors show a traceback.

    Exit codes: 0 success, 1 error, 2 invalid command line, 3 a check of `limbeck doctor` crashed, 130 interrupted.
    """
    arguments = sys.argv[1:] if arguments is None else arguments
    debug, trust = "--debug" in arguments, TRUST in arguments
    # These flags may be typed anywhere, but typer accepts common options only before the command.
    common = [word for word in ("--debug", TRUST) if word in arguments]
    words = [word for word in arguments if word not in common]
    run = _run_typer if is_installed("typer") and is_installed("rich") else _run_without_typer
    try:
        with warnings.catch_warnings(), consent(words, trust=trust), _show_logged_tracebacks(debug):
            warnings.showwarning = _print_notes(warnings.showwarning)
            code = run([*common, *words])
    except LimbeckError as error:
        if debug:
            raise
        _say(f"Error: {error}")
        sys.exit(1)
    except KeyboardInterrupt:
        code = _INTERRUPTED
    except Exception as error:
        if debug or not (isinstance(error, OSError) or is_out_of_memory(error)):
            raise
        _say(f"Error: {_OUT_OF_MEMORY if is_out_of_memory(error) else error}")
        sys.exit(1)
    if code == _INTERRUPTED:
        _say("Interrupted.")
    sys.exit(code)


def _run_typer(words: list[str]) -> int:
    """Run a command of `limbeck.cli.app`; errors in the command line (unknown option, ...) print one sentence."""
    import typer

    from limbeck.cli.app import app

    # click's classes, which newer versions of typer have a private copy of.
    usage_error: Any = typer.BadParameter.__base__
    click_error: Any = usage_error.__base__
    try:
        code = app(args=words, prog_name="limbeck", standalone_mode=False)
    except typer.Abort:
        return _INTERRUPTED
    except click_error as error:
        context = error.ctx if isinstance(error, usage_error) else None
        # A command group without a subcommand has printed its help already; its message is empty.
        if sentence := error.format_message().rstrip("."):
            _say(f"Error: {sentence}. See `{context.command_path if context else 'limbeck'} --help`.")
        return int(error.exit_code)
    return code if isinstance(code, int) else 0


def _run_without_typer(words: list[str]) -> int:
    """Run `limbeck demo` in plain text; all other commands need the extra ``cli``."""
    words = [word for word in words if word not in ("--debug", TRUST)]
    if not words or words[0] in ("-h", "--help"):
        print(f"`limbeck demo` runs with what is installed. For all other commands, type: {install_command('cli')}")
        return 0
    if words[0] == "--version":
        print(describe_versions())
        return 0
    if words[0] != "demo":
        missing = "rich" if is_installed("typer") else "typer"
        raise missing_package_error(missing, extra="cli", purpose=f"`limbeck {words[0]}`")
    from limbeck.cli.jobs import run_demo

    parser = argparse.ArgumentParser("limbeck demo", description="Distill an ensemble of five networks into one.")
    parser.add_argument("--seeds", type=int, default=5, help="number of runs per arm")
    parser.add_argument("--out", help="the output folder")
    parser.add_argument("--json", action="store_true", help="print one JSON object to standard output")
    options = parser.parse_args(words[1:])
    if options.seeds < 1:
        parser.error("--seeds must be at least 1")
    run_demo(options.out, as_json=options.json, seeds=options.seeds)
    return 0


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


@contextmanager
def _show_logged_tracebacks(debug: bool) -> Iterator[None]:
    """With ``--debug`` also print the tracebacks of errors that do not end a command; limbeck logs them."""
    if not debug:
        yield
        return
    logger, handler = logging.getLogger("limbeck"), logging.StreamHandler()
    level = logger.level
    logger.addHandler(handler)
    logger.setLevel(logging.DEBUG)
    try:
        yield
    finally:
        logger.removeHandler(handler)
        logger.setLevel(level)


def _print_notes(default: Callable[..., None]) -> Callable[..., None]:
    """Return a `warnings.showwarning` that prints limbeck's warnings as notes and passes others to `default`."""

    def show(message: Warning | str, category: type[Warning], *where: Any, **more: Any) -> None:
        if issubclass(category, LimbeckWarning):
            _say(f"Note: {message}")
        else:
            default(message, category, *where, **more)

    return show


def _say(text: str) -> None:
    # Messages of other libraries may span several lines; print one line.
    print(printable(" ".join(text.split())), file=sys.stderr)
