"""How closely a student follows its teacher: agreement, divergences, confidence."""

from __future__ import annotations

from collections.abc import Callable

from jaxtyping import Float
from torch import Tensor

from limbeck.metrics.confidence_deviation import deviations_of
from limbeck.metrics.memoize import by_rows, predicted_class, probability_of
from limbeck.metrics.metric import Metric, fraction, mean_of_all, metric, summed
from limbeck.metrics.predictions import Predictions
from limbeck.metrics.validation import labels_of, teacher_of


@metric(unit="fraction", higher_is_better=True, requires=("teacher",))
def agreement(predictions: Predictions) -> Metric:
    """Compute the top-1 agreement: how often student and teacher predict the same class.

    Source: Stanton, Izmailov, Kirichenko, Alemi and Wilson, Does Knowledge Distillation Really Work?, 2021,
    arXiv:2106.05945.
    """
    classes = predicted_class(predictions.student)
    return fraction((classes == predicted_class(teacher_of(predictions))) & (classes >= 0))


@metric(unit="fraction", higher_is_better=None, requires=("teacher", "labels"))
def agreement_where_teacher_wrong(predictions: Predictions) -> Metric:
    """Compute how often the student predicts the same class on rows that the teacher gets wrong.

    Agreement on rows where both are right means little, because any two good models agree there. NaN for a teacher
    without errors.

    Source: Stanton et al., Does Knowledge Distillation Really Work?, 2021, arXiv:2106.05945; Lukasik et al., Teacher's
    pet, 2021, arXiv:2106.10494, on errors that a student amplifies.
    """
    classes = predicted_class(teacher_of(predictions))
    wrong = (classes != labels_of(predictions)) & (classes >= 0)
    return fraction(predicted_class(predictions.student)[wrong] == classes[wrong])


@metric(unit="nats", higher_is_better=False, requires=("teacher",))
def kl_to_teacher(predictions: Predictions) -> Metric:
    """Compute ``KL(p || q)`` of the student's distribution q from the teacher's p, at temperature 1.

    It is zero for equal distributions, and infinite if the student's probability of a class is 0 and the teacher's is
    not.

    Source: Stanton et al., Does Knowledge Distillation Really Work?, 2021, arXiv:2106.05945.
    """
    from limbeck.functional import kl_divergence

    return summed(
        by_rows(lambda s, t: kl_divergence(s.double(), t.double()), predictions.student, teacher_of(predictions))
    )


@metric(unit="nats", higher_is_better=False, requires=("teacher",))
def reverse_kl_to_teacher(predictions: Predictions) -> Metric:
    """Compute ``KL(q || p)`` of the teacher's distribution p from the student's q, at temperature 1.

    It is large if a class is likely for the student and very unlikely for the teacher. `kl_to_teacher` is large in the
    opposite case.
    """
    from limbeck.functional import reverse_kl

    return summed(
        by_rows(lambda s, t: reverse_kl(s.double(), t.double()), predictions.student, teacher_of(predictions))
    )


@metric(unit="ratio", higher_is_better=None, requires=("teacher",))
def confidence_slope(predictions: Predictions) -> Metric:
    """Compute the slope of the student's log-odds against the teacher's. Above 1 the student exaggerates confidence.

    With k the teacher's class, X and Y the log-odds of ``p_k`` and ``q_k``: ``cov(X, Y) / var(X)`` (least squares). It
    is 1 for a student equal to its teacher, and T for two classes and logits that are T times the teacher's. It is not
    a mean over rows. NaN if all X are equal. `deviations` gives the points of the scatter plot.

    Source: Nagarajan, Menon, Bhojanapalli, Mobahi and Kumar, On student-teacher deviations in distillation, 2023,
    arXiv:2301.12923.
    """
    deviations = deviations_of(predictions)
    return mean_of_all(deviations.slope, len(deviations.rows))


@metric(unit="nats", higher_is_better=None, requires=("teacher",))
def confidence_deviation(predictions: Predictions) -> Metric:
    """Compute the student's log-odds of the teacher's class minus the teacher's. Below 0 the student is less confident.

    Rows with infinite log-odds are left out.

    Source: Nagarajan et al., On student-teacher deviations in distillation, 2023, arXiv:2301.12923.
    """
    deviations = deviations_of(predictions)
    return summed(deviations.student - deviations.teacher)


@metric(unit="probability", higher_is_better=False, requires=("teacher",))
def relative_calibration(predictions: Predictions) -> Metric:
    """Compute ``|q_k - p_k|``, the gap in confidence between student and teacher in the teacher's class k.

    It is the gap of the paper at radius 0. `confidence_gap` searches for the largest gap within a radius of each input.

    Source: Lamb, Brunel, Dvijotham, Kumar, Torr and Eiras, Faithful Knowledge Distillation, 2023, arXiv:2306.04431.
    """
    k = teacher_of(predictions).argmax(1)
    return summed((probability_of(predictions.student, k) - probability_of(teacher_of(predictions), k)).abs())


def _in_double(divergence: Callable[..., Tensor], predictions: Predictions) -> Float[Tensor, " n"]:
    result: Tensor = by_rows(
        lambda student, teacher: divergence(student.double(), teacher.double()),
        predictions.student,
        teacher_of(predictions),
    )
    return result
