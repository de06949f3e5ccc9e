"""`hyper_gradient`: the gradient of one loss by the weights of others, through a training step."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager

import torch
from jaxtyping import Float
from torch import Tensor, nn

from limbeck.losses.distributed import all_reduce_tensor

InnerLosses = Callable[[], Tensor]
"""Function that computes the inner losses, ``[losses]``, with a graph to the parameters."""
OuterLoss = Callable[[Tensor], Tensor]
"""Function from the weights of the inner losses to the outer loss, a scalar, with a graph to both."""


def hyper_gradient(
    inner: Sequence[InnerLosses],
    outer: Sequence[OuterLoss],
    parameters: Sequence[nn.Parameter],
    weights: Float[Tensor, " losses"],
    *,
    step_size: float,
) -> Float[Tensor, " losses"]:
    r"""Compute :math:`\frac{d}{dw} L_2(w, \theta - \gamma \nabla_\theta L_1(\theta, w))`.

    As :math:`L_1 = \sum_i w_i l_i` is linear in the weights, no second derivatives are needed:

    .. math:: \frac{d L_2}{d w_i} = \frac{\partial L_2}{\partial w_i} - \gamma \langle \nabla_\theta L_2(\theta'),
        \nabla_\theta l_i(\theta) \rangle, \qquad \theta' = \theta - \gamma \nabla_\theta L_1.

    It costs one backward pass of :math:`L_1`, one of :math:`L_2`, and one for each inner loss. The parameters are moved
    to :math:`\theta'` for :math:`L_2` and then have the bits that they had.

    Args:
        inner: Functions of the parts of a batch. The inner losses are the sum over parts, and over all ranks, so each
            part divides by the count of the whole.
        outer: Functions of the parts of the other batch, likewise.
        parameters: :math:`\theta`. The losses are computed with these objects.
        weights: w.
        step_size: :math:`\gamma`, the learning rate of the step.

    Returns:
        The gradient, in units of the outer loss; equal on all ranks.

    Example:
        >>> theta = nn.Parameter(torch.tensor([1.0, 2.0]))
        >>> inner = lambda: torch.stack([theta[0] ** 2, theta[1] ** 2])
        >>> hyper_gradient([inner], [lambda w: theta.sum()], [theta], torch.tensor([0.5, 0.5]), step_size=0.1)
        tensor([-0.2000, -0.4000])

    Source: Zhang, Wang, Campos, Huang, Guo and Yang, Weighted Mutual Learning with Diversity-Driven Model Compression,
    NeurIPS 2022, theorem 1, for the parameters of all models together.
    """
    parameters = [parameter for parameter in parameters if parameter.requires_grad]
    weights = weights.detach()
    with torch.enable_grad():
        step = _summed([_gradients((part() * weights).sum(), parameters) for part in inner])
        with moved_parameters(parameters, step, -step_size):
            direct, slope = _outer_gradients(outer, parameters, weights)
        products = torch.zeros_like(weights)
        for part in inner:
            losses = part()
            for i, loss in enumerate(losses):
                own = _gradients(loss, parameters, retain=i + 1 < len(losses))
                products[i] += sum((s * g).sum() for s, g in zip(slope, own, strict=True))
    return direct - step_size * all_reduce_tensor(products)


@contextmanager
def moved_parameters(parameters: Sequence[nn.Parameter], direction: Sequence[Tensor], scale: float) -> Iterator[None]:
    """A block in which the parameters are ``parameter + scale * direction``; then they have their bits of before."""
    before = [parameter.detach().clone() for parameter in parameters]
    try:
        with torch.no_grad():
            for parameter, along in zip(parameters, direction, strict=True):
                parameter.add_(along, alpha=scale)
        yield
    finally:
        with torch.no_grad():
            for parameter, value in zip(parameters, before, strict=True):
                parameter.copy_(value)


def _outer_gradients(
    outer: Sequence[OuterLoss], parameters: list[nn.Parameter], weights: Tensor
) -> tuple[Tensor, list[Tensor]]:
    """The gradients of the outer loss by the weights, and by the parameters."""
    parts = []
    for part in outer:
        leaf = weights.clone().requires_grad_()
        parts.append(_gradients(part(leaf), [leaf, *parameters]))
    direct, *slope = _summed(parts) if parts else [torch.zeros_like(weights), *map(torch.zeros_like, parameters)]
    return direct, slope


def _gradients(loss: Tensor, at: Sequence[Tensor], *, retain: bool = False) -> list[Tensor]:
    if not loss.requires_grad:
        return [torch.zeros_like(tensor) for tensor in at]
    return list(torch.autograd.grad(loss, at, retain_graph=retain, allow_unused=True, materialize_grads=True))


def _summed(parts: Sequence[Sequence[Tensor]]) -> list[Tensor]:
    """The sums over parts and ranks."""
    return [all_reduce_tensor(sum(tensors[1:], start=tensors[0])) for tensors in zip(*parts, strict=True)]
