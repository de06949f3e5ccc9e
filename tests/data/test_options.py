"""Every option of a dataset has a type, and wrong values have a message."""

from __future__ import annotations

import contextlib
import json
from pathlib import Path

import pytest

from limbeck.data import load_data
from limbeck.data.options import DataOptions, parse_data_options
from limbeck.errors import LimbeckError, UnknownNameError
from limbeck.job import make_job

ODD = (0, -1, 1.5, True, "", "x", "\0", [], [[]], [None], {}, {"a": 1}, float("nan"), 10**30, b"x", object(), ["a", 2])
OPTIONS = tuple(DataOptions.__dataclass_fields__)


@pytest.mark.parametrize(
    ("option", "value", "meant"),
    [
        ("size", 224, (224, 224)), ("size", "16x24", (16, 24)), ("size", [16], (16, 16)), ("size", (3, 4), (3, 4)),
        ("target", 1, "1"), ("ignore", "id", ("id",)), ("ignore", [0, "b"], ("0", "b")), ("test", Path("a"), "a"),
        ("missing", -999, ("-999",)), ("separator", "tab", "\t"), ("charset", "latin-1", "iso8859-1"),
        ("vocabulary", "800", 800), ("max_length", 64.0, 64), ("channels", 3, 3), ("class_names", ("b", 1), ("b", "1")),
    ],
)  # fmt: skip
def test_what_people_type_is_understood(option, value, meant):
    assert getattr(parse_data_options({option: value}), option) == meant


@pytest.mark.parametrize(
    ("option", "value"),
    [
        ("size", 0), ("size", "wide"), ("size", [1, 2, 3]), ("size", 1.5), ("channels", 2), ("target", True),
        ("vocabulary", "many"), ("max_length", -1), ("ignore", {"a": 1}), ("separator", ";;"), ("charset", "klingon"),
        ("test", "a\0b"), ("size", 10**9), ("vocabulary", 10**18),
    ],
)  # fmt: skip
def test_a_wrong_value_is_named_with_what_to_type(option, value):
    with pytest.raises(LimbeckError, match=option):
        parse_data_options({option: value})
    with pytest.raises(LimbeckError, match=option):
        make_job({"data": {"name": "digits", option: value}, "teacher": "mlp", "student": "mlp"})


def test_an_unknown_option_has_its_nearest():
    with pytest.raises(UnknownNameError, match="Did you mean 'separator'"):
        parse_data_options({"seperator": ";"})


@pytest.mark.usefixtures("unchecked")
def test_no_value_of_any_option_ends_in_a_traceback(tmp_path):
    pytest.importorskip("pyarrow", reason="pyarrow is not installed: pip install 'limbeck[table]'")
    (tmp_path / "a.csv").write_text("x,y\n" + "".join(f"{i % 5},{'ab'[i % 2]}\n" for i in range(20)))
    (tmp_path / "b.jsonl").write_text("".join(json.dumps({"text": "a b", "label": i % 2}) + "\n" for i in range(9)))
    (tmp_path / "c").mkdir()
    for name in ("digits", tmp_path / "a.csv", tmp_path / "b.jsonl", tmp_path / "c", "\0", "x" * 5000):
        for option in OPTIONS:
            for value in ODD:
                with contextlib.suppress(LimbeckError, OSError):
                    load_data(name, **{"target": "y", option: value} if str(name).endswith(".csv") else {option: value})
