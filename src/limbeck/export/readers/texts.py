"""Texts as the tokens that a student reads."""

from __future__ import annotations

import csv
import json
import sys
from pathlib import Path
from typing import Any

import numpy as np
from tokenizers import Tokenizer


def read_inputs(paths: list[Path], metadata: dict[str, Any], shape: list[Any] | None) -> Any:
    """The texts of all files as token ids and their mask, padded to the longest."""
    folder = Path(__file__).parent
    tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))
    settings = json.loads((folder / "tokenizer_config.json").read_text(encoding="utf-8"))
    pad = settings.get("pad_token") or "[PAD]"
    pad = pad["content"] if isinstance(pad, dict) else pad
    tokenizer.enable_truncation(int(settings["model_max_length"]))
    side = settings.get("padding_side", "right")
    tokenizer.enable_padding(direction=side, pad_id=tokenizer.token_to_id(pad) or 0, pad_token=pad)
    cut = tokenizer.encode_batch([text for path in paths for text in texts_of(path, metadata)])
    return {
        "input_ids": np.array([one.ids for one in cut], dtype=np.int64),
        "attention_mask": np.array([one.attention_mask for one in cut], dtype=np.int64),
        "token_type_ids": np.array([one.type_ids for one in cut], dtype=np.int64),
    }


def texts_of(path: Path, metadata: dict[str, Any]) -> list[str]:
    """The texts of a file; one sentence where it cannot be read as is said."""
    charset = metadata.get("charset") or "utf-8-sig"
    try:
        return parsed_texts(path, charset, metadata.get("separator"))
    except UnicodeError:
        sys.exit(f"{path} is not written in {charset}: say how it is with --charset, such as utf-8 or cp1252.")
    except LookupError:
        sys.exit(f"--charset {charset}: Python knows no charset of this name; utf-8, cp1252 and latin-1 are some.")
    except (OSError, TypeError, ValueError, csv.Error) as error:
        sys.exit(f"{path} cannot be read: {error}.")


def parsed_texts(path: Path, charset: str, separator: str | None) -> list[str]:
    """The column ``text`` of a ``.csv`` or ``.jsonl`` file, or its first column; else a text a line."""
    if path.suffix.lower() in (".csv", ".tsv", ".jsonl"):
        with path.open(encoding=charset, newline="") as file:
            lines = (json.loads(line) for line in file if line.strip())
            delimiter = separator or ("\t" if path.suffix.lower() == ".tsv" else ",")
            rows = list(lines if path.suffix.lower() == ".jsonl" else csv.DictReader(file, delimiter=delimiter))
        return [str(row["text"] if "text" in row else next(iter(row.values()))) for row in rows]
    return path.read_text(encoding=charset).splitlines()
