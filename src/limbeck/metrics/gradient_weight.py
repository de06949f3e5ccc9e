"""How much of the labels' gradient a teacher leaves to each example."""

from __future__ import annotations

from jaxtyping import Float, Int
from torch import Tensor

from limbeck.metrics.memoize import log_odds
from limbeck.metrics.metric import Metric, labels_of, mean_of_all, metric, teacher_of, valid_rows
from limbeck.metrics.predictions import Predictions


def gradient_weights(
    predictions: Predictions, *, weight: float = 1.0, temperature: float = 1.0
) -> Float[Tensor, " labeled"]:
    r"""Compute the weight that distillation gives to each labeled example, next to learning from labels alone.

    .. math:: \omega = (1 - \lambda) + \frac{\lambda}{T} \, \frac{\tilde q_y - \tilde p_y}{q_y - 1}

    is the derivative of :math:`(1 - \lambda) H(y, q) + \lambda H(\tilde p, \tilde q)` in the student's logit of the
    label y, over that of :math:`H(y, q)`. A tilde means the temperature T; there is no factor T². At
    :math:`\lambda = T = 1` it is :math:`1 - (1 - p_y) / (1 - q_y)`: 1 if the teacher is sure of the label, 0 where the
    student is as sure as the teacher, and negative where it is surer. It is infinite or NaN where :math:`q_y = 1`.

    Args:
        predictions: Predictions with the teacher's logits and labels. Rows with the label -100 are left out.
        weight: Lambda, the weight of the teacher, from 0 to 1.
        temperature: T, above 0.

    Raises:
        LimbeckError: If there are no labels or teacher logits.

    Example:
        >>> import torch
        >>> teacher, student = torch.tensor([[0.8, 0.2]]).log(), torch.tensor([[0.5, 0.5]]).log()
        >>> gradient_weights(Predictions(student, teacher, torch.tensor([0]))).round(decimals=4)
        tensor([0.6000], dtype=torch.float64)

    Source: Tang et al., Understanding and Improving Knowledge Distillation, 2020, arXiv:2002.03532.
    """
    counting = valid_rows(predictions, "gradient_weights", ("teacher", "labels"))
    student, teacher, labels = counting.student, teacher_of(counting), labels_of(counting)
    soft = _missing(student, labels, temperature) - _missing(teacher, labels, temperature)
    weights: Tensor = (1 - weight) + weight / temperature * soft / _missing(student, labels)
    return weights


@metric(unit="ratio", higher_is_better=None, requires=("teacher", "labels"))
def gradient_weight(predictions: Predictions) -> Metric:
    """Compute the part of the labels' gradient that is left if the student learns from the teacher alone.

    ``1 - sum (1 - p_y) / sum (1 - q_y)``: the mean of `gradient_weights` at a weight and temperature of 1, weighted by
    the gradient of the labels, 1 - q_y. It is near 1 where a sure teacher meets an unsure student, so both learn the
    same, and 0 where the student is as sure of the labels as its teacher. It is not a mean over rows.

    Source: Tang et al., Understanding and Improving Knowledge Distillation, 2020, arXiv:2002.03532.
    """
    labels = labels_of(predictions)
    left, whole = (_missing(side, labels).sum() for side in (teacher_of(predictions), predictions.student))
    return mean_of_all(float(1 - left / whole) if float(whole) else float("nan"), len(labels))


def _missing(logits: Tensor, labels: Int[Tensor, " n"], temperature: float = 1.0) -> Float[Tensor, " n"]:
    """1 minus the probability of the label, with full precision near 0."""
    return (-log_odds(logits if temperature == 1 else logits.double() / temperature, labels)).sigmoid()
