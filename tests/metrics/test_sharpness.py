"""Sharpness: the largest eigenvalue and the trace, against the exact Hessian in float64."""

from __future__ import annotations

import itertools

import pytest
import torch
import torch.nn.functional as F
from torch import nn
from torch.func import functional_call

from limbeck.batch import Batch
from limbeck.errors import ArgumentError, DataError, LimbeckError
from limbeck.metrics import sharpness
from limbeck.metrics.sharpness import estimate_trace, find_top_eigenvalue, hessian_product

DRAW = torch.Generator().manual_seed(0)
X = torch.randn(40, 6, generator=DRAW, dtype=torch.float64)
Y = torch.randint(3, (40,), generator=DRAW)


def network():
    torch.manual_seed(0)
    net = nn.Sequential(nn.Linear(6, 8), nn.Tanh(), nn.Dropout(0.5), nn.Linear(8, 3)).double()
    with torch.no_grad():
        for parameter in net.parameters():
            parameter.mul_(2.0)
    return net


def exact_hessian(net, inputs, labels):
    names, values = zip(*net.named_parameters(), strict=True)
    sizes = [value.numel() for value in values]
    net.eval()

    def loss(flat):
        state = {n: part.view_as(v) for n, part, v in zip(names, flat.split(sizes), values, strict=True)}
        return F.cross_entropy(functional_call(net, state, inputs), labels)

    return torch.autograd.functional.hessian(loss, torch.cat([value.detach().flatten() for value in values]))


def test_both_are_those_of_the_exact_hessian():
    net = network()
    exact = exact_hessian(net, X, Y)
    eigenvalues = torch.linalg.eigvalsh(exact)
    batches = [Batch(X[:15], labels=Y[:15]), Batch(X[15:], labels=Y[15:])]
    found = sharpness(net.train(), batches, iterations=2000, tolerance=1e-9, probes=200)
    assert found.top_eigenvalue == pytest.approx(float(eigenvalues[-1]), rel=1e-4)
    assert abs(found.trace - float(exact.trace())) < 4 * found.trace_error
    assert found.trace_error < 0.2 * abs(float(exact.trace()))
    assert found.examples == 40
    assert net.training  # as before


def test_the_product_is_the_hessian_s_and_a_split_of_the_batch_does_not_matter():
    net = network().eval()
    exact, vector = exact_hessian(net, X, Y), torch.randn(83, generator=DRAW, dtype=torch.float64)

    def loss_of(batch):
        return F.cross_entropy(net(batch.inputs), batch.labels, reduction="sum") / 40

    for cuts in ([40], [1, 9, 30]):
        batches = [Batch(x, labels=y) for x, y in zip(X.split(cuts), Y.split(cuts), strict=True)]
        product = hessian_product(loss_of, batches, list(net.parameters()))
        torch.testing.assert_close(product(vector), exact @ vector)


@pytest.mark.parametrize("values", [[3.0, 1.0, -2.0], [-9.0, 1.0, -2.0], [-3.0, -1.0, -2.0], [0.0, 0.0, 0.0]])
def test_the_largest_eigenvalue_is_found_also_where_a_negative_one_is_larger(values):
    turn = torch.linalg.qr(torch.randn(3, 3, generator=DRAW, dtype=torch.float64))[0]
    matrix = turn @ torch.diag(torch.tensor(values, dtype=torch.float64)) @ turn.T
    start = torch.tensor([0.3, -1.0, 0.7], dtype=torch.float64)
    found = find_top_eigenvalue(lambda v: matrix @ v, start, iterations=5000, tolerance=1e-12)
    assert found == pytest.approx(max(values), abs=1e-5)


def test_the_mean_over_all_signs_is_the_trace_itself():
    matrix = torch.randn(5, 5, generator=DRAW, dtype=torch.float64)
    matrix = matrix + matrix.T
    every = [torch.tensor(signs, dtype=torch.float64) for signs in itertools.product((-1.0, 1.0), repeat=5)]
    mean, _ = estimate_trace(lambda v: matrix @ v, every)
    assert mean == pytest.approx(float(matrix.trace()), abs=1e-9)


def test_of_a_constant_or_linear_loss_both_are_0():
    weight = torch.ones(2, requires_grad=True)
    product = hessian_product(lambda batch: (weight * batch.inputs).sum(), [Batch(torch.ones(2))], [weight])
    assert product(torch.ones(2)).tolist() == [0.0, 0.0]


def test_examples_without_a_label_do_not_count_and_frozen_parameters_neither():
    net = network()
    some = Y.masked_fill(torch.arange(40) % 2 == 0, -100)
    a, b = sharpness(net, Batch(X, labels=some)), sharpness(net, Batch(X[1::2], labels=Y[1::2]))
    assert a == pytest.approx(b)
    net[0].requires_grad_(False)
    last = sharpness(net, Batch(X, labels=Y), iterations=2000, tolerance=1e-9)
    exact = exact_hessian(net, X, Y)[-27:, -27:]
    assert last.top_eigenvalue == pytest.approx(float(torch.linalg.eigvalsh(exact)[-1]), rel=1e-4)
    assert not net[0].weight.requires_grad


def test_what_cannot_be_measured_is_refused():
    net = network()
    with pytest.raises(DataError):
        sharpness(net, Batch(X))
    for wrong in ({"iterations": 0}, {"probes": 0}, {"tolerance": 0.0}):
        with pytest.raises(LimbeckError, match=next(iter(wrong))):
            sharpness(net, Batch(X, labels=Y), **wrong)
    with pytest.raises(LimbeckError, match="gradient"):
        sharpness(net.requires_grad_(False), Batch(X, labels=Y))


def test_one_vector_has_no_standard_error():
    for probes in (1, 0, True):
        with pytest.raises(ArgumentError) as raised:
            sharpness(network(), Batch(X, labels=Y), probes=probes)
        assert raised.value.argument == "probes"
    with pytest.raises(ArgumentError):
        estimate_trace(lambda v: v, [torch.ones(3)])
