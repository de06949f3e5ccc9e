"""Contrastive distillation: both forms against plain loops, what the memories hold, refusals, and the claim."""

from __future__ import annotations

import math

import pytest
import torch
from torch.nn import functional as F

from limbeck.batch import Batch, Outputs, Progress
from limbeck.data import ArrayDataset, ShuffledLoader
from limbeck.engine import distill
from limbeck.errors import LimbeckError
from limbeck.losses import LossContext
from limbeck.methods import make
from limbeck.methods.relations.contrast import ContrastiveMemory, contrast, in_batch_contrast, log_mean_score
from limbeck.recipe import Optimizer
from methods.planted import Planted


def brute_force_in_batch_contrast(student, teacher, labels=None, *, temperature=0.07, normalize=True):
    ours, theirs = student.double().tolist(), teacher.double().tolist()
    total = 0.0
    for i in range(len(ours)):
        others = [
            j for j in range(len(ours))
            if j != i and (labels is None or int(labels[i]) != int(labels[j]) or int(labels[i]) == -100)
        ]  # fmt: skip
        noise = len(others) * (_mean_score(len(ours[0]), temperature) if normalize else 1 / len(ours))
        for j in [i, *others]:
            score = math.exp(_cosine(ours[i], theirs[j]) / temperature)
            total -= math.log(score / (score + noise)) if i == j else math.log(noise / (score + noise))
    return torch.tensor(total / max(len(ours), 1), dtype=torch.float64)


def _cosine(x, y):
    lengths = math.hypot(*x) * math.hypot(*y)
    return sum(a * b for a, b in zip(x, y, strict=True)) / lengths if lengths else 0.0


def _mean_score(width, temperature):
    """The mean of exp(cos / T) over directions, with the density of the cosine, by the midpoint rule."""
    if width == 2:
        return sum(math.exp(math.cos(2 * math.pi * (k + 0.5) / 5000) / temperature) for k in range(5000)) / 5000
    steps = 40000
    cosines = [-1 + 2 * (k + 0.5) / steps for k in range(steps)]
    density = [(1 - c * c) ** ((width - 3) / 2) for c in cosines]
    return sum(d * math.exp(c / temperature) for c, d in zip(cosines, density, strict=True)) / sum(density)


def draw(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


@pytest.mark.parametrize("hyper", [{}, {"temperature": 0.5}, {"normalize": False}])
@pytest.mark.parametrize("labels", [None, [0, 1, 0, -100, 1, -100]])
def test_in_a_batch_it_is_the_formula(hyper, labels):
    s, t = draw(6, 4), draw(6, 4, seed=1)
    labels = None if labels is None else torch.tensor(labels)
    expected = brute_force_in_batch_contrast(s, t, labels, **hyper)
    torch.testing.assert_close(in_batch_contrast(s, t, labels, **hyper), expected, rtol=1e-5, atol=1e-8)


def test_the_mean_score_is_that_of_random_directions():
    for width, temperature in ((3, 0.5), (128, 0.07), (64, 0.1)):
        assert math.exp(log_mean_score(width, temperature)) == pytest.approx(_mean_score(width, temperature), rel=1e-4)
    assert log_mean_score(3, 0.05) == pytest.approx(math.log(0.05 * math.sinh(20)))


def test_without_negatives_there_is_no_loss():
    assert float(in_batch_contrast(draw(1, 3), draw(1, 3))) == 0
    assert float(in_batch_contrast(draw(3, 3), draw(3, 3, seed=1), torch.zeros(3, dtype=torch.int64))) == 0
    assert float(in_batch_contrast(draw(0, 3), draw(0, 3))) == 0


SIZE, IDS = 5, torch.tensor([40, 7, 796, 3, 11, 60, 8, 9])


def memory(**options):
    defaults = {"negatives": 100, "momentum": 0.5, "size": SIZE, "temperature": 0.5, "normalize": True}
    loss = ContrastiveMemory("a", "b", **{**defaults, **options})
    ours, theirs, batch = step()
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return loss.setup(LossContext(ours, theirs, batch, ids=IDS))


def step(seed=0, mask=None):
    ours, theirs = Outputs(a=draw(4, 3, seed=seed)), Outputs(b=draw(4, 6, 2, 2, seed=seed + 1))
    batch = Batch(torch.zeros(4, 1), id=IDS[[1, 3, 2, 6]], labels=torch.tensor([0, 1, 0, 1]), mask=mask)
    return ours, theirs, batch


def unit(x):
    return F.normalize(x, dim=1)


@pytest.mark.parametrize("normalize", [True, False])
def test_with_memories_it_is_the_formula_in_both_directions(normalize):
    loss = memory(normalize=normalize)
    loss.after_step(*step(seed=5), Progress())  # now the classes of four rows are known
    ours, theirs, batch = step(seed=7)
    mine, its = unit(loss.student_projection(ours["a"])), unit(loss.teacher_projection(theirs["b"].mean((2, 3))))
    rows, known = [1, 3, 2, 6], {1: 0, 3: 1, 2: 0, 6: 1}
    total = 0.0
    for anchors, bank in ((mine, loss.teacher_memory), (its, loss.student_memory)):
        for i, row in enumerate(rows):
            others = [r for r in range(8) if r != row and known.get(r) != int(batch.labels[i])]
            noise = len(others) * (math.exp(log_mean_score(SIZE, 0.5)) if normalize else 1 / 8)
            score = math.exp(float((mine[i] @ its[i]).detach()) / 0.5)
            total -= math.log(score / (score + noise))
            for r in others:
                score = math.exp(float((anchors[i] @ bank[r]).detach()) / 0.5)
                total -= math.log(noise / (score + noise))
    term = loss.term(ours, theirs, batch, Progress())
    assert float(term.total.detach()) == pytest.approx(total)
    assert term.count == 4


def test_a_step_moves_the_rows_of_its_examples_and_no_others():
    loss = memory(momentum=0.25)
    before = loss.teacher_memory.clone()
    ours, theirs, batch = step(mask=torch.tensor([True, True, False, True]))
    loss.after_step(ours, theirs, batch, Progress())
    new = unit(loss.teacher_projection(theirs["b"].mean((2, 3)))).detach()
    expected = before.clone()
    for position, row in ((0, 1), (1, 3), (3, 6)):
        expected[row] = unit((0.25 * before[row] + 0.75 * new[position])[None])[0]
    torch.testing.assert_close(loss.teacher_memory, expected)
    assert loss.classes_of_rows.tolist() == [-100, 0, -100, 1, -100, -100, 1, -100]
    torch.testing.assert_close(loss.student_memory.norm(dim=1), torch.ones(8).double())


def test_examples_that_do_not_count_change_nothing():
    loss, mask = memory(), torch.tensor([True, False, True, True])
    ours, theirs, batch = step(mask=mask)
    value = loss.term(ours, theirs, batch, Progress()).total.detach()
    part = [Outputs({key: tensor[mask] for key, tensor in side.items()}) for side in (ours, theirs)]
    rest = Batch(torch.zeros(3, 1), id=batch.id[mask], labels=batch.labels[mask])
    torch.testing.assert_close(value, loss.term(*part, rest, Progress()).total.detach())
    ours["a"][1] = torch.nan
    torch.testing.assert_close(loss.term(ours, theirs, batch, Progress()).total.detach(), value)


def test_negatives_are_drawn_anew_for_each_step_and_the_same_for_its_parts():
    loss = memory(negatives=4)
    draws = [loss._draw(number).tolist() for number in range(20)]
    assert len({tuple(one) for one in draws}) > 15
    assert loss._draw(3).tolist() == draws[3]
    assert {row for one in draws for row in one} == set(range(8))


def test_scores_of_any_size_are_finite():
    positive, negative = torch.tensor([-1e4, 1e4], requires_grad=True), torch.full((2, 3), 1e4, requires_grad=True)
    counts = torch.tensor([[True] * 3, [False] * 3])
    value = contrast(positive, negative, counts, 0.0)
    assert value.isfinite().all()
    slopes = torch.autograd.grad(value.sum(), (positive, negative))
    assert all(slope.isfinite().all() for slope in slopes)


def test_a_loader_without_ids_is_refused():
    planted = Planted()
    recipe = make("crd", teacher=planted.truth, at="features", student_at="features")
    loader = torch.utils.data.DataLoader(torch.utils.data.TensorDataset(planted.x, planted.labels), batch_size=40)
    with pytest.raises(LimbeckError, match="id"):
        distill(planted.student(), recipe, loader, epochs=1).finish()


@pytest.mark.parametrize("wrong", [{"momentum": 1.0}, {"negatives": 0}, {"contrast_temperature": 0.0}, {"size": 1.5}])
def test_what_cannot_be_is_refused_when_it_is_built(wrong):
    with pytest.raises(LimbeckError):
        make("crd", teacher=Planted().truth, at="features", student_at="features", **wrong)


def test_ids_of_a_subset_are_no_positions():
    planted = Planted()
    data = ArrayDataset(planted.x, planted.labels).select(torch.arange(0, 120, 2))
    recipe = make("crd", teacher=planted.truth, at="features", student_at="features", size=8)
    loader = ShuffledLoader(data, batch_size=20)
    assert distill(planted.student(), recipe, loader, epochs=1, optimizer=Optimizer("adam")).finish().finished


@pytest.mark.parametrize("memory", [True, False])
def test_contrast_helps_beside_the_student_alone(memory):
    planted = Planted()
    places = {"at": "layer2", "student_at": "layer2"}
    recipe = make("crd", teacher=planted.truth, **places, weight=0.3, size=32, contrast_temperature=0.2, memory=memory)
    alone = planted.accuracy(planted.alone(epochs=20))
    assert planted.accuracy(planted.learn(recipe, epochs=20).student) > alone + 0.02


@pytest.mark.parametrize("option", [{"negatives": 64}, {"momentum": 0.5}])
def test_options_of_the_memories_are_refused_without_them(option):
    with pytest.raises(LimbeckError, match=f"{next(iter(option))}=.*memory=False"):
        make("crd", teacher=Planted().truth, at="features", student_at="features", memory=False, **option)
