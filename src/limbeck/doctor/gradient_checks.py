"""Checks of gradients: reach, split batches, self-distillation."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

import torch
from torch import Tensor, nn

from limbeck.batch import Batch, Outputs, input_rows
from limbeck.doctor.finding import Finding, fail, passed, warn
from limbeck.doctor.stage_context import StageContext
from limbeck.errors import LimbeckError
from limbeck.losses import Loss, weighted_loss
from limbeck.tap import FrozenParameters

GRADIENT, UNUSED = "gradient", "unused parameters"


def check_gradient(opened: StageContext) -> Finding:
    """The first step's gradient is finite, and not 0."""
    total = sum(opened.gradients(opened.taught).values())
    norm = float(total.norm())  # type: ignore[union-attr]
    if not bool(total.isfinite().all()):  # type: ignore[union-attr]
        count = int((~total.isfinite()).sum())  # type: ignore[union-attr]
        return fail(
            GRADIENT, None,
            f"{count} numbers of the first gradient are infinite or none at all: compute the loss in log space, lower "
            "the learning rate, or use precision=32-true.", "not finite",
        )  # fmt: skip
    if norm == 0.0:
        return fail(GRADIENT, 0.0, "The first gradient is 0: nothing would be learnt.", "0")
    count = len(opened.reached)
    return passed(
        GRADIENT, norm, f"It reaches {count} parameter tensors, and every number in it is finite.", f"{norm:.2g}"
    )


def unused_parameters(trained: Mapping[str, nn.Module], reached: Iterable[nn.Parameter]) -> Finding:
    """Which parameters that may learn are moved by no stage of an arm.

    Args:
        trained: The models that the arm's stages train, by name.
        reached: What any of its stages moves.
    """
    known = {id(parameter) for parameter in reached}
    named = [(name, p) for model in trained.values() for name, p in model.named_parameters() if p.requires_grad]
    left = [(name, parameter) for name, parameter in named if id(parameter) not in known]
    if not left:
        return passed(UNUSED, 0, f"All {len(named)} parameter tensors of the student learn.", "0")
    numbers, whole = sum(p.numel() for _, p in left), sum(p.numel() for _, p in named)
    said = ", ".join(name for name, _ in left[:3]) + (", ..." if len(left) > 3 else "")
    return warn(
        UNUSED, len(left),
        f"{len(left)} of {len(named)} parameter tensors ({100 * numbers / max(whole, 1):.0f} % of the numbers) never "
        f"learn: {said}. Leave them out of the model, call them in forward(), or freeze them (requires_grad=False).",
        str(len(left)), rank=float(numbers),
    )  # fmt: skip


SPLIT_BATCHES = "split batch"

_ALLOWED = 2e-3

_ROUNDINGS = 8


def check_split_batches(opened: StageContext) -> Finding | None:
    """The loss and its gradient over the whole batch, beside the sum over a quarter and the rest, in eval mode.

    None for a batch of one.
    """
    compares = [name for name, (leaf, _) in opened.objective.named_leaves().items() if leaf.per in ("pair", "batch")]
    if compares:
        return passed(
            SPLIT_BATCHES, None, f"{compares[0]} compares examples with each other: it is not split (accumulate=1)."
        )
    if opened.batch.size < 2:
        return None
    cut = max(opened.batch.size // 4, 1)
    rows = torch.arange(opened.batch.size, device=opened.fabric.device)
    with FrozenParameters(opened.tapped.model):  # and without autocast: what it rounds depends on the size of a batch
        whole, slope = _loss(opened, [rows])
        parts, pieces = _loss(opened, [rows[:cut], rows[cut:]])
    off = max(_off(whole, parts), float((slope - pieces).norm() / slope.norm().clamp_min(1e-9)))
    shown = f"{off:.1g}"
    if not off <= max(_ALLOWED, _ROUNDINGS * torch.finfo(_dtype(opened)).eps):
        return fail(
            SPLIT_BATCHES, off,
            f"A batch split in two gives another loss or another gradient, by {100 * off:.3g} %: a loss declared per "
            "example or position must look at its own example alone, and not take a mean over the batch.", shown,
            rank=off,
        )  # fmt: skip
    if opened.accumulate > 1 and any(
        isinstance(one, nn.modules.batchnorm._BatchNorm) for one in opened.tapped.modules()
    ):
        return warn(
            SPLIT_BATCHES, off, "The loss is the same, but the student's BatchNorm normalizes over each micro-batch of "
            f"accumulate={opened.accumulate} by itself.", shown, rank=off,
        )  # fmt: skip
    return passed(
        SPLIT_BATCHES, off, "Whichever way a batch is split, loss and gradient are the same.", shown, rank=off
    )


def _dtype(opened: StageContext) -> torch.dtype:
    """In which numbers the student computes its gradient: weights in bfloat16 know two or three digits."""
    return max((p.dtype for p in opened.learning()), key=lambda dtype: torch.finfo(dtype).eps)


def _off(whole: float, parts: float) -> float:
    return 0.0 if whole == parts else abs(whole - parts) / max(abs(whole), 1e-6)


def _loss(opened: StageContext, parts: list[Tensor]) -> tuple[float, Tensor]:
    """What is minimized over all parts, and its gradient at all that learns, as the engine accumulates it."""
    pieces = [opened.batch.rows(rows) for rows in parts]
    counts = _counts(opened, pieces)
    total, slope = 0.0, None
    learning = opened.learning()
    for rows, piece in zip(parts, pieces, strict=True):
        shown = opened.tapped(input_rows(opened.inputs, rows))
        taught = Outputs({address: tensor[rows] for address, tensor in opened.taught.items()})
        loss = weighted_loss(opened.objective(shown, taught, piece, opened.progress), counts)
        found = torch.autograd.grad(loss, learning, allow_unused=True, materialize_grads=True)
        flat = torch.cat([gradient.flatten().double() for gradient in found])
        total, slope = total + float(loss.detach()), flat if slope is None else slope + flat
    return total, torch.zeros(1) if slope is None else slope


def _counts(opened: StageContext, pieces: list[Batch]) -> dict[str, float]:
    counts: dict[str, float] = {}
    for piece in pieces:
        for name, count in opened.objective.counts(piece).items():
            counts[name] = counts.get(name, 0.0) + count
    return counts


SELF_DISTILLATION = "teacher as student"

_ZERO, _STILL = 1e-4, 1e-3


def check_self_distillation(opened: StageContext) -> Finding | None:
    """With the teacher's own answers in the student's place, a divergence is 0 and every such loss stands still.

    None where no term compares the two directly: a hint goes through a head that has yet to learn.
    """
    shown = opened.shown()
    found = {name: _looked(opened, leaf, shown) for name, (leaf, _) in opened.objective.named_leaves().items()}
    known = {name: one for name, one in found.items() if one is not None}
    if not known:
        return None
    for name, (value, _, divergence) in known.items():
        if divergence and not abs(value) <= _ZERO:
            return fail(
                SELF_DISTILLATION, value,
                f"The term {name!r} is {value:.3g} where student and teacher are the same, and must be 0: are they "
                "softened alike, and is the teacher's entropy in it?", f"{value:.1g}", rank=abs(value),
            )  # fmt: skip
    for name, (value, slope, _) in known.items():
        if not slope <= _STILL:
            return warn(
                SELF_DISTILLATION, value,
                f"The term {name!r} still moves a student that says exactly what the teacher says (by "
                f"{100 * slope:.2g} % of what moves the student now): is it meant to?", f"{value:.1g}", rank=slope,
            )  # fmt: skip
    most = max(abs(value) for value, _, _ in known.values())
    return passed(
        SELF_DISTILLATION,
        most,
        "A student that says what the teacher says has nothing left to learn from it.",
        f"{most:.1g}",
        rank=most,
    )


def _looked(opened: StageContext, leaf: object, shown: Outputs) -> tuple[float, float, bool] | None:
    """What the teacher would lose as its own student, its gradient beside the real one's, and whether it is to be 0."""
    if not isinstance(leaf, Loss) or leaf.head is not None or not {"student", "teacher"} <= leaf.kernel.inputs:
        return None
    mine, theirs = leaf.addresses
    if theirs not in opened.taught or opened.taught[theirs].shape != shown[mine].shape:
        return None
    value, slope = _term(opened, leaf, mine, opened.taught[theirs])
    _, usual = _term(opened, leaf, mine, shown[mine])
    scale = max(float(usual.norm()), 1e-6)
    divergence = bool(getattr(leaf.kernel.function, "divergence", False))
    return value, float(slope.norm()) / scale, divergence


def _term(opened: StageContext, leaf: Loss, address: str, student: Tensor) -> tuple[float, Tensor]:
    student = student.detach().float().requires_grad_()
    term = leaf.term(Outputs({address: student}), opened.taught, opened.batch, opened.progress)
    if not term.total.requires_grad:
        raise LimbeckError(f"The term {leaf.name!r} does not depend on the student.")
    (slope,) = torch.autograd.grad(term.total, student)
    return float(term.mean.detach()), slope
