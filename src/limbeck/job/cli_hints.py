"""The command-line flag that corrects an error in a job."""

from __future__ import annotations

from collections.abc import Iterable

from limbeck.errors import ArgumentError, LimbeckError, UnknownNameError


def add_flag_hint(error: LimbeckError, place: str, names: Iterable[str] = ()) -> LimbeckError:
    """Add to an error the part of the job that it is about, and the flag to type.

    The flag comes from the argument that the error names, never from its sentence: a sentence may hold the name of
    another key by chance.

    Args:
        error: An error raised by a model, a method or an optimizer.
        place: The part of the job: ``teacher``, ``method``, ``teacher.train``, ...
        names: The keys of that part. An argument that is none of them gets no flag; without keys, every argument does.

    Example:
        >>> error = ArgumentError("lr must be positive; got 0.", argument="lr", example="0.001")
        >>> print(add_flag_hint(error, "budget", ["epochs", "lr"]))
        budget: lr must be positive; got 0. Type --set budget.lr=0.001
    """
    kind = UnknownNameError if isinstance(error, UnknownNameError) else LimbeckError
    return kind(f"{place}: {error} {_hint(error, place, tuple(names))}".rstrip())


def _hint(error: LimbeckError, place: str, names: tuple[str, ...]) -> str:
    if not isinstance(error, (ArgumentError, UnknownNameError)):
        return ""
    if not error.argument:
        return "Leave it out." if isinstance(error, ArgumentError) else ""
    if names and error.argument not in names:
        return ""
    return flag_hint(place, error.argument, error.example if isinstance(error, ArgumentError) else "...")


def flag_hint(place: str, key: str, value: str = "...") -> str:
    """The flag that sets a key of a part of the job, as a sentence."""
    return f"Type --set {place}.{key}={value}"
