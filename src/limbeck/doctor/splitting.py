"""Is it the same loss, and the same step, whichever way a batch is split?"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from limbeck.doctor.finding import Finding, look, ok, wrong
from limbeck.doctor.opened import Opened
from limbeck.objective import minimised
from limbeck.signal import Batch, Signal, input_rows
from limbeck.tap import Frozen

NAME = "split batch"
_ALLOWED = 2e-3
_ROUNDINGS = 8


def check(opened: Opened) -> Finding | None:
    """The loss and its gradient over the whole batch, beside the sum over a quarter and the rest, in eval mode.

    None for a batch of one.
    """
    compares = [name for name, (leaf, _) in opened.objective.named_leaves().items() if leaf.per in ("pair", "batch")]
    if compares:
        return ok(NAME, None, f"{compares[0]} compares examples with each other: it is not split (accumulate=1).")
    if opened.batch.size < 2:
        return None
    cut = max(opened.batch.size // 4, 1)
    rows = torch.arange(opened.batch.size, device=opened.fabric.device)
    with Frozen(opened.tapped.model):  # and without autocast: what it rounds depends on the size of a batch
        whole, slope = _loss(opened, [rows])
        parts, pieces = _loss(opened, [rows[:cut], rows[cut:]])
    off = max(_off(whole, parts), float((slope - pieces).norm() / slope.norm().clamp_min(1e-9)))
    shown = f"{off:.1g}"
    if not off <= max(_ALLOWED, _ROUNDINGS * torch.finfo(_dtype(opened)).eps):
        return wrong(
            NAME, off,
            f"A batch split in two gives another loss or another gradient, by {100 * off:.3g} %: a loss declared per "
            "example or position must look at its own example alone, and not take a mean over the batch.", shown,
            rank=off,
        )  # fmt: skip
    if opened.accumulate > 1 and any(
        isinstance(one, nn.modules.batchnorm._BatchNorm) for one in opened.tapped.modules()
    ):
        return look(
            NAME, off, "The loss is the same, but the student's BatchNorm normalises over each micro-batch of "
            f"accumulate={opened.accumulate} by itself.", shown, rank=off,
        )  # fmt: skip
    return ok(NAME, off, "Whichever way a batch is split, loss and gradient are the same.", shown, rank=off)


def _dtype(opened: Opened) -> torch.dtype:
    """In which numbers the student computes its gradient: weights in bfloat16 know two or three digits."""
    return max((p.dtype for p in opened.learning()), key=lambda dtype: torch.finfo(dtype).eps)


def _off(whole: float, parts: float) -> float:
    return 0.0 if whole == parts else abs(whole - parts) / max(abs(whole), 1e-6)


def _loss(opened: Opened, parts: list[Tensor]) -> tuple[float, Tensor]:
    """What is minimised over all parts, and its gradient at all that learns, as the engine accumulates it."""
    pieces = [opened.batch.rows(rows) for rows in parts]
    counts = _counts(opened, pieces)
    total, slope = 0.0, None
    learning = opened.learning()
    for rows, piece in zip(parts, pieces, strict=True):
        shown = opened.tapped(input_rows(opened.inputs, rows))
        taught = Signal({address: tensor[rows] for address, tensor in opened.taught.items()})
        loss = minimised(opened.objective(shown, taught, piece, opened.progress), counts)
        found = torch.autograd.grad(loss, learning, allow_unused=True, materialize_grads=True)
        flat = torch.cat([gradient.flatten().double() for gradient in found])
        total, slope = total + float(loss.detach()), flat if slope is None else slope + flat
    return total, torch.zeros(1) if slope is None else slope


def _counts(opened: Opened, pieces: list[Batch]) -> dict[str, float]:
    counts: dict[str, float] = {}
    for piece in pieces:
        for name, count in opened.objective.counts(piece).items():
            counts[name] = counts.get(name, 0.0) + count
    return counts
