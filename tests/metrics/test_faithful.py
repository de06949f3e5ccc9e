"""The attack finds a gap where there is one, and none elsewhere."""

from __future__ import annotations

from itertools import pairwise

import pytest
import torch
from torch import nn

from limbeck.batch import Batch
from limbeck.data import NormalizeImages
from limbeck.errors import DataError, LimbeckError
from limbeck.metrics import Predictions, certified_gap, confidence_gap, predict, relative_calibration


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
    kept = confidence_gap(student, teacher, x[:1], radius=1.0, limits=(0.0, 1.2))
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


def test_no_attack_is_above_the_certificate_which_is_the_gap_at_radius_0(x):
    student, teacher, x = net(0).double(), net(1).double(), x.double()
    at_point = certified_gap(student, teacher, x, radius=0.0)
    plain = confidence_gap(student, teacher, x, radius=0.0)
    torch.testing.assert_close(at_point.gap, plain.gap, rtol=1e-12, atol=1e-12)
    assert torch.equal(at_point.agrees, plain.agrees)
    assert at_point.disagreement.value == pytest.approx(float((~plain.agrees).double().mean()))
    before = at_point.gap
    for radius in (0.01, 0.05, 0.2, 1.0):
        bound = certified_gap(student, teacher, x, radius=radius)
        attack = confidence_gap(student, teacher, x, radius=radius, steps=20)
        assert bool((attack.gap <= bound.gap + 1e-12).all())
        assert bool((bound.gap >= before - 1e-12).all())
        assert bool((bound.gap <= 1).all())
        assert bound.within(0.3).value <= attack.within(0.3).value
        before = bound.gap


def test_the_certificate_of_two_linear_models_of_two_classes_is_exact_where_the_teacher_is_constant():
    student, teacher = nn.Linear(3, 2).double(), nn.Linear(3, 2).double()
    nn.init.zeros_(teacher.weight)
    x = torch.rand(20, 3, dtype=torch.float64)
    bound = certified_gap(student, teacher, x, radius=0.2, limits=(0.0, 1.0)).gap
    low, high = (x - 0.2).clamp(0, 1), (x + 0.2).clamp(0, 1)
    corners = torch.cartesian_prod(*[torch.tensor([False, True])] * 3)
    k = teacher(x).argmax(1)[:, None]
    worst = torch.stack([
        (student(torch.where(c, low, high)).softmax(1) - teacher(x).softmax(1)).gather(1, k).abs()[:, 0]
        for c in corners
    ]).amax(0)  # fmt: skip
    # Each logit is bounded alone, so the bound is no smaller, and not always equal.
    assert bool((bound >= worst - 1e-12).all())
    nn.init.zeros_(student.weight[1])
    one_logit = certified_gap(student, teacher, x, radius=0.2, limits=(0.0, 1.0)).gap
    worst = torch.stack([
        (student(torch.where(c, low, high)).softmax(1) - teacher(x).softmax(1)).gather(1, k).abs()[:, 0]
        for c in corners
    ]).amax(0)  # fmt: skip
    torch.testing.assert_close(one_logit, worst, rtol=1e-10, atol=1e-12)


def test_pixels_go_through_the_preprocessing_of_each_model():
    pixels = torch.rand(8, 1, 2, 2)
    ours, theirs = (
        NormalizeImages(mean=(0.5,), std=(0.25,), scale=1.0),
        NormalizeImages(mean=(0.1,), std=(2.0,), scale=1.0),
    )
    student, teacher = (nn.Sequential(nn.Flatten(), nn.Linear(4, 3)) for _ in range(2))
    reading = {"student_preprocess": ours, "teacher_preprocess": theirs}
    bound = certified_gap(student, teacher, pixels, radius=0.1, limits=(0.0, 1.0), **reading)
    attack = confidence_gap(student, teacher, pixels, radius=0.1, limits=(0.0, 1.0), **reading)
    assert bool((attack.gap <= bound.gap + 1e-6).all())
    plain = confidence_gap(student, teacher, pixels, radius=0.0, **reading).gap
    q, p = (net(read(Batch(pixels))).double().softmax(1) for net, read in ((student, ours), (teacher, theirs)))
    torch.testing.assert_close(plain, (q - p).gather(1, p.argmax(1)[:, None]).abs()[:, 0])


def test_what_cannot_be_certified_is_reported(x):
    for wrong in ({"radius": -1.0}, {"radius": float("nan")}, {"radius": 0.1, "limits": (1.0, 0.0)}):
        with pytest.raises(LimbeckError, match="certified_gap needs a radius"):
            certified_gap(net(0), net(1), x, **wrong)
    with pytest.raises(LimbeckError, match="layer_norm"):
        certified_gap(nn.Sequential(nn.LayerNorm(6), nn.Linear(6, 4)), net(1), x, radius=0.1)
    with pytest.raises(DataError, match="one float tensor"):
        certified_gap(net(0), net(1), [Batch(x.long())], radius=0.1)
    with pytest.raises(LimbeckError, match="in place"):
        certified_gap(ViewInPlace(), net(1), x, radius=0.1)


class ViewInPlace(nn.Module):
    """A network that changes a tensor through a view of it, which intervals do not see."""

    def forward(self, x):
        y = x * 3
        y[:, :2].mul_(-1)
        return y[:, :4]


@pytest.mark.parametrize("gap", [certified_gap, confidence_gap])
@pytest.mark.parametrize("outside", [1.5, -0.5, float("nan")])
def test_inputs_outside_of_the_limits_are_refused(gap, outside):
    net, x = nn.Linear(3, 2), torch.tensor([[0.0, 0.5, outside]])
    with pytest.raises(DataError):
        gap(net, net, x, radius=0.1, limits=(0.0, 1.0))
