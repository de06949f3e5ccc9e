"""The subspace of a layer's activations that decides between classes, from activations and their gradients."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor, nn

from limbeck.batch import Batch, Outputs
from limbeck.errors import ArgumentError, LimbeckError
from limbeck.functional.attention import find_token_mask
from limbeck.tap import FrozenParameters, preserved_buffers


class Subspace(NamedTuple):
    """The part of a layer's activations that matters.

    Attributes:
        mean: The mean of the activations, ``[d]``.
        basis: Orthonormal columns, the most relevant first, ``[d, k]``.
        variance: The sum of the variances along the columns.
    """

    mean: Float[Tensor, " d"]
    basis: Float[Tensor, "d k"]
    variance: float


def find_subspace(activations: Float[Tensor, "rows d"], gradients: Float[Tensor, "rows d"], size: int) -> Subspace:
    r"""Find the directions in which activations vary and to which the decision is sensitive.

    They are the first eigenvectors of :math:`E[a c^\top + c a^\top] + 2 \sqrt{tr C / tr A} A + 2 \sqrt{tr A / tr C} C`,
    with the centered activations a, the gradients c of the decision, :math:`A = E[a a^\top]` and :math:`C = E[c
    c^\top]`. The matrix has no negative eigenvalue. A direction of little variance comes first if the decision depends
    on it; principal components (PCA) would drop it.

    Args:
        activations: Activations, one row for each pixel, token or example.
        gradients: Gradients of the decision in them.
        size: k, at most d.

    Raises:
        LimbeckError: If k is above d.

    Example:
        >>> a = torch.tensor([[9.0, 1.0], [-9.0, -1.0], [9.0, -1.0], [-9.0, 1.0]])
        >>> find_subspace(a, torch.tensor([[0.0, 5.0]]).expand(4, 2), 1).basis.abs().round().flatten().tolist()
        [0.0, 1.0]

    Source: Chormai et al., 2026, arXiv:2601.05913.
    """
    if size > activations.shape[1]:
        raise LimbeckError(
            f"The student's layer has {size} features and the teacher's only {activations.shape[1]}. Use a narrower "
            "layer of the student, or fitnets."
        )
    a, c = activations.double(), gradients.double()
    mean = a.mean(0)
    a = a - mean
    variances, sensitivities, both = a.T @ a / len(a), c.T @ c / len(a), a.T @ c / len(a)
    spread, slope = variances.trace(), sensitivities.trace()
    ratio = (slope / spread).sqrt() if spread > 0 and slope > 0 else torch.ones_like(spread)
    relevance = both + both.T + 2 * ratio * variances + 2 / ratio * sensitivities
    basis = torch.linalg.eigh(relevance).eigenvectors.flip(1)[:, :size]
    # The sign of an eigenvector is arbitrary; this one is the same on every machine.
    largest = basis.gather(0, basis.abs().argmax(0, keepdim=True))
    basis = basis * torch.where(largest < 0, -1.0, 1.0)
    return Subspace(mean, basis, float((basis * (variances @ basis)).sum()))


def as_rows(features: Tensor) -> Float[Tensor, "batch rows d"]:
    """The pixels of a map, the tokens, or one row for each example."""
    if features.ndim == 4:
        return features.flatten(2).transpose(1, 2)
    return features if features.ndim == 3 else features.flatten(1).unsqueeze(1)


def find_activations_and_gradients(
    outputs: Outputs, batch: Batch, addresses: list[str], classes: Sequence[int] | None
) -> dict[str, tuple[Tensor, Tensor]]:
    """The rows of activations that count, and the gradients of the decision in them, at each address.

    Raises:
        ArgumentError: If the teacher does not have one of the classes.
    """
    logits = outputs["logits"]
    if classes is not None and max(classes) >= logits.shape[-1]:
        raise ArgumentError(
            f"classes has {max(classes)}, and the teacher has the classes 0 to {logits.shape[-1] - 1}.",
            argument="classes",
        )
    logits = logits if classes is None else logits[..., list(classes)]
    best = logits.topk(2, dim=-1).values
    decision = (best[..., 0] - best[..., 1])[batch.valid].sum()
    values = [outputs[at] for at in addresses]
    slopes = torch.autograd.grad(decision, values, allow_unused=True, materialize_grads=True)
    found = {}
    for at, value, slope in zip(addresses, values, slopes, strict=True):
        a, c = as_rows(value.detach()), as_rows(slope)
        mask = batch.mask if batch.mask is not None and batch.mask.ndim == 2 and a.shape[1] > 1 else batch.valid
        keep = find_token_mask(mask.to(a.device), a.shape[0], a.shape[1], a.device)
        found[at] = (a[keep], c[keep])
    return found


@contextmanager
def computing_gradients(module: nn.Module) -> Iterator[None]:
    """A block in which gradients of activations can be computed in a frozen module, which does not change."""
    flags = [(parameter, parameter.requires_grad) for parameter in module.parameters()]
    try:
        with torch.enable_grad(), FrozenParameters(module), preserved_buffers([module]):
            for parameter, _ in flags:
                if parameter.is_floating_point():
                    parameter.requires_grad_(True)
            yield
    finally:
        for parameter, flag in flags:
            parameter.requires_grad_(flag)
