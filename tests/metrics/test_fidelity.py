"""Deviations of a student from its teacher are measured as planted."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from limbeck.batch import IGNORED
from limbeck.errors import LimbeckError
from limbeck.functional import kl_divergence
from limbeck.metrics import (
    Predictions,
    agreement_where_teacher_wrong,
    confidence_deviation,
    confidence_slope,
    deviations,
    evaluate,
    kl_to_teacher,
    relative_calibration,
    reverse_kl_to_teacher,
)

INF = math.inf


def pair(rows=300, classes=5):
    return Predictions(2 * torch.randn(rows, classes), 2 * torch.randn(rows, classes))


def test_a_student_that_is_its_teacher():
    teacher = pair().teacher
    found = evaluate(Predictions(teacher.clone(), teacher, teacher.argmin(1)), [
        "agreement_where_teacher_wrong", "reverse_kl_to_teacher", "confidence_slope", "confidence_deviation",
        "relative_calibration",
    ])  # fmt: skip
    assert [m.value for m in found.values()] == [1.0, 0.0, pytest.approx(1.0), 0.0, 0.0]


def test_reverse_is_the_other_way_round():
    one = pair()
    other = Predictions(one.teacher, one.student)
    assert reverse_kl_to_teacher(one).total == pytest.approx(kl_to_teacher(other).total, rel=1e-12)
    assert reverse_kl_to_teacher(one).value == pytest.approx(
        float(kl_divergence(one.teacher.double(), one.student.double()).mean()), rel=1e-12
    )
    ruled_out = Predictions(torch.zeros(1, 2), torch.tensor([[0.0, -INF]]))
    assert reverse_kl_to_teacher(ruled_out).value == INF
    assert kl_to_teacher(ruled_out).value == pytest.approx(math.log(2))


@pytest.mark.parametrize("sharper", [0.5, 1.0, 2.5])
def test_two_classes_with_logits_scaled_have_that_slope(sharper):
    teacher = 3 * torch.randn(200, 2)
    found = deviations(Predictions(sharper * teacher, teacher))
    assert found.slope == pytest.approx(sharper, rel=1e-5)
    assert found.intercept == pytest.approx(0.0, abs=1e-5)
    assert (found.teacher >= 0).all()  # the teacher's own class has at least a half


def test_the_line_is_numpy_s():
    predictions = pair()
    found = deviations(predictions)
    slope, intercept = np.polyfit(found.teacher.numpy(), found.student.numpy(), 1)
    assert (found.slope, found.intercept) == pytest.approx((slope, intercept), rel=1e-9)
    assert confidence_slope(predictions).value == pytest.approx(slope, rel=1e-9)
    assert confidence_deviation(predictions).value == pytest.approx(float((found.student - found.teacher).mean()))


def test_points_are_log_odds_of_the_teacher_s_class():
    predictions = pair(50)
    found = deviations(predictions)
    p, q = (logits.double().softmax(1) for logits in (predictions.teacher, predictions.student))
    for row in range(50):
        k = int(predictions.teacher[row].argmax())
        assert found.classes[row] == k
        assert float(found.teacher[row]) == pytest.approx(math.log(p[row, k] / (1 - p[row, k])), abs=1e-9)
        assert float(found.student[row]) == pytest.approx(math.log(q[row, k] / (1 - q[row, k])), abs=1e-9)
        expected = abs(p[row, k] - q[row, k])
        one = Predictions(predictions.student[row : row + 1], predictions.teacher[row : row + 1])
        assert relative_calibration(one).value == pytest.approx(float(expected), abs=1e-12)


def test_log_odds_stay_exact_where_probabilities_are_one():
    teacher = torch.tensor([[1e4, 0.0], [500.0, 0.0], [2e30, 0.0]])
    found = deviations(Predictions(2 * teacher, teacher))
    assert found.student.tolist() == (2 * found.teacher).tolist()
    assert found.slope == pytest.approx(2.0)


def test_confidence_underfitted_where_the_teacher_is_least_sure():
    x = torch.linspace(0.1, 5.0, 100)
    teacher = torch.stack([x, torch.zeros(100)], 1)
    y = torch.where(x < 1.0, x - 0.7, x + 0.2)
    found = deviations(Predictions(torch.stack([y, torch.zeros(100)], 1), teacher))
    assert found.least_sure == pytest.approx(-0.7, abs=1e-5)
    assert found.most_sure == pytest.approx(0.2, abs=1e-5)
    assert found.slope > 1


def test_infinite_confidence_has_no_point():
    teacher = torch.tensor([[1.0, -INF], [1.0, 0.0], [2.0, 0.0], [3.0, 0.0]])
    student = torch.tensor([[1.0, 0.0], [2.0, 0.0], [4.0, 0.0], [-INF, 0.0]])
    found = deviations(Predictions(student, teacher))
    assert found.rows.tolist() == [1, 2]
    assert (found.left_out, found.slope) == (2, pytest.approx(2.0))
    assert confidence_slope(Predictions(student, teacher)).count == 2
    assert confidence_deviation(Predictions(student, teacher)).value == pytest.approx(1.5)


def test_rows_of_points_are_those_that_were_given():
    predictions = pair(4)._replace(labels=torch.tensor([0, IGNORED, 1, 2]))
    assert deviations(predictions).rows.tolist() == [0, 2, 3]
    assert deviations(predictions._replace(labels=None)).rows.tolist() == [0, 1, 2, 3]


def test_no_slope_without_spread():
    flat = Predictions(torch.randn(5, 3), torch.zeros(5, 3))
    assert math.isnan(confidence_slope(flat).value)
    assert math.isnan(deviations(flat).intercept)
    one = Predictions(torch.randn(1, 3), torch.randn(1, 3))
    assert math.isnan(deviations(one).slope)
    assert len(deviations(one).rows) == 1


def test_errors_handed_on():
    teacher = torch.eye(3)[[0, 0, 1, 2]]
    student = torch.eye(3)[[0, 1, 1, 0]]
    labels = torch.tensor([1, 2, 1, 1])  # the teacher is wrong on rows 0, 1 and 3
    found = agreement_where_teacher_wrong(Predictions(student, teacher, labels))
    assert found == (1.0, 3)
    never = agreement_where_teacher_wrong(Predictions(student, teacher, torch.tensor([0, 0, 1, 2])))
    assert (never.total, never.count) == (0.0, 0)


def test_what_is_lacking_is_said():
    with pytest.raises(LimbeckError, match="'deviations' needs teacher"):
        deviations(Predictions(torch.zeros(2, 3)))
    with pytest.raises(LimbeckError, match="3 rows of the student's, and 2 of teacher"):
        deviations(Predictions(torch.zeros(3, 3), torch.zeros(2, 3)))
