"""Parts of ``read.py`` that read raw rows, images and texts.

These functions are copied into ``read.py``, so they import nothing of limbeck, and each imports what only it needs.
"""

from __future__ import annotations

import csv
import json
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


def read_table(paths: list[Path], metadata: dict[str, Any], shape: list[Any] | None) -> Any:
    """Read the rows of all files: one matrix, or the columns by name if the ONNX file encodes them itself."""
    rows = [row for path in paths for row in table_rows(path, metadata)]
    columns, nulls = metadata["encoding"]["columns"], MISSING | set(metadata["encoding"].get("missing", ()))
    values = {}
    for column in columns:
        name = column["name"]
        if rows and name not in rows[0]:
            sys.exit(f"There is no column {name!r}. The columns are {', '.join(map(repr, rows[0]))}.{hint(rows[0])}")
        cells = ["" if row[name] in nulls else row[name] for row in rows]
        values[name] = parse_names(column, cells) if column["kind"] == "category" else parse_numbers(column, cells)
    if metadata.get("reads_included"):
        return values
    return np.concatenate([encode(column, values[column["name"]]) for column in columns], axis=1)


def table_rows(path: Path, metadata: dict[str, Any]) -> list[dict[str, str]]:
    """The rows of one file as texts by column name, read with the options, or else as the training file was."""
    charset = metadata.get("charset") or metadata["encoding"].get("charset") or "utf-8"
    separator = metadata.get("separator") or metadata["encoding"].get("separator") or ("\t" if is_tsv(path) else ",")
    try:
        with path.open(encoding="utf-8-sig" if is_utf8(charset) else charset, newline="") as file:
            rows = csv.DictReader(file, delimiter=separator)
            return [{str(name).strip(): (cell or "").strip() for name, cell in row.items() if name} for row in rows]
    except UnicodeError:
        sys.exit(f"{path} is not in {charset}. Give its character encoding with --charset, such as utf-8 or cp1252.")
    except LookupError:
        sys.exit(f"--charset {charset} is unknown. Some known ones are utf-8, cp1252 and latin-1.")
    except (OSError, TypeError, ValueError, csv.Error) as error:  # a separator of two characters is a TypeError
        sys.exit(f"{path} cannot be read with the separator {separator!r}: {error}.")


def is_tsv(path: Path) -> bool:
    """Whether a file has tabs between its columns, judged by its name."""
    return path.suffix.lower() == ".tsv"


def is_utf8(charset: str) -> bool:
    """Whether a charset is UTF-8; such files may begin with a byte order mark."""
    return charset.lower().replace("_", "-") in ("utf-8", "utf8", "utf-8-sig")


def hint(row: dict[str, str]) -> str:
    """What to type if the columns of a file were not separated."""
    return " If the columns have another separator, give it with --separator." if len(row) == 1 else ""


def parse_names(column: dict[str, Any], cells: list[str]) -> np.ndarray:
    """A column of names, spelled as in training; "" for a name that training did not have."""
    matches = {cell: match_name(cell, column["values"]) for cell in set(cells)}
    return np.array([matches[cell] for cell in cells], dtype=object)


def match_name(cell: str, values: list[str]) -> str:
    """The name that a cell stands for: equal, or the only one equal up to spaces, case, or the format of a number."""
    if not cell or cell in values:
        return cell
    for form in (str.strip, fold_case, canonical_number, canonical_boolean):
        forms = [form(value) for value in values]
        if form is canonical_boolean and None in forms:
            continue
        if (target := form(cell)) is not None and forms.count(target) == 1:
            return values[forms.index(target)]
    return ""


def fold_case(text: str) -> str | None:
    """A text in lower case with single spaces."""
    return " ".join(text.casefold().replace("_", " ").split())


def canonical_number(text: str) -> str | None:
    """A number in one format, however it is written; None for other texts."""
    try:
        return None if "_" in text else f"{float(text):.17g}"
    except ValueError:
        return None


def canonical_boolean(text: str) -> str | None:
    """``true`` or ``false`` for a text that means one of them; None for other texts."""
    text = text.strip().casefold().removesuffix(".0")
    return "true" if text in TRUE else "false" if text in FALSE else None


def parse_numbers(column: dict[str, Any], cells: list[str]) -> np.ndarray:
    """A column of numbers; NaN for missing values."""
    binary = (
        abs(column["std"] ** 2 - column["mean"] * (1 - column["mean"])) < 1e-9
    )  # the mean and variance of zeros and ones
    texts = [{"true": "1", "false": "0"}.get(canonical_boolean(cell) or "", cell) if binary else cell for cell in cells]
    values = np.array([math.nan if canonical_number(text) is None else float(text) for text in texts])
    invalid = [text for text in texts if text and canonical_number(text) is None]
    if np.isinf(values).any():
        sys.exit(f"The column {column['name']!r} has an infinite value in row {int(np.isinf(values).argmax()) + 1}.")
    if (large := np.abs(values) > np.finfo(np.float32).max).any():
        sys.exit(f"The column {column['name']!r} has the value {values[large][0]:g}, which is too large for float32.")
    if invalid:
        message = f"{len(invalid)} values such as {invalid[0][:40]!r} are not numbers"
        print(f"Column {column['name']!r}: {message} and count as missing.", file=sys.stderr)
    return values


def encode(column: dict[str, Any], values: np.ndarray) -> np.ndarray:
    """A column as inputs of the student: one-hot names, or a standardized number and whether it is missing."""
    if column["kind"] == "category":
        places = {name: place for place, name in enumerate(column["values"])}
        other = len(places)
        return np.eye(other + 1, dtype=np.float32)[[places.get(value, other) for value in values]]
    absent = np.isnan(values)
    scaled = np.where(absent, 0.0, (values - column["mean"]) / column["std"])
    return np.stack([scaled, absent] if column["missing"] else [scaled], axis=1).astype(np.float32)


def read_images(paths: list[Path], metadata: dict[str, Any], shape: list[Any] | None) -> Any:
    """Read all files as one array: images (needs Pillow), or ``.npy`` arrays with the examples first."""
    expected = metadata.get("input_shape") or []
    images = np.concatenate([np.load(p) if p.suffix == ".npy" else read_image(p, expected)[None] for p in paths])
    if metadata.get("reads_included"):  # the ONNX file normalizes by itself
        return images[:, None] if shape is not None and images.ndim == len(shape) - 1 else images
    preprocess = metadata.get("preprocess") or {}
    if preprocess.get("preprocess") != "pixels":
        return images.astype(np.float32)
    many = len(preprocess["mean"])
    is_last = images.ndim == 4 and images.shape[1] != many and images.shape[-1] == many
    if images.ndim == 4 and (preprocess.get("channels_last") or is_last):
        images = images.transpose(0, 3, 1, 2)
    if images.ndim == 3 and (preprocess.get("channel", True) or len(preprocess["mean"]) > 1):
        images = images[:, None]
    flat = images.ndim == 3
    mean, std = (preprocess[name][0] if flat else np.array(preprocess[name])[:, None, None] for name in ("mean", "std"))
    return ((images * preprocess["scale"] - mean) / std).astype(np.float32)


def read_image(path: Path, shape: list[int]) -> np.ndarray:
    """The pixels of a file, resized to the size in training: ``[h, w]`` or ``[3, h, w]``."""
    from PIL import Image

    gray = len(shape) < 3 or shape[0] == 1
    with Image.open(path) as file:
        if file.mode[0] in "IF":  # convert() would clip every value above 255
            sys.exit(f"{path} has more than 8 bits per pixel. Save it with 8 bits, scaled as the training data were.")
        opened = file.convert("L" if gray else "RGB")
    height, width = shape[-2:] if len(shape) > 1 else (opened.height, opened.width)
    if opened.size != (width, height):
        opened = opened.resize((width, height), Image.Resampling.BILINEAR)
    pixels = np.asarray(opened, dtype=np.uint8)
    return pixels if gray else pixels.transpose(2, 0, 1)


def read_texts(paths: list[Path], metadata: dict[str, Any], shape: list[Any] | None) -> Any:
    """Read the texts of all files as token ids and their mask, padded to the longest."""
    from tokenizers import Tokenizer

    folder = Path(__file__).parent
    tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))
    settings = json.loads((folder / "tokenizer_config.json").read_text(encoding="utf-8"))
    pad = settings.get("pad_token") or "[PAD]"
    pad = pad["content"] if isinstance(pad, dict) else pad
    tokenizer.enable_truncation(int(settings["model_max_length"]))
    side = settings.get("padding_side", "right")
    tokenizer.enable_padding(direction=side, pad_id=tokenizer.token_to_id(pad) or 0, pad_token=pad)
    encodings = tokenizer.encode_batch([text for path in paths for text in file_texts(path, metadata)])
    return {
        "input_ids": np.array([one.ids for one in encodings], dtype=np.int64),
        "attention_mask": np.array([one.attention_mask for one in encodings], dtype=np.int64),
        "token_type_ids": np.array([one.type_ids for one in encodings], dtype=np.int64),
    }


def file_texts(path: Path, metadata: dict[str, Any]) -> list[str]:
    """The texts of a file."""
    charset = metadata.get("charset") or "utf-8-sig"
    try:
        return parse_texts(path, charset, metadata.get("separator"))
    except UnicodeError:
        sys.exit(f"{path} is not in {charset}. Give its character encoding with --charset, such as utf-8 or cp1252.")
    except LookupError:
        sys.exit(f"--charset {charset} is unknown. Some known ones are utf-8, cp1252 and latin-1.")
    except (OSError, TypeError, ValueError, csv.Error) as error:
        sys.exit(f"{path} cannot be read: {error}.")


def parse_texts(path: Path, charset: str, separator: str | None) -> list[str]:
    """The column ``text`` (or ``prompt``, or the first) of a ``.csv`` or ``.jsonl`` file; the lines of other files."""
    if path.suffix.lower() in (".csv", ".tsv", ".jsonl"):
        with path.open(encoding=charset, newline="") as file:
            lines = (json.loads(line) for line in file if line.strip())
            delimiter = separator or ("\t" if path.suffix.lower() == ".tsv" else ",")
            rows = list(lines if path.suffix.lower() == ".jsonl" else csv.DictReader(file, delimiter=delimiter))
        return [str(next((row[name] for name in ("text", "prompt", *row) if name in row), "")) for row in rows]
    return path.read_text(encoding=charset).splitlines()
