"""Unusual inputs, students and layers train like plain ones."""

from __future__ import annotations

from typing import NamedTuple

import pytest
import torch
from torch import Tensor, nn

from engine.stories import SGD, arrays, hint, make_loader, network, weights
from limbeck.batch import Batch
from limbeck.data import ShuffledLoader, shard_batch
from limbeck.engine import distill
from limbeck.engine.checkpoint import clone_state, to_device
from limbeck.errors import LimbeckError
from limbeck.functional import cross_entropy, kl_divergence
from limbeck.integrations import DistillationLoss
from limbeck.losses import Loss
from limbeck.methods import make
from limbeck.models import load
from limbeck.recipe import Optimizer, Stage

CE = Loss(cross_entropy)


class Two(NamedTuple):
    """Inputs under names."""

    left: Tensor
    right: Tensor


class Takes(nn.Module):
    """A student of two inputs."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.map = nn.Linear(5, 3)

    def forward(self, left: Tensor, right: Tensor) -> Tensor:
        return self.map(left - right)


def pairs() -> Two:
    return Two(*torch.randn(2, 12, 5, generator=torch.Generator().manual_seed(0)))


def test_inputs_under_names_stay_what_they_are():
    moved = Batch(pairs(), extra={"more": pairs()}).to("cpu")
    for found in (moved.inputs, moved.extra["more"], to_device(pairs(), torch.device("cpu")), clone_state(pairs())):
        assert isinstance(found, Two)
        assert torch.equal(found.right, pairs().right)
    mine = shard_batch(Batch(pairs()), 1, 2)
    assert isinstance(mine.inputs, Two)
    assert torch.equal(mine.inputs.left, pairs().left[1::2])


@pytest.mark.parametrize("as_loader", [False, True])
def test_inputs_under_names_train_as_a_tuple_does(as_loader):
    labels = torch.arange(12) % 3
    found = []
    for inputs in (tuple(pairs()), pairs()):
        data = [Batch(inputs, labels=labels)] if as_loader else (inputs, labels)
        student = Takes()
        distill(student, Stage(CE, epochs=2), data, optimizer=SGD, batch_size=4).finish()
        found.append(weights(student))
    assert torch.equal(*found)


# A student that torch.compile made.


def teacher() -> nn.Module:
    return network(hidden=6, seed=7)


# The compiler begins with the wrapper of the shape checks, and looks whether its arguments have gradients.
@pytest.mark.filterwarnings("ignore:The .grad attribute of a Tensor that is not a leaf")
def test_a_compiled_student_is_kept_as_the_module_that_was_compiled(tmp_path):
    """The same names on disk, the same addresses, the same weights; and what was compiled is what is called."""
    calls = []

    def backend(graph, _):
        calls.append(graph)
        return graph.forward

    found = []
    for compiled in (False, True):
        student, out = network(norm=True), tmp_path / str(compiled)
        given = torch.compile(student, backend=backend) if compiled else student
        stage = Stage(CE + hint() + Loss(kl_divergence), teacher=teacher(), epochs=2, optimizer=SGD)
        run = distill(given, stage, make_loader(), out=out, log_every=2)
        for _ in run:
            break
        run = distill(given, stage, make_loader(), out=out, log_every=2, resume=True).finish()
        opened = load(out / "student", build=lambda: network(norm=True))
        assert torch.equal(weights(opened), weights(student))
        assert run.student is student
        assert not any(module._forward_hooks for module in student.modules())
        found.append(weights(student))
    assert calls
    torch.testing.assert_close(*found)


def test_a_compiled_teacher_shows_its_inside():
    found = []
    for compiled in (False, True):
        asked = torch.compile(teacher(), backend="eager") if compiled else teacher()
        student = network()
        stage = Stage(CE + hint(), teacher=asked, epochs=1, optimizer=SGD)
        distill(student, stage, make_loader()).finish()
        found.append((weights(student), stage.describe()["teacher"]["fingerprint"]))
    torch.testing.assert_close(found[0][0], found[1][0])
    assert found[0][1] == found[1][1]


# Parts that were put to rest.


def at_rest(student: nn.Module) -> nn.Module:
    student[1].requires_grad_(False).eval()
    return student


def test_a_batch_norm_that_was_frozen_stays_so():
    """Also after its caller has asked the whole model something between two reports."""
    student = at_rest(network(norm=True))
    before = weights(student[1])
    for _ in distill(student, Stage(CE, epochs=2), make_loader(), log_every=1, optimizer=SGD):
        assert not student[1].training
        assert student.training
        student.eval()(torch.zeros(2, 5))
        student.train()
    assert torch.equal(weights(student[1]), before)
    assert not student[1].training


@pytest.mark.parametrize("sleeping", ["whole", "learnable part"])
def test_a_model_that_was_only_asked_trains_as_a_whole(sleeping):
    student = network(norm=True)
    if sleeping == "whole":
        at_rest(student).eval()
    else:
        student[1].eval()
    before = student[1].running_mean.clone()
    distill(student, Stage(CE, epochs=1), make_loader(), optimizer=SGD).finish()
    assert not torch.equal(student[1].running_mean, before)
    assert not student[1].training


# A BatchNorm that meets a single example.


def test_a_last_batch_of_one_is_refused_before_the_first_step():
    student = network(norm=True)
    before = weights(student)
    with pytest.raises(LimbeckError, match=r"'student' or its loss holds a BatchNorm.*drop_last=True"):
        distill(student, Stage(CE, epochs=1), make_loader(9), log_every=1).finish()
    assert torch.equal(weights(student), before)


@pytest.mark.parametrize("case", ["no norm", "a norm at rest", "dropped", "too short to meet it"])
def test_a_last_batch_of_one_is_taken_where_it_can_be(case):
    student = network(norm=case != "no norm")
    student = at_rest(student) if case == "a norm at rest" else student
    data = ShuffledLoader(arrays(9), batch_size=4, drop_last=case == "dropped")
    stage = Stage(CE, steps=2) if case == "too short to meet it" else Stage(CE, epochs=2)
    assert distill(student, stage, data, optimizer=SGD).finish().finished


def test_a_single_example_that_no_one_could_foresee():
    batches = [Batch(torch.randn(rows, 5), labels=torch.arange(rows) % 3) for rows in (4, 1)]
    with pytest.raises(LimbeckError, match=r"'student' or its loss holds a BatchNorm.*drop_last=True"):
        distill(network(norm=True), Stage(CE, epochs=1), batches).finish()


# Gradients that are sparse.


@pytest.mark.parametrize("name", ["adamw", "adam", "sgd"])
@pytest.mark.parametrize("kind", [nn.Embedding, nn.EmbeddingBag])
def test_sparse_embeddings(name, kind):
    torch.manual_seed(0)
    student = nn.Sequential(kind(7, 4, sparse=True), nn.Flatten(), nn.LazyLinear(3))
    tokens = torch.randint(7, (12, 2), generator=torch.Generator().manual_seed(0))
    run = distill(student, Stage(CE, epochs=2), (tokens, torch.arange(12) % 3), optimizer=Optimizer(name, lr=0.1))
    if name == "sgd":
        assert run.finish().finished
    else:
        with pytest.raises(LimbeckError, match=f"{name} cannot use them.*sparse=False"):
            run.finish()


def test_a_sparse_embedding_that_does_not_learn_has_no_gradients_to_refuse():
    student = nn.Sequential(nn.Embedding(7, 4, sparse=True).requires_grad_(False), nn.Flatten(), nn.Linear(8, 3))
    words = torch.arange(24).view(12, 2) % 7
    assert distill(student, make("supervised"), (words, torch.arange(12) % 3), epochs=1).finish().finished


# Models that change in place what they were given.


class Centered(nn.Module):
    """A network that takes the mean off, in the caller's memory or in its own."""

    def __init__(self, seed: int, *, in_place: bool) -> None:
        super().__init__()
        self.network, self.in_place = network(seed=seed), in_place

    def forward(self, x: Tensor) -> Tensor:
        return self.network(x.sub_(1.0) if self.in_place else x - 1.0)


@pytest.mark.parametrize("who", ["student", "teacher", "both"])
def test_a_model_that_changes_its_inputs_in_place_changes_no_one_elses(who):
    def trained(in_place):
        student = Centered(0, in_place=in_place and who != "teacher")
        teacher = Centered(7, in_place=in_place and who != "student")
        batches = [Batch(inputs.clone(), labels=labels) for inputs, labels in given]
        both = 0.5 * CE + 0.5 * Loss(kl_divergence)
        run = distill(student, Stage(both, teacher=teacher, epochs=2), batches, optimizer=SGD).finish()
        return weights(run.student)

    draw = torch.Generator().manual_seed(1)
    given = [(torch.randn(4, 5, generator=draw), torch.arange(4) % 3) for _ in range(3)]
    torch.testing.assert_close(trained(in_place=True), trained(in_place=False), rtol=0, atol=0)


def test_a_distillation_loss_leaves_the_loops_batch_as_it_was():
    inputs = torch.randn(4, 5, generator=torch.Generator().manual_seed(1))
    kept = inputs.clone()

    def losses(in_place):
        distillation = DistillationLoss(
            Centered(0, in_place=in_place), Loss(kl_divergence), Centered(7, in_place=in_place)
        )
        return [distillation((inputs, torch.arange(4) % 3)).loss.item() for _ in range(2)]

    assert losses(in_place=True) == losses(in_place=False)
    assert torch.equal(inputs, kept)


@pytest.mark.parametrize("off", [torch.no_grad, torch.inference_mode])
def test_gradients_that_are_switched_off_are_reported_as(off):
    with off(), pytest.raises(LimbeckError, match="switched off"):
        distill(network(), Stage(CE, epochs=1), make_loader()).finish()
