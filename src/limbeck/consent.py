"""Consent to run a Python file that a job names: asked for in one place, where the file is about to be run.

A job or a run's folder may come from somebody else, and ``my.py:build`` in it is code. In Python every file may be run,
for who calls limbeck there runs code of their own; a command that only reads, prints or exports works in `allow_only`.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from pathlib import Path
from typing import NamedTuple

from limbeck.errors import LimbeckError

_FILE = re.compile(r"[^\s=,:{}\[\]'\"]+\.py(?=:)")


class _Consent(NamedTuple):
    """Which files may be run (None for all), and which command asks."""

    doing: str
    typed: frozenset[Path] | None


_consent: ContextVar[_Consent | None] = ContextVar("limbeck_consent", default=None)


@contextmanager
def allow_only(doing: str, words: Sequence[str] = ()) -> Iterator[None]:
    """A block in which no Python file is run but those that a person typed.

    Args:
        doing: What is done, for the sentence: ``limbeck cite``.
        words: What was typed: ``--teacher my.py:build``, ``--set method.name=my.py:soft``.
    """
    token = _consent.set(_Consent(doing, frozenset(_typed_files(words))))
    try:
        yield
    finally:
        _consent.reset(token)


@contextmanager
def allow_all() -> Iterator[None]:
    """A block in which every file that a job names may be run: a person said that they trust it."""
    token = _consent.set(_Consent("", None))
    try:
        yield
    finally:
        _consent.reset(token)


@contextmanager
def read_consent(doing: str, *, trust: bool) -> Iterator[None]:
    """The block of a function that only reads a folder; within a command, what that command allows holds."""
    if trust:
        with allow_all():
            yield
    elif _consent.get() is None:
        with allow_only(doing):
            yield
    else:
        yield


def may_run(file: Path) -> bool:
    """Whether a file may be run here."""
    consent = _consent.get()
    return consent is None or consent.typed is None or file.absolute() in consent.typed


def check_consent(file: Path, function: str) -> None:
    """Refuse to run a file that only a job or a folder names.

    Raises:
        LimbeckError: With what to type.
    """
    consent = _consent.get()
    if consent is not None and not may_run(file):
        raise LimbeckError(
            f"The job names the Python file {file}:{function}, and {consent.doing} runs no file that only a job or a "
            "folder names: it may be a stranger's. Read the file, then type the same command with --trust (in Python: "
            "trust=True)."
        )


def _typed_files(words: Sequence[str]) -> Iterator[Path]:
    for word in words:
        for match in _FILE.findall(word):
            yield Path(match).absolute()
        # A name with a space or a comma in it: the whole word, or what stands behind the key.
        whole, at, _ = word.rpartition(".py:")
        if at:
            yield Path(f"{whole}.py").absolute()
            yield Path(f"{whole.partition('=')[2]}.py").absolute()
