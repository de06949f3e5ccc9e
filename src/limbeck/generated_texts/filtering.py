"""Filters by name, as on the command line, and their application to the texts of a prompt."""

from __future__ import annotations

import hashlib
import inspect
import json
import re
from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from limbeck.errors import ArgumentError, LimbeckError, unknown_name_error
from limbeck.generated_texts.filters import (
    Distinct,
    ExactAnswer,
    Finished,
    FunctionFilter,
    GeneratedText,
    Length,
    Majority,
    MatchesSchema,
    RightProgram,
    TextFilter,
)
from limbeck.models.user_file import UserFile

FILTERS: dict[str, Callable[[str], TextFilter]] = {
    "exact_answer": lambda value: ExactAnswer(value or None),
    "majority": lambda value: Majority(*([_read_number(value, "majority", float)] if value else [])),
    "schema": lambda value: _read_schema(value),
    "program": lambda value: RightProgram(*([_read_number(value, "program", float)] if value else [])),
    "length": lambda value: _read_length(value),
    "finished": lambda value: Finished(),
    "duplicates": lambda value: Distinct(),
}
"""The filters by name; each is made from what stands behind the colon."""


def open_filters(names: Iterable[str | TextFilter | Callable[[GeneratedText], Any]]) -> list[TextFilter]:
    """Make filters from names as on the command line, functions and filters.

    Args:
        names: ``exact_answer[:MARKER]``, ``majority[:SHARE]``, ``schema:FILE``, ``program[:SECONDS]``,
            ``length:LEAST-MOST``, ``finished``, ``duplicates`` or ``my.py:function``; functions of a `GeneratedText`;
            objects with the method ``refuse``.

    Raises:
        LimbeckError: If a name is unknown, a value is out of range, or a file cannot be read.

    Example:
        >>> [one.name for one in open_filters(["exact_answer", "length:1-200"])]
        ['exact_answer', 'length:1-200']
    """
    return [_open(name) for name in names]


def _open(name: Any) -> TextFilter:
    if not isinstance(name, str):
        if isinstance(name, TextFilter):
            return name
        if callable(name):
            return FunctionFilter(name)
        raise LimbeckError(f"A filter is a name, a function, or an object with refuse(texts); got {name!r:.60}.")
    if own := UserFile.parse(name):
        return FunctionFilter(own.load(), name)
    kind, _, value = name.partition(":")
    if kind not in FILTERS:
        raise unknown_name_error("filter", kind, FILTERS, then="Or type my.py:function.", argument="filter")
    return FILTERS[kind](value)


def filter_texts(
    texts: Sequence[GeneratedText], filters: Sequence[TextFilter]
) -> tuple[list[GeneratedText], list[str]]:
    """Apply filters to the texts of one prompt, one after the other. Empty texts are always refused.

    Returns:
        The texts that all filters keep, and the reasons why the others are refused, as ``filter: reason``.

    Raises:
        LimbeckError: If a filter raises, or returns another number of reasons.

    Example:
        >>> texts = [GeneratedText(0, n, "2 + 2 =", answer, "4") for n, answer in enumerate([" 4", " 5", ""])]
        >>> remaining, reasons = filter_texts(texts, open_filters(["exact_answer"]))
        >>> [text.completion for text in remaining], reasons
        ([' 4'], ['empty', 'exact_answer: wrong answer'])
    """
    remaining = [text for text in texts if text.completion.strip()]
    reasons = ["empty"] * (len(texts) - len(remaining))
    for one in filters:
        if not remaining:
            break
        try:
            refused = list(one.refuse(remaining))
        except LimbeckError:
            raise
        except Exception as error:  # a filter of the user's can raise any exception
            raise LimbeckError(
                f"The filter {one.name}, on the prompt {remaining[0].id!r}, failed: {type(error).__name__}: {error}."
            ) from error
        if len(refused) != len(remaining):
            raise LimbeckError(f"The filter {one.name} returned {len(refused)} reasons for {len(remaining)} texts.")
        reasons += [f"{one.name}: {reason}" for reason in refused if reason is not None]
        remaining = [text for text, reason in zip(remaining, refused, strict=True) if reason is None]
    return remaining, reasons


def hash_filters(filters: Sequence[TextFilter]) -> str:
    """SHA-256 of filters: their settings, and the source code of functions."""
    return hashlib.sha256(json.dumps([_describe(one) for one in filters]).encode()).hexdigest()


def _describe(one: Any) -> list[str]:
    if isinstance(one, FunctionFilter):
        try:
            return [one.name, inspect.getsource(one.function)]
        except (OSError, TypeError):  # written in a terminal, or an object that can be called
            return [one.name]
    if isinstance(one, MatchesSchema):
        return ["schema", json.dumps(one.schema, sort_keys=True)]
    settings = json.dumps(asdict(one), sort_keys=True, default=str) if hasattr(one, "__dataclass_fields__") else ""
    return [type(one).__name__, one.name, settings]


def _read_number(value: str, name: str, kind: Callable[[str], Any]) -> Any:
    try:
        return kind(value)
    except ValueError as error:
        raise ArgumentError(f"{name}: {value!r} is no number.", argument=name) from error


def _read_length(value: str) -> Length:
    match = re.fullmatch(r"(\d*)-(\d*)", value)
    if match is None or value == "-":
        raise ArgumentError(
            f"length:{value} names no range; type length:1-200, length:1- or length:-200.", argument="length"
        )
    return Length(int(match[1] or 1), int(match[2]) if match[2] else None)


def _read_schema(value: str) -> MatchesSchema:
    if not value:
        raise LimbeckError("schema needs a file: type schema:FILE.json.")
    try:
        schema = json.loads(Path(value).read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise LimbeckError(f"The schema {value} cannot be read: {error}.") from error
    return MatchesSchema(schema, value)
