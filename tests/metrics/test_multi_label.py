"""Multi-label metrics equal those of scikit-learn and torchmetrics; unknown labels are left out."""

from __future__ import annotations

import math

import pytest
import torch
import torch.nn.functional as F
from sklearn import metrics

from limbeck.batch import IGNORED
from limbeck.errors import LimbeckError
from limbeck.metrics import MULTI_LABEL_METRICS, MultiLabelPredictions, evaluate

INF = math.inf


def some(rows=80, labels=5):
    truth = (torch.rand(rows, labels) < 0.4).long()
    logits = (torch.randn(rows, labels) + 1.5 * truth - 0.7).round(decimals=1)  # with ties
    return MultiLabelPredictions(logits, torch.randn(rows, labels), truth)


@pytest.mark.parametrize("labels", [1, 2, 5])
def test_every_measure_is_scikit_learn_s(labels):
    given = some(labels=labels)
    said, truth = (given.student > 0).long().numpy(), given.labels.numpy()
    found = {name: m.value for name, m in evaluate(given, MULTI_LABEL_METRICS).items()}
    average = "binary" if labels == 1 else "macro"
    assert found == pytest.approx(
        {
            "mean_average_precision": metrics.average_precision_score(truth, given.student.numpy(), average="macro"),
            "f1_micro": metrics.f1_score(truth.ravel(), said.ravel()),
            "f1_macro": metrics.f1_score(truth, said, average=average),
            "hamming": metrics.hamming_loss(truth, said),
            "binary_nll": float(F.binary_cross_entropy_with_logits(given.student.double(), given.labels.double())),
            "answer_agreement": float(((given.student > 0) == (given.teacher > 0)).double().mean()),
        },
        rel=1e-9,
    )


def test_the_same_by_torchmetrics():
    from torchmetrics.functional.classification import multilabel_average_precision, multilabel_f1_score

    given = some()
    q = given.student.double().sigmoid()
    found = evaluate(given, ["mean_average_precision", "f1_macro"])
    theirs = multilabel_average_precision(q, given.labels, num_labels=5)
    assert found["mean_average_precision"].value == pytest.approx(float(theirs), abs=1e-6)
    assert found["f1_macro"].value == pytest.approx(float(multilabel_f1_score(q, given.labels, num_labels=5)), abs=1e-6)


def test_totals_add_up_where_they_are_sums():
    given = some()
    first, second = (MultiLabelPredictions(*(part[s] for part in given)) for s in (slice(0, 30), slice(30, None)))
    for name in ("f1_micro", "hamming", "binary_nll", "answer_agreement"):
        a, b, whole = (MULTI_LABEL_METRICS[name](part) for part in (first, second, given))
        assert (a.total + b.total, a.count + b.count) == (pytest.approx(whole.total), whole.count)


def test_unknown_answers_count_nowhere():
    given = some()
    labels = given.labels.clone()
    labels[::2, 1] = IGNORED
    labels[:, 3] = IGNORED
    holed = given._replace(labels=labels)
    known = labels != IGNORED
    found = evaluate(holed, ["hamming", "binary_nll", "mean_average_precision", "f1_micro", "f1_macro"])
    assert found["hamming"].count == found["binary_nll"].count == int(known.sum())
    wrong = (given.student > 0) != (given.labels == 1)
    assert found["hamming"].total == int(wrong[known].sum())
    assert found["f1_micro"].value == pytest.approx(
        metrics.f1_score(given.labels[known].numpy(), (given.student > 0)[known].numpy())
    )
    assert found["mean_average_precision"].count == found["f1_macro"].count == 4


def test_limits():
    sure = MultiLabelPredictions(torch.tensor([[INF, -INF], [1e30, -1e30]]), labels=torch.tensor([[1, 0], [1, 0]]))
    found = {name: m.value for name, m in evaluate(sure, [n for n in MULTI_LABEL_METRICS if "agree" not in n]).items()}
    assert found == {"mean_average_precision": 1, "f1_micro": 1, "f1_macro": 1, "hamming": 0, "binary_nll": 0}
    wrong = sure._replace(labels=1 - sure.labels)
    assert evaluate(wrong, ["hamming", "binary_nll"])["hamming"].value == 1.0
    assert evaluate(wrong, ["binary_nll"])["binary_nll"].value == INF
    never = MultiLabelPredictions(torch.full((3, 2), -1.0), labels=torch.zeros(3, 2).bool())
    assert all(math.isnan(MULTI_LABEL_METRICS[n](never).value) for n in ("f1_micro", "f1_macro"))
    assert math.isnan(MULTI_LABEL_METRICS["mean_average_precision"](never).value)
    assert MULTI_LABEL_METRICS["hamming"](never).value == 0.0
    nothing = evaluate(some()._replace(labels=torch.full((80, 5), IGNORED)), ["hamming", "f1_micro", "binary_nll"])
    assert all(m == (0.0, 0) for m in nothing.values())


def test_what_does_not_fit_is_said(unchecked):
    given = some()
    with pytest.raises(LimbeckError, match=r"labels of 1 \(yes\), 0 \(no\) or -100 \(unknown\); got 2"):
        MULTI_LABEL_METRICS["hamming"](given._replace(labels=given.labels * 2))
    with pytest.raises(LimbeckError, match=r"the student has \[80, 5\], labels \[80, 4\]"):
        MULTI_LABEL_METRICS["hamming"](given._replace(labels=given.labels[:, :4]))
    with pytest.raises(LimbeckError, match="'answer_agreement' needs teacher"):
        MULTI_LABEL_METRICS["answer_agreement"](given._replace(teacher=None))
