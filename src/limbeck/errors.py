"""What does limbeck say when something is wrong?"""

from __future__ import annotations

from collections.abc import Iterable
from difflib import get_close_matches


class LimbeckError(Exception):
    """A mistake that the person at the keyboard can mend: one sentence, no traceback on the command line."""


class MissingSignalError(LimbeckError):
    """A model or teacher was asked for something that it cannot show."""


class UnknownNameError(LimbeckError):
    """A name that is none of the known ones; the nearest is offered."""


class ArgumentError(LimbeckError):
    """An argument of a model that it does not take, that it lacks, or whose value makes no sense.

    Attributes:
        argument: The argument that would mend it, by name; empty where leaving one out does.
        example: What a value looks like, as a person types it.
    """

    def __init__(self, sentence: str, *, argument: str, example: str = "...") -> None:
        super().__init__(sentence)
        self.argument = argument
        self.example = example


class DivergedError(LimbeckError):
    """A loss or a weight that is no number any more: with other settings it may not happen."""


class DataError(LimbeckError):
    """Data that are missing, damaged, or not what they claim to be."""


class LimbeckWarning(UserWarning):
    """What a person should know, and that stops nothing: one sentence."""


def nearest(name: str, choices: Iterable[str]) -> str | None:
    """The choice that `name` was probably meant to be, or None.

    Example:
        >>> nearest("temprature", ["temperature", "labels"])
        'temperature'
    """
    found = get_close_matches(name, list(choices), n=1, cutoff=0.5)
    return found[0] if found else None


def unknown(kind: str, name: str, choices: Iterable[str], *, then: str = "") -> UnknownNameError:
    """An error for a name that is none of `choices`: the name, the nearest, all of them, what to type next.

    Example:
        >>> print(unknown("method", "hintn", ["hinton", "fitnets"]))
        Unknown method 'hintn'. Did you mean 'hinton'? Known: fitnets, hinton.
    """
    known = sorted(choices)
    near = nearest(name, known)
    meant = f" Did you mean {near!r}?" if near else ""
    listed = ", ".join(known[:40]) + (", ..." if len(known) > 40 else "")
    return UnknownNameError(f"Unknown {kind} {name!r}.{meant} Known: {listed or 'none'}.{' ' + then if then else ''}")


def one_for_each_class(shape: Iterable[int]) -> DataError:
    """An error for labels that are one-hot or probabilities, where class indices are wanted."""
    return DataError(
        f"labels of shape {list(shape)} hold a number for each class, and labels are class indices. One-hot labels: "
        "type labels.argmax(-1). Probabilities p are a teacher's answer: type lb.Arrays(inputs, extra={'soft': p}) and "
        "teacher=lb.Live(nn.Identity(), reads=lambda batch: batch.extra['soft'].log())."
    )
