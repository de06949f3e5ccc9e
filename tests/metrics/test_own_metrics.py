"""Metrics of one's own: each gets what it asks for by name, and what is wrong is one sentence."""

from __future__ import annotations

import pytest
import torch

from limbeck.errors import LimbeckError, UnknownNameError
from limbeck.metrics import Predictions, evaluate, evaluate_metrics, open_metrics

FILE = """
from sklearn.metrics import balanced_accuracy_score
from limbeck.metrics import Metric

def balanced(labels, predicted):
    return balanced_accuracy_score(labels, predicted)

def hits(labels, predicted, *, scale=1.0):
    return scale * (labels == predicted).double().mean()

def likelihood(probabilities, labels):
    return -probabilities.gather(1, labels[:, None]).log().mean()

def whole(predictions):
    return Metric(3.0, 2)

def text(labels):
    return "high"

def fails(logits):
    raise RuntimeError("out of range")

def overwrites(labels, predicted, logits, probabilities):
    for given in (labels, predicted, logits, probabilities):
        given.zero_()
    return 1.0

def wipes(predictions):
    predictions.student.zero_()
    return 1.0

def open_ended(labels, *more, **others):
    return float(len(labels) + len(more) + len(others))

def strange(y_true, y_pred):
    return 0.0

def accuracy(labels):
    return 1.0
"""


@pytest.fixture
def file(tmp_path):
    path = tmp_path / "metrics.py"
    path.write_text(FILE)
    return path


def drawn():
    draw = torch.Generator().manual_seed(0)
    labels = torch.randint(3, (50,), generator=draw)
    labels[::7] = -100
    return Predictions(torch.randn(50, 3, generator=draw), None, labels)


def test_each_gets_what_it_asks_for_of_the_rows_that_count(file):
    metrics = open_metrics([f"{file}:{name}" for name in ("balanced", "hits", "likelihood", "whole")])
    predictions = drawn()
    found, known = evaluate_metrics(metrics, predictions), evaluate(predictions, ["accuracy", "nll"])
    assert list(found) == ["balanced", "hits", "likelihood", "whole"]
    assert found["hits"] == pytest.approx(known["accuracy"].value, abs=1e-12)
    assert found["likelihood"] == pytest.approx(known["nll"].value, rel=1e-6)
    assert 0 < found["balanced"] < 1
    assert found["whole"] == 1.5


@pytest.mark.parametrize(
    ("name", "error"), [("strange", UnknownNameError), ("accuracy", LimbeckError), ("gone", UnknownNameError)]
)
def test_what_cannot_be_opened_is_refused(file, name, error):
    with pytest.raises(error):
        open_metrics([f"{file}:{name}"])


@pytest.mark.parametrize("name", ["text", "fails"])
def test_what_gives_no_number_is_refused_by_name(file, name):
    with pytest.raises(LimbeckError, match=name):
        evaluate_metrics(open_metrics([f"{file}:{name}"]), drawn())


def test_one_that_changes_what_it_gets_changes_neither_data_nor_other_measures(file):
    predictions = drawn()
    whole = Predictions(predictions.student, None, predictions.labels.clamp_min(0))  # all count
    for given in (predictions, whole):
        before = [given.student.clone(), given.labels.clone()]
        found = evaluate_metrics(open_metrics([f"{file}:{name}" for name in ("overwrites", "wipes", "hits")]), given)
        assert found["hits"] == evaluate(given, ["accuracy"])["accuracy"].value
        assert torch.equal(given.student, before[0])
        assert torch.equal(given.labels, before[1])


def test_further_arguments_of_any_name_are_left_empty(file):
    found = evaluate_metrics(open_metrics([f"{file}:open_ended"]), drawn())
    assert found["open_ended"] == int((drawn().labels != -100).sum())
