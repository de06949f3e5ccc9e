"""The benchmark of the training step of a language model."""

from __future__ import annotations

import pytest

from benchmarks.lm_step import LanguageSizes, bench_lm_step
from limbeck.errors import LimbeckError

TINY = LanguageSizes(vocabulary=60, student=(1, 8), teacher=(1, 8), batch=(2, 6), k=3)


@pytest.mark.filterwarnings("ignore::FutureWarning")
def test_its_keys(monkeypatch):
    pytest.importorskip("transformers", reason="transformers is not installed (extra hf)")
    monkeypatch.setattr("benchmarks.lm_step.SMALL", TINY)
    result = bench_lm_step(sizes=TINY, vocabularies=[50], rounds=1)
    assert len(result["steps"]) == 5
    assert all(row["seconds"] >= 0 and row["memory_mib"] > 0 for row in result["steps"])
    assert {"stored_over_alone_time", "stored_over_alone_memory", "live_fused_over_dense_time"} <= set(result)
    assert result["by_vocabulary"][0]["vocabulary"] == 50


def test_no_round_is_refused():
    with pytest.raises(LimbeckError):
        bench_lm_step(rounds=0)
