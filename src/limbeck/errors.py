"""Errors and warnings of limbeck."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from difflib import SequenceMatcher
from typing import Any

_COMMANDS = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\u061c\u200e\u200f\u2028-\u202e\u2066-\u2069\ud800-\udfff]")


def printable(text: str) -> str:
    r"""Replace control characters by escapes, so that a text cannot control the terminal.

    Names of classes, columns, files and folders come from untrusted data. Escape sequences can clear the screen or set
    the window title, and direction marks can make a name look like another one.

    Example:
        >>> print(printable("a\x1b[2Jb"))
        a\x1b[2Jb
    """
    return _COMMANDS.sub(lambda match: match[0].encode("unicode_escape", "surrogatepass").decode(), text)


def callable_name(value: object) -> str:
    """Return the name of a function, or of the class of a callable object, for messages and descriptions."""
    # functools.partial and callable objects have no __name__.
    return str(getattr(value, "__name__", type(value).__name__))


class LimbeckError(Exception):
    """Base class of errors that the user can fix. The command line prints the message without a traceback."""

    def __str__(self) -> str:
        return printable(super().__str__())


class MissingOutputError(LimbeckError):
    """A model or teacher does not have the requested output."""


class UnknownNameError(LimbeckError):
    """A name is unknown; the message suggests the nearest known one.

    Attributes:
        argument: The argument whose value is the unknown name; empty if the name is not the value of an argument.
    """

    def __init__(self, sentence: str, *, argument: str = "") -> None:
        super().__init__(sentence)
        self.argument = argument


class ArgumentError(LimbeckError):
    """An argument is unknown, missing, or has an invalid value.

    Attributes:
        argument: The name of the argument to change; empty where one has to be left out.
        example: A value of the argument, as it is typed.
    """

    def __init__(self, sentence: str, *, argument: str, example: str = "...") -> None:
        super().__init__(sentence)
        self.argument = argument
        self.example = example


class UnknownArgumentError(ArgumentError):
    """An argument is unknown.

    Attributes:
        name: The unknown argument; `argument` is the nearest known one, or empty.
    """

    def __init__(self, sentence: str, *, name: str, argument: str, example: str = "...") -> None:
        super().__init__(sentence, argument=argument, example=example)
        self.name = name


class DivergedError(LimbeckError):
    """A loss or a weight became NaN or infinite. Other settings may prevent this."""


class LastBatchError(LimbeckError):
    """A model or loss cannot train on the last batch of an epoch, which is smaller than the others."""


class DataError(LimbeckError):
    """Data are missing, damaged, or not of the stated kind."""


class TextTooLongError(DataError):
    """A text with a prompt has more tokens than a window.

    Attributes:
        fact: What is too long, as a sentence.
        needed: The `max_length` with which all texts fit.
        readable: The largest `max_length` that the models can read; None if it is not known.
    """

    def __init__(self, fact: str, *, needed: int, readable: int | None = None) -> None:
        self.fact, self.needed, self.readable = fact, needed, readable
        if readable is not None and readable < needed:
            way = f"The models read at most {readable:,} tokens, so leave the long ones out"
        else:
            way = f"Type --set data.max_length={needed}, or leave them out"
        super().__init__(f"{fact} {way}: --set data.too_long=drop (too_long='drop' in Python).")


class ServerError(LimbeckError):
    """A server did not answer, or its answer cannot be used.

    Attributes:
        status: The HTTP status of the answer; None if there was none, or it was 200 and its content was wrong.
    """

    def __init__(self, sentence: str, *, status: int | None = None) -> None:
        super().__init__(sentence)
        self.status = status


class WriteError(LimbeckError, OSError):
    """A file could not be written: full disk, quota, failing device. The previous file is unchanged.

    It is created like an OSError, from an error number, a message and the file name, and can be caught as one.
    """

    def __str__(self) -> str:
        return (
            f"{self.filename} could not be written: {self.strerror}. The previous file is unchanged. Free some "
            "space, or choose another folder, and repeat the command to continue."
        )


class LimbeckWarning(UserWarning):
    """A problem that the user should know about, but that does not stop the program."""


def is_out_of_memory(error: BaseException) -> bool:
    """Whether an error is about memory. PyTorch on CPU reports this only in the text of a RuntimeError.

    Example:
        >>> is_out_of_memory(MemoryError()), is_out_of_memory(RuntimeError("mat1 and mat2 do not fit"))
        (True, False)
    """
    phrases = ("can't allocate memory", "not enough memory", "out of memory", "can't start new thread", "bad_alloc")
    plain = isinstance(error, (RuntimeError, OSError)) and not isinstance(error, LimbeckError)
    text = str(error).lower()
    return isinstance(error, MemoryError) or (plain and any(words in text for words in (*phrases, "cannot allocate")))


def describe_hub_error(name: str, error: BaseException) -> str:
    """The reason why a model or tokenizer of the Hugging Face hub was not opened, for messages.

    Example:
        >>> describe_hub_error("no/model", OSError("We couldn't connect to 'https://huggingface.co'"))
        'there is no folder no/model here, and the hub of Hugging Face was not reached'
    """
    causes: list[BaseException] = [error]
    while (cause := causes[-1].__cause__ or causes[-1].__context__) is not None and cause not in causes:
        causes.append(cause)
    unreached = ("LocalEntryNotFoundError", "OfflineModeIsEnabled", "ConnectError", "ConnectionError")
    if "couldn't connect" in str(error) or any(type(one).__name__ in unreached for one in causes):
        return f"there is no folder {name} here, and the hub of Hugging Face was not reached"
    return str(error).strip().partition("\n")[0]


def nearest(name: str, choices: Iterable[str], *, least: float = 0.5) -> str | None:
    """The choice nearest to `name`, or None if none is similar: if the share of equal letters is below `least`.

    Letters that look like digits are treated as equal. Of equally similar names, the one with the longest common prefix
    is returned.

    Example:
        >>> nearest("temprature", ["temperature", "labels"])
        'temperature'
        >>> nearest("resnet1Ot", ["resnet14t", "resnet10t"]), nearest("resnet21", ["resnet20", "resnet32"])
        ('resnet10t', 'resnet20')
    """
    near = _rank(name, choices, least)
    return near[0] if near else None


_LOOK_ALIKES = str.maketrans("olis", "0115")


def _rank(name: str, choices: Iterable[str], least: float = 0.5) -> list[str]:
    """The choices similar to `name`, nearest first."""

    def plain(text: str) -> str:
        return text.lower().translate(_LOOK_ALIKES)

    target, scored = plain(name), []
    for choice in choices:
        likeness = SequenceMatcher(None, plain(choice), target).ratio()
        if likeness >= least:
            exact = SequenceMatcher(None, choice, name).ratio()
            scored.append((-likeness, -exact, -_shared(choice, name), choice))
    return [choice for *_, choice in sorted(scored)]


def _shared(one: str, other: str) -> int:
    """Length of the common prefix."""
    return next((i for i, (a, b) in enumerate(zip(one, other, strict=False)) if a != b), min(len(one), len(other)))


def unknown_name_error(
    kind: str, name: Any, choices: Iterable[str], *, then: str = "", argument: str = "", meant: Sequence[str] = (),
    least: float = 0.5,
) -> UnknownNameError:  # fmt: skip
    """Error for an unknown name, with the nearest choice, the known names and what to type next.

    Of more than 40 choices only the nearest ten are listed.

    Args:
        kind: What the name stands for, such as ``method``.
        name: The unknown name; what is no text has no nearest choice.
        choices: The known names.
        then: A sentence to end with.
        argument: The argument whose value the name is, for the flag on the command line.
        meant: The choices that have this meaning, in place of the nearest one.
        least: How like the name the nearest choice is at least.

    Example:
        >>> print(unknown_name_error("method", "hintn", ["hinton", "fitnets"]))
        Unknown method 'hintn'. Did you mean 'hinton'? Known: fitnets, hinton.
    """
    names = sorted(choices)
    near = _rank(name, names, least) if isinstance(name, str) else []
    meant = meant or near[:1]
    hint = f" Did you mean {' or '.join(map(repr, meant))}?" if meant else ""
    if len(names) <= 40:
        listed = f"Known: {', '.join(names) or 'none'}."
    else:
        listed_names = near[:10] or names[:10]
        listed = f"{'Nearest' if near else 'Known'}: {', '.join(listed_names)}; {len(names):,} names in all."
    return UnknownNameError(f"Unknown {kind} {name!r}.{hint} {listed}{' ' + then if then else ''}", argument=argument)


NUMBERS_TO_PREDICT = """For numbers to predict (task='regression'), type lb.ArrayDataset(X, extra={"targets": y})."""
"""What to type if labels are the targets of a regression."""


def one_hot_labels_error(shape: Iterable[int]) -> DataError:
    """Error for labels that are one-hot or probabilities instead of class indices."""
    sizes = list(shape)
    if len(sizes) > 1 and sizes[-1] == 1:
        return DataError(f"labels of shape {sizes} are numbers, but labels must be class indices. {NUMBERS_TO_PREDICT}")
    return DataError(
        f"labels of shape {sizes} contain one number per class, but labels must be class indices. For one-hot "
        "labels, type labels.argmax(-1). For probabilities p, use a teacher: lb.ArrayDataset(inputs, extra={'soft': p})"
        " and teacher=lb.ModelTeacher(nn.Identity(), preprocess=lambda batch: batch.extra['soft'].log()). "
        f"{NUMBERS_TO_PREDICT}"
    )
