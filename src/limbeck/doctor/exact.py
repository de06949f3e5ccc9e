"""Is the loss the number that it should be, on a real batch?"""

from __future__ import annotations

import copy
from typing import Any, cast

import torch
from torch import Tensor

from limbeck.doctor.finding import Finding, ok, wrong
from limbeck.doctor.opened import Opened
from limbeck.doctor.reference import REFERENCES
from limbeck.objective import Loss
from limbeck.schedule import Schedule
from limbeck.signal import LOGITS, Signal

NAME = "loss in float64"
_ALLOWED = 2e-3
_FLOOR = 0.01


def check(opened: Opened) -> Finding:
    """Each term's value, and its gradient at what the student showed, beside float64.

    A published loss is set beside its formula as the paper prints it; any other beside itself in double precision,
    which shows what rounding does to it.
    """
    # What bfloat16 rounds is the student's own; the loss is computed wider, and looked at by itself.
    shown = Signal({name: _widened(tensor).requires_grad_() for name, tensor in opened.shown().items()})
    off = {name: _off(opened, shown, name) for name in opened.objective.named_leaves()}
    worst, name = max((error, name) for name, error in off.items())
    text = f"{worst:.1g}"
    if not worst <= _ALLOWED:
        return wrong(
            NAME, worst,
            f"The term {name!r} is {100 * worst:.3g} % off its value in float64, in itself or in its gradient: compute "
            "it in log space, and divide by what it is a mean over.", text, rank=worst,
        )  # fmt: skip
    return ok(NAME, worst, "The greatest relative error of any term, or of its gradient.", text, rank=worst)


def _widened(tensor: Tensor) -> Tensor:
    own = tensor.detach()
    return own.float() if own.element_size() < 4 else own


def _off(opened: Opened, shown: Signal, name: str) -> float:
    """The relative error of one term."""
    leaf, _ = opened.objective.named_leaves()[name]
    ours = leaf.term(shown, opened.taught, opened.batch, opened.progress).total
    wide = _wide(shown, grad=True)
    plain = _formula(leaf, wide, opened) if isinstance(leaf, Loss) else None
    if plain is None:
        twin = cast(Any, copy.deepcopy(leaf)).double()
        plain = twin.term(wide, _wide(opened.taught), opened.batch, opened.progress).total
    if not (bool(ours.isfinite()) and bool(plain.isfinite())):
        return 0.0 if bool(ours == plain) else float("inf")
    scale = _square(leaf, opened) * _FLOOR * max(leaf.count(opened.batch), 1.0)
    mine, right = float(ours.detach()), float(plain.detach())
    value = abs(mine - right) / max(abs(right), scale)
    return max(value, _apart(_slope(ours, shown), _slope(plain, wide)))


def _square(leaf: Any, opened: Opened) -> float:
    """T squared: what the rounding errors of a tempered loss grow with."""
    found = leaf.kernel.hyper.get("temperature", 1.0) if isinstance(leaf, Loss) else 1.0
    return max(float(found(opened.progress) if isinstance(found, Schedule) else found), 1.0) ** 2


def _formula(leaf: Loss, shown: Signal, opened: Opened) -> Tensor | None:
    """A published loss as it is printed; None where there is no formula for it here, or it reads more than logits."""
    written = REFERENCES.get(leaf.kernel.function)
    if written is None or leaf.head is not None or leaf.addresses != (LOGITS, LOGITS) or not _all_count(opened, shown):
        return None
    student, teacher = (
        side[LOGITS].double().movedim(leaf.classes, -1) if LOGITS in side else None for side in (shown, opened.taught)
    )
    hyper = {k: v(opened.progress) if isinstance(v, Schedule) else v for k, v in leaf.kernel.hyper.items()}
    return written(student, teacher, opened.batch.labels, **hyper).sum()


def _all_count(opened: Opened, shown: Signal) -> bool:
    """Whether every row of the logits counts, but for those without a label."""
    mask, whole = opened.batch.mask, shown[LOGITS].ndim == 2  # one answer to a whole text, whose mask is of tokens
    return mask is None or bool((mask.flatten(1).any(1) if whole else mask).all())


def _wide(signal: Signal, *, grad: bool = False) -> Signal:
    return Signal({k: v.detach().double().requires_grad_(grad) for k, v in signal.items()})


def _slope(total: Tensor, signal: Signal) -> Tensor:
    found = torch.autograd.grad(total, list(signal.values()), allow_unused=True, materialize_grads=True)
    return torch.cat([gradient.double().flatten() for gradient in found])


def _apart(ours: Tensor, plain: Tensor) -> float:
    """How far two gradients are apart, beside the length of the right one."""
    if not bool(ours.isfinite().all()):
        return float("inf")
    length, least = float(plain.norm()), 1e-5 * plain.numel() ** 0.5
    return float((ours - plain).norm()) / max(length, least)
