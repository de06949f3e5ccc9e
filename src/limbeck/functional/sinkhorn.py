"""Sinkhorn's iteration for rows that share their costs, and its slopes without a graph of the iterations."""

from __future__ import annotations

import math
from typing import NamedTuple, final

import torch
from jaxtyping import Float
from torch import Tensor

_CHUNK = 1 << 18  # values of the products of kernel and costs that exist at a time


@final
class SharedCosts:
    r"""The costs C between classes, and products with :math:`K = e^{-C / \epsilon}`.

    Costs of 1 between all different classes need no matrix: then :math:`x K = (1 - f) x + f \sum x` with
    :math:`f = e^{-1 / \epsilon}`.

    Args:
        matrix: C, from 0 to 1; None for 1 between all different classes.
        entropy: :math:`\epsilon`, above 0.
    """

    def __init__(self, matrix: Float[Tensor, "classes classes"] | None, *, entropy: float) -> None:
        self.matrix = matrix
        self.kernel = None if matrix is None else torch.exp(-matrix / entropy)
        self.between = math.exp(-1 / entropy)

    def spread(self, rows: Float[Tensor, "*batch classes"], *, back: bool = False) -> Float[Tensor, "*batch classes"]:
        """Compute ``rows @ K``, or ``rows @ K.T`` with `back`."""
        if self.kernel is None:
            return (1 - self.between) * rows + self.between * rows.sum(-1, keepdim=True)
        return rows @ (self.kernel.mT if back else self.kernel)

    def price(self, rows: Float[Tensor, "*batch classes"], *, back: bool = False) -> Float[Tensor, "*batch classes"]:
        """Compute ``rows @ (K * C)``, or ``rows @ (K * C).T`` with `back`, without the whole product of both."""
        if self.kernel is None or self.matrix is None:
            return self.between * (rows.sum(-1, keepdim=True) - rows)
        kernel, costs = (one if back else one.mT for one in (self.kernel, self.matrix))
        size = max(_CHUNK // len(kernel), 1)
        parts = [rows @ (kernel[at : at + size] * costs[at : at + size]).mT for at in range(0, len(kernel), size)]
        return torch.cat(parts, -1)


def sinkhorn_cost(
    p: Float[Tensor, "*batch classes"], q: Float[Tensor, "*batch classes"], costs: SharedCosts, *, iterations: int
) -> Float[Tensor, "*batch"]:
    r"""Compute :math:`\langle \Pi, C \rangle` for the transport plan of Sinkhorn's iteration.

    :math:`\Pi = diag(u) K diag(v)` with :math:`K = e^{-C / \epsilon}`, from u = 1 by :math:`v = q / K^T u` and
    :math:`u = p / K v`. All rows share K, so it needs no memory for pairs of classes of each row. The smaller
    :math:`\epsilon`, the nearer is the value to the Wasserstein distance, and the more iterations it needs.

    Args:
        p: The distributions at the start.
        q: The distributions at the end.
        costs: C and :math:`\epsilon`.
        iterations: How often both scalings are computed.

    Example:
        >>> p, q = torch.tensor([1.0, 0.0]), torch.tensor([0.25, 0.75])
        >>> sinkhorn_cost(p, q, SharedCosts(None, entropy=0.05), iterations=10)
        tensor(0.7500)

    Source: Cuturi, Sinkhorn Distances, 2013, arXiv:1306.0895.
    """
    tiny = torch.finfo(p.dtype).tiny
    u, v = torch.ones_like(p), torch.ones_like(q)
    for _ in range(iterations):
        v = q / costs.spread(u).clamp_min(tiny)
        u = p / costs.spread(v, back=True).clamp_min(tiny)
    return (u * costs.price(v, back=True)).sum(-1)


class TransportSlopes(NamedTuple):
    """A transport cost of each row, and its derivatives by the two distributions."""

    value: Float[Tensor, "*batch"]
    by_p: Float[Tensor, "*batch classes"]
    by_q: Float[Tensor, "*batch classes"]


@torch.no_grad()
def find_transport_slopes(
    p: Float[Tensor, "*batch classes"], q: Float[Tensor, "*batch classes"], costs: SharedCosts, *, iterations: int
) -> TransportSlopes | None:
    """Compute `sinkhorn_cost` and its exact derivatives: the iterations backwards.

    Of each iteration only the two products with the kernel are kept, where automatic differentiation keeps six tensors.
    None if a product is too small to divide by, which only happens where probabilities underflow.

    Example:
        >>> p, q = torch.tensor([[0.5, 0.5]]), torch.tensor([[0.2, 0.8]])
        >>> costs = SharedCosts(None, entropy=0.5)
        >>> slopes = find_transport_slopes(p, q, costs, iterations=10)
        >>> torch.allclose(slopes.value, sinkhorn_cost(p, q, costs, iterations=10))
        True
    """
    tiny = torch.finfo(p.dtype).tiny
    products, u = [], torch.ones_like(p)
    for _ in range(iterations):
        reached = costs.spread(u)
        needed = costs.spread(q / reached, back=True)
        u = p / needed
        products.append((reached, needed))
    if any(float(one.min()) < tiny for pair in products for one in pair):
        return None
    v = q / products[-1][0]
    by_u, by_v = costs.price(v, back=True), costs.price(u)
    value = (u * by_u).sum(-1)
    by_p, by_q = torch.zeros_like(p), torch.zeros_like(q)
    while products:
        reached, needed = products.pop()
        by_u.div_(needed)
        by_p.add_(by_u)
        by_v.sub_(costs.spread(by_u.mul_(p).div_(needed)))
        by_v.div_(reached)
        by_q.add_(by_v)
        by_u = costs.spread(by_v.mul_(q).div_(reached), back=True).neg_()
        by_v = torch.zeros_like(by_v)
    return TransportSlopes(value, by_p, by_q)
