"""Rows of a CSV table as the numbers that a student reads."""

from __future__ import annotations

import csv
import math
import sys
from pathlib import Path
from typing import Any

import numpy as np

MISSING = {"", "na", "n/a", "#n/a", "null", "nan", "<na>"}
TRUE, FALSE = {"true", "t", "yes", "y", "on", "1"}, {"false", "f", "no", "n", "off", "0"}


def read_inputs(paths: list[Path], told: dict[str, Any], shape: list[Any] | None) -> Any:
    """The rows of all files: one matrix, or (where the file of weights encodes them itself) the columns by name."""
    rows = [row for path in paths for row in table_rows(path)]
    columns = told["encoding"]["columns"]
    for column in columns:
        if rows and column["name"] not in rows[0]:
            sys.exit(f"There is no column {column['name']!r}; there are {', '.join(map(repr, rows[0]))}.")
    missing = {*told["encoding"].get("missing", [])}
    cells = {column["name"]: [row[column["name"]] or "" for row in rows] for column in columns}
    cells = {name: ["" if cell in missing else cell for cell in found] for name, found in cells.items()}
    values = {
        column["name"]: names(column, cells[column["name"]])
        if column["kind"] == "category"
        else numbers(column["name"], cells[column["name"]])
        for column in columns
    }
    if told.get("reads_included"):
        return values
    return np.concatenate([encoded(column, values[column["name"]]) for column in columns], axis=1)


def table_rows(path: Path) -> list[dict[str, str]]:
    """The rows of one file, each column -> text as it stands there, without spaces around it."""
    with path.open(encoding="utf-8-sig", newline="") as file:
        rows = csv.reader(file, delimiter="\t" if path.suffix.lower() == ".tsv" else ",")
        names = [name.strip() for name in next(rows, [])]
        return [dict(zip(names, (cell.strip() for cell in row), strict=False)) for row in rows if row]


def names(column: dict[str, Any], cells: list[str]) -> np.ndarray:
    """A column of names; one that is written otherwise is the only known one that it is like."""
    known = column["values"]
    found = {cell: cell for cell in cells}
    for cell in set(cells) - set(known):
        for form in (str.strip, folded, number, truth):
            like = [value for value in known if form(value) == form(cell) and form(cell)]
            if len(like) == 1 and (form is not truth or all(map(truth, known))):
                found[cell] = like[0]
                break
    return np.array([found[cell] for cell in cells], dtype=object)


def folded(text: str) -> str:
    """A name whatever the case of its letters and the spaces in it."""
    return " ".join(text.casefold().replace("_", " ").split())


def number(text: str) -> str:
    """A number however it is written; empty for what is none."""
    try:
        return f"{float(text):.17g}" if text[:1] in "+-.0123456789" and "_" not in text else ""
    except ValueError:
        return ""


def truth(text: str) -> str:
    """True and false however they are written; empty for anything else."""
    text = text.strip().casefold().removesuffix(".0")
    return "true" if text in TRUE else "false" if text in FALSE else ""


def numbers(name: str, cells: list[str]) -> np.ndarray:
    """A column of numbers; NaN where there is none."""
    found, strange = np.full(len(cells), np.nan), []
    for row, cell in enumerate(cells):
        try:
            found[row] = math.nan if "_" in cell else float(cell)
        except ValueError:
            strange += [cell] * (cell.lower() not in MISSING)
    if np.isinf(found).any():
        sys.exit(f"The column {name!r} holds infinity in row {int(np.isinf(found).argmax()) + 1}.")
    if strange:
        print(
            f"Column {name!r}: {len(strange)} values such as {strange[0]!r} are no numbers: missing.", file=sys.stderr
        )
    return found


def encoded(column: dict[str, Any], values: np.ndarray) -> np.ndarray:
    """A column as the student reads it: a 1 at a name's place, or a standardised number and whether it is missing."""
    if column["kind"] == "category":
        places = {name: place for place, name in enumerate(column["values"])}
        other = len(places)
        return np.eye(other + 1, dtype=np.float32)[[places.get(value, other) for value in values]]
    absent = np.isnan(values)
    scaled = np.where(absent, 0.0, (values - column["mean"]) / column["std"])
    return np.stack([scaled, absent] if column["missing"] else [scaled], axis=1).astype(np.float32)
