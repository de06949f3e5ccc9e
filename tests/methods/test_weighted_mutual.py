"""Weighted mutual learning: the identities of its loss, its weights, and what they are good for."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import nn

from limbeck.batch import Batch, Outputs, Progress
from limbeck.data import ArrayDataset, TorchLoader
from limbeck.engine import distill
from limbeck.errors import ArgumentError, LimbeckError
from limbeck.functional import cross_entropy, kl_divergence
from limbeck.losses import LossContext
from limbeck.methods import make
from limbeck.methods.online.weighted_mutual import WeightedPeers, is_held_out, peer_losses
from limbeck.models import build
from limbeck.recipe import Optimizer
from limbeck.testing.law import same_weights, weights
from methods.planted import Planted


def rows(peers=3, count=5, classes=4):
    torch.manual_seed(0)
    logits = [torch.randn(count, classes, dtype=torch.float64, requires_grad=True) for _ in range(peers)]
    return logits, torch.randint(classes, (count,))


def test_the_weighted_sum_is_the_loss_of_the_paper():
    logits, labels = rows()
    w = torch.tensor([0.5, 0.3, 0.2], dtype=torch.float64)
    losses = peer_losses(logits, labels, alpha=0.4, detach=False)
    own = sum(w[i] * cross_entropy(logits[i], labels=labels) for i in range(3))
    mutual = sum(w[j] * kl_divergence(logits[i], logits[j]) for i in range(3) for j in range(3) if i != j)
    torch.testing.assert_close((w[:, None] * losses).sum(0), 0.6 * own + 0.4 * mutual)


def test_detached_targets_change_the_gradient_and_not_the_value():
    logits, labels = rows(peers=2)
    values = [peer_losses(logits, labels, alpha=0.5, detach=detach) for detach in (True, False)]
    torch.testing.assert_close(values[0], values[1])
    by_first = [torch.autograd.grad(value[0].sum(), logits[0], retain_graph=True)[0] for value in values]
    own = torch.autograd.grad(0.5 * cross_entropy(logits[0], labels=labels).sum(), logits[0])[0]
    torch.testing.assert_close(by_first[0], own)
    assert not torch.allclose(by_first[1], own)


def test_one_peer_is_cross_entropy_and_equal_peers_have_no_divergence():
    logits, labels = rows(peers=1)
    alone = peer_losses(logits, labels, alpha=0.0, detach=True)[0]
    torch.testing.assert_close(alone, cross_entropy(logits[0], labels=labels))
    equal = peer_losses([logits[0], logits[0].clone()], labels, alpha=1.0, detach=True)
    assert float(equal.detach().abs().max()) == 0.0


def test_a_mirror_step_stays_on_the_simplex_and_equal_gradients_do_nothing():
    both = WeightedPeers([nn.Linear(2, 2) for _ in range(3)])
    both.update(torch.tensor([1.0, -2.0, 0.5]), 0.7)
    expected = torch.tensor([1.0, -2.0, 0.5]).mul(-0.7).exp()
    torch.testing.assert_close(both.weights, expected / expected.sum())
    moved = both.weights.clone()
    both.update(torch.full((3,), 9.0), 0.7)
    torch.testing.assert_close(both.weights, moved)
    both.update(torch.tensor([1.0, -2.0, 0.5]), 0.0)
    torch.testing.assert_close(both.weights, moved)
    for _ in range(50):
        both.update(torch.tensor([30.0, 0.0, -30.0]), 1.0)
    assert float(both.weights.sum()) == pytest.approx(1.0)
    assert bool(both.weights.isfinite().all())


def test_the_average_is_that_of_the_logits():
    peers = [nn.Linear(2, 3) for _ in range(2)]
    both, x = WeightedPeers(peers), torch.randn(4, 2)
    both.update(torch.tensor([1.0, 0.0]), 1.0)
    torch.testing.assert_close(both(x), both.weights[0] * peers[0](x) + both.weights[1] * peers[1](x))


def learn(planted, recipe, models, *, epochs=20, labels=None, **options):
    data = ArrayDataset(planted.x, planted.labels if labels is None else labels)
    setting = {"batch_size": 40, "epochs": epochs, "seed": 1, "optimizer": Optimizer("adam", lr=5e-3)}
    return distill(models, recipe, data, log_every=10**6, **{**setting, **options}).finish()


def peers(planted, count):
    return {"student": planted.student(0), **{f"peer_{i}": planted.student(i) for i in range(1, count)}}


def test_at_alpha_0_and_without_updates_a_peer_learns_as_if_it_were_alone():
    """Its loss is divided by the number of peers, which plain SGD shows as a smaller learning rate."""
    planted = Planted()
    together = learn(
        planted, make("weighted_mutual", peers=2, alpha=0.0, eta=0.0, held_out=0.0), peers(planted, 2), epochs=3,
        optimizer=Optimizer("sgd", lr=0.2, decay="constant"),
    )  # fmt: skip
    alone = learn(
        planted, make("supervised"), planted.student(0), epochs=3, optimizer=Optimizer("sgd", lr=0.1, decay="constant")
    )
    for mine, other in zip(together.student.parameters(), alone.student.parameters(), strict=True):
        torch.testing.assert_close(mine, other, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("seed", [0, pytest.param(1, marks=pytest.mark.soak)])
def test_the_weight_of_a_peer_with_shuffled_labels_falls_and_the_ensemble_is_better_than_with_equal_weights(seed):
    planted = Planted(train=800, seed=seed)
    torch.manual_seed(seed)
    bad = Planted(seed=seed).learn(make("supervised"), labels=torch.randint(4, (120,)), epochs=40).student
    options = {"peers": 3, "every": 2, "held_out": 0.2, "ship": "ensemble", "alpha": 0.2}
    learned, equal = (
        learn(
            planted, make("weighted_mutual", eta=eta, **options),
            {**peers(planted, 2), "peer_2": copy.deepcopy(bad).requires_grad_(False)}, epochs=8,
        ).student
        for eta in (1.0, 0.0)
    )  # fmt: skip
    print([round(float(w), 3) for w in learned.weights], planted.nll(learned), planted.nll(equal))
    assert float(learned.weights[2]) < 1 / 3
    assert equal.weights.tolist() == pytest.approx([1 / 3] * 3)
    assert planted.nll(learned) < planted.nll(equal)


def test_the_held_out_examples_are_a_function_of_their_ids_and_no_peer_learns_from_them():
    ids = torch.arange(120)
    held = is_held_out(ids, 0.25)
    assert torch.equal(is_held_out(ids.flip(0), 0.25), held.flip(0))
    planted = Planted()
    other = planted.labels.clone()
    other[held] = (other[held] + 1) % 4
    runs = [
        learn(planted, make("weighted_mutual", peers=2, held_out=0.25, eta=0.0), peers(planted, 2), labels=labels)
        for labels in (planted.labels, other)
    ]
    assert same_weights(weights(runs[0].student), weights(runs[1].student))


def test_the_weights_are_learned_from_the_held_out_examples():
    planted = Planted()
    run = learn(planted, make("weighted_mutual", peers=2, every=1, held_out=0.3), peers(planted, 2), epochs=2)
    assert run.models["ensemble"].weights.tolist() != [0.5, 0.5]
    nothing = learn(planted, make("weighted_mutual", peers=2, every=10**6), peers(planted, 2), epochs=2)
    assert nothing.models["ensemble"].weights.tolist() == [0.5, 0.5]


def test_accumulated_halves_give_the_same_weights_of_peers():
    planted, results = Planted(), []
    for size, accumulate in ((40, 1), (20, 2)):
        run = learn(
            planted, make("weighted_mutual", peers=2, every=1, held_out=0.3), peers(planted, 2), epochs=3,
            batch_size=size, accumulate=accumulate, optimizer=Optimizer("sgd", lr=0.1),
        )  # fmt: skip
        results.append(run.models["ensemble"].weights)
    torch.testing.assert_close(results[0], results[1], rtol=1e-5, atol=1e-6)


def test_peers_may_have_other_architectures_and_inputs_by_name():
    class Named(nn.Module):
        def __init__(self, width):
            super().__init__()
            self.body = build("mlp", inputs=10, classes=4, hidden=[width], seed=width)

        def forward(self, features):
            return {"logits": self.body(features)}

    planted = Planted()
    batches = [
        Batch({"features": planted.x[i::3]}, id=torch.arange(i, 120, 3), labels=planted.labels[i::3]) for i in range(3)
    ]
    data = TorchLoader(batches, to_batch=lambda item: item)
    models = {"student": Named(8), "peer_1": Named(16)}
    run = distill(models, make("weighted_mutual", peers=2, every=1), data, epochs=2).finish()
    assert run.student is models["student"]
    assert run.models["ensemble"](features=planted.x).shape == (120, 4)


def test_wrong_arguments_and_what_cannot_be_done_are_refused():
    for wrong in ({"peers": 1}, {"held_out": 1.0}, {"ship": "best"}, {"eta": -1.0}, {"alpha": 2.0}, {"every": 0}):
        with pytest.raises(ArgumentError):
            make("weighted_mutual", **wrong)
    loss = next(make("weighted_mutual").stages()).objective
    batch = Batch(torch.zeros(2, 3), labels=torch.zeros(2, dtype=torch.int64))
    context = LossContext(Outputs(logits=torch.zeros(2, 3)), Outputs(), batch)
    with pytest.raises(LimbeckError, match="ddp"):
        loss.setup(context)
    model = WeightedPeers([nn.Linear(3, 3)])
    with pytest.raises(LimbeckError, match="held_out=0"):
        loss.setup(LossContext(context.student, Outputs(), batch, model=model, forward=lambda batch: context.student))


def test_a_step_of_eta_warms_up_and_falls():
    loss = next(make("weighted_mutual", eta=1.0, every=1, warmup=4).stages()).objective
    rates = [loss._rate(Progress(step, 50)) for step in range(50)]
    assert rates[0] == pytest.approx(0.2)
    assert max(rates) == pytest.approx(1.0)
    assert rates[-1] == pytest.approx(0.01)
    assert rates[4:] == sorted(rates[4:], reverse=True)
