"""Results are read only as far as their version allows."""

from __future__ import annotations

import json

import pytest

from limbeck.errors import DataError
from limbeck.job.result import read_result


def left(tmp_path, **result):
    (tmp_path / "result.json").write_text(json.dumps(result))
    return read_result(tmp_path)


def test_names_do_not_command_a_terminal(tmp_path):
    found = left(tmp_path, arms={"a\x1b[2Jb\x9b": {"role": "method"}}, run="x\x07\ny", data={"name": "é 👩‍🔬 \x00"})
    assert list(found["arms"]) == ["a[2Jb"]
    assert found["run"] == "x\ny"
    assert found["data"] == {"name": "é 👩‍🔬 "}


def test_what_is_no_number_is_none_and_what_is_no_mapping_is_empty(tmp_path):
    arms = {"a": {"nll": float("nan"), "parameters": 10**400, "values": [1, float("inf")]}}
    found = left(tmp_path, arms=arms, verdict=3, data=[])
    assert found["arms"]["a"] == {"nll": None, "parameters": None, "values": [1, None]}
    assert found["verdict"] == found["data"] == {}


@pytest.mark.parametrize("text", ["", "{", "[]", '"arms"', "{}", '{"arms": {}}', '{"arms": {"a": 1}}', "[" * 100_000])
def test_what_is_no_result_is_one_sentence(tmp_path, text):
    (tmp_path / "result.json").write_text(text)
    with pytest.raises(DataError, match="Run the job again into another folder"):
        read_result(tmp_path)
