"""Bins of reliability diagrams and scores of calibration."""

from __future__ import annotations

import math

import pytest
import torch

from limbeck.batch import IGNORED
from limbeck.errors import LimbeckError
from limbeck.metrics import Predictions, brier, confidence, ece, entropy, mce, reliability

INF = math.inf


def some(rows=500, classes=7, scale=2.0):
    return Predictions(scale * torch.randn(rows, classes), labels=torch.randint(classes, (rows,)))


@pytest.mark.parametrize(("classes", "scale"), [(2, 1.0), (10, 3.0), (50, 0.1)])
def test_the_diagram_holds_both_errors(classes, scale):
    predictions = some(classes=classes, scale=scale)
    found = reliability(predictions)
    gaps = (found.accuracy - found.confidence).abs().nan_to_num(0.0)
    assert found.counts.sum() == 500
    assert float((found.counts.double() / 500 * gaps).sum()) == pytest.approx(ece(predictions).value, abs=1e-12)
    assert float(gaps.max()) == pytest.approx(mce(predictions).value, abs=1e-12)


@pytest.mark.parametrize(("classes", "scale"), [(2, 1.0), (10, 3.0)])
def test_the_greatest_gap_is_torchmetrics(classes, scale):
    from torchmetrics.functional.classification import multiclass_calibration_error

    predictions = some(classes=classes, scale=scale)
    theirs = multiclass_calibration_error(
        predictions.student.double().softmax(1), predictions.labels, num_classes=classes, n_bins=15, norm="max"
    )
    assert mce(predictions).value == pytest.approx(float(theirs), abs=1e-6)


def test_bins_hold_what_their_edges_say():
    predictions = some(scale=1.0)
    found, sure = reliability(predictions, bins=4), predictions.student.double().softmax(1).amax(1)
    assert found.edges.tolist() == [0, 0.25, 0.5, 0.75, 1]
    for m, (low, high) in enumerate(zip(found.edges[:-1], found.edges[1:], strict=True)):
        inside = (sure > low) & (sure <= high)
        assert found.counts[m] == inside.sum()
        if inside.any():
            assert found.confidence[m] == pytest.approx(float(sure[inside].mean()))


def test_an_edge_belongs_to_the_bin_below_it():
    found = reliability(Predictions(torch.zeros(4, 2), labels=torch.tensor([0, 0, 0, 1])), bins=2)
    assert found.counts.tolist() == [4, 0]
    assert math.isnan(found.accuracy[1])


def test_brier_is_scikit_learn_s_for_two_classes_and_bounded():
    from sklearn.metrics import brier_score_loss

    predictions = some(classes=2)
    q = predictions.student.double().softmax(1)[:, 1]
    assert brier(predictions).value == pytest.approx(2 * brier_score_loss(predictions.labels, q), rel=1e-9)
    sure = torch.tensor([[0.0, -INF], [1e30, -1e30]])
    assert brier(Predictions(sure, labels=torch.tensor([0, 0]))).value == 0.0
    assert brier(Predictions(sure, labels=torch.tensor([1, 1]))).value == 2.0


def test_brier_is_least_for_the_truth():
    """Labels drawn from p: no temperature beats 1, in expectation."""
    logits = torch.randn(20_000, 4)
    labels = logits.softmax(1).multinomial(1)[:, 0]
    scores = {t: brier(Predictions(logits / t, labels=labels)).value for t in (0.5, 0.8, 1.0, 1.25, 2.0)}
    assert min(scores, key=scores.get) == 1.0


def test_entropy_and_confidence_at_their_limits():
    for classes in (2, 10):
        flat = Predictions(torch.full((3, classes), 7.0))
        assert entropy(flat).value == pytest.approx(math.log(classes))
        assert confidence(flat).value == pytest.approx(1 / classes)
    sure = Predictions(torch.tensor([[1e30, 0.0, -INF], [0.0, -INF, -INF]]))
    assert (entropy(sure).value, confidence(sure).value) == (0.0, 1.0)


def test_nothing_that_counts_and_what_is_lacking():
    none = reliability(some(3)._replace(labels=torch.full((3,), IGNORED)))
    assert none.counts.sum() == 0
    assert none.accuracy.isnan().all()
    with pytest.raises(LimbeckError, match="'reliability' needs labels"):
        reliability(Predictions(torch.zeros(2, 3)))
    with pytest.raises(LimbeckError, match="bins=0"):
        reliability(some(3), bins=0)
