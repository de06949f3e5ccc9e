"""Files of data with a wrong byte or an odd value: one sentence, and a DataError wherever the file is at fault."""

from __future__ import annotations

import gzip
import json
import random
from pathlib import Path

import numpy as np
import pytest

from fuzzing import changed_bytes, untyped
from limbeck.data import load_data
from limbeck.errors import DataError

TIMES = [1, pytest.param(40, marks=pytest.mark.soak)]
ROWS = [
    {"text": "good fine film" if i % 2 else "bad dull thing", "label": "pn"[i % 2], "x": 1.5 * i} for i in range(40)
]
LINES = "\n".join(map(json.dumps, ROWS)).encode()


def test_a_wrong_byte_in_a_packed_file(tmp_path: Path) -> None:
    packed = bytearray(gzip.compress(LINES, mtime=0))
    packed[20] ^= 0x55
    (tmp_path / "a.jsonl.gz").write_bytes(packed)
    with pytest.raises(DataError, match=r"a\.jsonl\.gz"):
        load_data(tmp_path / "a.jsonl.gz")


@pytest.mark.parametrize("key", ["text", "label"])
def test_half_of_a_character(tmp_path: Path, key: str) -> None:
    rows = [*ROWS, {**ROWS[0], key: "a\ud800"}]
    (tmp_path / "a.jsonl").write_text("\n".join(map(json.dumps, rows)))
    with pytest.raises(DataError, match=f"line 41: '{key}'"):
        load_data(tmp_path / "a.jsonl")


@pytest.mark.parametrize("options", [{"target": "y"}, {"target": "y", "text": "c"}, {"target": "c"}])
def test_a_parquet_table_whose_texts_are_no_utf8(tmp_path: Path, options: dict[str, str]) -> None:
    pa = pytest.importorskip("pyarrow", reason="pyarrow is not installed (extra table)")
    from pyarrow import parquet

    offsets = pa.array(["ab"] * 40).buffers()[1]
    column = pa.Array.from_buffers(pa.string(), 40, [None, offsets, pa.py_buffer(b"\xff\xb0" * 40)])
    parquet.write_table(pa.table({"c": column, "y": [row["label"] for row in ROWS]}), tmp_path / "t.parquet")
    with pytest.raises(DataError, match=r"t\.parquet"):
        load_data({"name": str(tmp_path / "t.parquet"), **options})


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("kind", ["a.jsonl", "a.jsonl.gz", "a.csv", "a.parquet", "a.npz"])
@pytest.mark.parametrize("times", TIMES)
def test_changed_bytes(tmp_path: Path, kind: str, times: int) -> None:
    pa = pytest.importorskip("pyarrow", reason="pyarrow is not installed (extra table)")
    from pyarrow import csv, parquet

    table, file = pa.Table.from_pylist(ROWS), tmp_path / kind
    options = {"target": "label"} if kind in ("a.csv", "a.parquet") else {}
    if kind == "a.csv":
        csv.write_csv(table, file)
    elif kind == "a.parquet":
        parquet.write_table(table, file)
    elif kind == "a.npz":
        np.savez(file, x=np.random.default_rng(0).random((30, 4), np.float32), y=np.arange(30) % 3)
    else:
        file.write_bytes(gzip.compress(LINES, mtime=0) if kind.endswith("gz") else LINES)
    whole = file.read_bytes()

    def read(draw: random.Random) -> None:
        file.write_bytes(changed_bytes(whole, draw))
        load_data({"name": str(file), **options})

    assert untyped(read, 25 * times) == {}
