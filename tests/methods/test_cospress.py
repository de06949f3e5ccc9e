"""CosPress: neighbor divergences by plain loops, what does not change them, and who gets which gradient."""

from __future__ import annotations

import math

import pytest
import torch

from limbeck.batch import Batch, Outputs, Progress
from limbeck.errors import ArgumentError, LimbeckError, UnknownNameError
from limbeck.losses import LossContext
from limbeck.methods import make
from limbeck.methods.features.cospress import (
    TEMPERATURES,
    AnglePreservation,
    neighbor_divergence,
    token_cosine_distance,
)
from methods.transformers import kept_tokens, random


def cosine(a, b):
    product = sum(x * y for x, y in zip(a, b, strict=True))
    return product / math.sqrt(sum(x * x for x in a) * sum(y * y for y in b))


def joint(rows, temperature):
    size = range(len(rows))
    p = [[0.0 if i == j else math.exp((cosine(rows[i], rows[j]) - 1) / temperature) for j in size] for i in size]
    p = [[x / sum(row) for x in row] for row in p]
    both = [[p[i][j] + p[j][i] for j in size] for i in size]
    total = sum(map(sum, both))
    return [[x / total for x in row] for row in both]


def brute_force_neighbor_divergence(student, teacher, mask=None, *, temperatures=TEMPERATURES):
    values = []
    for n in range(len(student)):
        kept = kept_tokens(mask, n, student.shape[1])
        total = 0.0
        for temperature in temperatures if len(kept) > 1 else ():
            q, p = (joint([x[n, t].tolist() for t in kept], temperature) for x in (student, teacher))
            pairs = [(i, j) for i in range(len(kept)) for j in range(len(kept)) if i != j and p[i][j] > 0]
            total += sum(p[i][j] * math.log(p[i][j] / q[i][j]) for i, j in pairs)
        values.append(total / len(temperatures))
    return torch.tensor(values, dtype=torch.float64)


def brute_force_token_cosine_distance(student, teacher, mask=None):
    values = []
    for n, (s, t) in enumerate(zip(student, teacher, strict=True)):
        if s.ndim == 1:
            values.append(1 - cosine(s.tolist(), t.tolist()))
            continue
        kept = kept_tokens(mask, n, len(s))
        values.append(sum(1 - cosine(s[i].tolist(), t[i].tolist()) for i in kept) / max(len(kept), 1))
    return torch.tensor(values, dtype=torch.float64)


def test_both_are_those_of_the_loops_and_padding_does_not_count():
    s, t = random(4, 5, 3), random(4, 5, 6, seed=1)
    mask = torch.arange(5) < torch.tensor([[5], [3], [1], [0]])
    for given in (None, mask):
        for temperatures in ((0.5, 2.0), (0.1,)):
            expected = brute_force_neighbor_divergence(s, t, given, temperatures=temperatures)
            torch.testing.assert_close(neighbor_divergence(s, t, given, temperatures=temperatures), expected)
        same = random(4, 5, 3, seed=2)
        torch.testing.assert_close(
            token_cosine_distance(s, same, given), brute_force_token_cosine_distance(s, same, given)
        )
    assert neighbor_divergence(s, t, mask)[2:].tolist() == [0.0, 0.0]
    assert neighbor_divergence(s, t).isfinite().all()


def test_an_orthogonal_map_keeps_all_angles():
    t = random(2, 6, 4)
    turn, _ = torch.linalg.qr(random(4, 4, seed=1))
    lengths = random(2, 6, 1, seed=2).exp()
    assert neighbor_divergence(lengths * (t @ turn), t).abs().max() < 1e-12
    assert neighbor_divergence(t[..., :2], t).min() > 1e-3


@pytest.mark.parametrize("shape", [(6,), (5, 6), (6, 3, 3)])
def test_the_head_learns_from_the_angles_alone_and_the_student_from_the_copy(shape):
    width = {1: lambda n: (n,), 2: lambda n: (5, n), 3: lambda n: (n, 3, 3)}[len(shape)]
    s, t = random(4, *width(3)).requires_grad_(), random(4, *shape, seed=1)
    outputs, batch = (Outputs(s=s), Outputs(t=t)), Batch(torch.zeros(4, 1), id=torch.arange(4))
    slopes = {}
    for head_weight, weight in ((1.0, 0.0), (0.0, 1.0), (1.0, 1.0)):
        torch.manual_seed(0)
        loss = AnglePreservation("s", "t", head_weight=head_weight, weight=weight)
        fitted = loss.setup(LossContext(*outputs, batch))
        total = fitted.term(*outputs, batch, Progress()).total
        wanted = [s, *fitted.parameters()]
        slopes[head_weight, weight] = torch.autograd.grad(total, wanted, materialize_grads=True)
    (own, *head), (copied, *none), both = slopes.values()
    assert not own.any()
    assert all(slope.any() for slope in head)
    assert copied.any()
    assert not any(slope.any() for slope in none)
    for got, want in zip(both, (copied, *head), strict=True):
        torch.testing.assert_close(got, want)


def test_the_head_keeps_angles_better_than_a_random_map():
    # 32 features near a space of 6 dimensions, and a head to 6.
    torch.manual_seed(0)
    t = (random(64, 6) @ random(6, 32, seed=1) + 0.05 * random(64, 32, seed=2)).float()
    outputs, batch = (Outputs(s=torch.zeros(64, 6)), Outputs(t=t)), Batch(torch.zeros(64, 1), id=torch.arange(64))
    fitted = AnglePreservation("s", "t", head_weight=1.0, weight=0.0).setup(LossContext(*outputs, batch))

    def error():
        with torch.no_grad():
            rows = [torch.nn.functional.normalize(x, dim=1) for x in (fitted.shared["head"](t), t)]
        return float((rows[0] @ rows[0].T - rows[1] @ rows[1].T).abs().mean())

    before, optimizer = error(), torch.optim.Adam(fitted.parameters(), lr=3e-3)
    for _ in range(60):
        optimizer.zero_grad()
        fitted.term(*outputs, batch, Progress()).total.backward()
        optimizer.step()
    assert error() < 0.4 * before


def test_wrong_arguments_are_refused_when_it_is_built():
    options = {"teacher": torch.nn.Linear(2, 2), "at": "a", "student_at": "b"}
    with pytest.raises(UnknownNameError, match="joint"):
        make("cospress", form="joined", **options)
    with pytest.raises(ArgumentError):
        make("cospress", weight=0.0, **options)
    loss, batch = AnglePreservation("s", "t", head_weight=1.0, weight=1.0), Batch(torch.zeros(4, 1))
    with pytest.raises(LimbeckError, match="fewer or equally many"):
        loss.setup(LossContext(Outputs(s=random(4, 5)), Outputs(t=random(4, 3)), batch))
    with pytest.raises(LimbeckError, match="equally many"):
        loss.setup(LossContext(Outputs(s=random(4, 2, 3)), Outputs(t=random(4, 3, 3)), batch))
