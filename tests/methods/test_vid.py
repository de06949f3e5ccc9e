"""Variational information: the likelihood against torch's Gaussian, learned variances, and what a student learns."""

from __future__ import annotations

import math

import pytest
import torch
from torch import nn

from limbeck.batch import Batch, Outputs, Progress
from limbeck.errors import ArgumentError
from limbeck.losses import LossContext
from limbeck.methods import make
from limbeck.methods.features.vid import VariationalInformation, gaussian_negative_log_likelihood
from methods.planted import Planted


def brute_force_gaussian_negative_log_likelihood(student, teacher, mask=None, *, alpha):
    values = []
    for n, (one, other) in enumerate(zip(student.double(), teacher.double(), strict=True)):
        sides = [x[None] if x.ndim == 1 else x if x.ndim == 2 else x.flatten(1).T for x in (one, other)]
        terms = []
        for place, (mu, t) in enumerate(zip(*sides, strict=True)):
            if one.ndim == 2 and mask is not None and not bool(mask[n, place]):
                continue
            for c, (a, b) in enumerate(zip(mu.tolist(), t.tolist(), strict=True)):
                variance = math.log1p(math.exp(float(alpha[c]))) + 1e-5
                terms.append((b - a) ** 2 / (2 * variance) + math.log(variance) / 2)
        values.append(sum(terms) / max(len(terms), 1))
    return torch.tensor(values, dtype=torch.float64)


def test_it_is_the_gaussian_of_torch_without_its_constant():
    draw = torch.Generator().manual_seed(0)
    mean, teacher = torch.randn(2, 3, 4, 2, 2, generator=draw, dtype=torch.float64)
    alpha = torch.randn(4, generator=draw, dtype=torch.float64)
    variance = (alpha.exp() + 1).log() + 1e-5
    spread = variance.sqrt().reshape(4, 1, 1)
    expected = (
        -torch.distributions.Normal(mean, spread).log_prob(teacher).flatten(1).mean(1) - math.log(2 * math.pi) / 2
    )
    torch.testing.assert_close(gaussian_negative_log_likelihood(mean, teacher, alpha=alpha), expected)
    tokens = [x.flatten(2).transpose(1, 2) for x in (mean, teacher)]
    torch.testing.assert_close(gaussian_negative_log_likelihood(*tokens, alpha=alpha), expected)


def term_for(student, teacher):
    outputs = Outputs({"a": student}), Outputs({"b": teacher})
    batch = Batch(torch.zeros(len(student), 1), id=torch.arange(len(student)))
    return VariationalInformation([("a", "b")]).setup(LossContext(*outputs, batch)), outputs, batch


@pytest.mark.parametrize("shapes", [((8, 4), (8, 6)), ((8, 3, 4, 4), (8, 5, 2, 2)), ((8, 7, 4), (8, 7, 6))])
def test_it_has_a_regression_and_a_variance_for_each_channel_that_starts_at_5(shapes):
    student, teacher = (torch.randn(shape) for shape in shapes)
    term, outputs, batch = term_for(student, teacher)
    width = teacher.shape[1 if teacher.ndim == 4 else -1]
    torch.testing.assert_close(nn.functional.softplus(term.alphas[0]) + 1e-5, torch.full((width,), 5.0))
    assert bool(term.term(*outputs, batch, Progress()).total.isfinite())


def test_the_variance_of_an_unpredictable_channel_grows():
    draw = torch.Generator().manual_seed(0)
    student = torch.randn(256, 3, generator=draw)
    teacher = torch.stack([student[:, 0], 5 * torch.randn(256, generator=draw)], 1)
    term, outputs, batch = term_for(student, teacher)
    optimizer = torch.optim.Adam(term.parameters(), lr=0.05)
    for _ in range(150):
        optimizer.zero_grad()
        (term.term(*outputs, batch, Progress()).total / 256).backward()
        optimizer.step()
    easy, hard = nn.functional.softplus(term.alphas[0]).tolist()
    assert easy < 2.0
    assert hard > 7.0


def test_examples_that_are_masked_do_not_count():
    term, outputs, batch = term_for(torch.randn(4, 3), torch.randn(4, 2))
    part = Batch(batch.inputs, mask=torch.tensor([True, True, False, False]))
    first = tuple(Outputs({key: value[:2] for key, value in one.items()}) for one in outputs)
    whole = term.term(*first, Batch(torch.zeros(2, 1)), Progress())
    torch.testing.assert_close(term.term(*outputs, part, Progress()).total, whole.total)
    assert term.count(part) == whole.count == 2


def test_a_negative_weight_is_refused():
    with pytest.raises(ArgumentError):
        make("vid", teacher="t", at="a", student_at="a", weight=-1.0)


def test_information_about_the_truth_s_layers_helps():
    planted = Planted()
    alone = planted.accuracy(planted.alone(epochs=30))
    layers = ["layer1", "layer2"]
    recipe = make("vid", teacher=planted.truth, at=layers, student_at=layers, weight=100.0)
    assert planted.accuracy(planted.learn(recipe, epochs=30).student) > alone + 0.03
