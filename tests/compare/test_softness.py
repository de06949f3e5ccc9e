"""Label smoothing matches the entropy of the teacher."""

from __future__ import annotations

import math

import pytest
import torch

from limbeck.compare.arm_recipes import mean_entropy, smoothing_of


@pytest.mark.parametrize("classes", [2, 10, 1000])
@pytest.mark.parametrize("share", [1e-6, 0.01, 0.1, 0.5, 0.99])
def test_the_smoothed_label_has_the_entropy(classes, share):
    target = torch.full((classes,), share / classes, dtype=torch.float64)
    target[0] += 1 - share
    entropy = float(torch.special.entr(target).sum())
    assert smoothing_of(entropy, classes) == pytest.approx(share, rel=1e-5, abs=1e-9)


@pytest.mark.parametrize("classes", [2, 10])
def test_the_ends(classes):
    assert smoothing_of(0.0, classes) == 0.0
    assert smoothing_of(math.log(classes), classes) == 1.0
    assert smoothing_of(100.0, classes) == 1.0


def test_entropy_is_that_of_the_answers():
    logits = torch.tensor([[0.0, 0.0], [1e6, -1e6], [0.0, -math.inf]])
    assert mean_entropy(logits) == pytest.approx(math.log(2) / 3)
