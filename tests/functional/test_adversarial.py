"""Adversarial inputs: within the ball and the range, with a higher loss, from a start that is a pure function."""

from __future__ import annotations

import warnings

import pytest
import torch
from torch import nn

from limbeck.batch import Batch
from limbeck.data import AdversarialLoader, ArrayDataset, Attack, NormalizeImages, ShuffledLoader
from limbeck.engine import distill
from limbeck.errors import LimbeckError, LimbeckWarning, UnknownNameError
from limbeck.functional import cross_entropy, kl_divergence
from limbeck.functional.adversarial import projected_gradient
from limbeck.methods import make
from limbeck.recipe import Stage

DRAW = torch.Generator().manual_seed(0)
X = torch.rand(8, 5, generator=DRAW)
Y = torch.tensor([0, 1, 2, 0, 1, 2, 0, -100])


def loader(attack, inputs=X, **options):
    made = AdversarialLoader(ShuffledLoader(ArrayDataset(inputs, Y), batch_size=4, shuffle=False, **options), attack)
    torch.manual_seed(0)
    made.bind({"student": nn.Linear(5, 3)})
    return made


def test_it_equals_loops_and_stays_in_the_ball_and_the_range():
    slope = torch.randn(8, 5, generator=DRAW)
    found = projected_gradient(lambda x: (x * slope).sum(1), X, epsilon=0.1, step_size=0.03, steps=5)
    for i in range(8):
        for j in range(5):
            value = float(X[i, j])
            for _ in range(5):
                value += 0.03 * (1 if slope[i, j] > 0 else -1)
                value = min(max(value, float(X[i, j]) - 0.1, 0.0), float(X[i, j]) + 0.1, 1.0)
            assert float(found[i, j]) == pytest.approx(value, abs=1e-6)
    assert float((found - X).abs().max()) <= 0.1 + 1e-6
    assert 0 <= float(found.min()) <= float(found.max()) <= 1


def test_no_step_is_the_start_and_no_room_is_the_input():
    assert torch.equal(projected_gradient(lambda x: x.sum(1), X, epsilon=0.0, step_size=1.0, steps=3), X)
    start = X + 0.05
    clipped = projected_gradient(lambda x: x.sum(1), X, epsilon=0.02, step_size=1.0, steps=0, start=start)
    assert torch.equal(clipped, torch.minimum(X + 0.02, torch.ones(())))


def test_the_loss_rises_and_no_gradient_reaches_the_model():
    model = nn.Sequential(nn.Linear(5, 16), nn.ReLU(), nn.Linear(16, 3))
    labels = Y.clamp_min(0)

    def loss(x):
        return cross_entropy(model(x), labels=labels)

    losses = [
        loss(projected_gradient(loss, X, epsilon=0.2, step_size=0.05, steps=steps)).mean().item() for steps in (0, 2, 8)
    ]
    assert losses[0] < losses[1] <= losses[2] + 1e-6
    assert all(parameter.grad is None for parameter in model.parameters())


@pytest.mark.parametrize("wrong", [{"epsilon": -0.1}, {"step_size": 0.0}, {"steps": -1}])
def test_settings_out_of_range(wrong):
    with pytest.raises(LimbeckError, match=next(iter(wrong))):
        projected_gradient(lambda x: x.sum(1), X, **{"epsilon": 0.1, "step_size": 0.1, "steps": 1, **wrong})


# The loader.


def test_clean_rows_come_first_and_both_kinds_have_masks():
    batch = next(iter(loader(Attack(0.1, steps=3)).batches(0, 0)))
    batch = loader(Attack(0.1, steps=3)).complete(batch)
    assert torch.equal(batch.inputs[:4], X[:4])
    assert 0 < float((batch.inputs[4:] - X[:4]).abs().max()) <= 0.1 + 1e-6
    assert batch.extra["adversarial"].tolist() == [False] * 4 + [True] * 4
    assert batch.labels.tolist() == [0, 1, 2, 0] * 2
    assert batch.extra["masks"]["adversarial"].tolist() == batch.extra["adversarial"].tolist()
    alone = loader(Attack(0.1, keep_clean=False))
    assert alone.complete(next(iter(alone.batches(0, 0)))).size == 4


def test_the_start_depends_on_seed_epoch_and_id_alone():
    attack = Attack(0.1, steps=0)
    first, *_ = [batch.inputs[4:] for batch in map(loader(attack).complete, loader(attack).batches(0, 0))]
    again = loader(attack).complete(next(iter(loader(attack).batches(0, 0)))).inputs[4:]
    later = loader(attack).complete(next(iter(loader(attack).batches(1, 0)))).inputs[4:]
    other = loader(attack, seed=5).complete(next(iter(loader(attack, seed=5).batches(0, 0)))).inputs[4:]
    assert torch.equal(first, again)
    assert not torch.equal(first, later)
    assert not torch.equal(first, other)
    near = loader(Attack(0.1, steps=0, start=0.001))
    assert float((near.complete(next(iter(near.batches(0, 0)))).inputs[4:] - X[:4]).abs().max()) < 0.01


def test_bytes_are_attacked_through_the_preprocessing_of_the_model():
    images = torch.randint(256, (8, 4, 4), dtype=torch.uint8, generator=DRAW)
    made = AdversarialLoader(ShuffledLoader(ArrayDataset(images, Y), batch_size=8, shuffle=False), Attack(8 / 255))
    made.set_preprocess(NormalizeImages(mean=(0.5,), std=(0.25,)))
    torch.manual_seed(0)
    made.bind({"student": nn.Sequential(nn.Flatten(), nn.Linear(16, 3))})
    batch = made.complete(next(iter(made.batches(0, 0))))
    change = batch.inputs[8:] - images.float()
    assert float(change.abs().max()) == pytest.approx(8, abs=1e-3)
    assert float(batch.inputs.min()) >= 0
    assert float(batch.inputs.max()) <= 255


def test_a_job_of_adversarial_training_runs_and_wrong_data_are_refused():
    stage = Stage(next(make("supervised").stages()).objective, loader=Attack(0.1, steps=2, keep_clean=False))
    run = distill(nn.Linear(5, 3), stage, ArrayDataset(X, Y), epochs=2, batch_size=4).finish()
    assert run.finished
    with pytest.raises(LimbeckError, match=r"within 0 and 1.*low"):
        distill(nn.Linear(5, 3), stage, ArrayDataset(X - 3, Y), epochs=1, batch_size=4).finish()
    with pytest.raises(UnknownNameError, match="Did you mean 'student'"):
        loader(Attack(0.1)).__class__(
            ShuffledLoader(ArrayDataset(X, Y), batch_size=4), Attack(0.1, model="studnet")
        ).bind({"student": nn.Linear(5, 3)})
    no_labels = AdversarialLoader(ShuffledLoader(ArrayDataset(X), batch_size=4), Attack(0.1))
    no_labels.bind({"student": nn.Linear(5, 3)})
    with pytest.raises(LimbeckError, match="labels"):
        no_labels.complete(next(iter(no_labels.batches(0, 0))))


def test_an_example_without_a_label_stays_at_its_start():
    made = loader(Attack(0.1, steps=4, start=0.0))
    batch = made.complete(Batch(X, id=torch.arange(8), labels=Y))
    assert torch.equal(batch.inputs[-1], X[-1])
    assert not torch.equal(batch.inputs[8], X[0])


def test_an_attack_as_large_as_the_range_of_the_data_is_noted():
    def complete(attack):
        made = loader(attack, (16 * X).to(torch.uint8))
        made.set_preprocess(lambda batch: batch.inputs.float())
        return made.complete(next(iter(made)))

    with pytest.warns(LimbeckWarning, match="high="):
        complete(Attack(0.1, steps=1))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        complete(Attack(0.1, steps=1, high=16.0))


def test_the_divergence_needs_no_labels_and_rises():
    attack = Attack(0.1, steps=6, loss="kl_divergence")
    made = loader(attack)
    model = made._models["student"]
    batch = made.complete(Batch(X, id=torch.arange(8)))
    changed = batch.inputs[8:]
    assert float((changed - X).abs().max()) <= 0.1 + 1e-6

    def divergence(steps):
        own = loader(Attack(0.1, steps=steps, loss="kl_divergence")).complete(Batch(X, id=torch.arange(8)))
        return kl_divergence(model(own.inputs[8:]), model(X))

    few, many = divergence(0), divergence(6)
    assert bool((many > few).all())
    with pytest.raises(LimbeckError, match="start"):
        Attack(0.1, start=0.0, loss="kl_divergence")
    with pytest.raises(UnknownNameError):
        Attack(0.1, loss="kl")
