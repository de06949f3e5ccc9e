"""hinton, logit_matching and the controls agree in their limits, and a teacher helps."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from limbeck.batch import Batch, Outputs, Progress
from limbeck.engine import distill
from limbeck.errors import LimbeckError
from limbeck.losses import LossContext, weighted_loss
from limbeck.methods import make
from methods.planted import Planted


@pytest.fixture(scope="module")
def planted():
    return Planted()


def value_and_gradient(recipe, *, labels=True, dtype=torch.float32):
    draw = torch.Generator().manual_seed(1)
    student = torch.randn(8, 5, generator=draw).to(dtype).requires_grad_()
    teacher = (3 * torch.randn(8, 5, generator=draw)).to(dtype)
    batch = Batch(torch.zeros(8, 1), labels=torch.arange(8) % 5 if labels else None)
    (stage,) = recipe.stages()
    terms = stage.objective(Outputs(logits=student), Outputs(logits=teacher), batch, Progress())
    value = weighted_loss(terms, stage.objective.counts(batch))
    return value.detach(), torch.autograd.grad(value, student)[0], student.detach(), teacher


def test_weight_0_is_the_student_alone_bit_for_bit(planted):
    mine = value_and_gradient(make("hinton", teacher=planted.truth, weight=0.0))
    control = value_and_gradient(make("supervised"))
    assert torch.equal(mine[0], control[0])
    assert torch.equal(mine[1], control[1])


def test_weight_1_is_soft_targets_alone_bit_for_bit(planted):
    mine = value_and_gradient(make("hinton", teacher=planted.truth, weight=1.0))
    unlabeled = value_and_gradient(make("hinton", teacher=planted.truth, weight=1.0, labels=False), labels=False)
    assert torch.equal(mine[0], unlabeled[0])
    assert torch.equal(mine[1], unlabeled[1])


@pytest.mark.parametrize("end", [0.0, 1.0])
def test_the_weight_is_continuous_at_its_ends(planted, end):
    inside = abs(end - 1e-7)
    at, near = (
        value_and_gradient(make("hinton", teacher=planted.truth, weight=w), dtype=torch.float64) for w in (end, inside)
    )
    torch.testing.assert_close(near[0], at[0], rtol=0, atol=1e-5)
    torch.testing.assert_close(near[1], at[1], rtol=0, atol=1e-6)


def test_a_high_temperature_is_matching_centered_logits(planted):
    """The difference falls as 1/T, as the paper's expansion says."""
    matching = make("logit_matching", teacher=planted.truth, centered=True)
    _, matched, z, v = value_and_gradient(matching, labels=False, dtype=torch.float64)
    difference = z - v
    torch.testing.assert_close(matched, (difference - difference.mean(-1, keepdim=True)) / 5 / 8)
    off = []
    for temperature in (1e2, 1e4):
        hot = make("hinton", teacher=planted.truth, weight=1.0, temperature=temperature)
        _, slope, _, _ = value_and_gradient(hot, dtype=torch.float64)
        off.append(float((slope - matched).norm() / matched.norm()))
    assert off[1] < 1e-3
    assert off[0] / off[1] == pytest.approx(100, rel=0.1)


def test_temperature_1_is_the_cross_entropy_with_the_teacher_s_distribution(planted):
    _, slope, z, v = value_and_gradient(make("hinton", teacher=planted.truth, weight=1.0, temperature=1.0))
    torch.testing.assert_close(slope, (z.softmax(-1) - v.softmax(-1)) / 8, rtol=1e-5, atol=1e-7)


def test_logit_matching_is_the_paper_s_sum_over_classes_divided_by_their_number(planted):
    value, slope, z, v = value_and_gradient(make("logit_matching", teacher=planted.truth), labels=False)
    torch.testing.assert_close(value, 0.5 * (z - v).square().sum(-1).mean() / 5)
    torch.testing.assert_close(slope, (z - v) / 5 / 8)


def test_no_smoothing_is_the_student_alone():
    mine, control = (value_and_gradient(r) for r in (make("label_smoothing", smoothing=0.0), make("supervised")))
    torch.testing.assert_close(mine[0], control[0])
    torch.testing.assert_close(mine[1], control[1])


@pytest.mark.parametrize("name", ["hinton", "logit_matching"])
def test_the_teacher_helps_where_it_knows_more_than_the_labels(planted, name):
    alone = planted.accuracy(planted.alone())
    distilled = planted.accuracy(planted.learn(make(name, teacher=planted.truth)).student)
    assert distilled > alone + 0.15


def test_smoothing_labels_helps_where_they_are_drawn_at_random(planted):
    alone = planted.nll(planted.alone())
    assert planted.nll(planted.learn(make("label_smoothing")).student) < alone - 0.05


def test_data_without_labels_are_enough(planted):
    nothing = torch.full_like(planted.labels, -100)
    recipe = make("hinton", teacher=planted.truth, labels=False)
    alone = planted.accuracy(planted.alone())
    assert planted.accuracy(planted.learn(recipe, labels=nothing).student) > alone + 0.15


def test_data_with_some_labels_are_no_special_case(planted):
    some = planted.labels.clone()
    some[::2] = -100
    run = planted.learn(make("hinton", teacher=planted.truth), labels=some, epochs=2)
    assert set(run.history[-1].terms) == {"kl_divergence", "cross_entropy"}


def test_labels_that_are_not_there_are_missed_before_the_first_step(planted):
    from limbeck.engine import distill

    run = distill(planted.student(), make("hinton", teacher=planted.truth), planted.x, epochs=1)
    with pytest.raises(LimbeckError, match=r"cross_entropy .*labels"):
        run.finish()


def test_classes_that_are_not_last_are_the_same_to_hinton():
    draw = torch.Generator().manual_seed(1)
    student, teacher = (torch.randn(4, 2, 3, 5, generator=draw) for _ in range(2))
    batch = Batch(torch.zeros(4, 1), labels=torch.randint(5, (4, 2, 3), generator=draw))
    found = []
    for classes, moved in ((-1, (student, teacher)), (1, (student.movedim(-1, 1), teacher.movedim(-1, 1)))):
        (stage,) = make("hinton", teacher=nn.Identity(), classes=classes).stages()
        shown = [Outputs(logits=tensor) for tensor in moved]
        objective = stage.objective.setup(LossContext(*shown, batch))
        found.append(weighted_loss(objective(*shown, batch, Progress()), objective.counts(batch)))
    assert torch.equal(*found)


def test_a_segmentation_network_learns_by_hinton():
    student, teacher = nn.Conv2d(3, 4, 1), nn.Conv2d(3, 4, 1)
    data = (torch.rand(6, 3, 2, 5), torch.randint(4, (6, 2, 5)))
    run = distill(student, make("hinton", teacher=teacher, classes=1), data, epochs=1)
    assert run.finish().finished
    with pytest.raises(LimbeckError, match=r"no dimension 7.*classes="):
        distill(student, make("hinton", teacher=teacher, classes=7), data, epochs=1).finish()
