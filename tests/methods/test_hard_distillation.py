"""Hard distillation learns the teacher's decisions."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from limbeck.batch import Batch, Outputs, Progress
from limbeck.errors import LimbeckError
from limbeck.functional import kl_divergence
from limbeck.losses import weighted_loss
from limbeck.methods import make
from limbeck.methods.logits.hard_distillation import HardLabelTeacher, draw_classes
from limbeck.methods.logits.top_k_kd import TopKTeacher
from limbeck.teachers import TeacherContext
from methods.planted import Planted


def pair(*shape):
    draw = torch.Generator().manual_seed(0)
    return tuple(torch.randn(*shape, generator=draw, dtype=torch.float64) for _ in range(2))


def value_of(recipe, z, v, labels, step=0, **batch):
    """The whole loss of the first stage for these logits."""
    stage = next(recipe.stages())
    batch = Batch(v, labels=labels, **batch)
    with stage.teacher.open(TeacherContext(requires=stage.objective.requires.teacher)) as session:
        terms = stage.objective(Outputs(logits=z), session(batch), batch, Progress(step, 11))
    return weighted_loss(terms, stage.objective.counts(batch))


def test_it_is_the_formula_of_the_paper():
    (z, v), y = pair(6, 4), torch.arange(6) % 4
    expected = 0.3 * F.cross_entropy(z, v.argmax(-1)) + 0.7 * F.cross_entropy(z, y)
    torch.testing.assert_close(
        value_of(make("hard_distillation", teacher=nn.Identity(), weight=0.3), z, v, y), expected
    )


@pytest.mark.parametrize(("step", "beta"), [(0, 1.0), (5, 0.5), (10, 0.0)])
def test_it_softens_over_the_stage(step, beta):
    (z, v), y = pair(6, 4), torch.arange(6) % 4
    recipe = make("hard_distillation", teacher=nn.Identity(), soften=True, weight=1.0, temperature=3.0)
    hard, soft = F.cross_entropy(z, v.argmax(-1)), kl_divergence(z, v, temperature=3.0).mean()
    torch.testing.assert_close(value_of(recipe, z, v, y, step), beta * hard + (1 - beta) * soft)


def test_drawn_classes_have_the_teacher_s_frequencies_and_stay_the_same():
    v = torch.tensor([0.5, 0.3, 0.2]).log().expand(20_000, 3)
    batch = Batch(v, id=torch.arange(20_000))
    drawn = draw_classes(2 * v, batch, temperature=2.0)
    torch.testing.assert_close(drawn.bincount() / 20_000, torch.tensor([0.5, 0.3, 0.2]), atol=0.01, rtol=0)
    assert torch.equal(drawn[5:9], draw_classes(2 * v[5:9], batch.rows(torch.arange(5, 9)), temperature=2.0))


def test_each_position_has_a_draw_of_its_own():
    v = torch.zeros(4, 50, 2)
    drawn = draw_classes(v, Batch(v, id=torch.arange(4)))
    assert drawn.shape == (4, 50)
    assert 0.3 < drawn.float().mean() < 0.7


def test_a_class_without_probability_is_never_drawn():
    v = torch.tensor([-torch.inf, 0.0, -torch.inf]).expand(100, 3)
    assert (draw_classes(v, Batch(v)) == 1).all()


def test_maps_have_their_classes_in_dimension_1():
    _, v = pair(2, 3, 4, 4)
    with HardLabelTeacher(nn.Identity(), classes=1).open(TeacherContext()) as session:
        decided = session(Batch(v))["hard_labels"]
    assert torch.equal(decided.argmax(1), v.argmax(1))


def test_top_k_outputs_are_enough():
    (z, v), y = pair(6, 4), torch.arange(6) % 4
    few = make("hard_distillation", teacher=TopKTeacher(nn.Identity(), k=1))
    torch.testing.assert_close(
        value_of(few, z, v, y), value_of(make("hard_distillation", teacher=nn.Identity()), z, v, y)
    )


@pytest.mark.parametrize(("wrong", "value"), [("weight", 1.5), ("temperature", 0.0)])
def test_a_value_out_of_range_is_refused(wrong, value):
    with pytest.raises(LimbeckError, match=wrong):
        make("hard_distillation", teacher=nn.Linear(4, 3), **{wrong: value})


def test_a_teacher_that_is_right_corrects_noisy_labels():
    planted = Planted()
    alone = planted.accuracy(planted.alone(epochs=30))
    recipe = make("hard_distillation", teacher=planted.truth, weight=0.9)
    assert planted.accuracy(planted.learn(recipe, epochs=30).student) > alone + 0.05


def test_a_temperature_that_nothing_uses_is_refused():
    with pytest.raises(LimbeckError, match=r"temperature=4.*draw=True"):
        make("hard_distillation", teacher=nn.Linear(4, 3), temperature=4.0)
    for option in ("draw", "soften"):
        make("hard_distillation", teacher=nn.Linear(4, 3), temperature=4.0, **{option: True})
