"""WKD: Sinkhorn's plan is that of plain loops, and similar classes are near."""

from __future__ import annotations

import math

import pytest
import torch
from torch import nn

from limbeck.errors import LimbeckError
from limbeck.functional.sinkhorn import SharedCosts, find_transport_slopes, sinkhorn_cost
from limbeck.methods import make
from limbeck.methods.logits import wkd
from limbeck.methods.logits.wkd import ClassCosts, class_transport
from methods.row_math import like, log_softmax, softmax, to_rows

DRAW = torch.Generator().manual_seed(0)
Z, V = (3 * torch.randn(6, 5, generator=DRAW, dtype=torch.float64) for _ in range(2))
Y = torch.tensor([0, 1, 2, 3, 4, -100])
COSTS = ClassCosts.of(torch.randn(5, 3, generator=DRAW))


def brute_force_class_transport(
    student, teacher, *, labels, costs=None, temperature=1.0, entropy=0.05, iterations=10, weight=1.0
):
    classes = range(student.shape[-1])
    cost = [[float(a != b) if costs is None else float(costs.matrix[a, b]) for b in classes] for a in classes]
    near = [[math.exp(-cost[a][b] / entropy) for b in classes] for a in classes]
    values = []
    for z, v, y in zip(to_rows(student), to_rows(teacher), labels.flatten().tolist(), strict=True):
        if y == -100:
            values.append(0.0)
            continue
        others = [[-math.inf if c == y else row[c] for c in classes] for row in (z, v)]
        q, p = ([0.0] * len(classes) if max(row) == -math.inf else softmax(row, temperature) for row in others)
        u, w = [1.0] * len(classes), [1.0] * len(classes)
        for _ in range(iterations):
            w = [q[b] / max(sum(u[a] * near[a][b] for a in classes), 1e-300) for b in classes]
            u = [p[a] / max(sum(w[b] * near[a][b] for b in classes), 1e-300) for a in classes]
        moved = sum(u[a] * near[a][b] * w[b] * cost[a][b] for a in classes for b in classes)
        values.append(-softmax(v)[y] * log_softmax(z)[y] + weight * moved)
    return like(student, values)


@pytest.mark.parametrize("hyper", [{}, {"costs": COSTS, "temperature": 4.0, "weight": 20.0}])
def test_the_kernel_is_the_formula(hyper):
    value = class_transport(Z, V, labels=Y, **hyper)
    torch.testing.assert_close(value, brute_force_class_transport(Z, V, labels=Y, **hyper))


def test_with_little_entropy_it_is_the_wasserstein_distance():
    p, q = V.softmax(-1), Z.softmax(-1)
    cost = sinkhorn_cost(p, q, SharedCosts(None, entropy=0.01), iterations=1000)
    torch.testing.assert_close(cost, (p - q).abs().sum(-1) / 2)  # which is the total variation for these costs


def test_the_plan_has_the_two_distributions_as_sums():
    a, b = torch.tensor([0.2, 0.8], dtype=torch.float64), torch.tensor([0.5, 0.5], dtype=torch.float64)
    cost = torch.tensor([[0.0, 1.0], [1.0, 0.0]], dtype=torch.float64)
    value = sinkhorn_cost(a, b, SharedCosts(cost, entropy=0.02), iterations=500)
    torch.testing.assert_close(value, torch.tensor(0.3).double())


def test_equal_costs_without_a_matrix_are_those_with_one():
    uniform = 1 - torch.eye(600, dtype=torch.float64)  # several chunks of products of kernel and costs
    p, q = torch.randn(2, 3, 600, generator=DRAW, dtype=torch.float64).softmax(-1)
    few, many = (SharedCosts(one, entropy=0.05) for one in (None, uniform))
    for name in ("spread", "price"):
        torch.testing.assert_close(getattr(few, name)(p), getattr(many, name)(p))
    torch.testing.assert_close(sinkhorn_cost(p, q, few, iterations=3), sinkhorn_cost(p, q, many, iterations=3))


@pytest.mark.parametrize("uniform", [True, False])
def test_slopes_are_those_of_automatic_differentiation_through_the_iterations(uniform):
    matrix = None if uniform else torch.rand(5, 5, generator=DRAW, dtype=torch.float64)  # not symmetric
    costs = SharedCosts(matrix, entropy=0.05)
    p, q = (x.softmax(-1).requires_grad_() for x in (V, Z))
    value = sinkhorn_cost(p, q, costs, iterations=10)
    expected = torch.autograd.grad(value.sum(), (p, q))
    slopes = find_transport_slopes(p, q, costs, iterations=10)
    torch.testing.assert_close((slopes.value, slopes.by_p, slopes.by_q), (value.detach(), *expected))


def test_probabilities_that_underflow_are_left_to_automatic_differentiation():
    costs = SharedCosts(1 - torch.eye(2), entropy=0.01)
    p, q = torch.tensor([[1e-38, 0.0]]), torch.tensor([[0.0, 1e-38]])
    assert find_transport_slopes(p, q, costs, iterations=2) is None


@pytest.mark.parametrize("costs", [None, COSTS])
def test_gradients_in_blocks_are_those_of_all_rows_at_once(costs, monkeypatch):
    hyper = {"costs": costs, "temperature": 4.0, "weight": 20.0, "labels": Y}
    sides = [x.clone().requires_grad_() for x in (Z, V)]
    whole = torch.autograd.grad(class_transport(*sides, **hyper).sum(), sides)
    monkeypatch.setattr(wkd, "_BLOCK", 10)
    torch.testing.assert_close(torch.autograd.grad(class_transport(*sides, **hyper).sum(), sides), whole)
    monkeypatch.setattr(wkd, "find_transport_slopes", lambda *_, **__: None)
    torch.testing.assert_close(torch.autograd.grad(class_transport(*sides, **hyper).sum(), sides), whole)


def test_probability_on_a_similar_class_costs_less():
    costs = ClassCosts.of(torch.tensor([[1.0, 0.0], [0.0, 1.0], [0.1, 1.0], [1.0, 0.1]]))
    v = torch.tensor([[0.0, 9.0, 0.0, 0.0]])
    near, far = torch.tensor([[0.0, 0.0, 9.0, 0.0]]), torch.tensor([[0.0, 0.0, 0.0, 9.0]])
    labels = torch.tensor([0])
    assert class_transport(near, v, labels=labels, costs=costs) < class_transport(far, v, labels=labels, costs=costs)


@pytest.mark.parametrize("wrong", [{"entropy": 0.001}, {"iterations": 0}, {"temperature": 0.0}])
def test_a_value_out_of_range_is_refused(wrong):
    with pytest.raises(LimbeckError, match=next(iter(wrong))):
        make("wkd", teacher=nn.Linear(2, 3), **wrong)


def test_costs_of_other_classes_are_refused():
    with pytest.raises(LimbeckError, match="5 classes, and the logits have 4"):
        class_transport(Z[:, :4], V[:, :4], labels=torch.zeros(6, dtype=torch.int64), costs=COSTS)


def test_costs_that_are_all_zero_are_refused():
    with pytest.raises(LimbeckError, match="sharpness"):
        make("wkd", teacher=torch.nn.Linear(2, 3), sharpness=0.0)
