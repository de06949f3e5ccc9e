"""The log-partition function is interpolated from a few temperatures."""

from __future__ import annotations

import pytest
import torch

from limbeck.functional.sparse import COARSE, DEEPEST, FINE, interpolated, log_partition_and_grad

GRIDS = pytest.mark.parametrize("grid", [COARSE, FINE], ids=["coarse", "fine"])
BETAS = [0.0, 0.001, 0.02, 1 / 20, 1 / 16, 0.1, 0.2, 1 / 4, 0.4, 0.7, 1.0, 1.5, 2.0, 20.0]


def depths(rows: int, classes: int):
    found = -(3 * torch.randn(rows, classes).abs() + torch.arange(classes) * 0.02)
    return found - found.amax(-1, keepdim=True)


def brute(v, beta):
    v = v.double()
    found = torch.logsumexp((beta * v).masked_fill(v == -torch.inf, -torch.inf), -1)
    weight = (beta * v).masked_fill(v == -torch.inf, -torch.inf).softmax(-1)
    return found, torch.where(weight > 0, weight * v, 0.0).sum(-1)


@GRIDS
def test_it_is_exact_on_the_grid(grid):
    v = depths(20, 300)
    v[3, 100:] = -torch.inf
    v[4, 1:] = -torch.inf
    nodes = log_partition_and_grad(v, grid)
    for place, beta in enumerate(grid):
        value, slope = brute(v, beta)
        assert torch.allclose(nodes[:, 0, place].double(), value, rtol=1e-5, atol=1e-5)
        assert torch.allclose(nodes[:, 1, place].double(), slope, rtol=1e-4, atol=1e-4)
        found = interpolated(nodes, beta, grid)
        assert torch.equal(found[0], nodes[:, 0, place])
        assert torch.equal(found[1], nodes[:, 1, place])


@GRIDS
def test_between_it_is_close_and_beyond_it_is_below(grid):
    v = depths(50, 2000)
    nodes = log_partition_and_grad(v, grid)
    for beta in BETAS:
        off = interpolated(nodes, beta, grid)[0].double() - brute(v, beta)[0]
        if beta <= grid[-1]:
            assert float(off.abs().max()) < (0.03 if grid is COARSE else 0.002), beta
        else:
            assert float(off.max()) < 1e-4


@GRIDS
def test_it_lies_where_a_convex_function_may(grid):
    """Half of the classes at the bottom, as a mask of -1e9 leaves them: the cubic alone would dive below."""
    v = torch.cat([depths(5, 50), torch.full((5, 50), -DEEPEST)], -1)
    nodes = log_partition_and_grad(v, grid)
    for beta in torch.linspace(0, 1, 101).tolist():
        value = brute(v, beta)[0]
        assert float((interpolated(nodes, beta, grid)[0].double() - value).abs().max()) < 0.75, beta
        slope = interpolated(nodes, beta, grid)[1]
        assert bool((slope <= 1e-3).all())


@GRIDS
def test_no_class_weighs_nothing_and_one_class_is_itself(grid):
    v = torch.tensor([[-torch.inf, -torch.inf], [-7.0, -torch.inf], [0.0, -torch.inf], [-DEEPEST, -torch.inf]])
    nodes = log_partition_and_grad(v, grid)
    for beta in BETAS:
        value, slope = interpolated(nodes, beta, grid)
        assert value[0] == -torch.inf
        assert torch.allclose(value[1:], beta * v[1:, 0], rtol=1e-5, atol=1e-5)
        assert slope.isfinite().all()
        assert torch.allclose(slope[1:], v[1:, 0], rtol=1e-4, atol=1e-4)


@GRIDS
def test_leading_dimensions_do_not_matter(grid):
    nodes = log_partition_and_grad(depths(6, 10), grid)
    flat = interpolated(nodes, 0.3, grid)[0]
    assert torch.equal(interpolated(nodes.reshape(2, 3, 2, len(grid)), 0.3, grid)[0], flat.reshape(2, 3))
