"""Columns that number or name the rows of a table, or hold the answer: none of them is a feature."""

from __future__ import annotations

import re

import numpy as np

from limbeck.sources.inference import ColumnValues

_NAMELESS = re.compile(r"|Unnamed: ?\d+(_level_\d+)?|__index_level_\d+__|\.\.\.\d+")
"""What pandas, Arrow and R call a column that has no name: the index of the rows, mostly."""
_IDENTIFIER = re.compile(
    r"(?i:id|idx|index|row|rows|row[_ .-]?(id|idx|number|num|no|nr|index)|line|nr|no\.?|#|uuid|guid)"
    r"|.*[_ .-](id|ID|Id|nr|Nr|NR|uuid|guid)|.*[a-z](Id|ID)"
)
_ENOUGH = 20  # rows; of fewer, different values in all of them may be chance


def left_out_because(column: ColumnValues, *, index: bool) -> str:
    """Why a column is left out of the features: it numbers or names the rows; empty for a feature.

    Args:
        column: All of its values.
        index: Whether the file says that it is the index of the rows.
    """
    if index:
        return "the index of the rows, as pandas wrote it"
    nameless = _NAMELESS.fullmatch(column.name) is not None
    if not (all_differ := _all_differ(column)):
        return ""
    if column.kind == "number" and (nameless or _IDENTIFIER.fullmatch(column.name)):
        return "row numbers: another whole number in each row"
    looks_like_numbers = bool(column.warning)
    if column.kind == "category" and (nameless or all_differ >= _ENOUGH) and not looks_like_numbers:
        return "another text in each row"
    return ""


def counts_up(column: ColumnValues) -> bool:
    """Whether a column of whole numbers goes up by one from row to row, as a row number does."""
    if column.numbers is None or len(column.numbers) < _ENOUGH:
        return False
    whole = float(column.numbers[0]).is_integer()
    return whole and bool((np.diff(column.numbers) == 1).all())


def holds_answer(column: ColumnValues, labels: np.ndarray) -> bool:
    """Whether a column has one value for each class and each class one value, over all labeled rows.

    Args:
        column: All of its values.
        labels: The class of each row, negative where it has none.
    """
    there = (labels >= 0) & ~column.missing
    values = column.numbers if column.numbers is not None else column.names.to_numpy(zero_copy_only=False)
    chosen, classes = values[there], labels[there]
    several = set(classes.tolist())
    if len(several) < 2 or len(chosen) < max(_ENOUGH, 2 * len(several)):
        return False
    pairs = set(zip(chosen.tolist(), classes.tolist(), strict=True))
    return len(pairs) == len(several) == len({value for value, _ in pairs})


def _all_differ(column: ColumnValues) -> int:
    """How many rows there are, if each has another value, whole where it is a number; else 0."""
    if column.kind == "empty" or column.missing.any():
        return 0
    if column.numbers is not None:
        whole = bool((column.numbers == np.round(column.numbers)).all())
        return len(column.numbers) if whole and len(np.unique(column.numbers)) == len(column.numbers) else 0
    return len(column.names) if len(column.names.unique()) == len(column.names) else 0
