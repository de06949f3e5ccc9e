"""Errors and warnings of limbeck."""

from __future__ import annotations

import re
from collections.abc import Iterable
from difflib import SequenceMatcher

_COMMANDS = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\u061c\u200e\u200f\u2028-\u202e\u2066-\u2069\ud800-\udfff]")


def printable(text: str) -> str:
    r"""A text whose control characters are spelled out: none may command a terminal, or turn what stands behind it.

    Names of classes, columns, files and folders come from anybody. Escape sequences set a window's title or clear the
    screen, and marks of direction show another name than there is.

    Example:
        >>> print(printable("a\x1b[2Jb"))
        a\x1b[2Jb
    """
    return _COMMANDS.sub(lambda match: match[0].encode("unicode_escape", "surrogatepass").decode(), text)


class LimbeckError(Exception):
    """A mistake that the person at the keyboard can mend: one sentence, no traceback on the command line."""

    def __str__(self) -> str:
        return printable(super().__str__())


class MissingOutputError(LimbeckError):
    """A model or teacher was asked for something that it cannot show."""


class UnknownNameError(LimbeckError):
    """A name that is none of the known ones; the nearest is offered.

    Attributes:
        argument: The argument whose value is the unknown name; empty where the name is no argument's value.
    """

    def __init__(self, sentence: str, *, argument: str = "") -> None:
        super().__init__(sentence)
        self.argument = argument


class ArgumentError(LimbeckError):
    """An argument that is unknown, missing, or has a value that makes no sense.

    Attributes:
        argument: The name of the argument to change; empty where one has to be left out.
        example: A value of the argument, as it is typed.
    """

    def __init__(self, sentence: str, *, argument: str, example: str = "...") -> None:
        super().__init__(sentence)
        self.argument = argument
        self.example = example


class DivergedError(LimbeckError):
    """A loss or a weight that is no number any more: with other settings it may not happen."""


class LastBatchError(LimbeckError):
    """A model or loss that cannot learn from the last batch of an epoch, which holds fewer examples than the others."""


class DataError(LimbeckError):
    """Data that are missing, damaged, or not what they claim to be."""


class WriteError(LimbeckError, OSError):
    """A file that could not be written: a full disk, a quota, a device that fails. The file of before is whole.

    Made as an OSError is, of a number, its meaning and the file; whoever catches these goes on to.
    """

    def __str__(self) -> str:
        return (
            f"{self.filename} could not be written: {self.strerror}. What was there before is whole. Make room, or "
            "choose another place; the same command then goes on."
        )


class LimbeckWarning(UserWarning):
    """What a person should know, and that stops nothing: one sentence."""


def is_out_of_memory(error: BaseException) -> bool:
    """Whether an error says that memory was refused; PyTorch on a CPU says so in a plain RuntimeError's text alone.

    Example:
        >>> is_out_of_memory(MemoryError()), is_out_of_memory(RuntimeError("mat1 and mat2 do not fit"))
        (True, False)
    """
    phrases = ("can't allocate memory", "not enough memory", "out of memory", "can't start new thread", "bad_alloc")
    plain = isinstance(error, (RuntimeError, OSError)) and not isinstance(error, LimbeckError)
    text = str(error).lower()
    return isinstance(error, MemoryError) or (plain and any(words in text for words in (*phrases, "cannot allocate")))


def nearest(name: str, choices: Iterable[str]) -> str | None:
    """The choice that `name` was probably meant to be, or None.

    Letters that look like digits count as these, and of equally near names the one wins that begins alike for longer.

    Example:
        >>> nearest("temprature", ["temperature", "labels"])
        'temperature'
        >>> nearest("resnet1Ot", ["resnet14t", "resnet10t"]), nearest("resnet21", ["resnet20", "resnet32"])
        ('resnet10t', 'resnet20')
    """
    near = _rank(name, choices)
    return near[0] if near else None


_LOOK_ALIKES = str.maketrans("olis", "0115")


def _rank(name: str, choices: Iterable[str]) -> list[str]:
    """The choices that `name` may have meant, the nearest first."""

    def plain(text: str) -> str:
        return text.lower().translate(_LOOK_ALIKES)

    target, scored = plain(name), []
    for choice in choices:
        likeness = SequenceMatcher(None, plain(choice), target).ratio()
        if likeness >= 0.5:
            exact = SequenceMatcher(None, choice, name).ratio()
            scored.append((-likeness, -exact, -_shared(choice, name), choice))
    return [choice for *_, choice in sorted(scored)]


def _shared(one: str, other: str) -> int:
    """How many letters the two begin with alike."""
    return next((i for i, (a, b) in enumerate(zip(one, other, strict=False)) if a != b), min(len(one), len(other)))


def unknown_name_error(
    kind: str, name: str, choices: Iterable[str], *, then: str = "", argument: str = ""
) -> UnknownNameError:
    """An error for a name that is none of `choices`: the name, the nearest, all of them, what to type next.

    Of more than 40 choices the nearest ten are named.

    Args:
        kind: What the name stands for, such as ``method``.
        name: The unknown name.
        choices: The known names.
        then: A sentence to end with.
        argument: The argument whose value the name is, for the flag on the command line.

    Example:
        >>> print(unknown_name_error("method", "hintn", ["hinton", "fitnets"]))
        Unknown method 'hintn'. Did you mean 'hinton'? Known: fitnets, hinton.
    """
    names = sorted(choices)
    near = _rank(name, names)
    hint = f" Did you mean {near[0]!r}?" if near else ""
    if len(names) <= 40:
        listed = f"Known: {', '.join(names) or 'none'}."
    else:
        listed_names = near[:10] or names[:10]
        listed = f"{'Nearest' if near else 'Known'}: {', '.join(listed_names)}; {len(names):,} names in all."
    return UnknownNameError(f"Unknown {kind} {name!r}.{hint} {listed}{' ' + then if then else ''}", argument=argument)


def one_hot_labels_error(shape: Iterable[int]) -> DataError:
    """An error for labels that are one-hot or probabilities, where class indices are wanted."""
    return DataError(
        f"labels of shape {list(shape)} hold a number for each class, and labels are class indices. One-hot labels: "
        "type labels.argmax(-1). Probabilities p are a teacher's: type lb.ArrayDataset(inputs, extra={'soft': p}) and "
        "teacher=lb.ModelTeacher(nn.Identity(), preprocess=lambda batch: batch.extra['soft'].log())."
    )
