"""Which commands may run the Python files that a job names."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import AbstractContextManager

from limbeck.consent import only_typed, trusting

TRUST = "--trust"
_TRAINING = {"demo", "distill", "compare", "tune", "reproduce", "bench"}
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
