"""The benchmark of bytes of a stored token."""

from __future__ import annotations

from benchmarks.encoding_errors import exact_top_k_error, posterior_logits
from benchmarks.token_bytes import Format, bench_token_bytes, smallest_record
from limbeck.cache.encodings import kl_error


def test_the_smallest_record_has_at_most_the_error_that_is_asked_for():
    logits = posterior_logits(12, 3000, zipf=1.0)
    error = exact_top_k_error(logits, 20)
    ours, its_error = smallest_record(logits, 20, error)
    assert its_error == kl_error(ours, logits) <= error
    assert ours.width < 20 * 4


def test_its_keys():
    result = bench_token_bytes(vocabulary=6000, rows=6, formats=[Format("one", 10, 40, 1.0)])
    assert [row["teacher"] for row in result["token_bytes"]] == ["unsure", "usual", "confident"]
    for row in result["token_bytes"]:
        assert row["our_kl_error"] <= row["kl_error"]
        assert row["missed"] == (row["our_bytes"] > 40)
    assert all(row["bytes"] > 0 for row in result["others"])
