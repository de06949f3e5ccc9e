"""Accuracy per class and per group of examples."""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from typing import NamedTuple

import torch
from jaxtyping import Float, Int
from torch import Tensor

from limbeck.batch import IGNORED
from limbeck.errors import LimbeckError
from limbeck.metrics.memoize import predicted_class
from limbeck.metrics.metric import Metric, metric
from limbeck.metrics.predictions import Predictions
from limbeck.metrics.validation import labels_of, valid_rows


class Group(NamedTuple):
    """A group of examples and its accuracy.

    Attributes:
        name: The name of the group, or the class index.
        accuracy: The accuracy in the group.
    """

    name: Hashable
    accuracy: Metric


def confusion_matrix(predictions: Predictions) -> Int[Tensor, "classes classes"]:
    """Count the examples of each class (row) by predicted class (column).

    A row of logits with a NaN has no predicted class and is in no column.

    Raises:
        LimbeckError: If there are no labels.

    Example:
        >>> confusion_matrix(Predictions(torch.eye(2), labels=torch.tensor([0, 0]))).tolist()
        [[1, 1], [0, 0]]
    """
    return _confusions(valid_rows(predictions, "confusion_matrix", ("labels",)))


def class_accuracy(predictions: Predictions) -> Float[Tensor, " classes"]:
    """Compute the accuracy of each class; NaN for a class without examples.

    Example:
        >>> class_accuracy(Predictions(torch.eye(2), labels=torch.tensor([0, 0]))).tolist()
        [0.5, nan]
    """
    right, of = _right(valid_rows(predictions, "class_accuracy", ("labels",)))
    return right.double() / of


def group_accuracy(
    predictions: Predictions, groups: Int[Tensor, " n"] | Sequence[Hashable] | None = None
) -> list[Group]:
    """Compute the accuracy of each group, lowest first.

    Args:
        predictions: Predictions with labels. Rows without a label are left out.
        groups: The group of each row, as whole numbers or names. By default the classes.

    Raises:
        LimbeckError: If there are no labels, or the number of groups is not the number of rows.

    Example:
        >>> shown = Predictions(torch.eye(3), labels=torch.tensor([0, 1, 0]))
        >>> group_accuracy(shown, ["town", "town", "country"])
        [Group(name='country', accuracy=Metric(0, over 1 rows)), Group(name='town', accuracy=Metric(1, over 2 rows))]

    Source: Lukasik, Bhojanapalli, Menon and Kumar, Teacher's pet: understanding and mitigating biases in distillation,
    2021, arXiv:2106.10494.
    """
    if groups is None:
        return _by_class(valid_rows(predictions, "group_accuracy", ("labels",)))
    names_of_rows = groups.tolist() if isinstance(groups, Tensor) else list(groups)
    if len(names_of_rows) != len(predictions.student):
        raise LimbeckError(
            f"group_accuracy needs a group for each row: {len(predictions.student)}; got {len(names_of_rows)}."
        )
    if predictions.labels is not None:
        labeled = (predictions.labels != IGNORED).tolist()
        names_of_rows = [group for group, keep in zip(names_of_rows, labeled, strict=True) if keep]
    counting = valid_rows(predictions, "group_accuracy", ("labels",))
    names = list(dict.fromkeys(names_of_rows))
    number = {name: index for index, name in enumerate(names)}
    index = torch.tensor([number[group] for group in names_of_rows], dtype=torch.int64)
    right = (predicted_class(counting.student) == labels_of(counting)).long()
    sizes, rights = (
        torch.bincount(index, minlength=len(names)),
        torch.zeros(len(names)).long().index_add(0, index, right),
    )
    return _sorted([Group(*item) for item in zip(names, map(Metric, rights.tolist(), sizes.tolist()), strict=True)])


def worst_group(predictions: Predictions, groups: Int[Tensor, " n"] | Sequence[Hashable] | None = None) -> Group:
    """Find the group with the lowest accuracy. Of equal ones, the largest group.

    Raises:
        LimbeckError: If there are no labels, the number of groups is not the number of rows, or no row has a label.
    """
    groups_by_accuracy = group_accuracy(predictions, groups)
    if not groups_by_accuracy:
        raise LimbeckError("worst_group needs at least one row with a label.")
    return groups_by_accuracy[0]


@metric(unit="fraction", higher_is_better=True, requires=("labels",))
def worst_class_accuracy(predictions: Predictions) -> Metric:
    """Compute the lowest accuracy over the classes that have examples. The count is that of this class.

    It is not a mean over rows. A class with few examples can be the worst by chance; `class_changes` tests differences.

    Source: Lukasik et al., Teacher's pet, 2021, arXiv:2106.10494.

    Example:
        >>> worst_class_accuracy(Predictions(torch.eye(2), labels=torch.tensor([0, 0]))).value
        0.5
    """
    groups = _by_class(predictions)
    return groups[0].accuracy if groups else Metric(0.0, 0)


def _by_class(predictions: Predictions) -> list[Group]:
    pairs = enumerate(zip(*(count.tolist() for count in _right(predictions)), strict=True))
    return _sorted([Group(name, Metric(float(right), size)) for name, (right, size) in pairs if size])


def _right(predictions: Predictions) -> tuple[Int[Tensor, " classes"], Int[Tensor, " classes"]]:
    """Count the right examples and all examples of each class."""
    labels, classes = labels_of(predictions), predictions.student.shape[1]
    right = labels[predicted_class(predictions.student) == labels]
    return torch.bincount(right, minlength=classes), torch.bincount(labels, minlength=classes)


def _confusions(predictions: Predictions) -> Int[Tensor, "classes classes"]:
    classes = predictions.student.shape[1]
    predicted = predicted_class(predictions.student)
    both = (labels_of(predictions) * classes + predicted)[predicted >= 0]
    return torch.bincount(both, minlength=classes * classes).view(classes, classes)


def _sorted(groups: list[Group]) -> list[Group]:
    return sorted(groups, key=lambda group: (group.accuracy.value, -group.accuracy.count))
