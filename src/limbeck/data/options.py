"""Options of `load_data` and of `data:` in a job, with their types."""

from __future__ import annotations

import codecs
import datetime
import operator
import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any

from limbeck.errors import LimbeckError, unknown_name_error


@dataclass(frozen=True)
class DataOptions:
    """Parsed options of `load_data`; which of them apply depends on the kind of data.

    Attributes:
        target: The target column.
        targets: Several target columns; `target` is then the first.
        delimiter: What separates several labels in the target column.
        test: File (or image folder) of the test part.
        val: File (or image folder) of the development part.
        ignore: Columns to leave out.
        groups: The column or array with the group of each example.
        size: Height and width of images, in pixels.
        channels: Channels of images: 1 for gray, 3 for RGB.
        bit_depth: Bits per pixel of images with more than 8 bits.
        num_workers: Number of threads that decode images.
        channels_last: Whether image arrays have the layout ``[n, h, w, c]``.
        masks: Folder of the masks of a folder of images, for segmentation.
        folder: Folder in which a built-in dataset is searched.
        text: The column with the texts.
        tokenizer: Folder of a saved tokenizer.
        vocabulary: Vocabulary size of a tokenizer trained on the texts.
        max_length: Maximum number of tokens per text; of a language model, the tokens that it reads at a time.
        prompt: Column of the prompts, for a language model.
        max_new_tokens: Of a job whose prompts have no answers, the most tokens that its teacher writes for each; by
            default as many as the method writes, or 64.
        completion: Column of the answers to prompts.
        encoder_decoder: Whether an encoder reads the prompts, and a decoder writes the answers, as in T5; a job finds
            that in the configuration of its models.
        overlap: Tokens of context from the window before, in texts longer than `max_length`.
        packing: Whether several texts share a row of `max_length` tokens.
        padding_side: ``right`` or ``left``.
        too_long: For a prompt whose answer ends behind `max_length` tokens: ``error``, ``drop`` or ``window``.
        add_eos_token: Whether texts end with the tokenizer's end token; true by default.
        completion_only_loss: Whether only the answers to prompts are learned; true by default.
        sample_by: What one text of a ``.txt`` file is: ``line``, ``paragraph`` (until a blank line) or ``document``.
        cache_dir: Folder in which tokens are stored once, and read from by a memory map.
        class_names: The class names in class order.
        missing: Values of a table that mean missing, in addition to empty fields.
        separator: Column separator of a ``.csv`` or ``.tsv`` file.
        charset: Character encoding of such a file, by its Python name: ``cp1252``.
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
    targets: tuple[str, ...] = ()
    delimiter: str | None = None
    masks: str | None = None
    prompt: str | None = None
    max_new_tokens: int | None = None
    completion: str | None = None
    encoder_decoder: bool | None = None
    overlap: int | None = None
    packing: bool | None = None
    padding_side: str | None = None
    too_long: str | None = None
    add_eos_token: bool | None = None
    completion_only_loss: bool | None = None
    sample_by: str | None = None
    cache_dir: str | None = None
    task: str | None = None  # no option of its own: `load_data(task=)`, or `task` in a job

    @property
    def option_names(self) -> tuple[str, ...]:
        """The names of the options that are set."""
        return tuple(
            one.name for one in fields(self) if getattr(self, one.name) not in (None, ()) and one.name != "task"
        )


def parse_data_options(values: Mapping[str, Any]) -> DataOptions:
    """Parse options as users type them: names that YAML reads as numbers, single items instead of lists, and so on.

    Args:
        values: Values by option name; None means that the option is not set.

    Raises:
        UnknownNameError: If there is no such option. The message suggests the nearest name.
        LimbeckError: If a value is not valid for its option. The message has an example.

    Example:
        >>> parse_data_options({"size": "16x24", "ignore": "id", "target": 1})  # doctest: +ELLIPSIS
        DataOptions(target='1', test=None, val=None, ignore=('id',), groups=None, size=(16, 24), ...)
    """
    for option in values:
        if option not in _KINDS:
            raise unknown_name_error("data option", str(option), ["name", *_KINDS])
    values = dict(values)
    if _is_list(values.get("target")) and "targets" not in values:
        values["targets"] = values.pop("target")
    options = DataOptions(**{name: _KINDS[name](name, value) for name, value in values.items() if value is not None})
    return replace(options, target=options.targets[0]) if options.targets and options.target is None else options


def parse_data_name(value: Any) -> str:
    """Parse the name of a dataset, or the path of a file or folder; empty if there is none.

    Raises:
        LimbeckError: If it is neither a name nor a path.
    """
    return "" if value is None or value == "" else _path("name", value)


def _invalid_option(option: str, value: Any, expected: str, example: str) -> LimbeckError:
    return LimbeckError(
        f"{option}={value!r} is not {expected}. Example: {option}={example}. On the command line: --set "
        f"data.{option}={example}"
    )


def _text(option: str, value: Any) -> str:
    """Parse a name; YAML reads a column name 1 as a number, yes as true, and 2020-01-01 as a date."""
    if isinstance(value, datetime.date):
        return str(value)
    if isinstance(value, bool) or not isinstance(value, (str, int, float)) or value == "":
        quoted = " (in quotes, because YAML reads it as true or false)" if isinstance(value, bool) else ""
        raise _invalid_option(option, value, f"a name{quoted}", "'\"NAME\"'")
    return _plain(option, value if isinstance(value, str) else str(value))


def _plain(option: str, value: str) -> str:
    if "\0" in value:
        raise LimbeckError(f"{option}={value!r} contains a null character.")
    return value


def _path(option: str, value: Any) -> str:
    return _plain(option, str(value)) if isinstance(value, Path) else _text(option, value)


def _texts(option: str, value: Any) -> tuple[str, ...]:
    """Parse a list of names; a single name becomes a list of one."""
    values = value if _is_list(value) else [value]
    return tuple(_text(option, item) for item in values)


def _words(option: str, value: Any) -> tuple[str, ...]:
    """Parse values that mean missing: anything that a table field can contain."""
    values = value if _is_list(value) else [value]
    return tuple(str(item).lower() if isinstance(item, bool) else _text(option, item) for item in values)


def _is_list(value: Any) -> bool:
    return isinstance(value, Iterable) and not isinstance(value, (str, bytes, Mapping))


def _count(option: str, value: Any) -> int:
    number = _whole(value)
    if number is None or not 1 <= number <= _LARGEST:
        raise _invalid_option(option, value, "a positive whole number", _EXAMPLES.get(option, "8"))
    return number


def _tokens(option: str, value: Any) -> int:
    number = _whole(value)
    if number is None or not 0 <= number <= _LARGEST:
        raise _invalid_option(option, value, "a number of tokens, 0 or more", "32")
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
        raise LimbeckError(f"channels={value!r} must be 1 (gray) or 3 (RGB).")
    return number


def _size(option: str, value: Any) -> tuple[int, int]:
    """Parse height and width: 224, "16x24" or [16, 24]."""
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
        raise _invalid_option(option, value, "a character encoding that Python supports", "cp1252") from error


def _choice(option: str, value: Any) -> str:
    choices = _CHOICES[option]
    if value not in choices:
        raise _invalid_option(option, value, f"one of {', '.join(choices)}", choices[-1])
    return str(value)


_CHOICES = {
    "padding_side": ("left", "right"),
    "too_long": ("error", "window", "drop"),
    "sample_by": ("document", "line", "paragraph"),
}
_LARGEST, _WIDEST = 10**8, 16_384  # tokens, and pixels along a side; larger values are surely typing errors
_MOST_WORKERS = 1024
_EXAMPLES = {"bit_depth": "12", "vocabulary": "8000", "max_length": "128"}
_KINDS: dict[str, Callable[[str, Any], Any]] = {
    "target": _text, "targets": _texts, "delimiter": _text, "masks": _path,
    "test": _path, "val": _path, "ignore": _texts, "groups": _text, "size": _size,
    "channels": _channels, "bit_depth": _count, "num_workers": _zero_or_more, "channels_last": _yes_or_no,
    "folder": _path, "text": _text, "tokenizer": _path, "vocabulary": _count,
    "max_length": _count, "class_names": _texts, "missing": _words, "separator": _separator, "charset": _charset,
    "prompt": _text, "completion": _text, "max_new_tokens": _count, "encoder_decoder": _yes_or_no,
    "overlap": _tokens, "packing": _yes_or_no, "padding_side": _choice,
    "too_long": _choice, "add_eos_token": _yes_or_no, "completion_only_loss": _yes_or_no, "sample_by": _choice,
    "cache_dir": _path,
}  # fmt: skip
"""The parser of each option: (option name, value) -> parsed value."""
