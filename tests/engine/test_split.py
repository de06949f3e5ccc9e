"""The gradient does not depend on how a batch is split."""

from __future__ import annotations

import copy
from itertools import pairwise
from typing import Any

import pytest
import torch
from torch import nn

from engine.stories import SGD, arrays, everything, network, weights
from limbeck.batch import Batch
from limbeck.data import ArrayDataset, ShuffledLoader, TorchLoader
from limbeck.engine import distill
from limbeck.errors import LimbeckError
from limbeck.functional import cross_entropy, kernel, kl_divergence
from limbeck.losses import Loss
from limbeck.recipe import Optimizer, Recipe, Stage
from limbeck.teachers import ModelTeacher


def learn(
    data: Any, *, accumulate: int, dtype: torch.dtype = torch.float64, **setting: Any
) -> tuple[torch.Tensor, Any]:
    """The weights after a run on `data`, student's and heads', and its last report."""
    student, stage = network().to(dtype), everything(network(hidden=6, seed=7).to(dtype))
    setting = {"optimizer": SGD, "log_every": 1, **setting}
    run = distill(student, stage, data, accumulate=accumulate, **setting).finish()
    return weights(student, stage.objective), run.history[-1]


def batches(rows: list[int], *, dtype: torch.dtype = torch.float64) -> TorchLoader:
    """Uneven batches of these many rows, from the same uneven examples."""
    data = arrays(sum(rows), uneven=True, dtype=dtype)
    bounds = torch.tensor([0, *rows]).cumsum(0).tolist()
    return TorchLoader([data.take(torch.arange(a, b)) for a, b in pairwise(bounds)])


def whole(rows: int, batch_size: int, dtype: torch.dtype = torch.float64) -> ShuffledLoader:
    return ShuffledLoader(arrays(rows, uneven=True, dtype=dtype), batch_size=batch_size, shuffle=False)


TOLERANCE = {torch.float64: 1e-12, torch.float32: 1e-6}


@pytest.mark.parametrize("dtype", TOLERANCE, ids=str)
@pytest.mark.parametrize("accumulate", [2, 3, 4, 12])
def test_one_step_however_it_is_split(accumulate, dtype):
    one, _ = learn(whole(12, 12, dtype), accumulate=1, dtype=dtype, steps=1)
    split, _ = learn(whole(12, 12 // accumulate, dtype), accumulate=accumulate, dtype=dtype, steps=1)
    assert float((one - split).abs().max()) < TOLERANCE[dtype]


@pytest.mark.parametrize("dtype", TOLERANCE, ids=str)
@pytest.mark.parametrize("accumulate", [2, 3, 4])
def test_three_epochs_with_a_last_window_that_is_not_full(accumulate, dtype):
    """30 examples: two windows of 12 and one of 6, in full or partial micro-batches."""
    one, report = learn(whole(30, 12, dtype), accumulate=1, dtype=dtype, epochs=3)
    split, other = learn(whole(30, 12 // accumulate, dtype), accumulate=accumulate, dtype=dtype, epochs=3)
    assert report.step == other.step == 9
    assert float((one - split).abs().max()) < TOLERANCE[dtype]
    assert other.loss == pytest.approx(report.loss, rel=1e-5)
    assert other.terms == pytest.approx(report.terms, rel=1e-5)
    assert other.gradient_norms == pytest.approx(report.gradient_norms, rel=1e-4)


@pytest.mark.parametrize("split", [[5, 1, 6, 2, 9, 1, 6], [1, 1, 10, 10, 1, 1, 3, 3]])
def test_micro_batches_of_uneven_sizes(split):
    one, _ = learn(whole(30, 12), accumulate=1, epochs=2)
    other, _ = learn(batches(split), accumulate=3, epochs=2)
    assert float((one - other).abs().max()) < 1e-12


def test_the_law_is_not_that_of_a_mean_of_means():
    """Averaging each micro-batch first gives other weights, so the tests above can fail."""
    data = arrays(12, uneven=True, dtype=torch.float64)
    model = network().double()
    counted = data.labels >= 0
    whole_mean = torch.nn.functional.cross_entropy(model(data.take(torch.arange(12)).inputs), data.labels)
    means = [
        torch.nn.functional.cross_entropy(model(data.take(torch.arange(a, a + 4)).inputs), data.labels[a : a + 4])
        for a in (0, 4, 8)
    ]
    assert len({int(counted[a : a + 4].sum()) for a in (0, 4, 8)}) > 1
    assert abs(float((whole_mean - sum(means) / 3).detach())) > 1e-3


def test_the_step_is_the_one_a_person_would_write():
    """One SGD step on three micro-batches against the plain formula on the whole batch."""
    data = arrays(12, uneven=True, dtype=torch.float64)
    student, teacher = network().double(), network(hidden=6, seed=7).double()
    plain = copy.deepcopy(student)
    batch = data.take(torch.arange(12))
    labeled = batch.labels >= 0
    labeled &= batch.mask
    z, v = plain(batch.inputs), teacher(batch.inputs).detach()
    ce = torch.nn.functional.cross_entropy(z[labeled], batch.labels[labeled])
    kl = (torch.softmax(v / 3, -1) * (torch.log_softmax(v / 3, -1) - torch.log_softmax(z / 3, -1))).sum(-1) * 9
    (0.3 * ce + 0.7 * kl[batch.mask].mean()).backward()
    with torch.no_grad():
        for parameter in plain.parameters():
            parameter -= 0.1 * parameter.grad
    stage = Stage(0.3 * Loss(cross_entropy) + 0.7 * Loss(kl_divergence, temperature=3.0), teacher=teacher, steps=1)
    plan = Optimizer("sgd", lr=0.1, decay="constant")
    distill(student, stage, whole(12, 4), accumulate=3, optimizer=plan).finish()
    assert float((weights(student) - weights(plain)).abs().max()) < 1e-14


@pytest.mark.parametrize("accumulate", [2, 4])
def test_positions_count_one_by_one(accumulate):
    """Sequences with masks and labels of positions: [batch, positions, classes]."""
    draw = torch.Generator().manual_seed(3)
    inputs = torch.randn(8, 4, 5, generator=draw, dtype=torch.float64)
    labels = torch.randint(3, (8, 4), generator=draw)
    labels[torch.rand(8, 4, generator=draw) < 0.3] = -100
    labels[4:6] = -100
    mask = torch.rand(8, 4, generator=draw) < torch.linspace(0.1, 1.0, 8)[:, None]
    data = ArrayDataset(inputs, labels, mask=mask)
    found = []
    for size, window in ((8, 1), (8 // accumulate, accumulate)):
        student, teacher = network(hidden=4).double(), network(seed=7, hidden=4).double()
        objective = Loss(cross_entropy) + Loss(kl_divergence, temperature=2.0)
        run = distill(
            student,
            Stage(objective, teacher=teacher, steps=3),
            ShuffledLoader(data, batch_size=size, shuffle=False),
            accumulate=window,
            optimizer=SGD,
        )
        run.finish()
        found.append(weights(student))
    assert float((found[0] - found[1]).abs().max()) < 1e-12


def test_a_window_in_which_nothing_counts_moves_nothing():
    inputs = torch.randn(4, 5)
    data = TorchLoader([Batch(inputs, labels=torch.tensor([0, 1, 2, 0])), Batch(inputs, labels=torch.full((4,), -100))])
    student = network()
    plan = Optimizer("sgd", lr=0.1, decay="constant")
    seen = []
    for report in distill(student, Stage(Loss(cross_entropy), epochs=1), data, optimizer=plan, log_every=1):
        seen.append((weights(student), report))
    assert torch.equal(seen[0][0], seen[1][0])
    assert seen[1][1].loss == 0.0
    assert seen[1][1].terms == {"cross_entropy": 0.0}


@kernel(per="pair")
def gram(student, teacher):
    return (student @ student.T - teacher @ teacher.T).square()


@kernel(per="batch")
def spread(student, teacher):
    return (student.std() - teacher.std()).square()


@pytest.mark.parametrize("compares", [gram, spread])
def test_losses_that_compare_examples_refuse_to_be_split(compares):
    stage = Stage(Loss(cross_entropy) + 0.1 * Loss(compares), teacher=network(seed=1), epochs=1)
    with pytest.raises(LimbeckError, match=rf"{compares.__name__} yields one value per {compares.per}.*accumulate=3"):
        distill(network(), stage, whole(12, 4, torch.float32), accumulate=3)
    distill(network(), stage, whole(12, 4, torch.float32), accumulate=1).finish()


def test_batch_statistics_are_the_exception():
    """Train-mode BatchNorm mixes examples, so a split batch is another function: the exception that is documented."""
    found = []
    for size, window in ((12, 1), (4, 3)):
        student = network(norm=True).double()
        stage = Stage(Loss(cross_entropy), steps=1, optimizer=SGD)
        distill(student, stage, whole(12, size), accumulate=window).finish()
        found.append(weights(student))
    assert float((found[0] - found[1]).abs().max()) > 1e-6


def test_one_loss_object_serves_two_stages_of_other_shapes():
    """One reads whole texts, the other their first tokens, batch by batch: with a loss for each it is the same."""
    inputs = torch.randn(8, 5, 4, generator=torch.Generator().manual_seed(0))
    ways = {"texts": lambda batch: batch.inputs, "firsts": lambda batch: batch.inputs[:, 0]}

    def linear(seed: int) -> nn.Linear:
        with torch.random.fork_rng():
            torch.manual_seed(seed)
            return nn.Linear(4, 3)

    def trained(**losses: Loss) -> torch.Tensor:
        models = {name: linear(1) for name in ways}
        a, b = (
            Stage(
                losses[name],
                trains=name,
                teacher=ModelTeacher(linear(0), preprocess=preprocess),
                preprocess=preprocess,
                epochs=2,
                optimizer=SGD,
            )
            for name, preprocess in ways.items()
        )
        distill(models, Recipe(a & b, ship="texts"), ShuffledLoader(ArrayDataset(inputs), batch_size=4)).finish()
        return weights(*models.values())

    shared = Loss(kl_divergence)
    own = trained(texts=Loss(kl_divergence), firsts=Loss(kl_divergence))
    assert torch.equal(trained(texts=shared, firsts=shared), own)
