"""Is there nothing left to learn for a student that says exactly what the teacher says?"""

from __future__ import annotations

import torch
from torch import Tensor

from limbeck.doctor.finding import Finding, look, ok, wrong
from limbeck.doctor.opened import Opened
from limbeck.errors import LimbeckError
from limbeck.objective import Loss
from limbeck.signal import Signal

NAME = "teacher as student"
_ZERO, _STILL = 1e-4, 1e-3


def check(opened: Opened) -> Finding | None:
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
            return wrong(
                NAME, value,
                f"The term {name!r} is {value:.3g} where student and teacher are the same, and must be 0: are they "
                "softened alike, and is the teacher's entropy in it?", f"{value:.1g}", rank=abs(value),
            )  # fmt: skip
    for name, (value, slope, _) in known.items():
        if not slope <= _STILL:
            return look(
                NAME, value,
                f"The term {name!r} still moves a student that says exactly what the teacher says (by "
                f"{100 * slope:.2g} % of what moves the student now): is it meant to?", f"{value:.1g}", rank=slope,
            )  # fmt: skip
    most = max(abs(value) for value, _, _ in known.values())
    return ok(
        NAME,
        most,
        "A student that says what the teacher says has nothing left to learn from it.",
        f"{most:.1g}",
        rank=most,
    )


def _looked(opened: Opened, leaf: object, shown: Signal) -> tuple[float, float, bool] | None:
    """What the teacher would lose as its own student, its gradient beside the real one's, and whether it is to be 0."""
    if not isinstance(leaf, Loss) or leaf.head is not None or not {"student", "teacher"} <= leaf.kernel.reads:
        return None
    mine, theirs = leaf.addresses
    if theirs not in opened.taught or opened.taught[theirs].shape != shown[mine].shape:
        return None
    value, slope = _term(opened, leaf, mine, opened.taught[theirs])
    _, usual = _term(opened, leaf, mine, shown[mine])
    scale = max(float(usual.norm()), 1e-6)
    divergence = bool(getattr(leaf.kernel.function, "divergence", False))
    return value, float(slope.norm()) / scale, divergence


def _term(opened: Opened, leaf: Loss, address: str, student: Tensor) -> tuple[float, Tensor]:
    student = student.detach().float().requires_grad_()
    term = leaf.term(Signal({address: student}), opened.taught, opened.batch, opened.progress)
    if not term.total.requires_grad:
        raise LimbeckError(f"The term {leaf.name!r} does not depend on the student.")
    (slope,) = torch.autograd.grad(term.total, student)
    return float(term.mean.detach()), slope
