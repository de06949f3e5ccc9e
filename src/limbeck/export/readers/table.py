"""Rows of a CSV table as the numbers that a student reads."""

from __future__ import annotations

import csv
import math
import sys
from pathlib import Path
from typing import Any

import numpy as np

MISSING = {
    "", "NA", "N/A", "n/a", "NULL", "null", "NaN", "nan", "-NaN", "-nan", "#NA", "#N/A", "#N/A N/A", "1.#IND",
    "-1.#IND", "1.#QNAN", "-1.#QNAN", "<NA>",
}  # fmt: skip
TRUE, FALSE = {"true", "t", "yes", "y", "on", "1"}, {"false", "f", "no", "n", "off", "0"}


def read_inputs(paths: list[Path], metadata: dict[str, Any], shape: list[Any] | None) -> Any:
    """The rows of all files: one matrix, or (where the file of weights encodes them itself) the columns by name."""
    rows = [row for path in paths for row in table_rows(path, metadata)]
    columns, nulls = metadata["encoding"]["columns"], MISSING | set(metadata["encoding"].get("missing", ()))
    values = {}
    for column in columns:
        name = column["name"]
        if rows and name not in rows[0]:
            sys.exit(f"There is no column {name!r}; there are {', '.join(map(repr, rows[0]))}.{hint(rows[0])}")
        cells = ["" if row[name] in nulls else row[name] for row in rows]
        values[name] = names(column, cells) if column["kind"] == "category" else numbers(column, cells)
    if metadata.get("reads_included"):
        return values
    return np.concatenate([encoded(column, values[column["name"]]) for column in columns], axis=1)


def table_rows(path: Path, metadata: dict[str, Any]) -> list[dict[str, str]]:
    """The rows of one file, each column -> text, without spaces around it; laid out as typed, else as in training."""
    charset = metadata.get("charset") or metadata["encoding"].get("charset") or "utf-8"
    separator = metadata.get("separator") or metadata["encoding"].get("separator") or ("\t" if tabbed(path) else ",")
    try:
        with path.open(encoding="utf-8-sig" if utf8(charset) else charset, newline="") as file:
            rows = csv.DictReader(file, delimiter=separator)
            return [{str(name).strip(): (cell or "").strip() for name, cell in row.items() if name} for row in rows]
    except UnicodeError:
        sys.exit(f"{path} is not written in {charset}: say how it is with --charset, such as utf-8 or cp1252.")
    except LookupError:
        sys.exit(f"--charset {charset}: Python knows no charset of this name; utf-8, cp1252 and latin-1 are some.")
    except (OSError, TypeError, ValueError, csv.Error) as error:  # a separator of two characters is a TypeError
        sys.exit(f"{path} cannot be read with the separator {separator!r}: {error}.")


def tabbed(path: Path) -> bool:
    """Whether a file has tabs between its columns, by its name."""
    return path.suffix.lower() == ".tsv"


def utf8(charset: str) -> bool:
    """Whether a charset is UTF-8, before which a file may have a mark."""
    return charset.lower().replace("_", "-") in ("utf-8", "utf8", "utf-8-sig")


def hint(row: dict[str, str]) -> str:
    """What to type where the columns of a file were not parted."""
    return " If another character stands between them, say so with --separator." if len(row) == 1 else ""


def names(column: dict[str, Any], cells: list[str]) -> np.ndarray:
    """A column of names, each as the training table wrote it; "" for one that it did not have."""
    places = {cell: matched(cell, column["values"]) for cell in set(cells)}
    return np.array([places[cell] for cell in cells], dtype=object)


def matched(cell: str, values: list[str]) -> str:
    """The name that a cell means: itself, or the only one that differs by spaces, case, or how a number is written."""
    if not cell or cell in values:
        return cell
    for form in (str.strip, folded, number, truth):
        forms = [form(value) for value in values]
        if form is truth and None in forms:
            continue
        if (target := form(cell)) is not None and forms.count(target) == 1:
            return values[forms.index(target)]
    return ""


def folded(text: str) -> str | None:
    """A text without case, and with single spaces."""
    return " ".join(text.casefold().replace("_", " ").split())


def number(text: str) -> str | None:
    """A number however it is written; None of any other text."""
    try:
        return None if "_" in text else f"{float(text):.17g}"
    except ValueError:
        return None


def truth(text: str) -> str | None:
    """Whether a text says yes or no; None if neither."""
    text = text.strip().casefold().removesuffix(".0")
    return "true" if text in TRUE else "false" if text in FALSE else None


def numbers(column: dict[str, Any], cells: list[str]) -> np.ndarray:
    """A column of numbers; NaN where there is none."""
    binary = abs(column["std"] ** 2 - column["mean"] * (1 - column["mean"])) < 1e-9  # as of zeros and ones alone
    texts = [{"true": "1", "false": "0"}.get(truth(cell) or "", cell) if binary else cell for cell in cells]
    values = np.array([math.nan if number(text) is None else float(text) for text in texts])
    strange = [text for text in texts if text and number(text) is None]
    if np.isinf(values).any():
        sys.exit(f"The column {column['name']!r} holds infinity in row {int(np.isinf(values).argmax()) + 1}.")
    if (large := np.abs(values) > np.finfo(np.float32).max).any():
        sys.exit(f"The column {column['name']!r} holds {values[large][0]:g}, which is more than float32 holds.")
    if strange:
        message = f"{len(strange)} values such as {strange[0][:40]!r} are no numbers"
        print(f"Column {column['name']!r}: {message}: taken for missing.", file=sys.stderr)
    return values


def encoded(column: dict[str, Any], values: np.ndarray) -> np.ndarray:
    """A column as the student reads it: a 1 at a name's place, or a standardized number and whether it is missing."""
    if column["kind"] == "category":
        places = {name: place for place, name in enumerate(column["values"])}
        other = len(places)
        return np.eye(other + 1, dtype=np.float32)[[places.get(value, other) for value in values]]
    absent = np.isnan(values)
    scaled = np.where(absent, 0.0, (values - column["mean"]) / column["std"])
    return np.stack([scaled, absent] if column["missing"] else [scaled], axis=1).astype(np.float32)
