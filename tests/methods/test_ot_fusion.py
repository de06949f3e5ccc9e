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
from limbeck.models.coupled_units import find_unit_groups
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


class Added(nn.Module):
    """Two layers of equal widths whose sum is read."""

    def __init__(self):
        super().__init__()
        self.a, self.b, self.c = nn.Linear(6, 6), nn.Linear(6, 6), nn.Linear(6, 3)

    def forward(self, x):
        x = self.a(x).relu()
        return self.c(x + self.b(x).relu())


class Joined(nn.Module):
    """A gate for each channel, and two maps side by side."""

    def __init__(self):
        super().__init__()
        self.a, self.b, self.gate, self.c = nn.Conv2d(1, 4, 3), nn.Conv2d(1, 3, 3), nn.Linear(4, 4), nn.Linear(7, 3)

    def forward(self, x):
        maps = self.a(x).relu()
        maps = maps * self.gate(maps.mean((2, 3))).sigmoid()[..., None, None]
        return self.c(torch.cat([self.b(x).relu(), maps], 1).mean((2, 3)))


class FromInputs(nn.Module):
    """A block around the network's own inputs: only the units inside of it are free."""

    def __init__(self):
        super().__init__()
        self.a, self.b, self.c = nn.Linear(6, 9), nn.Linear(9, 6), nn.Linear(6, 3)

    def forward(self, x):
        return self.c(x + self.b(self.a(x).relu()))


def change_order(net, moves):
    """A copy in which some tensors have another order along a dimension: ``(name, dimension, order)``."""
    twin = copy.deepcopy(net)
    state = twin.state_dict()
    for name, dim, order in moves:
        tensors = [name] if dim else [name, *(f"{name[:-6]}{part}" for part in ("bias", "running_mean", "running_var"))]
        for key in tensors:
            if key in state:
                state[key].copy_(state[key].index_select(dim, order))
    return twin


def permuted_added(net):
    order = torch.tensor([3, 5, 0, 1, 4, 2])
    return change_order(net, [("a.weight", 0, order), ("b.weight", 1, order), ("b.weight", 0, order),
                              ("c.weight", 1, order)])  # fmt: skip


def permuted_joined(net):
    four, three = torch.tensor([2, 0, 3, 1]), torch.tensor([2, 0, 1])
    both = torch.cat([three, 3 + four])
    return change_order(net, [("a.weight", 0, four), ("gate.weight", 0, four), ("gate.weight", 1, four),
                              ("b.weight", 0, three), ("c.weight", 1, both)])  # fmt: skip


def permuted_from_inputs(net):
    order = torch.randperm(9)
    return change_order(net, [("a.weight", 0, order), ("b.weight", 1, order)])


def permuted_resnet(net):
    """Shortcuts of option A: the channels of a stage are the middle ones of the next."""
    width = net.stem[0].out_channels
    stage = [torch.randperm(width)]
    for _ in range(2):
        wide = 2 * len(stage[-1])
        quarter = wide // 4
        new = torch.cat([torch.arange(quarter), torch.arange(3 * quarter, wide)])[torch.randperm(wide // 2)]
        stage.append(torch.cat([new[:quarter], quarter + stage[-1], new[quarter:]]))
    moves = [("stem.0.weight", 0, stage[0]), ("stem.1.weight", 0, stage[0])]
    before = stage[0]
    for number, order in enumerate(stage):
        for block in range(len(net.get_submodule(f"layer{number + 1}"))):
            at, inner = f"layer{number + 1}.{block}", torch.randperm(len(order))
            moves += [(f"{at}.conv1.weight", 0, inner), (f"{at}.conv1.weight", 1, before),
                      (f"{at}.norm1.weight", 0, inner), (f"{at}.conv2.weight", 1, inner),
                      (f"{at}.conv2.weight", 0, order), (f"{at}.norm2.weight", 0, order)]  # fmt: skip
            before = order
    return change_order(net, [*moves, ("classifier.weight", 1, before)])


def make_resnet(name, seed):
    return trained(build(name, channels=1, classes=3, width=4, seed=seed), IMAGES)


def make_seeded(kind, seed):
    torch.manual_seed(seed)
    return kind()


COUPLED = {
    "added": (lambda seed: make_seeded(Added, seed), permuted_added, X),
    "gated and concatenated": (lambda seed: make_seeded(Joined, seed), permuted_joined, IMAGES),
    "added to inputs": (lambda seed: make_seeded(FromInputs, seed), permuted_from_inputs, X),
    "resnet8": (lambda seed: make_resnet("resnet8", seed), permuted_resnet, IMAGES),
    "resnet14": (lambda seed: make_resnet("resnet14", seed), permuted_resnet, IMAGES),
}


@pytest.mark.parametrize("kind", COUPLED)
@pytest.mark.parametrize("ground", ["weights", "activations"])
def test_a_residual_network_and_its_permuted_copy_are_that_network_exactly(kind, ground):
    make_net, permute, inputs = COUPLED[kind]
    net = make_net(1)
    twin = permute(net)
    assert not same_weights(weights(twin), weights(net))
    torch.testing.assert_close(twin(inputs), net(inputs), rtol=1e-4, atol=1e-5)
    fused = fuse_networks([net, twin], inputs, ground=ground)
    for name, tensor in weights(fused).items():
        torch.testing.assert_close(tensor, weights(net)[name], rtol=0, atol=0 if ground == "weights" else 1e-7)


@pytest.mark.parametrize("kind", COUPLED)
def test_of_residual_networks_it_is_one_of_both_at_the_ends(kind):
    make_net, _, inputs = COUPLED[kind]
    a, b = make_net(1), make_net(2)
    assert same_weights(weights(fuse_networks([b, a], inputs, weights=[1, 0])), weights(b))
    moved = fuse_networks([b, a], inputs, weights=[0, 1])
    assert not same_weights(weights(moved), weights(a))
    torch.testing.assert_close(moved(inputs), a(inputs), rtol=1e-4, atol=1e-5)


def test_groups_of_a_residual_network_are_those_of_its_additions():
    """By hand: 4 channels of the first stage, 4 new ones in the second, 8 in the third, and those inside of blocks."""
    groups = find_unit_groups(make_resnet("resnet8", 1), IMAGES)
    assert [(group.size, list(group.outputs)) for group in groups] == [
        (4, ["stem.0", "layer1.0.conv2", "layer2.0.conv2", "layer3.0.conv2"]), (4, ["layer1.0.conv1"]),
        (8, ["layer2.0.conv1"]), (4, ["layer2.0.conv2", "layer3.0.conv2"]), (16, ["layer3.0.conv1"]),
        (8, ["layer3.0.conv2"]),
    ]  # fmt: skip
    assert groups[3].outputs["layer2.0.conv2"].tolist() == [0, 1, 6, 7]
    assert groups[3].outputs["layer3.0.conv2"].tolist() == [4, 5, 10, 11]
    assert list(groups[3].inputs) == ["layer3.0.conv1", "classifier"]


class Folded(nn.Module):
    """Units of one layer are added to each other."""

    def __init__(self):
        super().__init__()
        self.a, self.b = nn.Linear(6, 8), nn.Linear(4, 3)

    def forward(self, x):
        x = self.a(x)
        return self.b(x[:, :4] + x[:, 4:])


class Different(nn.Module):
    """The halves of a layer have other activations, so units cannot change halves."""

    def __init__(self):
        super().__init__()
        self.a, self.b = nn.Linear(6, 8), nn.Linear(8, 3)

    def forward(self, x):
        x = self.a(x)
        return self.b(torch.cat([x[:, :4].relu(), x[:, 4:].tanh()], 1))


class Attending(nn.Module):
    """Each number that the last layer reads depends on all units of two others."""

    def __init__(self):
        super().__init__()
        self.q, self.k, self.v, self.out = (nn.Linear(8, 8) for _ in range(4))

    def forward(self, x):
        tokens = x[:, 0]
        return self.out((self.q(tokens) @ self.k(tokens).mT).softmax(-1) @ self.v(tokens)).mean(1)


class Twice(nn.Module):
    """A layer is called twice."""

    def __init__(self):
        super().__init__()
        self.a, self.b = nn.Linear(6, 6), nn.Linear(6, 3)

    def forward(self, x):
        return self.b(self.a(self.a(x).relu()).relu())


def grouped():
    return nn.Sequential(nn.Conv2d(1, 4, 3), nn.Conv2d(4, 4, 3, groups=2), nn.Flatten(), nn.Linear(64, 3))


@pytest.mark.parametrize(
    ("kind", "inputs", "word"),
    [(grouped, IMAGES, "Conv2d '1'"), (Folded, X, "'a'"), (Different, X, "order"), (Attending, IMAGES, "'out'"),
     (Twice, X, "twice"), (nn.Identity, X, "linear")],
)  # fmt: skip
def test_a_network_that_mixes_units_in_another_way_is_refused(kind, inputs, word):
    with pytest.raises(LimbeckError, match=word):
        fuse_networks([make_seeded(kind, 1), make_seeded(kind, 2)], inputs)


def test_a_job_s_residual_teachers_are_fused():
    _, _, data = make_several_teachers()
    images = ArrayDataset(data.inputs.unflatten(1, (1, 2, 3)), data.labels)
    teachers = [build("resnet8", channels=1, classes=3, width=2, seed=seed) for seed in (1, 2)]
    student = build("resnet8", channels=1, classes=3, width=1, seed=3)
    recipe = make("ot_fusion", teacher=Ensemble(*teachers, weights=[1.0, 0.0]), finetune=False)
    run = distill(student, recipe, images, batch_size=16, epochs=1, seed=0).finish()
    assert same_weights(weights(run.models["fused"]), weights(teachers[0]))


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
