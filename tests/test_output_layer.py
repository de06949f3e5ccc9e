"""Reading the input of the output layer in place of logits, which are then never computed."""

from __future__ import annotations

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from limbeck.batch import LOGITS, LOGITS_INPUT, Batch, Outputs, Requirements, Term
from limbeck.data import ArrayDataset, ShuffledLoader
from limbeck.engine import distill
from limbeck.errors import MissingOutputError
from limbeck.functional import cross_entropy, kl_divergence
from limbeck.losses import Loss, LossTerm
from limbeck.model_call import find_output_layer
from limbeck.recipe import Optimizer, Stage
from limbeck.tap import Tapped


class Counting(nn.Linear):
    """An output layer that counts the rows for which it was called."""

    rows = 0

    def forward(self, x):
        self.rows += x.shape[:-1].numel()
        return super().forward(x)


class Network(nn.Module):
    def __init__(self, seed: int = 0) -> None:
        super().__init__()
        with torch.random.fork_rng():
            torch.manual_seed(seed)
            self.body = nn.Sequential(nn.Linear(5, 8), nn.Tanh())
            self.last = Counting(8, 3)

    def forward(self, x):
        return self.last(self.body(x))


class LinearDivergence(LossTerm):
    """KL of the softmaxes of two output layers, computed from their inputs."""

    name, per = "linear_kl", "example"

    @property
    def requires(self) -> Requirements:
        return Requirements(frozenset({LOGITS_INPUT}), frozenset({LOGITS_INPUT}))

    def setup(self, context):
        fitted = LinearDivergence()
        fitted.layers = (context.output_layer, context.teacher_output_layer)  # a tuple: no part of the loss
        return fitted

    def term(self, student, teacher, batch, progress):
        ours, theirs = (
            F.linear(side[LOGITS_INPUT], layer.weight, layer.bias)
            for side, layer in zip((student, teacher), self.layers, strict=True)
        )
        return Term(kl_divergence(ours, theirs).sum(), self.count(batch))

    def count(self, batch):
        return float(batch.size)


def loader() -> ShuffledLoader:
    draw = torch.Generator().manual_seed(0)
    return ShuffledLoader(
        ArrayDataset(torch.randn(32, 5, generator=draw), torch.randint(3, (32,), generator=draw)), batch_size=8
    )


SGD = Optimizer("sgd", lr=0.5)


def test_logits_are_never_computed():
    student, teacher = Network(), Network(seed=1)
    distill(student, Stage(LinearDivergence(), teacher=teacher, steps=10, optimizer=SGD), loader()).finish()
    assert student.last.rows == teacher.last.rows == 1  # the check that the logits are its output


def test_the_student_learns_what_it_learns_from_logits():
    students = Network(), Network()
    for student, loss in zip(students, (LinearDivergence(), Loss(kl_divergence)), strict=True):
        distill(student, Stage(loss, teacher=Network(seed=1), steps=10, optimizer=SGD), loader()).finish()
    assert not torch.equal(students[0].last.weight, Network().last.weight)
    for ours, other in zip(students[0].parameters(), students[1].parameters(), strict=True):
        torch.testing.assert_close(ours, other, rtol=1e-5, atol=1e-6)


def test_a_loss_that_reads_logits_beside_it_gets_them():
    student = Network()
    objective = 0.5 * LinearDivergence() + 0.5 * Loss(cross_entropy)
    distill(student, Stage(objective, teacher=Network(seed=1), steps=4), loader()).finish()
    assert student.last.rows > 4 * 8


def test_tapped_ends_before_the_output_layer():
    network, x = Network(), torch.randn(4, 5)
    with Tapped(network, [LOGITS_INPUT, "body.0"]) as tapped:
        outputs = tapped(x)
        assert sorted(outputs) == ["body.0", LOGITS_INPUT]
        torch.testing.assert_close(outputs[LOGITS_INPUT], network.body(x))
        with pytest.raises(MissingOutputError):
            outputs[LOGITS]
    with Tapped(network, [LOGITS_INPUT, LOGITS]) as tapped:
        torch.testing.assert_close(tapped(x)[LOGITS], network(x))
    assert not network.last._forward_pre_hooks


def test_a_model_whose_logits_are_changed_after_the_layer_is_refused():
    class Capped(Network):
        def forward(self, x):
            return super().forward(x).tanh()

    with Tapped(Capped(), [LOGITS_INPUT]) as tapped, pytest.raises(MissingOutputError, match=r"'last'"):
        tapped(torch.randn(4, 5))


def test_a_model_without_a_linear_layer():
    with pytest.raises(MissingOutputError, match=r"no linear layer"):
        Tapped(nn.Conv2d(3, 4, 1), [LOGITS_INPUT])


def test_which_layer_it_is():
    class Own(Network):
        def __init__(self) -> None:
            super().__init__()
            self.auxiliary = nn.Linear(8, 3)

        def get_output_embeddings(self):
            return self.last

    assert find_output_layer(Network())[0] == "last"
    assert find_output_layer(Own())[0] == "last"
    assert find_output_layer(nn.Identity()) is None


def test_a_text_is_checked_at_a_few_positions():
    class Language(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.embed, self.lm_head = nn.Embedding(20, 8), Counting(8, 20)

        def forward(self, tokens):
            return self.lm_head(self.embed(tokens))

    network = Language()
    with Tapped(network, [LOGITS_INPUT]) as tapped:
        assert tapped(torch.randint(20, (6, 100)))[LOGITS_INPUT].shape == (6, 100, 8)
    assert network.lm_head.rows == 8


def test_outputs_know_nothing_of_logits():
    assert LOGITS not in Outputs({LOGITS_INPUT: torch.zeros(1)})
    assert Batch(torch.zeros(2)).size == 2
