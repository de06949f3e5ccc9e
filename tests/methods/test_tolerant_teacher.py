"""A tolerant teacher keeps probability for its second choices."""

from __future__ import annotations

import math

import pytest
import torch

from limbeck.batch import Batch, Outputs, Progress
from limbeck.errors import LimbeckError
from limbeck.losses import weighted_loss
from limbeck.methods import make
from limbeck.methods.teachers.tolerant_teacher import top_score_difference
from methods.planted import Planted


def brute_force_top_score_difference(student, *, top=5):
    """The same with loops over rows."""
    values = []
    for z in student.double().reshape(-1, student.shape[-1]).tolist():
        z = [value for value in z if value > -math.inf]
        weights = [math.exp(value - max(z)) for value in z]
        f = sorted((weight / sum(weights) for weight in weights), reverse=True)[:top]
        values.append(f[0] - sum(f[1:]) / (len(f) - 1) if len(f) > 1 else 0.0)
    return torch.tensor(values, dtype=torch.float64).view(student.shape[:-1])


def logits(*shape):
    return 2 * torch.randn(*shape, generator=torch.Generator().manual_seed(0), dtype=torch.float64)


@pytest.mark.parametrize("top", [2, 3, 5, 9])
def test_it_is_the_formula(top):
    z = logits(4, 3, 7)
    expected = brute_force_top_score_difference(z, top=top)
    torch.testing.assert_close(top_score_difference(z, top=top), expected)


def test_it_is_0_for_equal_scores_and_1_for_one():
    equal = torch.tensor([[3.0, 3.0, 3.0, -9.0]])
    torch.testing.assert_close(top_score_difference(equal, top=3), torch.zeros(1))
    torch.testing.assert_close(top_score_difference(1e4 * torch.eye(4), top=3), torch.ones(4))


def test_only_the_largest_scores_get_a_gradient_of_their_own():
    """In the probabilities; through the softmax each logit gets one."""
    z = logits(3, 6).requires_grad_()
    f = z.softmax(-1)
    (slope,) = torch.autograd.grad(top_score_difference(z, top=3).sum(), z)
    top = f.topk(3, dim=-1).indices
    by_score = torch.zeros_like(f).scatter(-1, top, torch.tensor([1.0, -0.5, -0.5], dtype=f.dtype).expand(3, 3))
    expected = f * (by_score - (f * by_score).sum(-1, keepdim=True))
    torch.testing.assert_close(slope, expected.detach())


def test_the_teacher_s_objective_is_that_of_the_paper():
    stage = next(make("tolerant_teacher", difference_weight=0.7, top=3).stages())
    z, y = logits(5, 6), torch.arange(5)
    batch = Batch(z, labels=y)
    terms = stage.objective(Outputs(logits=z), Outputs(), batch, Progress())
    f = z.softmax(-1)
    expected = (-f[torch.arange(5), y].log() + 0.7 * brute_force_top_score_difference(z, top=3)).mean()
    torch.testing.assert_close(weighted_loss(terms, stage.objective.counts(batch)), expected)


@pytest.mark.parametrize(
    ("generations", "trained"),
    [(0, ["student"]), (1, ["patriarch", "student"]), (3, ["patriarch", "student", "generation-2", "generation-3"])],
)
def test_the_models_are_trained_in_this_order(generations, trained):
    recipe = make("tolerant_teacher", generations=generations)
    assert [stage.trains for stage in recipe.stages()] == trained
    assert recipe.ship == trained[-1]


def test_without_the_difference_the_teacher_is_a_plain_one():
    planted = Planted()
    plain = planted.learn(make("supervised"), epochs=2).student
    ours = planted.learn(make("tolerant_teacher", generations=0, difference_weight=0.0), epochs=2).student
    assert all(torch.equal(a, b) for a, b in zip(plain.parameters(), ours.parameters(), strict=True))


@pytest.mark.parametrize(
    ("wrong", "value"),
    [("generations", -1), ("top", 1), ("difference_weight", -1.0), ("weight", 1.5), ("temperature", 0.0)],
)
def test_a_value_out_of_range_is_refused(wrong, value):
    with pytest.raises(LimbeckError, match=wrong):
        make("tolerant_teacher", **{wrong: value})


def test_its_second_choices_have_more_probability_and_its_student_passes_one_alone():
    planted = Planted()
    run = planted.learn(make("tolerant_teacher", generations=1, weight=0.8), epochs=30)
    alone = planted.learn(make("supervised"), epochs=30).student
    with torch.no_grad():
        tolerant, plain = (
            model.eval()(planted.x).softmax(-1).topk(2).values[:, 1].mean()
            for model in (run.models["patriarch"], alone)
        )
    assert tolerant > plain + 0.02
    assert planted.nll(run.student) < planted.nll(alone) - 0.01
