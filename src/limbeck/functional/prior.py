"""Biases that make a classifier predict each class as often as it occurs."""

from __future__ import annotations

from typing import Any

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from limbeck.errors import LimbeckError

_STEPS = 10_000
_TOLERANCE = 1e-9


def prior_bias(
    logits: Float[Tensor, "examples classes"],
    prior: Float[Tensor, " classes"],
    *,
    classes: Bool[Tensor, " classes"] | None = None,
) -> Float[Tensor, " classes"]:
    r"""Find biases for the logits with which the mean prediction of some classes is their frequency.

    Finds b, zero outside `classes`, such that for every class c in `classes`

    .. math:: \frac{1}{n} \sum_i softmax(z_i + b)_c = \pi_c .

    It needs no labels, only logits of examples with the class frequencies :math:`\pi`, and has no hyper-parameters. A
    student whose transfer set had no examples of a class has a bias for it that is far too low. Hinton et al. raised
    the bias of the digit three by 3.5, and lowered those of seven and eight by 7.6 for a student trained on these two
    only. They chose these values on the test set; this function does not need it.

    The left side is the gradient of the convex function :math:`\frac{1}{n} \sum_i logsumexp(z_i + b)`, so a solution is
    unique (up to a common constant if `classes` are all classes; then the mean of b is zero). The solver is Newton's
    method with step halving, in float64.

    Args:
        logits: z, for examples with the natural class frequencies; at least one row.
        prior: :math:`\pi`, the frequency of each class, above 0. It is scaled to sum to one.
        classes: A mask of the classes whose bias may change; by default all.

    Returns:
        b, in the dtype of `logits`.

    Raises:
        LimbeckError: If shapes do not match, a frequency is not above 0, no bias may change, logits are not finite, or
            no solution is found.

    Example:
        >>> logits = torch.tensor([[2.0, 0.0], [2.0, 0.0]])
        >>> prior_bias(logits, torch.tensor([0.5, 0.5]), classes=torch.tensor([False, True]))
        tensor([0., 2.])

    Source: Hinton, Vinyals and Dean, 2015, arXiv:1503.02531, section 3 (that a bias is what is wrong); matching the
    mean prediction to the prior is the logit adjustment of Saerens, Latinne and Decaestecker, 2002, solved for b.
    """
    moved, target = _checked(logits, prior, classes)
    z = logits.detach().double()
    bias = torch.zeros_like(target)
    for _ in range(_STEPS):
        p = torch.softmax(z + bias, -1)
        off = (p.mean(0) - target)[moved]
        if float(off.abs().max()) < _TOLERANCE:
            break
        bias = _stepped(z, bias, p, off, moved, target)
    else:
        worst = float(off.abs().max())
        raise LimbeckError(
            f"No bias makes the mean prediction equal to the prior: after {_STEPS} steps the error is {worst:.2g}. "
            "Check the logits, and use more examples."
        )
    if bool(moved.all()):
        bias = bias - bias.mean()
    return bias.to(logits.dtype)


def _stepped(z: Tensor, bias: Tensor, p: Tensor, off: Tensor, moved: Tensor, target: Tensor) -> Tensor:
    """Do a Newton step on mean logsumexp(z + b) - prior . b; the step is halved until the value decreases."""
    some = p[:, moved]
    curvature = torch.diag(some.mean(0)) - some.T @ some / len(p)
    step = torch.zeros_like(bias)
    # If all biases may change, the curvature along the constant vector is 0. The least-norm solution ignores it.
    step[moved] = -torch.linalg.lstsq(curvature, off.unsqueeze(1), driver="gelsd").solution.squeeze(1)
    step = step * min(1.0, 5.0 / float(step.abs().max().clamp_min(1e-300)))
    before, slope = _height(z, bias, target), float((off * step[moved]).sum())
    for _ in range(60):
        if _height(z, bias + step, target) <= before + 1e-4 * slope + 1e-14:
            break
        step, slope = step / 2, slope / 2
    return bias + step


def _height(z: Tensor, bias: Tensor, target: Tensor) -> float:
    return float(torch.logsumexp(z + bias, -1).mean() - target @ bias)


def _checked(logits: Any, prior: Any, classes: Any) -> tuple[Tensor, Tensor]:
    for name, tensor in {"logits": logits, "prior": prior, "classes": classes}.items():
        if tensor is not None and not isinstance(tensor, Tensor):
            raise LimbeckError(f"prior_bias takes tensors; {name} is a {type(tensor).__name__}.")
    if logits.ndim != 2 or not len(logits) or prior.shape != logits.shape[1:]:
        raise LimbeckError(
            f"Logits are [examples, classes] with at least one example, and the prior is [classes]; got "
            f"{list(logits.shape)} and {list(prior.shape)}."
        )
    if not bool((prior > 0).all() & torch.isfinite(prior).all()):
        raise LimbeckError(
            f"The frequency of every class must be above 0; got {prior.tolist()}. Remove a class that "
            "never occurs from the logits."
        )
    if not bool(torch.isfinite(logits).all()):
        raise LimbeckError("The logits hold NaN or infinity, which no bias can correct.")
    moved = torch.ones(len(prior), dtype=torch.bool) if classes is None else classes.cpu()
    # Class numbers would be used as an index, not as a mask.
    if moved.dtype != torch.bool or moved.shape != prior.shape or not bool(moved.any()):
        raise LimbeckError(
            f"classes is a boolean mask of the {len(prior)} classes whose bias may change, with at least one True: "
            f"for class 0 alone, classes=torch.arange({len(prior)}) == 0."
        )
    share = prior.detach().double()
    return moved.to(logits.device), (share / share.sum()).to(logits.device)
