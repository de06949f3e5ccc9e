"""The options of `data:` in a job and of `load_data`, each with its type."""

from __future__ import annotations

import codecs
import datetime
import operator
import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

from limbeck.errors import LimbeckError, unknown_name_error


@dataclass(frozen=True)
class DataOptions:
    """The options that `load_data` knows, as they are meant; which of them apply depends on the kind of data.

    Attributes:
        target: The column of the classes.
        test: A file that is the test part.
        val: A file that is the development part.
        ignore: Columns to leave out.
        groups: The column, or array, that says which group an example belongs to.
        size: Height and width of pictures, in pixels.
        channels: Of pictures: 1 for gray, 3 for red, green, blue.
        bit_depth: Of pictures that hold numbers of more than 8 bits.
        num_workers: How many threads decode pictures.
        channels_last: Whether images in arrays lie as ``[n, h, w, c]``.
        folder: In which a set known by name is looked for.
        text: The column of texts.
        tokenizer: A folder that holds one.
        vocabulary: How many pieces a tokenizer that is trained may have.
        max_length: How many tokens a text may have.
        class_names: The classes in the order of their numbers.
        missing: What stands for a missing value in a table, besides an empty field.
        separator: The character between the columns of a ``.csv`` or ``.tsv`` file.
        charset: Which characters the bytes of such a file stand for, by a name that Python knows: ``cp1252``.
    """

    target: str | None = None
    test: str | None = None
    val: str | None = None
    ignore: tuple[str, ...] = ()
    groups: str | None = None
    size: tuple[int, int] | None = None
    channels: int | None = None
    bit_depth: int | None = None
    num_workers: int | None = None
    channels_last: bool | None = None
    folder: str | None = None
    text: str | None = None
    tokenizer: str | None = None
    vocabulary: int | None = None
    max_length: int | None = None
    class_names: tuple[str, ...] = ()
    missing: tuple[str, ...] = ()
    separator: str | None = None
    charset: str | None = None

    @property
    def option_names(self) -> tuple[str, ...]:
        """The names of those that were set."""
        return tuple(option.name for option in fields(self) if getattr(self, option.name) not in (None, ()))


def parse_data_options(values: Mapping[str, Any]) -> DataOptions:
    """Options as a person types them, turned into what they mean; YAML makes numbers of names, and one of a list.

    Args:
        values: By name; None stands for an option that is not set.

    Raises:
        UnknownNameError: If there is no such option; the nearest is named.
        LimbeckError: If a value makes no sense for its option, saying what would.

    Example:
        >>> parse_data_options({"size": "16x24", "ignore": "id", "target": 1})  # doctest: +ELLIPSIS
        DataOptions(target='1', test=None, val=None, ignore=('id',), groups=None, size=(16, 24), ...)
    """
    for option in values:
        if option not in _KINDS:
            raise unknown_name_error("data option", str(option), ["name", *_KINDS])
    return DataOptions(**{name: _KINDS[name](name, value) for name, value in values.items() if value is not None})


def parse_data_name(value: Any) -> str:
    """A data set's name, or the path of a file or folder; empty where there is none.

    Raises:
        LimbeckError: If it is neither.
    """
    return "" if value is None or value == "" else _path("name", value)


def _invalid_option(option: str, value: Any, expected: str, example: str) -> LimbeckError:
    return LimbeckError(
        f"{option}={value!r} is not {expected}; give for example {option}={example}. On the command line: --set "
        f"data.{option}={example}"
    )


def _text(option: str, value: Any) -> str:
    """A name; YAML reads 1 as a number, where the column is called 1, yes as true, and 2020-01-01 as a date."""
    if isinstance(value, datetime.date):
        return str(value)
    if isinstance(value, bool) or not isinstance(value, (str, int, float)) or value == "":
        quoted = ", with the quotes where YAML would read something else" if isinstance(value, bool) else ""
        raise _invalid_option(option, value, f"a name{quoted}", "'\"NAME\"'")
    return _plain(option, value if isinstance(value, str) else str(value))


def _plain(option: str, value: str) -> str:
    if "\0" in value:
        raise LimbeckError(f"{option}={value!r} holds a character that no name has.")
    return value


def _path(option: str, value: Any) -> str:
    return _plain(option, str(value)) if isinstance(value, Path) else _text(option, value)


def _texts(option: str, value: Any) -> tuple[str, ...]:
    """Several names; one alone is a list of one."""
    values = value if _is_list(value) else [value]
    return tuple(_text(option, item) for item in values)


def _words(option: str, value: Any) -> tuple[str, ...]:
    """What stands for a missing value: anything that a field of a table can hold."""
    values = value if _is_list(value) else [value]
    return tuple(str(item).lower() if isinstance(item, bool) else _text(option, item) for item in values)


def _is_list(value: Any) -> bool:
    return isinstance(value, Iterable) and not isinstance(value, (str, bytes, Mapping))


def _count(option: str, value: Any) -> int:
    number = _whole(value)
    if number is None or not 1 <= number <= _LARGEST:
        raise _invalid_option(option, value, "a positive whole number", _EXAMPLES.get(option, "8"))
    return number


def _zero_or_more(option: str, value: Any) -> int:
    number = _whole(value)
    if number is None or not 0 <= number <= _MOST_WORKERS:
        raise _invalid_option(option, value, f"a whole number from 0 to {_MOST_WORKERS}", "2")
    return number


def _whole(value: Any) -> int | None:
    if isinstance(value, str) and re.fullmatch(r"\s*\d{1,18}\s*", value):
        return int(value)
    if isinstance(value, bool) or (isinstance(value, float) and not value.is_integer()):
        return None
    try:
        return int(value) if isinstance(value, float) else operator.index(value)
    except TypeError:
        return None


def _yes_or_no(option: str, value: Any) -> bool:
    flag = {"true": True, "false": False, "yes": True, "no": False}.get(str(value).strip().lower())
    if flag is None:
        raise _invalid_option(option, value, "true or false", "true")
    return flag


def _channels(option: str, value: Any) -> int:
    if (number := _whole(value)) not in (1, 3):
        raise LimbeckError(f"channels={value!r} is neither 1 (gray) nor 3 (red, green, blue).")
    return number


def _size(option: str, value: Any) -> tuple[int, int]:
    """Height and width: 224 is both; "16x24" and [16, 24] are one each."""
    parts = re.split(r"[x,\u00d7 ]+", value.strip(" ()[]")) if isinstance(value, str) else value
    sides = list(parts) if _is_list(parts) else [parts]
    numbers = [number for number in map(_whole, sides) if number is not None and 1 <= number <= _WIDEST]
    if len(numbers) != len(sides) or len(numbers) not in (1, 2):
        raise _invalid_option(option, value, "a height and a width in pixels", "[224,224]")
    return numbers[0], numbers[-1]


def _separator(option: str, value: Any) -> str:
    named = {"tab": "\t", "\\t": "\t", "comma": ",", "semicolon": ";"}.get(str(value), value)
    if not isinstance(named, str) or len(named) != 1 or not named.isascii() or named in '\n\r"\0':
        raise _invalid_option(option, value, "one character between columns", "';'")
    return named


def _charset(option: str, value: Any) -> str:
    try:
        return codecs.lookup(_text(option, value)).name
    except (LookupError, ValueError, UnicodeError) as error:
        raise _invalid_option(
            option, value, "a name for a way to write characters that Python knows", "cp1252"
        ) from error


_LARGEST, _WIDEST = 10**8, 16_384  # pieces or tokens, and pixels along a side: more are a slip of the keyboard
_MOST_WORKERS = 1024
_EXAMPLES = {"bit_depth": "12", "vocabulary": "8000", "max_length": "128"}
_KINDS: dict[str, Callable[[str, Any], Any]] = {
    "target": _text, "test": _path, "val": _path, "ignore": _texts, "groups": _text, "size": _size,
    "channels": _channels, "bit_depth": _count, "num_workers": _zero_or_more, "channels_last": _yes_or_no,
    "folder": _path, "text": _text, "tokenizer": _path, "vocabulary": _count,
    "max_length": _count, "class_names": _texts, "missing": _words, "separator": _separator, "charset": _charset,
}  # fmt: skip
"""How each option is read: (its name, what a person gave) -> what it means, or a sentence."""
