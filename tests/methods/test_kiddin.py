"""KID-VLM: descriptions that only exist in training, and a graph beside the student."""

from __future__ import annotations

import math

import pytest
import torch
from torch import nn

from limbeck.data import ArrayDataset
from limbeck.engine import distill
from limbeck.errors import ArgumentError, LimbeckError
from limbeck.methods import make
from limbeck.methods.data.kiddin import RelationalGraph
from limbeck.models import build
from limbeck.recipe import Optimizer
from limbeck.testing.law import same_weights, weights

THINGS = 10
EVEN, PRIME = THINGS, THINGS + 1


def brute_force_direction_error(student, teacher):
    values = []
    for z, v in zip(student.tolist(), teacher.tolist(), strict=True):
        mine, its = math.hypot(*z), math.hypot(*v)
        values.append(sum((a / mine - b / its) ** 2 for a, b in zip(z, v, strict=True)))
    return values


def test_one_layer_with_unit_maps_is_the_normalized_neighborhood():
    edges = torch.tensor([[0, 1], [2, 1], [3, 0]])
    graph = RelationalGraph(4, {"is": edges}, width=4)
    with torch.no_grad():
        graph.embed.weight.copy_(torch.eye(4))
        graph.related[0][0].weight.copy_(torch.eye(4))
        graph.own[0].weight.zero_()
        graph.own[0].bias.zero_()
    expected = torch.tensor([[0, 0, 0, 1.0], [0.5, 0, 0.5, 0], [0, 0, 0, 0], [0, 0, 0, 0]])
    torch.testing.assert_close(graph.nodes(), expected)
    pooled = graph(torch.tensor([[0, 1, -1], [2, -1, -1]]))
    torch.testing.assert_close(pooled[0], nn.functional.normalize(expected[:2].mean(0), dim=0))
    assert not pooled[1].any()


def test_a_node_reads_what_is_as_many_edges_away_as_there_are_layers():
    chain = torch.tensor([[0, 1], [1, 2]])
    for layers in (1, 2):
        graph = RelationalGraph(3, {"next": chain}, width=3, layers=layers)
        (gradient,) = torch.autograd.grad(graph.nodes()[2].sum(), graph.embed.weight)
        assert bool(gradient[0].any()) == (layers == 2)


class World:
    """A noisy picture of a number, and a second number that only has a name; the label joins two of their properties.

    The description names the number in the picture. The graph says which numbers are even and which are prime.
    """

    def __init__(self, seed, *, things, count=300, labeled=60):
        draw = torch.Generator().manual_seed(seed)
        shown = torch.randint(THINGS, (count,), generator=draw)
        named = things[torch.randint(len(things), (count,), generator=draw)]
        noise = torch.randn(count, 2 * THINGS, generator=draw) * 0.8
        self.x = noise + nn.functional.pad(2.0 * nn.functional.one_hot(shown, THINGS).float(), (0, THINGS))
        self.nodes = named[:, None]
        primes = torch.tensor([2, 3, 5, 7])
        self.truth = 2 * (shown % 2) + torch.isin(named, primes).long()
        self.labels = self.truth.where(torch.arange(count) < labeled, -100)
        self.captions = nn.functional.one_hot(shown, THINGS).float()

    def data(self, *, pairs):
        inputs = (self.x, self.nodes) if pairs else self.x
        return ArrayDataset(inputs, self.labels, extra={"privileged": self.captions})

    def accuracy(self, model, *, pairs):
        with torch.no_grad():
            logits = model.eval()(self.x, self.nodes) if pairs else model.eval()(self.x)
        return float((logits.argmax(-1) == self.truth).float().mean())


def make_graph(*, connected=True):
    numbers = torch.arange(THINGS)
    primes = torch.tensor([2, 3, 5, 7])
    even = torch.stack([torch.full((5,), EVEN), numbers[::2]], 1)
    prime = torch.stack([torch.full((4,), PRIME), primes], 1)
    nothing = torch.zeros(0, 2, dtype=torch.int64)
    torch.manual_seed(0)
    return RelationalGraph(
        THINGS + 2, {"even": even, "prime": prime} if connected else {"even": nothing, "prime": nothing}, width=8
    )


def learn(recipe, world, *, pairs, seed=0, epochs=30):
    student = build("mlp", inputs=2 * THINGS, classes=4, hidden=[32, 32], seed=seed)
    optimizer = Optimizer("adam", lr=5e-3)
    return distill(
        student, recipe, world.data(pairs=pairs), batch_size=50, epochs=epochs, seed=seed, optimizer=optimizer,
        log_every=10**6,
    ).finish()  # fmt: skip


def test_the_description_and_the_graph_each_help():
    """The claim: three steps, each better than the one before. Half of the names are new in the test."""
    old, new = torch.tensor([0, 1, 2, 3, 5, 8]), torch.tensor([4, 6, 7, 9])
    rates = {"labels": 0.0, "graph": 0.0, "graph without edges": 0.0, "graph and description": 0.0}
    for seed in range(2):
        train, test = World(seed, things=old), World(seed + 50, things=new, count=1000)
        encoder = nn.Identity()
        runs = {
            "labels": (make("supervised"), False),
            "graph without edges": (_infused(encoder, make_graph(connected=False), weight=0.0), True),
            "graph": (_infused(encoder, make_graph(), weight=0.0), True),
            "graph and description": (_infused(encoder, make_graph(), weight=0.5), True),
        }
        for name, (recipe, pairs) in runs.items():
            rates[name] += test.accuracy(learn(recipe, train, pairs=pairs, seed=seed).student, pairs=pairs) / 2
    print(rates)
    assert rates["graph"] > rates["labels"] + 0.03
    assert rates["graph"] > rates["graph without edges"] + 0.03
    assert rates["graph and description"] > rates["graph"] + 0.03


def _infused(encoder, graph, *, weight):
    return make("kiddin", teacher=encoder, student_at="layer1", weight=weight, graph=graph)


def test_at_weight_0_it_is_the_learning_of_labels_and_at_1_of_the_description_alone():
    world = World(0, things=torch.arange(THINGS), labeled=300)
    plain = learn(make("supervised"), world, pairs=False, epochs=2)
    none = learn(make("kiddin", teacher=nn.Identity(), student_at="layer1", weight=0.0), world, pairs=False, epochs=2)
    assert same_weights(weights(plain.student), weights(none.student))
    text = learn(make("kiddin", teacher=nn.Identity(), student_at="layer1", weight=1.0), world, pairs=False, epochs=2)
    before = build("mlp", inputs=2 * THINGS, classes=4, hidden=[32, 32], seed=0)
    assert torch.equal(text.student.classifier.weight, before.classifier.weight)
    assert not torch.equal(text.student.layer1[1].weight, before.layer1[1].weight)


def test_the_final_model_needs_no_description_and_the_graph_that_was_given_is_not_changed():
    world, graph = World(0, things=torch.arange(THINGS)), make_graph()
    before = weights(graph)
    run = learn(_infused(nn.Identity(), graph, weight=0.5), world, pairs=True, epochs=1)
    assert run.student(world.x[:3], world.nodes[:3]).shape == (3, 4)
    assert same_weights(weights(graph), before)


def test_wrong_arguments_are_refused():
    for wrong in ({"weight": 2.0}, {"graph": nn.Identity()}):
        with pytest.raises(ArgumentError):
            make("kiddin", teacher=nn.Identity(), student_at="layer1", **wrong)
    with pytest.raises(ArgumentError):
        RelationalGraph(2, {"is": torch.tensor([[0, 2]])})
    with pytest.raises(ArgumentError):
        RelationalGraph(2, {})
    with pytest.raises(LimbeckError, match="logits"):
        distill(
            nn.Conv1d(1, 1, 1), _infused(nn.Identity(), make_graph(), weight=0.0), torch.zeros(4, 2), epochs=1
        ).finish()
