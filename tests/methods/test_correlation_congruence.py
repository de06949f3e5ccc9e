"""Correlation congruence: the series with plain loops, its limit, refusals, and the claim."""

from __future__ import annotations

import math

import pytest
import torch

from limbeck.batch import Batch, Outputs, Progress
from limbeck.errors import ArgumentError
from limbeck.losses import weighted_loss
from limbeck.methods import make
from limbeck.methods.relations.correlation_congruence import correlation_squared_error
from methods.planted import Planted


def brute_force_correlation_squared_error(student, teacher, mask=None, *, gamma=0.4, order=2):
    ours, theirs = (_correlate(features, mask, gamma, order) for features in (student, teacher))
    pairs = [[(a - b) ** 2 for a, b in zip(x, y, strict=True)] for x, y in zip(ours, theirs, strict=True)]
    return torch.tensor(pairs, dtype=torch.float64)


def _correlate(features, mask, gamma, order):
    features = features.double()
    if mask is not None and mask.shape == features.shape[: mask.ndim]:
        features = features * mask.double().reshape(*mask.shape, *[1] * (features.ndim - mask.ndim))
    rows = [example.flatten().tolist() for example in features]
    return [[_series(_cosine(x, y), gamma, order) for y in rows] for x in rows]


def _cosine(x, y):
    lengths = math.hypot(*x) * math.hypot(*y)
    return sum(a * b for a, b in zip(x, y, strict=True)) / lengths if lengths else 0.0


def _series(cosine, gamma, order):
    return sum(math.exp(-2 * gamma) * (2 * gamma) ** p / math.factorial(p) * cosine**p for p in range(order + 1))


def draw(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


@pytest.mark.parametrize("hyper", [{}, {"order": 1}, {"gamma": 2.0, "order": 5}])
@pytest.mark.parametrize("shapes", [((5, 3), (5, 4)), ((4, 2, 3, 3), (4, 3, 2, 2)), ((1, 3), (1, 2))])
def test_it_is_the_formula_of_the_paper(shapes, hyper):
    s, t = draw(*shapes[0]), draw(*shapes[1], seed=1)
    expected = brute_force_correlation_squared_error(s, t, **hyper)
    torch.testing.assert_close(correlation_squared_error(s, t, **hyper), expected)


def test_large_orders_are_the_gaussian_kernel():
    s, t = draw(6, 3), draw(6, 4, seed=1)
    ours, theirs = (torch.exp(-0.7 * torch.cdist(x, x) ** 2) for x in map(torch.nn.functional.normalize, (s, t)))
    torch.testing.assert_close(correlation_squared_error(s, t, gamma=0.7, order=40), (ours - theirs).square())


def test_positions_that_do_not_count_change_nothing():
    s, t, mask = draw(3, 4, 2), draw(3, 4, 5, seed=1), torch.tensor([[1, 1, 1, 0], [1, 0, 0, 0], [1, 1, 1, 1]]).bool()
    value = correlation_squared_error(s, t, mask)
    torch.testing.assert_close(value, brute_force_correlation_squared_error(s, t, mask))
    s[~mask] = torch.nan
    torch.testing.assert_close(correlation_squared_error(s, t, mask), value)


def test_an_empty_batch_has_no_pairs():
    assert correlation_squared_error(torch.zeros(0, 3), torch.zeros(0, 5)).shape == (0, 0)


def test_the_objective_has_labels_soft_targets_and_correlations():
    (stage,) = make("correlation_congruence", teacher=Planted().truth, at="a", student_at="b", weight=7.0).stages()
    ours = Outputs(b=draw(6, 3), logits=draw(6, 4, seed=1))
    theirs = Outputs(a=draw(6, 5, seed=2), logits=draw(6, 4, seed=3))
    batch = Batch(torch.zeros(6, 1), labels=torch.arange(6) % 4)
    loss = weighted_loss(stage.objective(ours, theirs, batch, Progress()), stage.objective.counts(batch))
    hard = -ours["logits"].log_softmax(-1)[torch.arange(6), batch.labels].mean()
    p, log_q = (theirs["logits"] / 4).softmax(-1), (ours["logits"] / 4).log_softmax(-1)
    soft = 16 * (p * (p.log() - log_q)).sum(-1).mean()
    pairs = brute_force_correlation_squared_error(ours["b"], theirs["a"]).mean()
    torch.testing.assert_close(loss, hard + soft + 7 * pairs)


@pytest.mark.parametrize("wrong", [{"gamma": 0.0}, {"gamma": True}, {"order": 0}, {"order": 1.5}, {"weight": -1.0}])
def test_what_cannot_be_is_refused_when_it_is_built(wrong):
    with pytest.raises(ArgumentError, match=next(iter(wrong))):
        make("correlation_congruence", teacher=Planted().truth, at="layer1", student_at="layer1", **wrong)


def test_correlations_help_beside_the_student_alone():
    planted = Planted()
    places = {"at": "layer2", "student_at": "layer2", "soft_weight": 0.0}
    recipe = make("correlation_congruence", teacher=planted.truth, **places, weight=30.0)
    alone = planted.accuracy(planted.alone(epochs=20))
    assert planted.accuracy(planted.learn(recipe, epochs=20).student) > alone + 0.02
