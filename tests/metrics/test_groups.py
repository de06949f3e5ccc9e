"""Metrics of classes and groups equal counts by hand."""

from __future__ import annotations

import math

import pytest
import torch

from limbeck.batch import IGNORED
from limbeck.errors import LimbeckError
from limbeck.metrics import (
    Group,
    Metric,
    Predictions,
    accuracy,
    class_accuracy,
    confusion_matrix,
    group_accuracy,
    worst_class_accuracy,
    worst_group,
)


def some(rows=400, classes=6):
    labels = torch.randint(classes, (rows,))
    return Predictions(torch.randn(rows, classes) + 2 * torch.eye(classes)[labels], labels=labels)


def test_a_row_of_nan_is_in_no_column_and_counts_against_its_class():
    logits = torch.eye(3)[torch.tensor([0, 0, 1, 2])]
    logits[0, 2] = math.nan
    predictions = Predictions(logits, labels=torch.tensor([0, 0, 1, 2]))
    assert confusion_matrix(predictions).tolist() == [[1, 0, 0], [0, 1, 0], [0, 0, 1]]
    assert class_accuracy(predictions).tolist() == [0.5, 1.0, 1.0]
    assert worst_class_accuracy(predictions).value == worst_group(predictions).accuracy.value == 0.5


def test_confusions_are_scikit_learn_s():
    from sklearn import metrics

    predictions = some()
    theirs = metrics.confusion_matrix(predictions.labels, predictions.student.argmax(1), labels=range(6))
    assert confusion_matrix(predictions).tolist() == theirs.tolist()
    recall = metrics.recall_score(predictions.labels, predictions.student.argmax(1), average=None)
    assert class_accuracy(predictions).tolist() == pytest.approx(recall.tolist())
    assert worst_class_accuracy(predictions).value == pytest.approx(min(recall))


def test_classes_without_examples_are_not_the_worst():
    shown = Predictions(torch.eye(3)[[0, 0, 1]], labels=torch.tensor([0, 0, 0]))
    assert class_accuracy(shown).nan_to_num(-1).tolist() == pytest.approx([2 / 3, -1, -1])
    assert worst_class_accuracy(shown) == (2.0, 3)
    assert worst_group(shown) == Group(0, Metric(2.0, 3))


def test_groups_of_the_user():
    predictions = some()
    groups = ["ab"[int(label) % 2] for label in predictions.labels]
    found = {group.name: group.accuracy for group in group_accuracy(predictions, groups)}
    assert set(found) == {"a", "b"}
    for name, value in found.items():
        inside = torch.tensor([group == name for group in groups])
        assert value == accuracy(Predictions(predictions.student[inside], labels=predictions.labels[inside]))
    assert worst_group(predictions, groups).accuracy.value == min(value.value for value in found.values())


def test_groups_given_as_a_tensor_and_rows_without_label():
    predictions = some()
    labels = predictions.labels.clone()
    labels[::2] = IGNORED
    groups = torch.arange(400) % 3
    whole = group_accuracy(predictions._replace(labels=labels), groups)
    half = group_accuracy(Predictions(predictions.student[1::2], labels=predictions.labels[1::2]), groups[1::2])
    assert whole == half
    assert sum(group.accuracy.count for group in whole) == 200


def test_the_worst_comes_first_and_of_equals_the_larger():
    shown = Predictions(torch.eye(2)[[0, 0, 0, 0, 1]], labels=torch.tensor([1, 1, 1, 0, 1]))
    found = group_accuracy(shown, ["small", "large", "large", "good", "good"])
    assert [group.name for group in found] == ["large", "small", "good"]


def test_what_cannot_be_grouped_is_reported():
    with pytest.raises(LimbeckError, match="a group for each row: 400; got 2"):
        group_accuracy(some(), ["a", "b"])
    nothing = Predictions(torch.zeros(2, 2), labels=torch.full((2,), IGNORED))
    with pytest.raises(LimbeckError, match="at least one row with a label"):
        worst_group(nothing)
    assert math.isnan(worst_class_accuracy(nothing).value)
    with pytest.raises(LimbeckError, match="needs labels"):
        confusion_matrix(Predictions(torch.zeros(2, 2)))
