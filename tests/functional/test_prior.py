"""A bias makes the mean prediction the prior."""

from __future__ import annotations

import inspect
import math

import pytest
import torch

from limbeck.errors import LimbeckError
from limbeck.functional import prior_bias


def mask(count: int, *moved: int) -> torch.Tensor:
    return torch.tensor([c in moved for c in range(count)])


@pytest.mark.parametrize("moved", [(3,), (1, 2), (0, 1, 2, 3, 4)])
@pytest.mark.parametrize("scale", [1.0, 20.0])
def test_the_mean_prediction_of_the_classes_is_their_share(moved, scale):
    logits = scale * torch.randn(200, 5, dtype=torch.float64)
    prior = torch.softmax(torch.randn(5, dtype=torch.float64), -1)
    bias = prior_bias(logits, prior, classes=mask(5, *moved))
    mean = torch.softmax(logits + bias, -1).mean(0)
    assert torch.allclose(mean[list(moved)], prior[list(moved)], atol=1e-8)
    if len(moved) < 5:
        assert bias[~mask(5, *moved)].abs().max() == 0


def test_a_bias_that_was_taken_away_is_detected_again():
    """Labels drawn from the model itself: what shifts the logits is what has to be put back."""
    logits = 3 * torch.randn(20_000, 4, dtype=torch.float64)
    prior = torch.softmax(logits, -1).mean(0)
    taken = torch.tensor([0.0, -3.5, 0.0, 0.0], dtype=torch.float64)
    bias = prior_bias(logits + taken, prior, classes=mask(4, 1))
    assert torch.allclose(bias, -taken, atol=1e-6)


def test_one_example_and_two_classes_have_the_log_odds():
    bias = prior_bias(torch.tensor([[1.0, 0.0]]).double(), torch.tensor([0.25, 0.75]).double(), classes=mask(2, 1))
    assert bias.tolist() == pytest.approx([0.0, 1.0 + math.log(3)])


def test_all_biases_have_the_mean_zero():
    bias = prior_bias(torch.randn(50, 3), torch.tensor([0.2, 0.3, 0.5]))
    assert abs(float(bias.sum())) < 1e-5
    assert bias.dtype == torch.float32


def test_a_class_that_is_almost_never_predicted_is_brought_back():
    logits = torch.randn(1000, 10, dtype=torch.float64)
    logits[:, 3] -= 300.0
    prior = torch.full((10,), 0.1, dtype=torch.float64)
    bias = prior_bias(logits, prior, classes=mask(10, 3))
    assert float(torch.softmax(logits + bias, -1)[:, 3].mean()) == pytest.approx(0.1)


@pytest.mark.parametrize(
    ("logits", "prior", "moved", "said"),
    [
        (torch.zeros(0, 3), torch.ones(3), None, "at least one example"),
        (torch.zeros(4, 3), torch.ones(2), None, r"\[4, 3\] and \[2\]"),
        (torch.zeros(4, 3), torch.tensor([0.0, 0.5, 0.5]), None, "must be above 0"),
        (torch.full((4, 3), torch.inf), torch.ones(3), None, "NaN or infinity"),
        (torch.zeros(4, 3), torch.ones(3), torch.zeros(3, dtype=torch.bool), "at least one"),
    ],
)
def test_what_makes_no_sense_is_refused(logits, prior, moved, said):
    with pytest.raises((LimbeckError, TypeError), match=said if prior.shape[0] == 3 else "."):
        prior_bias(logits, prior, classes=moved)


@pytest.mark.parametrize(
    ("prior", "moved", "said"),
    [
        (torch.ones(3), torch.tensor([0, 0, 1]), r"classes=torch\.arange\(3\) == 0"),
        (torch.ones(3), torch.tensor([2]), r"classes=torch\.arange\(3\) == 0"),
        (torch.ones(3), [2], "classes is a list"),
        ([1.0, 1.0, 1.0], None, "prior is a list"),
    ],
)
def test_numbers_of_classes_are_no_mask(prior, moved, said):
    """Asked for below the annotations, which the tests alone enforce."""
    with pytest.raises(LimbeckError, match=said):
        inspect.unwrap(prior_bias)(torch.zeros(4, 3), prior, classes=moved)
