"""The encoding compact-top-k: exact classes and masses, few bits for values, one temperature."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from limbeck.cache.encodings import encoding, kl_error, make_encoding
from limbeck.cache.packing import ClassSubset, CoarseDepths
from limbeck.errors import ArgumentError, LimbeckError
from limbeck.functional import coarse_logits, kl_divergence

INF = math.inf


def encoded(one, logits):
    at = torch.arange(len(logits))
    records = one.encode(logits, id=at, view=at * 0, position=at * 0)
    assert records.shape == (len(logits), one.width)
    return one.decode(records)


@pytest.fixture
def logits():
    torch.manual_seed(0)
    return 4 * torch.randn(30, 2000)


@pytest.mark.parametrize("bits", [2, 3, 4, 8])
@pytest.mark.parametrize("temperature", [1.0, 2.0])
def test_classes_and_masses_are_the_teacher_s(logits, bits, temperature):
    one = make_encoding("compact-top-k", classes=2000, k=40, bits=bits, temperature=temperature)
    decoded = encoded(one, logits)
    top = logits.topk(40).indices.sort().values
    assert torch.equal(decoded.ids.long(), top)
    p = (logits / temperature).softmax(-1)
    found = (decoded.coarse(temperature) / temperature).softmax(-1)
    torch.testing.assert_close(found[:, -1], 1 - p.gather(-1, top).sum(-1), rtol=2e-3, atol=1e-4)
    largest = decoded.depths.argmax(-1, keepdim=True)
    assert torch.equal(decoded.ids.long().gather(-1, largest)[:, 0], logits.argmax(-1))


def test_more_bits_have_less_error_and_the_error_is_that_of_the_missing_classes(logits):
    errors = [kl_error(make_encoding("compact-top-k", classes=2000, k=60, bits=bits), logits) for bits in (2, 3, 4, 8)]
    assert errors == sorted(errors, reverse=True)
    exact = kl_error(make_encoding("top-k", classes=2000, k=60, bits=32), logits)
    assert errors[-1] == pytest.approx(exact, rel=2e-3)
    assert errors[2] < 1.05 * exact


def test_the_loss_is_that_of_merged_classes(logits):
    one = make_encoding("compact-top-k", classes=2000, k=60, bits=8)
    decoded, student = encoded(one, logits), logits + torch.randn_like(logits)
    exact = kl_divergence(coarse_logits(student, decoded.ids.long()), coarse_logits(logits, decoded.ids.long()))
    torch.testing.assert_close(decoded.compare(kl_divergence, student), exact, rtol=2e-2, atol=2e-3)


def test_raw_logits_are_log_probabilities(logits):
    decoded = encoded(make_encoding("compact-top-k", classes=2000, k=2000, bits=8), logits)
    torch.testing.assert_close(decoded.logits.logsumexp(-1), torch.zeros(30), rtol=0, atol=1e-5)


def test_other_temperatures_are_refused(logits):
    decoded = encoded(make_encoding("compact-top-k", classes=2000, k=10), logits)
    with pytest.raises(LimbeckError, match="temperature"):
        decoded.compare(kl_divergence, logits, temperature=2.0)


@pytest.mark.parametrize("bits", [2, 3, 4])
def test_impossible_and_equal_classes_and_rows_are_kept(bits):
    rows = torch.tensor(
        [
            [0.0, -1.0, -INF, -INF, -2.0], [3.0, 3.0, 3.0, 3.0, 3.0], [-INF] * 5,
            [0.0, -1e9, -1e9, -1e9, -1e9], [1.0, -INF, -INF, -INF, -INF],
        ]
    )  # fmt: skip
    decoded = encoded(make_encoding("compact-top-k", classes=5, k=4, bits=bits), rows)
    picked = rows.gather(-1, decoded.ids.long())
    assert torch.equal(decoded.depths == -INF, picked == -INF)
    assert decoded.depths[1].abs().max() == 0
    assert not decoded.depths.isnan().any()
    assert (decoded.depths[3][picked[3] < 0] < -1e4).all()


def test_depths_are_within_a_step():
    torch.manual_seed(1)
    depths = -torch.rand(50, 30) * 12 - 0.5
    depths[:, 3] = 0.0
    for bits in (3, 4, 6):
        coder = CoarseDepths(bits)
        found = coder.unpack(*coder.pack(depths))
        assert torch.equal(found == 0, depths == 0)
        assert (found - depths).abs().max() < 1.5 * 14 / ((1 << bits) - 2)


def test_numbers_beside_classes_come_back():
    draw = np.random.default_rng(0)
    subset = ClassSubset(20, 5000, beside=3)
    ids = np.sort(np.stack([draw.choice(5000, 20, replace=False) for _ in range(7)]), axis=1)
    numbers = draw.integers(0, 8, (7, 20))
    packed = subset.pack(ids, numbers)
    assert packed.shape[1] == subset.width
    assert np.array_equal(subset.unpack(packed), ids)
    assert np.array_equal(subset.unpack_beside(packed), numbers)


def test_a_token_of_a_large_vocabulary_takes_114_bytes_for_53_classes():
    one = encoding({"name": "compact-top-k", "k": 53, "bits": 3}, classes=151_936)
    assert one.width == 114
    assert one.spec == {"name": "compact-top-k", "k": 53, "bits": 3, "temperature": 1.0}


@pytest.mark.parametrize("wrong", [{"k": 0}, {"k": 6}, {"bits": 1}, {"bits": 9}, {"temperature": 0.0}])
def test_parameters_out_of_range_are_refused(wrong):
    with pytest.raises(ArgumentError):
        make_encoding("compact-top-k", classes=5, **{"k": 2, **wrong})
