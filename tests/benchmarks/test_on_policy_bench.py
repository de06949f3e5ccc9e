"""The benchmark of an on-policy step."""

from __future__ import annotations

import pytest

from benchmarks.on_policy import OnPolicySizes, bench_on_policy
from limbeck.errors import LimbeckError

TINY = OnPolicySizes(vocabulary=60, student=(1, 8), teacher=(1, 8), prompts=(2, 3), new=3)


@pytest.mark.filterwarnings("ignore")
def test_its_keys(monkeypatch):
    pytest.importorskip("transformers", reason="transformers is not installed (extra hf)")
    result = bench_on_policy(sizes=TINY, rounds=1)
    names = [row["toolkit"] for row in result["steps"]]
    assert names[0] == "limbeck"
    assert all(row["seconds"] >= 0 and row["memory_mib"] > 0 for row in result["steps"])
    assert set(names) | set(result["skipped"]) == {"limbeck", "trl"}
    assert set(result["over_trl"]) == (set() if result["skipped"] else {"time", "memory"})


@pytest.mark.filterwarnings("ignore")
def test_a_toolkit_that_is_missing_is_skipped_with_a_sentence(monkeypatch):
    pytest.importorskip("transformers", reason="transformers is not installed (extra hf)")

    def refuse(*_):
        raise ImportError("No module named 'trl'")

    monkeypatch.setattr("benchmarks.on_policy.open_trl", refuse)
    result = bench_on_policy(sizes=TINY, rounds=1)
    assert "pip install trl" in result["skipped"]["trl"]
    assert (result["over_trl"], result["missed"]) == ({}, [])


def test_no_round_is_refused():
    with pytest.raises(LimbeckError):
        bench_on_policy(rounds=0)
