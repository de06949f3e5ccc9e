"""Fusion by optimal transport: exact for networks that differ in the order of their units."""

from __future__ import annotations

import copy

import numpy as np
import pytest
import torch
from torch import nn

from limbeck.data import ArrayDataset
from limbeck.engine import distill
from limbeck.errors import ArgumentError, LimbeckError
from limbeck.methods import make
from limbeck.methods.teachers.ot_fusion import make_several_teachers
from limbeck.models import build
from limbeck.models.fusion import fuse_networks, match_units
from limbeck.models.model_transforms import prune
from limbeck.teachers import Ensemble, ShuffledTeacher
from limbeck.testing.law import same_weights, weights

DRAW = torch.Generator().manual_seed(0)
X = torch.randn(20, 6, generator=DRAW)
IMAGES = torch.randn(5, 1, 8, 8, generator=DRAW)


def with_norm(seed):
    torch.manual_seed(seed)
    net = nn.Sequential(
        nn.Conv2d(1, 5, 3, bias=False), nn.BatchNorm2d(5), nn.ReLU(), nn.Conv2d(5, 4, 3), nn.BatchNorm2d(4), nn.ReLU(),
        nn.Flatten(), nn.Linear(4 * 16, 7), nn.LayerNorm(7), nn.ReLU(), nn.Linear(7, 3),
    )  # fmt: skip
    for module in net:
        if isinstance(module, (nn.BatchNorm2d, nn.LayerNorm)):
            nn.init.uniform_(module.weight)
            nn.init.normal_(module.bias)
    return net.train().requires_grad_(True)


def trained(net, inputs):
    net.train()
    net(inputs)  # changes the statistics of BatchNorm
    return net.eval()


def permuted(net, inputs):
    """A copy with another order of the hidden units of each layer, by hand and not with the code that is tested."""
    twin = copy.deepcopy(net)
    layers = [m for m in twin.modules() if isinstance(m, (nn.Linear, nn.Conv2d, nn.BatchNorm2d, nn.LayerNorm))]
    mixing = [m for m in layers if isinstance(m, (nn.Linear, nn.Conv2d))]
    order = None
    with torch.no_grad():
        for layer in layers:
            if layer in mixing:
                if order is not None:
                    count, before = layer.weight.shape[1], len(order)
                    block = count // before
                    columns = (order[:, None] * block + torch.arange(block)).flatten()
                    layer.weight.copy_(layer.weight[:, columns])
                order = torch.randperm(len(layer.weight)) if layer is not mixing[-1] else None
                if order is not None:
                    layer.weight.copy_(layer.weight[order])
                    if layer.bias is not None:
                        layer.bias.copy_(layer.bias[order])
            else:
                for name in ("weight", "bias", "running_mean", "running_var"):
                    if name in dict(layer.named_parameters()) | dict(layer.named_buffers()):
                        getattr(layer, name).data.copy_(getattr(layer, name)[order])
    torch.testing.assert_close(twin(inputs), net(inputs), rtol=1e-4, atol=1e-5)
    return twin


NETWORKS = {
    "mlp": (lambda seed: build("mlp", inputs=6, classes=3, hidden=[9, 8], seed=seed).eval(), X),
    "cnn": (lambda seed: build("cnn", channels=1, classes=3, widths=[4, 6], size=8, seed=seed).eval(), IMAGES),
    "norms": (lambda seed: trained(with_norm(seed), IMAGES), IMAGES),
    "one layer": (lambda seed: build("mlp", inputs=6, classes=3, hidden=[], seed=seed).eval(), X),
}


@pytest.mark.parametrize("kind", NETWORKS)
@pytest.mark.parametrize("ground", ["weights", "activations"])
def test_a_network_and_its_permuted_copies_are_that_network_exactly(kind, ground):
    make_net, inputs = NETWORKS[kind]
    net = make_net(1)
    fused = fuse_networks([net, permuted(net, inputs), copy.deepcopy(net)], inputs, ground=ground, weights=[1, 1, 2])
    for name, tensor in weights(fused).items():
        torch.testing.assert_close(tensor, weights(net)[name], rtol=0, atol=0 if ground == "weights" else 1e-7)


@pytest.mark.parametrize("kind", ["mlp", "cnn", "norms"])
def test_at_the_ends_it_is_one_of_both(kind):
    make_net, inputs = NETWORKS[kind]
    a, b = make_net(1), make_net(2)
    assert same_weights(weights(fuse_networks([b, a], inputs, weights=[1, 0])), weights(b))
    moved = fuse_networks([b, a], inputs, weights=[0, 1])
    assert not same_weights(weights(moved), weights(a))
    torch.testing.assert_close(moved(inputs), a(inputs), rtol=1e-4, atol=1e-5)


def test_the_first_layer_is_matched_by_the_cheapest_assignment():
    """All orders of four units, by brute force."""
    import itertools

    a, b = (torch.randn(4, 5, dtype=torch.float64, generator=DRAW) for _ in range(2))
    cost = torch.cdist(a, b)
    best = min(itertools.permutations(range(4)), key=lambda order: sum(cost[i, j] for i, j in enumerate(order)))
    assert match_units(cost).argmax(1).tolist() == list(best)


def test_the_plan_is_that_of_pot_and_its_rows_and_columns_sum_to_1():
    ot = pytest.importorskip("ot")
    draw = torch.Generator().manual_seed(0)
    cost = torch.rand(8, 8, dtype=torch.float64, generator=draw)
    uniform = np.full(8, 1 / 8)
    np.testing.assert_allclose(match_units(cost).numpy(), 8 * ot.emd(uniform, uniform, cost.numpy()), atol=1e-9)
    soft = match_units(cost, regularization=0.5)
    torch.testing.assert_close(soft.sum(0), torch.ones(8, dtype=torch.float64), rtol=0, atol=1e-12)
    torch.testing.assert_close(soft.sum(1), torch.ones(8, dtype=torch.float64), rtol=0, atol=1e-4)
    assert soft.max() < 0.9  # it matches a unit with several
    clear = cost / 4 + 1 - torch.eye(8, dtype=torch.float64)[torch.randperm(8, generator=draw)]
    torch.testing.assert_close(match_units(clear, regularization=0.1), match_units(clear), rtol=0, atol=2e-3)


def test_networks_of_different_architectures_are_refused_before_training():
    student, _, data = make_several_teachers()
    teacher = Ensemble(*(build("mlp", inputs=6, classes=3, hidden=[width]) for width in (4, 5)))
    with pytest.raises(LimbeckError, match="layer1"):
        distill(student, make("ot_fusion", teacher=teacher), data, epochs=1)
    with pytest.raises(LimbeckError, match="ensemble"):
        distill(student, make("ot_fusion", teacher=ShuffledTeacher(nn.Linear(6, 3))), data, epochs=1)


def test_a_network_that_is_no_chain_is_refused():
    residual = build("resnet8", channels=1, classes=3, width=4).eval()
    with pytest.raises(LimbeckError, match="chain"):
        fuse_networks([residual, residual], IMAGES)
    grouped = nn.Sequential(nn.Conv2d(1, 4, 3), nn.Conv2d(4, 4, 3, groups=2), nn.Flatten(), nn.Linear(64, 3)).eval()
    with pytest.raises(LimbeckError, match="chain"):
        fuse_networks([grouped, grouped], IMAGES)

    class Added(nn.Module):
        """Two layers of equal widths whose sum is read: one order for both would pass."""

        def __init__(self):
            super().__init__()
            self.a, self.b, self.c = nn.Linear(6, 6), nn.Linear(6, 6), nn.Linear(6, 3)

        def forward(self, x):
            x = self.a(x).relu()
            return self.c(x + self.b(x).relu())

    with pytest.raises(LimbeckError, match="chain"):
        fuse_networks([Added(), Added()], X)


def test_wrong_options_are_refused():
    nets = [build("mlp", inputs=6, classes=3, hidden=[4], seed=seed) for seed in (1, 2)]
    for wrong in ({"weights": [1.0]}, {"weights": [0, 0]}, {"weights": [-1, 2]}, {"regularization": -1.0}):
        with pytest.raises(ArgumentError, match=next(iter(wrong))):
            fuse_networks(nets, X, **wrong)
    with pytest.raises(LimbeckError, match="weights"):
        fuse_networks(nets, X, ground="weight")
    with pytest.raises(LimbeckError, match="activations"):
        make("ot_fusion", teacher=nets[0], ground="inputs")


def test_matched_weights_are_better_than_plain_averages():
    """Two networks of one problem: the mean of unmatched weights forgets it, that of matched ones keeps most."""
    from methods.planted import Planted

    planted = Planted(train=600)
    nets = [planted.learn(make("supervised"), seed=seed, epochs=30).student for seed in (1, 2)]
    plain = copy.deepcopy(nets[0])
    with torch.no_grad():
        for own, other in zip(plain.parameters(), nets[1].parameters(), strict=True):
            own.lerp_(other, 0.5)
    fused = fuse_networks(nets, planted.x)
    assert planted.accuracy(fused) > planted.accuracy(plain) + 0.03


def test_a_job_s_weights_of_the_teachers_are_those_of_the_average():
    student, ensemble, data = make_several_teachers()
    recipe = make("ot_fusion", teacher=Ensemble(*ensemble.members, weights=[1.0, 0.0]), finetune=False)
    run = distill(student, recipe, data, batch_size=16, epochs=1, seed=0).finish()
    assert same_weights(weights(run.models["fused"]), weights(ensemble.members[0].model))


def test_one_teacher_is_its_own_fusion():
    student, ensemble, data = make_several_teachers()
    recipe = make("ot_fusion", teacher=ensemble.members[0].model, finetune=False)
    run = distill(student, recipe, ArrayDataset(data.inputs, data.labels), batch_size=16, epochs=1).finish()
    assert same_weights(weights(run.models["fused"]), weights(ensemble.members[0].model))


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_a_network_that_has_diverged_is_refused(value):
    networks = [nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 3)) for _ in range(2)]
    with torch.no_grad():
        networks[1][2].bias[0] = value
    with pytest.raises(LimbeckError, match=r"2\.bias.*network 1"):
        fuse_networks(networks, torch.zeros(2, 4))


def prune_half(layer):
    prune(layer, amount=0.5)
    return layer


@pytest.mark.parametrize("hook", [torch.nn.utils.spectral_norm, prune_half])
def test_weights_that_are_computed_are_refused(hook):
    networks = [nn.Sequential(hook(nn.Linear(4, 8)), nn.ReLU(), nn.Linear(8, 3)) for _ in range(2)]
    with pytest.raises(LimbeckError, match="computed"):
        fuse_networks(networks, torch.zeros(2, 4))
