"""The benchmark of other tokenizers, at the smallest sizes."""

from __future__ import annotations

import gzip

import pytest

from benchmarks.tokenizers import TokenizerSizes, bench_tokenizers
from limbeck.errors import LimbeckError

pytest.importorskip("transformers")

TINY = TokenizerSizes(
    student_tokens=270, teacher_tokens=300, student_width=4, teacher_width=8, window=16, share=0.5, student_epochs=1,
    test_texts=4,
)  # fmt: skip


def test_each_kind_of_student_has_a_row_beside_the_student_alone(tmp_path, monkeypatch):
    folder = tmp_path / "tinyshakespeare"
    folder.mkdir()
    speeches = "\n\n".join(f"First Citizen:\nWe are {number} citizens, hear us speak." for number in range(20))
    (folder / "input.txt.gz").write_bytes(gzip.compress(speeches.encode()))
    monkeypatch.setenv("LIMBECK_DATA", str(tmp_path))
    result = bench_tokenizers(seeds=1, sizes=TINY)
    assert [row["student"] for row in result["students"]] == ["alone", "uld", "alm", "alm, groups", "kl, one tokenizer"]
    assert result["students"][0]["more_than_alone"] == 0.0
    assert 0.5 < result["share_of_tokens"] <= 1.0
    assert 0 < result["groups_per_token"] <= result["share_of_tokens"]


def test_missing_texts_are_named(tmp_path, monkeypatch):
    monkeypatch.setenv("LIMBECK_DATA", str(tmp_path))
    monkeypatch.chdir(tmp_path)
    with pytest.raises(LimbeckError, match="LIMBECK_DATA"):
        bench_tokenizers()
