"""The benchmark of the cache measures what its figures are named."""

from __future__ import annotations

import json

import pytest

from benchmarks import bench_cache
from benchmarks.cache import CacheScale
from benchmarks.cache_checks import corruptions_read_as_good, identical_to_live
from benchmarks.language_logits import word_answers
from benchmarks.tables import BARS
from limbeck.cache import CacheReader
from limbeck.data.builtin_datasets import data_folders
from limbeck.errors import LimbeckError


@pytest.mark.soak
def test_every_figure_that_has_a_bar_is_there(monkeypatch):
    monkeypatch.setattr("benchmarks.cache.FORWARDS", 2)
    monkeypatch.setattr("benchmarks.language_logits.data_folders", lambda folder: [])
    monkeypatch.setattr("benchmarks.encodings._KS", (8, 100))
    found = bench_cache(scale=CacheScale(steps=2, block=1, gathers=3, rows=300, flips=5, examples=512))
    assert set(BARS["cache"]) <= set(found)
    assert found["identical_to_live"] is True
    assert found["corruptions_read_as_good"] == 0
    assert found["bytes_per_record_top100_of_1000"] <= 250
    assert all("made-up" in source for source in found["answers"].values())
    assert json.loads(json.dumps(found)) == found


def test_a_store_that_checks_nothing_would_be_detected(monkeypatch, tmp_path):
    monkeypatch.setattr("limbeck.cache.shard.MappedShard._verify", lambda self: None)
    assert corruptions_read_as_good(tmp_path, flips=40) > 0


def test_a_student_of_other_answers_would_be_detected(monkeypatch, tmp_path):
    real = CacheReader.read
    monkeypatch.setattr(CacheReader, "read", lambda self, *what, **how: real(self, *what, **how) * 1.001)
    assert not identical_to_live(tmp_path)


def test_sizes_make_sense():
    with pytest.raises(LimbeckError, match="rows must be at least 1"):
        CacheScale(rows=0)


def test_a_model_of_words_is_trained_where_the_text_is():
    if not any((place / "wikitext2_small").is_dir() for place in data_folders()):
        pytest.skip("WikiText-2 is not on this machine (LIMBECK_DATA/wikitext2_small).")
    found = word_answers(50, rows=20)
    assert "WikiText-2" in found.source
    assert found.logits.shape == (20, 50)
    # What it has learnt is more than nothing: its answers differ from row to row, and are no uniform ones.
    entropy = -(found.logits.softmax(-1) * found.logits.log_softmax(-1)).sum(-1)
    assert entropy.mean() < 3.5
    assert entropy.std() > 0.05
