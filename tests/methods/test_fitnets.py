"""The hint trains the lower half alone, and the second stage follows the paper."""

from __future__ import annotations

import pytest
import torch

from limbeck.batch import Batch, Outputs, Progress
from limbeck.engine import distill
from limbeck.errors import MissingOutputError
from limbeck.losses import weighted_loss
from limbeck.methods import make
from limbeck.recipe import Optimizer, Recipe
from limbeck.testing.law import weights
from methods.planted import Planted


@pytest.fixture(scope="module")
def planted():
    return Planted()


def fitnets(planted, **arguments):
    return make("fitnets", **{"teacher": planted.truth, "hint": "layer1", "guided": "layer1"} | arguments)


def test_the_hint_moves_what_lies_below_the_guided_layer_and_nothing_above(planted):
    first = next(fitnets(planted).stages())
    student = planted.student()
    before = weights(student)
    planted.learn(Recipe(first), student=student, epochs=3)
    moved = {name for name, after in weights(student).items() if not torch.equal(after, before[name])}
    assert moved == {name for name in before if name.startswith("layer1.")}
    assert all(parameter.requires_grad for parameter in student.parameters())


def test_the_second_stage_moves_all_of_it(planted):
    student = planted.student()
    before = weights(student)
    planted.learn(fitnets(planted), student=student, epochs=3)
    assert all(not torch.equal(after, before[name]) for name, after in weights(student).items())


def test_the_hint_is_learned(planted):
    optimizer = Optimizer("adam", lr=1e-2)
    recipe = Recipe(next(fitnets(planted).stages()))
    run = distill(planted.student(), recipe, planted.x, epochs=60, log_every=1, optimizer=optimizer)
    losses = [report.loss for report in run]
    assert losses[-1] < 0.5 * losses[0]


@pytest.mark.parametrize(("step", "weight"), [(0, 4.0), (5, 2.5), (10, 1.0)])
def test_the_second_stage_is_the_paper_s_equation(planted, step, weight):
    *_, stage = fitnets(planted).stages()
    draw = torch.Generator().manual_seed(0)
    z, v = (torch.randn(6, 4, generator=draw, dtype=torch.float64) for _ in range(2))
    batch = Batch(torch.zeros(6, 1), labels=torch.arange(6) % 4)
    terms = stage.objective(Outputs(logits=z), Outputs(logits=v), batch, Progress(step, 11))
    p, log_q = (v / 3).softmax(-1), (z / 3).log_softmax(-1)
    hard = -z.log_softmax(-1)[torch.arange(6), batch.labels].mean()
    soft = (p * (p.log() - log_q)).sum(-1).mean()
    torch.testing.assert_close(weighted_loss(terms, stage.objective.counts(batch)), hard + weight * soft)


def test_a_wider_teacher_is_reached_through_a_head_that_is_dropped(planted):
    from limbeck.models import build

    wide = build("mlp", inputs=10, classes=4, hidden=[48, 48], seed=5)
    student = planted.student()
    keys = list(student.state_dict())
    run = planted.learn(fitnets(planted, teacher=wide), student=student, epochs=2)
    assert list(run.student.state_dict()) == keys


def test_a_hint_helps_beside_the_student_alone(planted):
    alone = planted.accuracy(planted.alone(epochs=30))
    assert planted.accuracy(planted.learn(fitnets(planted), epochs=30).student) > alone + 0.03


def test_a_wrong_address_names_the_nearest(planted):
    with pytest.raises(MissingOutputError, match="Did you mean 'layer1'"):
        planted.learn(fitnets(planted, hint="layer_1"), epochs=1)
