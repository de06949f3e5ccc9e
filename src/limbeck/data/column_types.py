"""Column types of a table, numbers or categories, inferred from all values."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np

from limbeck.data.arrow import RawTable, as_float64
from limbeck.data.name_matching import NUMBER, is_number
from limbeck.errors import DataError

MISSING = frozenset(
    (
        "NA", "N/A", "n/a", "NULL", "null", "NaN", "nan", "-NaN", "-nan", "#NA", "#N/A", "#N/A N/A", "1.#IND",
        "-1.#IND", "1.#QNAN", "-1.#QNAN", "<NA>",
    )
)  # fmt: skip

"""What stands for a missing value in a column of features; in the target of names each is a class like any other."""

PLACEHOLDERS = frozenset(
    (
        "?", "-", "--", "---", ".", "..", "*", "na", "n.a.", "n.a", "none", "nil", "unknown", "missing", "(missing)",
        "undefined", "nd", "n/d", "nat", "#value!", "#div/0!", "#ref!", "#num!", "#null!", "#name?", "null", "nan",
        "n/a", "<na>",
    )
)  # fmt: skip

"""What else stands for a missing value where all other values are numbers, whatever the case of the letters."""

_INFINITE = frozenset(("inf", "+inf", "-inf", "infinity", "+infinity", "-infinity"))

_FEW, _MANY = 0.05, 10

"""A column of at least so many different numbers stays one of numbers if at most this share of its values is none."""

_SHOWN = 40  # characters of a value that a sentence shows

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
    """A column, read.

    Attributes:
        name: The column.
        kind: ``number``, ``category``, or ``empty`` where no row has a value.
        numbers: float64, NaN where it is missing; None for names.
        names: Arrow texts, null where it is missing; None for numbers.
        missing_counts: Which texts were taken for a missing value, and in how many rows.
        warning: What is likely to be a mistake; empty where nothing is.
    """

    name: str
    kind: Literal["number", "category", "empty"]
    numbers: np.ndarray | None = None
    names: Any = None
    missing_counts: Mapping[str, int] = field(default_factory=dict)
    warning: str = ""

    @property
    def missing(self) -> np.ndarray:
        """True in the rows without a value."""
        if self.numbers is not None:
            return np.isnan(self.numbers)
        mask: np.ndarray = self.names.is_null().to_numpy(zero_copy_only=False)
        return mask


def read_column(raw: RawTable, name: str, *, missing: Sequence[str] = (), as_names: bool = False) -> ColumnValues:
    """A column of features.

    Args:
        raw: The table.
        name: The column.
        missing: What else stands for a missing value.
        as_names: The training part had names there, so numbers are names too.

    Raises:
        DataError: If it holds what is neither a number nor a name, such as dates or lists, or infinity.
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
    """The class of each row as a text, None where it is missing; and sentences about what was decided.

    Where all classes are numbers, ``NA`` and its like are missing values. Where they are names, each is a name.

    Raises:
        DataError: If a class is a number that is not whole, or the column holds something else.
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
    """What was taken for a missing value, in words; empty where nothing was."""
    return f"{_listed(column.missing_counts)} taken for missing" if column.missing_counts else ""


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
            f"{raw.path.name}: column {name!r} is read as names, though {numeric:,} of {sum(others.values()):,} values "
            f"are numbers; the others are {_listed(strange)}. If they stand for missing values, say missing=[...]."
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
            f"{raw.path.name}: column {name!r} holds numbers but for {_listed(strange)}, which counts as missing. If "
            "it is a column of names, leave it out or write it as names throughout."
        )  # fmt: skip
    return _numbers(raw, name, numbers, {**missing_counts, **placed, **strange, **more}, warning)


def _numbers(
    raw: RawTable, name: str, numbers: np.ndarray, missing_counts: Mapping[str, int] | None = None, warning: str = ""
) -> ColumnValues:
    if (wrong := np.isinf(numbers)).any():
        raise _infinite(raw, name, wrong)
    if (wrong := np.abs(numbers) > _LARGEST).any():
        row = int(wrong.argmax())
        value = repr(float(numbers[row]))  # all digits, so that missing= finds it
        raise DataError(
            f"{raw.path}: column {name!r} holds {value} in row {row}, which is more than float32 holds "
            f"({_LARGEST:.2g}): beside it all other values would be 0. If it stands for a missing value, say "
            f"missing=[{value!r}]."
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
            f"{raw.path.name}: column {name!r} is read as {len(others):,} names, and they look like numbers "
            f"({', '.join(map(quoted, list(others)[:3]))}). If they are, write them as numbers: 1234.5."
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
    except ArrowInvalid:  # a way to write a number that Arrow does not read, such as 5.e3
        return np.array([float(text) for text in texts.to_pylist()])


def _without(numbers: np.ndarray, missing: Sequence[str]) -> tuple[np.ndarray, dict[str, int]]:
    """Numbers that stand for a missing value, such as -999, as NaN."""
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
            f"{raw.path}: the target {name!r} is {values[row]} in row {row}, no class; give texts or whole numbers. A "
            "target that is a quantity is a regression: limbeck.distill does that in Python, with "
            "Loss(target_squared_error) on (inputs, values); a job teaches classifiers alone."
        )
    return [None if np.isnan(value) else str(int(value)) for value in values]


def _whole_of(raw: RawTable, name: str, texts: list[str | None]) -> list[str | None]:
    if all(text is None or (text.lstrip("+-").isdecimal() and len(text) < 1000) for text in texts):
        return [None if text is None else str(int(text)) for text in texts]  # exact, however long
    return _whole_texts(raw, name, np.array([np.nan if text is None else float(text) for text in texts]), ())


def _is_text(kind: Any) -> bool:
    from pyarrow import types

    return bool(types.is_string(kind) or types.is_large_string(kind) or types.is_string_view(kind))


def _plain_texts(column: Any) -> Any:
    """Numbers as a person writes them, 1 for 1.0, to be held against names."""
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


def quoted(text: str) -> str:
    """A value in quotes for a sentence, cut where it is long."""
    return repr(text) if len(text) <= _SHOWN else f"{text[: _SHOWN - 3]!r}..."


def _listed(counts: Mapping[str, int]) -> str:
    entries = [f"{quoted(text)} ({count:,} row{'s' * (count != 1)})" for text, count in list(counts.items())[:4]]
    return ", ".join(entries) + (f" and {len(counts) - 4} more" if len(counts) > 4 else "")


def _infinite(raw: RawTable, name: str, wrong: np.ndarray) -> DataError:
    return DataError(
        f"{raw.path}: column {name!r} holds infinity in {wrong.sum()} rows, first in row {wrong.argmax()}."
    )


def _unreadable(raw: RawTable, name: str, what: str) -> DataError:
    return DataError(
        f"{raw.path}: column {name!r} holds {what}; give numbers, texts or true/false, or ignore=[{name!r}]."
    )


_NAMELESS = re.compile(r"|Unnamed: ?\d+(_level_\d+)?|__index_level_\d+__|\.\.\.\d+")

"""What pandas, Arrow and R call a column that has no name: the index of the rows, mostly."""

_IDENTIFIER = re.compile(
    r"(?i:id|idx|index|row|rows|row[_ .-]?(id|idx|number|num|no|nr|index)|line|nr|no\.?|#|uuid|guid)"
    r"|.*[_ .-](id|ID|Id|nr|Nr|NR|uuid|guid)|.*[a-z](Id|ID)"
)

_ENOUGH = 20  # rows; of fewer, different values in all of them may be chance


def find_reason_to_skip(column: ColumnValues, *, index: bool) -> str:
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


def is_row_counter(column: ColumnValues) -> bool:
    """Whether a column of whole numbers goes up by one from row to row, as a row number does."""
    if column.numbers is None or len(column.numbers) < _ENOUGH:
        return False
    whole = float(column.numbers[0]).is_integer()
    return whole and bool((np.diff(column.numbers) == 1).all())


def matches_labels(column: ColumnValues, labels: np.ndarray) -> bool:
    """Whether a column has one value for each class and each class one value, over all labeled rows.

    Args:
        column: All of its values.
        labels: The class of each row, negative where it has none.
    """
    there = (labels >= 0) & ~column.missing
    values = column.numbers if column.numbers is not None else column.names.to_numpy(zero_copy_only=False)
    chosen, classes = values[there], labels[there]
    class_set = set(classes.tolist())
    if len(class_set) < 2 or len(chosen) < max(_ENOUGH, 2 * len(class_set)):
        return False
    pairs = set(zip(chosen.tolist(), classes.tolist(), strict=True))
    return len(pairs) == len(class_set) == len({value for value, _ in pairs})


def _all_differ(column: ColumnValues) -> int:
    """How many rows there are, if each has another value, whole where it is a number; else 0."""
    if column.kind == "empty" or column.missing.any():
        return 0
    if column.numbers is not None:
        whole = bool((column.numbers == np.round(column.numbers)).all())
        return len(column.numbers) if whole and len(np.unique(column.numbers)) == len(column.numbers) else 0
    return len(column.names) if len(column.names.unique()) == len(column.names) else 0
