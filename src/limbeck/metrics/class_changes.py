"""Classes whose accuracy changed, with a controlled false-discovery rate."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor

from limbeck.errors import LimbeckError
from limbeck.metrics.distributions import binomial_cdf, false_discovery_rates, t_sf
from limbeck.metrics.memoize import predicted_class
from limbeck.metrics.predictions import Predictions
from limbeck.metrics.validation import labels_of, valid_rows


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
    won, lost, by_seed = _flips(_right(first), _right(second), labels, classes)
    sizes = torch.bincount(labels, minlength=classes)
    p = _p_values(won, lost, by_seed / sizes[:, None]).masked_fill(sizes == 0, torch.nan)
    adjusted = _adjusted(p)
    rates = [_accuracy(_right(each), labels, sizes) for each in (first, second)]
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


def _right(predictions: list[Predictions]) -> Float[Tensor, "seeds n"]:
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
