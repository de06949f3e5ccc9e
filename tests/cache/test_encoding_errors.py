"""Encodings: bytes per row and errors stay within their bounds."""

from __future__ import annotations

import math
import time

import numpy as np
import pytest
import torch

from benchmarks.encoding_errors import (
    error_table,
    float16_record_bytes,
    float16_top_k_error,
    matching_top_k,
    posterior_logits,
)
from cache.records import encoded
from limbeck.cache.encodings import kl_error, make_encoding


@pytest.fixture(scope="module")
def pictures():
    """As of a classifier of 1,000 classes."""
    return posterior_logits(1000, 1000)


@pytest.fixture(scope="module")
def words():
    """As of a language model with GPT-2's vocabulary."""
    return posterior_logits(48, 50257, zipf=1.0, groups=400, noise=1.4)


def test_the_error_is_the_divergence_of_what_is_read_back(pictures):
    one = make_encoding("quantized", classes=1000, bits=5)
    p = pictures.double().log_softmax(-1)
    q = one.decode(encoded(one, pictures)).double().log_softmax(-1)
    assert kl_error(one, pictures) == pytest.approx(float((p.exp() * (p - q)).sum(-1).mean()), rel=1e-6)


def test_the_rest_is_spread_evenly_in_both_errors():
    logits = torch.tensor([[4.0, 2.0, 0.0, 1.0]])
    p = logits.double().softmax(-1)[0]
    rest = p[2] + p[3]
    wanted = p[2] * (2 * p[2] / rest).log() + p[3] * (2 * p[3] / rest).log()
    assert kl_error(make_encoding("top-k", classes=4, k=2, bits=32), logits) == pytest.approx(float(wanted), rel=1e-4)
    assert float16_top_k_error(logits, 2) == pytest.approx(float(wanted), rel=0.02)


def test_top_100_of_1000_classes(pictures):
    """Issue 4: at most 250 bytes, and 1.03 times the error of float16 values."""
    one = make_encoding("top-k", classes=1000, k=100)
    assert one.width <= 215
    assert float16_record_bytes(100, 1000) == 325
    assert kl_error(one, pictures) <= 1.03 * float16_top_k_error(pictures, 100)


def test_bytes_per_token_at_the_error_of_50_float16_values(words):
    """Issue 4: at most 0.7 of float16 values and packed ids."""
    assert float16_record_bytes(50, 50257) == 200
    found = matching_top_k(words, 50, bits=(6,))
    assert kl_error(found, words) <= float16_top_k_error(words, 50)
    assert found.width <= 140


def test_the_table(words):
    rows = error_table(words[:32], ks=(16, 32, 128))
    assert [row.k for row in rows] == [16, 32, 128]
    for row in rows:
        assert row.bytes < row.float16_bytes
        assert row.kl_error < 1.03 * row.float16_kl_error
    assert rows[2].bytes < 0.7 * rows[2].float16_bytes
    assert rows[0].kl_error > rows[1].kl_error > rows[2].kl_error


def test_samples_are_no_distribution(pictures):
    assert kl_error(make_encoding("sampled", classes=1000, draws=50), pictures[:5]) == math.inf


def test_what_looks_like_a_teacher_is_the_posterior_that_it_claims_to_be():
    """Of many rows the mean answer is how often classes come, as of every calibrated classifier."""
    p = posterior_logits(20000, 10, groups=3, zipf=1.0, noise=2.0).softmax(-1)
    share = 1 / torch.arange(1, 11)
    assert torch.allclose(p.mean(0), share / share.sum(), atol=0.01)
    assert 0.3 < float(p.amax(-1).mean()) < 0.95
    assert torch.equal(posterior_logits(5, 10, seed=3), posterior_logits(5, 10, seed=3))
    assert not torch.equal(posterior_logits(5, 10, seed=3), posterior_logits(5, 10, seed=4))


@pytest.mark.parametrize(("classes", "k", "rows", "seconds"), [(1000, 100, 256, 0.02), (50257, 50, 4096, 0.2)])
def test_decoding_does_not_loop(classes, k, rows, seconds):
    one = make_encoding("top-k", classes=classes, k=k)
    some = posterior_logits(32, classes, zipf=1.0, groups=100)
    records = np.tile(encoded(one, some), (rows // 32, 1))
    took = []
    for _ in range(5):
        start = time.perf_counter()
        one.decode(records)
        took.append(time.perf_counter() - start)
    assert min(took) < seconds  # 0.6 and 5 ms when measured
