"""MTARD: weights stay on the simplex, temperatures meet, and both kinds of inputs have their own teacher."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from limbeck.batch import Batch, Outputs, Progress
from limbeck.data import ArrayDataset
from limbeck.engine import distill
from limbeck.errors import LimbeckError
from limbeck.functional import kl_divergence
from limbeck.losses import LossContext
from limbeck.methods import make
from limbeck.methods.teachers.mtard import balance_temperatures, balance_weight

DRAW = torch.Generator().manual_seed(0)
Z, V = (torch.randn(8, 3, generator=DRAW) for _ in range(2))
ADVERSARIAL = torch.arange(8) >= 4
BATCH = Batch(torch.zeros(8, 1), id=torch.arange(8) % 4, extra={"adversarial": ADVERSARIAL})
TEACHERS = {"accurate": nn.Linear(1, 3), "robust": nn.Linear(1, 3)}


def fitted(**options):
    recipe = make("mtard", teacher=TEACHERS, clean="accurate", robust="robust", **options)
    context = LossContext(Outputs(logits=Z), Outputs(logits=V), BATCH)
    return next(recipe.stages()).objective.setup(context)


def test_the_weight_moves_to_the_share_of_the_relative_losses_within_0_and_1():
    weight = 0.5
    for _ in range(400):
        weight = balance_weight(weight, 0.9, 0.3, rate=0.025)
        assert 0 <= weight <= 1
    assert weight == pytest.approx(0.75, abs=1e-4)
    assert balance_weight(0.5, 0.4, 0.4, rate=0.3) == 0.5
    assert balance_weight(0.5, 0.2, 0.1, rate=1.0, power=2.0) == pytest.approx(0.8)
    assert balance_weight(0.5, 0.0, 0.0, rate=1.0) == 0.5


def test_temperatures_move_until_the_entropies_meet_and_the_higher_one_is_never_heated():
    logits = torch.randn(50, 10, generator=DRAW) * 4, torch.randn(50, 10, generator=DRAW)
    temperatures = (5.0, 5.0)
    for _ in range(3000):
        entropies = tuple(
            float(torch.special.entr((z / t).softmax(-1)).sum(-1).mean())
            for z, t in zip(logits, temperatures, strict=True)
        )
        before, temperatures = temperatures, balance_temperatures(temperatures, entropies, rate=0.01)
        higher = int(entropies[1] > entropies[0])
        assert temperatures[higher] <= before[higher]
        assert all(1 <= t <= 10 for t in temperatures)
    assert abs(entropies[0] - entropies[1]) < 0.05
    assert balance_temperatures((1.0, 10.0), (2.0, 1.0), rate=0.5) == (1.0, 10.0)


def test_the_loss_is_the_weighted_sum_of_both_means_with_softened_teachers():
    loss = fitted(clean_temperature=2.0, robust_temperature=4.0)
    loss.clean_weight.fill_(0.3)
    term = loss.term(Outputs(logits=Z), Outputs(logits=V), BATCH, Progress())
    clean = kl_divergence(Z[:4], V[:4] / 2).mean()
    robust = kl_divergence(Z[4:], V[4:] / 4).mean()
    torch.testing.assert_close(term.total / term.count, 0.3 * clean + 0.7 * robust)


def test_a_step_compares_the_losses_with_the_first_ones():
    loss = fitted(weight_lr=0.5, balance_entropy=True, clean_temperature=3.0, robust_temperature=3.0)
    for student in (Z, torch.cat([Z[:4], V[4:]])):  # the robust loss falls to 0
        loss.after_step(Outputs(logits=student), Outputs(logits=V), BATCH, Progress())
        loss.end_step([BATCH], Progress())
    assert 0.5 < float(loss.clean_weight) <= 0.75
    assert loss.teacher_temperatures.tolist() != [3.0, 3.0]


def test_each_kind_of_input_has_its_teacher_and_the_student_becomes_robust():
    x = torch.rand(300, 6, generator=DRAW)
    labels = (x[:, 0] > 0.5).long()
    steep = nn.Linear(6, 2)
    with torch.no_grad():
        steep.weight.copy_(20 * torch.tensor([[-1.0, *[0.0] * 5], [1.0, *[0.0] * 5]]))
        steep.bias.copy_(torch.tensor([10.0, -10.0]))
    recipe = make("mtard", teacher={"a": steep, "b": steep}, clean="a", robust="b", epsilon=0.1, attack_steps=3)
    run = distill(nn.Linear(6, 2), recipe, ArrayDataset(x, labels), epochs=10, batch_size=50, seed=0).finish()
    assert run.finished
    stage = next(recipe.stages())
    assert stage.teacher.default is None
    assert stage.teacher.values == {False: 0, True: 1}
    assert float(stage.objective.clean_weight) == 0.5  # the user's own loss keeps nothing


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"clean": "acurate"}, "Did you mean 'accurate'"),
        ({"epsilon": -1.0}, "epsilon"),
        ({"clean_temperature": 0.5}, "clean_temperature"),
        ({"power": 0.0}, "power"),
        ({"attack_steps": 0}, "attack_steps"),
        ({"balance_entropy": True, "temperature_lr": 0.0}, "temperature_lr"),
        ({"start": -1.0}, "start"),
    ],
)
def test_what_makes_no_sense_is_refused(changes, words):
    with pytest.raises(LimbeckError, match=words):
        make("mtard", **{"teacher": TEACHERS, "clean": "accurate", "robust": "robust", **changes})


def test_a_step_that_overflows_leaves_the_balance():
    loss = fitted(weight_lr=0.5)
    for student in (torch.full_like(Z, torch.nan), Z):
        loss.after_step(Outputs(logits=student), Outputs(logits=V), BATCH, Progress())
        loss.end_step([BATCH], Progress())
    assert float(loss.clean_weight) == 0.5
    assert bool(loss.first.isfinite().all())
