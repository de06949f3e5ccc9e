"""Accuracy by class and group, changes of classes between two arms, and the order of classes."""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from typing import NamedTuple

import torch
from jaxtyping import Float, Int
from torch import Tensor

from limbeck.batch import IGNORED
from limbeck.errors import LimbeckError
from limbeck.metrics.memoize import predicted_class
from limbeck.metrics.metric import Metric, labels_of, metric, valid_rows
from limbeck.metrics.multiple_comparisons import false_discovery_rates
from limbeck.metrics.predictions import Predictions
from limbeck.metrics.statistics import binomial_cdf, t_sf

_GAIN = 0.15
"""The gain of accuracy from which another class order is reported."""


def renamed_accuracy(predicted: Tensor, labels: Tensor, classes: int) -> tuple[float, list[int]]:
    """Compute the best accuracy (a fraction) over class orders, and that order, theirs -> ours.

    The order is found on one half of the examples and the accuracy is computed on the other half, because with many
    classes the best order for few examples overfits.

    Args:
        predicted: The predicted class of each example, ``[n]``; negative for none.
        labels: The true classes, ``[n]``.
        classes: The number of classes.

    Example:
        >>> renamed_accuracy(torch.tensor([1, 0] * 4), torch.tensor([0, 1] * 4), 2)
        (1.0, [1, 0])
    """
    # Both halves have examples of every class, whatever the order of the examples.
    order = labels.argsort(stable=True)
    halves = [(predicted[order][part::2], labels[order][part::2]) for part in (0, 1)]
    right = 0
    for (theirs, ours), (predictions, truth) in zip(halves, reversed(halves), strict=True):
        there = predictions >= 0
        named = torch.tensor(_best_order(theirs, ours, classes))[predictions[there]]
        right += int((named == truth[there]).sum())
    return right / max(len(predicted), 1), _best_order(predicted, labels, classes)


def is_misordered(accuracy: float, renamed: float, labels: Tensor, reach: float) -> bool:
    """Whether another class order improves the accuracy so much that the labels must be numbered differently.

    Args:
        accuracy: The accuracy in the given order.
        renamed: The result of `renamed_accuracy`.
        labels: The true classes. A constant prediction reaches the frequency of the most common class in any order.
        reach: The accuracy that chance can reach on this number of examples.
    """
    commonest = float(labels.bincount().max()) / len(labels)
    error = (max(renamed - accuracy, 0.0) / len(labels)) ** 0.5  # standard error of the gain
    return renamed > max(reach, commonest) + 0.1 and renamed - accuracy > max(_GAIN, 3 * error)


def misorder_message(order: Sequence[int], names: Sequence[str] | None) -> str:
    """Describe the first classes that differ."""
    moved = [(theirs, ours) for theirs, ours in enumerate(order) if theirs != ours][:3]
    return ", ".join(
        f"its output {theirs} is class {ours}" + (f", called {names[ours]!r}" if names else "")
        for theirs, ours in moved
    )


def _best_order(predicted: Tensor, labels: Tensor, classes: int) -> list[int]:
    """Find the class order with the most correct predictions: theirs -> ours."""
    from scipy.optimize import linear_sum_assignment

    there = predicted >= 0
    met = torch.bincount((predicted * classes + labels)[there], minlength=classes * classes).view(classes, classes)
    ours: list[int] = linear_sum_assignment(met.numpy(), maximize=True)[1].tolist()
    return ours


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


class ClassChange(NamedTuple):
    """The change of the accuracy of one class.

    Attributes:
        label: The class index.
        examples: The number of its examples.
        before: Its accuracy before, averaged over seeds.
        after: Its accuracy after, averaged over seeds.
        gained: The number of examples that are right more often after than before, over seeds.
        lost: The number of examples that are right less often.
        p_value: The p-value of the change; NaN for a class without examples.
        adjusted: The p-value adjusted for the false-discovery rate (Benjamini and Hochberg).
        changed: Whether the change is significant at the given rate.
    """

    label: int
    examples: int
    before: float
    after: float
    gained: int
    lost: int
    p_value: float
    adjusted: float
    changed: bool

    @property
    def difference(self) -> float:
        """The accuracy after minus the accuracy before."""
        return self.after - self.before


def class_changes(
    before: Predictions | Sequence[Predictions], after: Predictions | Sequence[Predictions], *, rate: float = 0.05
) -> list[ClassChange]:
    """Compare the accuracy of every class before and after, and test which differences are significant.

    For one pair of predictions, each class gets an exact McNemar test. The result is about these two models on new
    examples. For several pairs, one per seed, each class gets a sign test over examples (by their sums over seeds) and
    a paired t test over seeds. The larger p-value is used, so a class is significant only if neither the choice of
    examples nor the choice of seeds explains the change. The result is then about the two training methods. Over
    classes, the false-discovery rate is controlled at `rate` (Benjamini and Hochberg).

    Args:
        before: Labeled predictions of one model, or of one model per seed.
        after: Predictions of the other model for the same examples and the same seeds in the same order.
        rate: The false-discovery rate, between 0 and 1.

    Returns:
        One entry per class, in order.

    Raises:
        LimbeckError: If there are no labels, the examples or the numbers of seeds differ, or `rate` is not between 0
            and 1.

    Example:
        >>> labels = torch.zeros(20, dtype=torch.int64)
        >>> wrong, right = torch.tensor([[0.0, 1.0]] * 20), torch.tensor([[1.0, 0.0]] * 20)
        >>> [(change.difference, change.changed) for change in
        ...     class_changes(Predictions(wrong, labels=labels), Predictions(right, labels=labels))]
        [(1.0, True), (nan, False)]

    Source: McNemar, Psychometrika 12, 1947; Benjamini and Hochberg, Controlling the False Discovery Rate, 1995. That
    distillation changes many classes: Mohammadshahi and Ioannou, What is Left After Distillation?, 2024,
    arXiv:2410.08407.
    """
    if not 0.0 < rate < 1.0:
        raise LimbeckError(
            f"class_changes(rate={rate}): the false-discovery rate must be between 0 and 1, such as 0.05."
        )
    first, second = _several(before), _several(after)
    labels, classes = _common(first, second)
    won, lost, by_seed = _flips(_right_counts(first), _right_counts(second), labels, classes)
    sizes = torch.bincount(labels, minlength=classes)
    p = _p_values(won, lost, by_seed / sizes[:, None]).masked_fill(sizes == 0, torch.nan)
    adjusted = _adjusted(p)
    rates = [_accuracy(_right_counts(each), labels, sizes) for each in (first, second)]
    columns = [sizes, *rates, won, lost, p, adjusted, adjusted <= rate]
    return [ClassChange(*row) for row in zip(range(classes), *(column.tolist() for column in columns), strict=True)]


def _several(predictions: Predictions | Sequence[Predictions]) -> list[Predictions]:
    runs = [predictions] if isinstance(predictions, Predictions) else list(predictions)
    return [valid_rows(run, "class_changes", ("labels",)) for run in runs]


def _common(first: list[Predictions], second: list[Predictions]) -> tuple[Tensor, int]:
    if len(first) != len(second) or not first:
        raise LimbeckError(
            f"class_changes pairs predictions seed by seed; got {len(first)} before and {len(second)} after."
        )
    labels, classes = labels_of(first[0]), first[0].student.shape[1]
    for run in (*first, *second):
        if not torch.equal(labels_of(run), labels) or run.student.shape[1] != classes:
            raise LimbeckError("class_changes compares predictions for the same examples; their labels differ.")
    return labels, classes


def _right_counts(predictions: list[Predictions]) -> Float[Tensor, "seeds n"]:
    return torch.stack([(predicted_class(run.student) == labels_of(run)).double() for run in predictions])


def _accuracy(right: Float[Tensor, "seeds n"], labels: Tensor, sizes: Tensor) -> Float[Tensor, " classes"]:
    return torch.zeros(len(sizes), dtype=torch.float64).index_add(0, labels, right.mean(0)) / sizes


def _flips(
    before: Float[Tensor, "seeds n"], after: Float[Tensor, "seeds n"], labels: Tensor, classes: int
) -> tuple[Tensor, Tensor, Float[Tensor, "classes seeds"]]:
    """Count gained and lost examples by class, and the change by class and seed."""
    change = after - before
    net = change.sum(0)
    won, lost = (torch.bincount(labels[side], minlength=classes) for side in (net > 0, net < 0))
    by_seed = torch.zeros(classes, len(change), dtype=torch.float64).index_add(0, labels, change.T)
    return won, lost, by_seed


def _p_values(won: Tensor, lost: Tensor, by_seed: Float[Tensor, "classes seeds"]) -> Float[Tensor, " classes"]:
    of_examples = torch.from_numpy(2 * binomial_cdf(torch.minimum(won, lost).numpy(), (won + lost).numpy())).clamp(
        max=1
    )
    return torch.maximum(of_examples, _paired_t(by_seed)) if by_seed.shape[1] > 1 else of_examples


def _paired_t(by_seed: Float[Tensor, "classes seeds"]) -> Float[Tensor, " classes"]:
    """Two-sided p-values of the paired t test; 0 if all seeds agree exactly, so that the sign test decides."""
    seeds = by_seed.shape[1]
    error = by_seed.std(1) / seeds**0.5
    ratio = by_seed.mean(1).abs() / error
    p = torch.from_numpy(2 * t_sf(ratio.numpy(), seeds - 1))
    return torch.where(by_seed.std(1) > 1e-12, p, (by_seed.mean(1).abs() < 1e-12).double())


def _adjusted(p: Float[Tensor, " classes"]) -> Float[Tensor, " classes"]:
    there = ~p.isnan()
    if bool(there.any()):
        p = p.clone()
        p[there] = torch.from_numpy(false_discovery_rates(p[there].numpy()))
    return p
