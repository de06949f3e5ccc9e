"""The gradient through a training step is the difference quotient of that step."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from limbeck.losses import hyper_gradient
from limbeck.losses.hyper_gradient import moved_parameters


class Problem:
    """Two linear models with losses of their own and of each other, and an outer loss on other data."""

    def __init__(self):
        draw = torch.Generator().manual_seed(0)
        self.models = [nn.Linear(3, 4).double() for _ in range(2)]
        self.x, self.z = (torch.randn(6, 3, generator=draw, dtype=torch.float64) for _ in range(2))
        self.y, self.v = (torch.randint(4, (6,), generator=draw) for _ in range(2))
        self.parameters = [p for model in self.models for p in model.parameters()]

    def inner(self, rows=slice(None)):
        a, b = (model(self.x[rows]) for model in self.models)
        own = [nn.functional.cross_entropy(z, self.y[rows], reduction="sum") / 6 for z in (a, b)]
        both = ((a.softmax(1) - b.softmax(1)) ** 2).sum() / 6
        return torch.stack([own[0] + both, own[1] + 2 * both])

    def outer(self, weights, rows=slice(None)):
        mean = sum(w * model(self.z[rows]) for w, model in zip(weights, self.models, strict=True))
        return nn.functional.cross_entropy(mean, self.v[rows], reduction="sum") / 6

    def after_step(self, weights, gamma):
        """The outer loss after a real step of SGD; everything is as before afterwards."""
        before = [p.detach().clone() for p in self.parameters]
        gradients = torch.autograd.grad((weights * self.inner()).sum(), self.parameters)
        with torch.no_grad():
            for p, g in zip(self.parameters, gradients, strict=True):
                p -= gamma * g
            value = float(self.outer(weights))
            for p, old in zip(self.parameters, before, strict=True):
                p.copy_(old)
        return value


@pytest.mark.parametrize("gamma", [0.0, 0.3, 2.0])
def test_it_is_the_difference_quotient_of_a_real_step(gamma):
    problem, w = Problem(), torch.tensor([0.7, 0.3], dtype=torch.float64)
    gradient = hyper_gradient([problem.inner], [problem.outer], problem.parameters, w, step_size=gamma)
    for i, along in enumerate(torch.eye(2, dtype=torch.float64) * 1e-5):
        quotient = (problem.after_step(w + along, gamma) - problem.after_step(w - along, gamma)) / 2e-5
        assert float(gradient[i]) == pytest.approx(quotient, rel=1e-6, abs=1e-9)


def test_it_does_not_depend_on_how_the_batches_are_split():
    problem, w = Problem(), torch.tensor([0.4, 0.6], dtype=torch.float64)
    whole = hyper_gradient([problem.inner], [problem.outer], problem.parameters, w, step_size=0.5)
    halves = [slice(0, 2), slice(2, 6)]
    split = hyper_gradient(
        [lambda rows=rows: problem.inner(rows) for rows in halves],
        [lambda v, rows=rows: problem.outer(v, rows) for rows in halves],
        problem.parameters, w, step_size=0.5,
    )  # fmt: skip
    torch.testing.assert_close(split, whole)


def test_the_parameters_have_their_bits_again_and_no_gradient():
    problem = Problem()
    before = [p.detach().clone() for p in problem.parameters]
    w = torch.tensor([0.5, 0.5], dtype=torch.float64)
    hyper_gradient([problem.inner], [problem.outer], problem.parameters, w, step_size=0.1)
    assert all(torch.equal(p, old) for p, old in zip(problem.parameters, before, strict=True))
    assert all(p.grad is None for p in problem.parameters)


def test_they_come_back_after_an_error_too():
    parameter = nn.Parameter(torch.tensor([0.1, 0.2]))
    with pytest.raises(ZeroDivisionError), moved_parameters([parameter], [torch.ones(2)], 1e8):
        raise ZeroDivisionError
    assert parameter.tolist() == torch.tensor([0.1, 0.2]).tolist()
