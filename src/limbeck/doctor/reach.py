"""Does every parameter that is to learn get a gradient, and is it a number?"""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from torch import nn

from limbeck.doctor.finding import Finding, look, ok, wrong
from limbeck.doctor.opened import Opened

GRADIENT, UNUSED = "gradient", "unused parameters"


def gradient(opened: Opened) -> Finding:
    """The first step's gradient is finite, and not 0."""
    total = sum(opened.gradients(opened.taught).values())
    norm = float(total.norm())  # type: ignore[union-attr]
    if not bool(total.isfinite().all()):  # type: ignore[union-attr]
        count = int((~total.isfinite()).sum())  # type: ignore[union-attr]
        return wrong(
            GRADIENT, None,
            f"{count} numbers of the first gradient are infinite or none at all: compute the loss in log space, lower "
            "the learning rate, or use precision=32-true.", "not finite",
        )  # fmt: skip
    if norm == 0.0:
        return wrong(GRADIENT, 0.0, "The first gradient is 0: nothing would be learnt.", "0")
    count = len(opened.reached)
    return ok(GRADIENT, norm, f"It reaches {count} parameter tensors, and every number in it is finite.", f"{norm:.2g}")


def unused(trained: Mapping[str, nn.Module], reached: Iterable[nn.Parameter]) -> Finding:
    """Which parameters that may learn are moved by no stage of an arm.

    Args:
        trained: The models that the arm's stages train, by name.
        reached: What any of its stages moves.
    """
    known = {id(parameter) for parameter in reached}
    named = [(name, p) for model in trained.values() for name, p in model.named_parameters() if p.requires_grad]
    left = [(name, parameter) for name, parameter in named if id(parameter) not in known]
    if not left:
        return ok(UNUSED, 0, f"All {len(named)} parameter tensors of the student learn.", "0")
    numbers, whole = sum(p.numel() for _, p in left), sum(p.numel() for _, p in named)
    said = ", ".join(name for name, _ in left[:3]) + (", ..." if len(left) > 3 else "")
    return look(
        UNUSED, len(left),
        f"{len(left)} of {len(named)} parameter tensors ({100 * numbers / max(whole, 1):.0f} % of the numbers) never "
        f"learn: {said}. Leave them out of the model, call them in forward(), or freeze them (requires_grad=False).",
        str(len(left)), rank=float(numbers),
    )  # fmt: skip
