"""Logits as large as float32 allows give finite values and gradients."""

from __future__ import annotations

import pytest
import torch

from limbeck.errors import LimbeckError
from limbeck.functional import (
    cross_entropy,
    jensen_shannon,
    kl_divergence,
    label_smoothing,
    reverse_kl,
    skew_kl,
    skew_reverse_kl,
    squared_error,
    total_variation,
)

DIVERGENCES = [kl_divergence, reverse_kl, jensen_shannon, skew_kl, skew_reverse_kl, total_variation]
BIG = 3e38
ROWS = [
    ([BIG, -BIG, 0.0], [-BIG, BIG, 0.0]),
    ([BIG, -BIG, 0.0], [BIG, -BIG, 0.0]),
    ([BIG, BIG, -BIG], [0.0, 1.0, 2.0]),
    ([0.0, 1.0, 2.0], [BIG, BIG, -BIG]),
    ([-BIG, -BIG, -BIG], [BIG, BIG, BIG]),
    ([BIG, -float("inf"), 0.0], [BIG, -float("inf"), -BIG]),
]


@pytest.mark.parametrize("kernel", DIVERGENCES)
@pytest.mark.parametrize("temperature", [0.5, 1.0, 4.0])
def test_giants_are_as_good_as_certainty(kernel, temperature):
    """The value is that of logits of 1e4, which are as certain, wherever that is not a sum of their distances."""
    for student, teacher in ROWS:
        found = []
        for scale in (1.0, 1e4 / BIG):
            one, other = (torch.tensor([row]) for row in (student, teacher))
            one, other = ((row * scale if max(map(abs, row.flatten().tolist())) > 5 else row) for row in (one, other))
            one, other = one.requires_grad_(), other.requires_grad_()
            value = kernel(one, other, temperature=temperature)
            value.sum().backward()
            found.append((value.detach(), one.grad, other.grad))
        (value, by_one, by_other), (smaller, by_smaller, _) = found
        assert torch.isfinite(by_one).all()
        assert torch.isfinite(by_other).all()
        if kernel is not reverse_kl:  # whose slope is itself a distance
            torch.testing.assert_close(by_one, by_smaller)
        if float(smaller) < 1e3:
            torch.testing.assert_close(value, smaller)
        else:
            assert float(value) == float("inf")


def test_equal_giants_are_equal():
    row = torch.tensor([[BIG, -BIG, 1.0]])
    for kernel in DIVERGENCES:
        assert kernel(row, row.clone()).tolist() == [0.0]


@pytest.mark.usefixtures("unchecked")
@pytest.mark.parametrize("kernel", [*DIVERGENCES, squared_error])
def test_whole_numbers_are_no_logits(kernel):
    whole = torch.tensor([[1, 2, 3]])
    with pytest.raises(LimbeckError, match=r"floating-point numbers, and are int64.*\.float\(\)"):
        kernel(whole, whole)


@pytest.mark.usefixtures("unchecked")
@pytest.mark.parametrize("kernel", [cross_entropy, label_smoothing])
def test_whole_numbers_are_no_logits_beside_labels(kernel):
    with pytest.raises(LimbeckError, match="student must be floating-point numbers, and is int64"):
        kernel(torch.tensor([[1, 2, 3]]), labels=torch.tensor([0]))
