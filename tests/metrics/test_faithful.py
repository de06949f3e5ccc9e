"""The attack finds a gap where there is one, and none elsewhere."""

from __future__ import annotations

from itertools import pairwise

import pytest
import torch
from torch import nn

from limbeck.batch import Batch
from limbeck.errors import DataError, LimbeckError
from limbeck.metrics import Predictions, confidence_gap, predict, relative_calibration


def net(seed):
    torch.manual_seed(seed)
    return nn.Sequential(nn.Linear(6, 32), nn.Tanh(), nn.Linear(32, 4))


@pytest.fixture
def x():
    return torch.randn(50, 6)


def test_at_radius_zero_it_is_relative_calibration(x):
    student, teacher = net(0), net(1)
    found = confidence_gap(student, teacher, x, radius=0.0)
    shown = Predictions(predict(student, [Batch(x)]).student, predict(teacher, [Batch(x)]).student)
    assert found.mean.value == pytest.approx(relative_calibration(shown).value, abs=1e-12)
    assert torch.equal(found.agrees, shown.student.argmax(1) == shown.teacher.argmax(1))


def test_a_student_that_is_its_teacher_is_faithful_everywhere(x):
    found = confidence_gap(net(0), net(0), x, radius=0.5)
    assert found.mean.value == 0.0
    assert found.agrees.all()
    assert found.within(0.0) == (50.0, 50)


def test_a_larger_radius_finds_a_larger_gap(x):
    gaps = [confidence_gap(net(0), net(1), x, radius=radius).gap for radius in (0.0, 0.05, 0.2, 0.5)]
    for small, large in pairwise(gaps):
        assert (large >= small - 0.02).all()
        assert large.mean() > small.mean()


def test_one_input_and_two_classes_by_hand():
    """Teacher: log-odds 0 everywhere; student: x. The gap is largest at the end of the interval."""
    student, teacher = nn.Linear(1, 2, bias=False), nn.Linear(1, 2, bias=False)
    with torch.no_grad():
        student.weight.copy_(torch.tensor([[1.0], [0.0]]))
        teacher.weight.zero_()
    x = torch.tensor([[0.5], [2.0]])
    found = confidence_gap(student, teacher, x, radius=1.0)
    assert found.gap.tolist() == pytest.approx([abs(torch.sigmoid(torch.tensor(e)).item() - 0.5) for e in (1.5, 3.0)])
    kept = confidence_gap(student, teacher, x, radius=1.0, limits=(0.0, 1.2))
    assert kept.gap[0] == pytest.approx(torch.sigmoid(torch.tensor(1.2)).item() - 0.5, abs=1e-6)


def test_no_point_drawn_at_random_is_worse(x):
    student, teacher = net(0), net(1)
    found = confidence_gap(student, teacher, x, radius=0.1, steps=20).gap
    k = teacher(x).argmax(1)[:, None]
    with torch.no_grad():
        for _ in range(50):
            near = x + 0.1 * (2 * torch.rand_like(x) - 1)
            q, p = (model(near).softmax(1).gather(1, k)[:, 0] for model in (student, teacher))
            assert ((q - p).abs() <= found + 0.01).all()


def test_models_are_left_as_they_were(x):
    student, teacher = net(0), net(1)
    student.train()
    confidence_gap(student, teacher, [Batch(x)], radius=0.1)
    assert student.training
    assert all(p.grad is None for p in (*student.parameters(), *teacher.parameters()))


def test_what_cannot_be_attacked_is_reported(x):
    for wrong in ({"radius": -1.0}, {"radius": 0.1, "steps": 0}, {"radius": 0.1, "limits": (1.0, 0.0)}):
        with pytest.raises(LimbeckError, match="confidence_gap needs a radius"):
            confidence_gap(net(0), net(1), x, **wrong)
    with pytest.raises(DataError, match="one float tensor"):
        confidence_gap(net(0), net(1), [Batch(x.long())], radius=0.1)
    with pytest.raises(DataError, match="no example"):
        confidence_gap(net(0), net(1), [], radius=0.1)
