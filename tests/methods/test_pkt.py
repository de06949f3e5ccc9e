"""Probabilistic knowledge transfer: the formula with plain loops, a number by hand, limits, and the claim."""

from __future__ import annotations

import math

import pytest
import torch

from limbeck.methods import make
from limbeck.methods.relations.pkt import neighbor_kl
from methods.planted import Planted


def brute_force_neighbor_kl(student, teacher, mask=None):
    p, q = _neighbors(teacher, mask), _neighbors(student, mask)
    pairs = [(i, j) for i in range(len(p)) for j in range(len(p)) if i != j]
    return torch.tensor(
        sum(p[i][j] * math.log(p[i][j] / q[i][j]) for i, j in pairs) / max(len(p), 1), dtype=torch.float64
    )


def _neighbors(features, mask):
    features = features.double()
    if mask is not None and mask.shape == features.shape[: mask.ndim]:
        features = features * mask.double().reshape(*mask.shape, *[1] * (features.ndim - mask.ndim))
    rows = [example.flatten().tolist() for example in features]
    similarities = [[max((_cosine(x, y) + 1) / 2, 1e-6) for y in rows] for x in rows]
    sums = [sum(value for j, value in enumerate(row) if j != i) for i, row in enumerate(similarities)]
    return [[value / (total or 1.0) for value in row] for row, total in zip(similarities, sums, strict=True)]


def _cosine(x, y):
    lengths = math.hypot(*x) * math.hypot(*y)
    return sum(a * b for a, b in zip(x, y, strict=True)) / lengths if lengths else 0.0


def draw(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


@pytest.mark.parametrize("shapes", [((6, 3), (6, 5)), ((4, 2, 3, 3), (4, 3, 2, 2)), ((1, 3), (1, 2)), ((2, 3), (2, 4))])
def test_it_is_the_formula_of_the_paper(shapes):
    s, t = draw(*shapes[0]), draw(*shapes[1], seed=1)
    torch.testing.assert_close(neighbor_kl(s, t), brute_force_neighbor_kl(s, t), rtol=1e-7, atol=1e-12)


def test_a_number_by_hand():
    teacher = torch.tensor([[1.0, 0.0], [1.0, 0.0], [-1.0, 0.0]])
    # The third example is the opposite of both others: equal for it, and never a neighbor for them.
    assert float(neighbor_kl(torch.eye(3), teacher)) == pytest.approx(2 / 3 * math.log(2), abs=2e-5)


def test_one_and_two_examples_have_no_choice_and_none_no_loss():
    for size in (0, 1, 2):
        assert float(neighbor_kl(draw(size, 3), draw(size, 2, seed=1))) == pytest.approx(0.0, abs=1e-15)


def test_the_length_of_an_example_s_features_changes_nothing_and_an_example_of_zeros_has_no_direction():
    s, t = draw(5, 3), draw(5, 4, seed=1)
    lengths = torch.tensor([1e-9, 1.0, 5.0, 1e6, 0.1]).unsqueeze(1)
    torch.testing.assert_close(neighbor_kl(s * lengths, t), neighbor_kl(s, t))
    s[2] = 0
    torch.testing.assert_close(neighbor_kl(s, t), brute_force_neighbor_kl(s, t))
    (slope,) = torch.autograd.grad(neighbor_kl(s.requires_grad_(), t), s)
    assert torch.equal(slope[2], torch.zeros(3).double())


def test_opposite_features_are_finite():
    s = torch.tensor([[1.0, 0.0], [-1.0, 0.0], [0.0, 1.0]], requires_grad=True)
    value = neighbor_kl(s, torch.eye(3))
    assert value.isfinite()
    assert torch.autograd.grad(value, s)[0].isfinite().all()


def test_positions_that_do_not_count_change_nothing():
    s, t, mask = draw(3, 4, 2), draw(3, 4, 5, seed=1), torch.tensor([[1, 1, 1, 0], [1, 0, 0, 0], [1, 1, 1, 1]]).bool()
    value = neighbor_kl(s, t, mask)
    torch.testing.assert_close(value, brute_force_neighbor_kl(s, t, mask))
    s[~mask] = torch.nan
    torch.testing.assert_close(neighbor_kl(s, t, mask), value)


def test_neighbors_alone_are_learned_without_labels():
    planted = Planted()
    recipe = make("pkt", teacher=planted.truth, at="layer2", student_at="layer2", weight=100.0, labels=False)
    student = planted.student()

    def divergence(model):
        outputs = [net.layer2(net.layer1(planted.test[:200])) for net in (model, planted.truth)]
        return float(neighbor_kl(*outputs).detach())

    before = divergence(student)
    assert divergence(planted.learn(recipe, epochs=15, student=student).student) < 0.5 * before


def test_neighbors_help_beside_the_student_alone():
    planted = Planted()
    recipe = make("pkt", teacher=planted.truth, at="logits", student_at="logits", weight=10.0)
    alone = planted.accuracy(planted.alone(epochs=20))
    assert planted.accuracy(planted.learn(recipe, epochs=20).student) > alone + 0.03
