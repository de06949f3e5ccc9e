"""Infers the type of each table column (number or category) from all of its values."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np

from limbeck.data.arrow import RawTable, as_float64
from limbeck.data.name_matching import NUMBER, is_number, quoted
from limbeck.errors import DataError

MISSING = frozenset(
    (
        "NA", "N/A", "n/a", "NULL", "null", "NaN", "nan", "-NaN", "-nan", "#NA", "#N/A", "#N/A N/A", "1.#IND",
        "-1.#IND", "1.#QNAN", "-1.#QNAN", "<NA>",
    )
)  # fmt: skip

"""Strings read as a missing value in feature columns; in a target of names, they are ordinary classes."""

PLACEHOLDERS = frozenset(
    (
        "?", "-", "--", "---", ".", "..", "*", "na", "n.a.", "n.a", "none", "nil", "unknown", "missing", "(missing)",
        "undefined", "nd", "n/d", "nat", "#value!", "#div/0!", "#ref!", "#num!", "#null!", "#name?", "null", "nan",
        "n/a", "<na>",
    )
)  # fmt: skip

"""Strings (in lower case) also read as a missing value if all other values of the column are numbers."""

_INFINITE = frozenset(("inf", "+inf", "-inf", "infinity", "+infinity", "-infinity"))

# A column with at least _MANY different numbers counts as numbers if at most _FEW of its values are other strings.
_FEW, _MANY = 0.05, 10

_LARGEST = float(np.finfo(np.float32).max)

_MONTH = r"(?:jan|feb|mar|apr|may|jun|jul|aug|sep|oct|nov|dec)[a-z]*\.?"

_CLOCK = r"\d{1,2}:\d{2}(?::\d{2}(?:\.\d+)?)?\s*(?:[ap]\.?m\.?)?(?:z|utc|[+-]\d{2}:?\d{2})?"

_DAY = (
    r"\d{4}[-/.]\d{1,2}[-/.]\d{1,2}|\d{1,2}[-/.]\d{1,2}[-/.]\d{4}|\d{1,2}/\d{1,2}/\d{2}"
    rf"|\d{{1,2}}[ -]{_MONTH}[ ,-]+\d{{2,4}}|{_MONTH} \d{{1,2}},? \d{{4}}"
)

_DATE = rf"(?i)^(?:(?:{_DAY})(?:[T ,]+{_CLOCK})?|{_CLOCK})$"

_LIKE_NUMBER = (
    r"^['\x{2018}\x{201c}\"]?(?:0[xX][0-9a-fA-F]+|[-+(\x{2212}]?\s*[$€£]?\s*\d[\d.,' ]*\s*[%€$)]?)"
    r"['\x{2019}\x{201d}\"]?$"
)


@dataclass(frozen=True)
class ColumnValues:
    """The values of one column, with the inferred type.

    Attributes:
        name: The column.
        kind: ``number``, ``category``, or ``empty`` if no row has a value.
        numbers: float64, with NaN for missing values; None for a category.
        names: Arrow strings, with null for missing values; None for numbers.
        missing_counts: The strings that were read as missing values, with their number of rows.
        warning: A likely mistake; empty if there is none.
    """

    name: str
    kind: Literal["number", "category", "empty"]
    numbers: np.ndarray | None = None
    names: Any = None
    missing_counts: Mapping[str, int] = field(default_factory=dict)
    warning: str = ""

    @property
    def missing(self) -> np.ndarray:
        """True for rows without a value."""
        if self.numbers is not None:
            return np.isnan(self.numbers)
        mask: np.ndarray = self.names.is_null().to_numpy(zero_copy_only=False)
        return mask


def read_column(raw: RawTable, name: str, *, missing: Sequence[str] = (), as_names: bool = False) -> ColumnValues:
    """Read a feature column and infer its type.

    Args:
        raw: The table.
        name: The column.
        missing: Additional strings that mean a missing value.
        as_names: Read numbers as names, because the column is a category in the training part.

    Raises:
        DataError: If the column contains dates, lists or infinity.
    """
    from pyarrow import types

    column = raw.table[name].combine_chunks()
    kind = column.type
    value = kind.value_type if types.is_dictionary(kind) else kind
    if types.is_null(value):
        return _texts(raw, name, column.cast("string"), missing, as_names)
    if not (types.is_boolean(value) or _is_text(value)):
        if not (types.is_integer(value) or types.is_floating(value) or types.is_decimal(value)):
            raise _unreadable(raw, name, str(kind))
        if value is kind and not as_names:
            numbers, missing_counts = _without(as_float64(column), missing)
            return _numbers(raw, name, numbers, missing_counts)
        if value is kind:
            column = _plain_texts(column)
    return _texts(raw, name, column.cast("string"), missing, as_names)


def read_target(raw: RawTable, name: str, *, missing: Sequence[str] = ()) -> tuple[list[str | None], list[str]]:
    """Read the target column: the class of each row as a string (None if missing), and notes.

    If all classes are numbers, strings such as ``NA`` are missing values. If they are names, ``NA`` is a class.

    Raises:
        DataError: If a class is a fraction, or the column has an unsupported type.
    """
    from pyarrow import types

    column = raw.table[name].combine_chunks()
    value = column.type.value_type if types.is_dictionary(column.type) else column.type
    if types.is_floating(value) or types.is_decimal(value):
        return _whole_texts(raw, name, as_float64(column), missing), []
    if not (types.is_integer(value) or types.is_boolean(value) or types.is_null(value) or _is_text(value)):
        raise _unreadable(raw, name, str(column.type))
    texts: list[str | None] = [None if text in missing else text for text in column.cast("string").to_pylist()]
    counts = _counts(texts)
    words = {text for text in counts if text in MISSING}
    numbers = {text for text in counts if is_number(text)} if not raw.typed else set()
    if numbers and numbers | words == set(counts):
        notes = [
            f"{raw.path.name}: {_listed({text: counts[text] for text in words})} in the target {name!r}, whose classes "
            "are numbers, counts as no label."
        ]  # fmt: skip
        return _whole_of(raw, name, [None if text in words else text for text in texts]), notes if words else []
    if (numbers and all(text.lower() in PLACEHOLDERS for text in set(counts) - numbers)) or not numbers:
        words |= {text for text in set(counts) - numbers if text.lower() in PLACEHOLDERS}
    if {text.lower() for text in counts} <= {"true", "false"}:
        return [text if text is None else text.lower() for text in texts], []
    notes = [
        f"{raw.path.name}: {_listed({text: counts[text] for text in sorted(words)})} in the target {name!r} is read as "
        f"a class. If these rows have no label, set missing={sorted(words)}."
    ]  # fmt: skip
    return texts, notes if words else []


def missing_note(raw: RawTable, column: ColumnValues) -> str:
    """A note on the strings that were read as missing values; empty if there are none."""
    return f"{_listed(column.missing_counts)} read as missing" if column.missing_counts else ""


def _texts(raw: RawTable, name: str, texts: Any, missing: Sequence[str], as_names: bool) -> ColumnValues:
    from pyarrow import compute

    nulls = {*missing, *(() if raw.typed else MISSING)}
    counts = _value_counts(texts)
    missing_counts = {one: count for one, count in counts.items() if one in nulls}
    others = {one: count for one, count in counts.items() if one not in nulls}
    if not counts or not others:
        return ColumnValues(name, "empty", names=_masked(texts, missing_counts), missing_counts=missing_counts)
    if as_names or raw.typed:
        return _names(raw, name, texts, missing_counts, others)
    numbers_are = compute.match_substring_regex(texts, NUMBER)
    numeric = sum(count for one, count in others.items() if is_number(one))
    words = {one: count for one, count in others.items() if not is_number(one)}
    placed = {one: count for one, count in words.items() if one.lower() in PLACEHOLDERS}
    strange = {one: count for one, count in words.items() if one not in placed and one.lower() not in _INFINITE}
    if not numeric:
        return _names(raw, name, texts, missing_counts, others)
    share = sum(strange.values()) / (numeric + sum(strange.values()))
    is_varied = len(others) - len(words) >= _MANY
    if strange and not (share <= _FEW and is_varied):
        category = _names(raw, name, texts, missing_counts, others)
        warning = (
            f"{raw.path.name}: column {name!r} is read as a category, although {numeric:,} of {sum(others.values()):,} "
            f"values are numbers. The others are {_listed(strange)}. If they mean missing values, set missing=[...]."
        )  # fmt: skip
        return ColumnValues(
            name, "category", None, category.names, missing_counts, warning if is_varied and share < 0.5 else ""
        )
    numbers = np.full(len(texts), np.nan)
    is_number_row = numbers_are.fill_null(False).to_numpy(zero_copy_only=False)
    numbers[is_number_row] = _parsed(texts.filter(numbers_are))
    for one in words:
        if one.lower() in _INFINITE:
            raise _infinite(raw, name, np.array([text == one for text in texts.to_pylist()]))
    numbers, more = _without(numbers, missing)
    warning = ""
    if strange:
        warning = (
            f"{raw.path.name}: column {name!r} contains numbers except {_listed(strange)}, which counts as missing. "
            "If the column is a category, leave it out or write all values as names."
        )  # fmt: skip
    return _numbers(raw, name, numbers, {**missing_counts, **placed, **strange, **more}, warning)


def _numbers(
    raw: RawTable, name: str, numbers: np.ndarray, missing_counts: Mapping[str, int] | None = None, warning: str = ""
) -> ColumnValues:
    if (wrong := np.isinf(numbers)).any():
        raise _infinite(raw, name, wrong)
    if (wrong := np.abs(numbers) > _LARGEST).any():
        row = int(wrong.argmax())
        value = repr(float(numbers[row]))  # all digits, so that missing= matches it
        raise DataError(
            f"{raw.path}: column {name!r} contains {value} in row {row}, above the largest float32 "
            f"({_LARGEST:.2g}). If it means a missing value, set missing=[{value!r}]."
        )
    kind: Literal["number", "empty"] = "empty" if np.isnan(numbers).all() else "number"
    return ColumnValues(name, kind, numbers, None, missing_counts or {}, warning)


def _names(
    raw: RawTable, name: str, texts: Any, missing_counts: dict[str, int], others: dict[str, int]
) -> ColumnValues:
    import pyarrow as pa
    from pyarrow import compute

    different = pa.array(list(others), pa.string())
    values = pa.array([value for value in others if value.lower() not in PLACEHOLDERS], pa.string())
    if len(values) and compute.all(compute.match_substring_regex(values, _DATE)).as_py():
        raise _unreadable(raw, name, f"dates or times, such as {values[0].as_py()}")
    names = _masked(texts, missing_counts)
    if {value.lower() for value in others} <= {"true", "false"}:
        names = compute.utf8_lower(names)
    like = compute.sum(compute.match_substring_regex(different, _LIKE_NUMBER)).as_py() or 0
    plain = sum(map(is_number, others))
    warning = ""
    if len(others) >= _MANY and like >= 0.9 * len(others) and (plain < like or raw.typed):
        warning = (
            f"{raw.path.name}: column {name!r} is read as a category of {len(others):,} names, but they look like "
            f"numbers ({', '.join(map(quoted, list(others)[:3]))}). If they are numbers, write them as 1234.5."
        )  # fmt: skip
    return ColumnValues(name, "category", None, names, missing_counts, warning)


def _masked(texts: Any, missing_texts: Iterable[str]) -> Any:
    import pyarrow as pa
    from pyarrow import compute

    if not missing_texts:
        return texts
    out = compute.is_in(texts, value_set=pa.array(list(missing_texts), pa.string()))
    return compute.if_else(out, pa.scalar(None, pa.string()), texts)


def _parsed(texts: Any) -> np.ndarray:
    from pyarrow import ArrowInvalid, compute

    try:
        return as_float64(compute.replace_substring_regex(texts, r"^\+", ""))
    except ArrowInvalid:  # a number format that Arrow does not parse, such as 5.e3
        return np.array([float(text) for text in texts.to_pylist()])


def _without(numbers: np.ndarray, missing: Sequence[str]) -> tuple[np.ndarray, dict[str, int]]:
    """Replace numbers that mean a missing value, such as -999, by NaN."""
    missing_counts = dict[str, int]()
    for word in missing:
        if is_number(word) and (there := numbers == float(word)).any():
            missing_counts[word] = int(there.sum())
            numbers = np.where(there, np.nan, numbers)
    return numbers, missing_counts


def _whole_texts(raw: RawTable, name: str, values: np.ndarray, missing: Sequence[str]) -> list[str | None]:
    values, _ = _without(values, missing)
    if (wrong := ~np.isnan(values) & (values != np.round(values))).any():
        row = int(wrong.argmax())
        raise DataError(
            f"{raw.path}: the target {name!r} is {values[row]} in row {row}, which is not a class. Classes are strings "
            "or whole numbers. For numbers, type --task regression."
        )
    return [None if np.isnan(value) else str(int(value)) for value in values]


def _whole_of(raw: RawTable, name: str, texts: list[str | None]) -> list[str | None]:
    if all(text is None or (text.lstrip("+-").isdecimal() and len(text) < 1000) for text in texts):
        return [
            None if text is None else str(int(text)) for text in texts
        ]  # int() is exact for any length, float() is not
    return _whole_texts(raw, name, np.array([np.nan if text is None else float(text) for text in texts]), ())


def _is_text(kind: Any) -> bool:
    from pyarrow import types

    return bool(types.is_string(kind) or types.is_large_string(kind) or types.is_string_view(kind))


def _plain_texts(column: Any) -> Any:
    """Format numbers as a person would (1 for 1.0), to compare them with names."""
    import pyarrow as pa

    values = column.to_pylist()
    return pa.array([None if v is None else f"{v:g}" if isinstance(v, float) else str(v) for v in values], pa.string())


def _counts(texts: Iterable[str | None]) -> dict[str, int]:
    counts = dict[str, int]()
    for text in texts:
        if text is not None:
            counts[text] = counts.get(text, 0) + 1
    return counts


def _value_counts(texts: Any) -> dict[str, int]:
    counted = texts.drop_null().value_counts()
    return dict(zip(counted.field(0).to_pylist(), counted.field(1).to_pylist(), strict=True))


def _listed(counts: Mapping[str, int]) -> str:
    entries = [f"{quoted(text)} ({count:,} row{'s' * (count != 1)})" for text, count in list(counts.items())[:4]]
    return ", ".join(entries) + (f" and {len(counts) - 4} more" if len(counts) > 4 else "")


def _infinite(raw: RawTable, name: str, wrong: np.ndarray) -> DataError:
    return DataError(
        f"{raw.path}: column {name!r} contains infinity in {wrong.sum()} rows, first in row {wrong.argmax()}."
    )


def _unreadable(raw: RawTable, name: str, what: str) -> DataError:
    return DataError(
        f"{raw.path}: column {name!r} contains {what}. Supported are numbers, strings and true/false; or set "
        f"ignore=[{name!r}]."
    )
