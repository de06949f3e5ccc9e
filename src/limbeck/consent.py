"""Permission to run Python files that a job names.

A job or a run's folder may come from someone else, and ``my.py:build`` in it is code. When limbeck is used from Python,
every file may be run. Commands that only read, print or export use `allow_only`.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from pathlib import Path
from typing import NamedTuple

from limbeck.errors import LimbeckError

TRUST = "--trust"
"""The option of the command line that allows all files."""

_PICKLE = re.compile(r"sklearn:([^\s=,:{}\[\]'\"]+)")
_FILE = re.compile(r"[^\s=,:{}\[\]'\"]+\.py(?=:)")


class _Consent(NamedTuple):
    """The files that may be run (None for all), and the command, for error messages."""

    doing: str
    typed: frozenset[Path] | None


_consent: ContextVar[_Consent | None] = ContextVar("limbeck_consent", default=None)


@contextmanager
def allow_only(doing: str, words: Sequence[str] = ()) -> Iterator[None]:
    """Context manager in which only Python files named on the command line are run.

    Args:
        doing: The command, for the error message: ``limbeck cite``.
        words: The words of the command line: ``--teacher my.py:build``, ``--set method.name=my.py:soft``.
    """
    token = _consent.set(_Consent(doing, frozenset(_typed_files(words))))
    try:
        yield
    finally:
        _consent.reset(token)


@contextmanager
def allow_all() -> Iterator[None]:
    """Context manager in which every file that a job names may be run, because the user trusts the job."""
    token = _consent.set(_Consent("", None))
    try:
        yield
    finally:
        _consent.reset(token)


@contextmanager
def read_consent(doing: str, *, trust: bool) -> Iterator[None]:
    """Context manager for a function that only reads a folder. Inside a command, the command's permission applies."""
    if trust:
        with allow_all():
            yield
    elif _consent.get() is None:
        with allow_only(doing):
            yield
    else:
        yield


def may_run(file: Path) -> bool:
    """Whether the file may be run."""
    consent = _consent.get()
    return consent is None or consent.typed is None or file.absolute() in consent.typed


def check_consent(file: Path, function: str | None) -> None:
    """Raise an error if the file may not be run.

    Args:
        file: The file.
        function: The function of a Python file; None for a pickle, which can run code when it is opened.

    Raises:
        LimbeckError: If only a job or a folder names the file. The message says which option allows it.
    """
    consent = _consent.get()
    if consent is not None and not may_run(file):
        what = f"the pickle {file}" if function is None else f"the Python file {file}:{function}"
        why = ", which can run code when it is opened," if function is None else ""
        check = "If you know where it comes from," if function is None else "Read the file, then"
        raise LimbeckError(
            f"The job names {what}{why} and {consent.doing} does not run files that only a "
            f"job or a folder names, because they may come from someone else. {check} repeat the command "
            f"with {TRUST} (in Python: trust=True)."
        )


def _typed_files(words: Sequence[str]) -> Iterator[Path]:
    for word in words:
        for match in _FILE.findall(word):
            yield Path(match).absolute()
        for match in _PICKLE.findall(word):
            yield Path(match).absolute()
        # For a name with a space or a comma: the whole word, or the part after the key.
        whole, at, _ = word.rpartition(".py:")
        if at:
            yield Path(f"{whole}.py").absolute()
            yield Path(f"{whole.partition('=')[2]}.py").absolute()
        whole, at, pickle = word.partition("sklearn:")
        if at:
            yield Path(pickle).absolute()
