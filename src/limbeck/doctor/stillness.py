"""Does the teacher stand still while it is asked, and say the same whoever else is in the batch?"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping

import torch
from torch import Tensor, nn

from limbeck.doctor.finding import Finding, ok, wrong
from limbeck.doctor.patient import Patient, drawn
from limbeck.signal import LOGITS
from limbeck.teachers import asked_whole

STEADY, UNTOUCHED = "teacher's answers", "teacher untouched"
_SIZE = 64


def steady(patient: Patient) -> Finding:
    """Asked again about a part of the same examples, the teacher gives the same classes and nearly the same numbers."""
    batch = drawn(patient.train, _SIZE).to(patient.device)
    prepared = patient.teacher.prepare(frozenset({LOGITS}), device=patient.device, reads=patient.reads)
    half = torch.arange(max(batch.size // 2, 1), device=patient.device)
    with torch.no_grad(), prepared as answer, patient.fabric.autocast():
        whole = answer(batch)[LOGITS][: len(half)].double()
        again = answer(batch.rows(half))[LOGITS].double()
        filled = asked_whole(answer, batch.rows(half), batch.size)[LOGITS].double()
    if nothing := int(whole.isnan().flatten(1).any(1).sum()):
        said = (
            f"The teacher answers with NaN for {nothing} of {len(whole)} examples: look at what it does in eval mode."
        )
        return wrong(STEADY, None, said, f"{nothing} NaN")
    agreement = float((whole.argmax(-1) == again.argmax(-1)).double().mean())
    apart = max(_apart(whole, again), _apart(whole, filled))
    if apart > 0.01:
        return wrong(
            STEADY, agreement,
            f"Asked twice about the same examples, beside others, the teacher gives other answers (up to "
            f"{100 * apart:.2g} % of their spread apart): it draws at random, or normalises by the batch, also in eval "
            "mode.", f"{100 * agreement:.0f} % agree",
        )  # fmt: skip
    return ok(STEADY, agreement, "Asked twice about the same examples, it says the same.", f"{100 * agreement:.0f} %")


def _apart(one: Tensor, other: Tensor) -> float:
    spread = float(one[one.isfinite()].std()) if one.isfinite().sum() > 1 else 1.0
    return float((one - other).nan_to_num(0.0).abs().max()) / max(spread, 1e-9)


def state_of(networks: Mapping[str, nn.Module]) -> dict[str, str]:
    """The hash of every parameter and buffer of the networks, also of those that no file holds."""
    found = {}
    for name, network in networks.items():
        for kind, tensors in (("weight", network.named_parameters()), ("buffer", network.named_buffers())):
            for inner, tensor in tensors:
                flat = tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8)
                found[f"{kind} {name}.{inner}"] = hashlib.sha256(flat.numpy().data).hexdigest()
    return found


def untouched(patient: Patient, before: Mapping[str, str], students: list[nn.Module]) -> Finding:
    """After every arm was forward and back: the teacher got no gradient, nothing in it moved, and nothing is shared.

    Args:
        patient: What is looked at.
        before: The teacher's state when the doctor came.
        students: The models that learnt meanwhile.
    """
    inside = [parameter for network in patient.networks.values() for parameter in network.parameters()]
    learning = {p.untyped_storage().data_ptr() for student in students for p in student.parameters() if p.numel()}
    shared = [p for p in inside if p.numel() and p.untyped_storage().data_ptr() in learning]
    if shared:
        return wrong(
            UNTOUCHED, len(shared),
            f"{len(shared)} parameters belong to teacher and student alike, so the teacher would learn too: build each "
            "with layers of its own.", f"{len(shared)} shared",
        )  # fmt: skip
    graded = sum(parameter.grad is not None for parameter in inside)
    if graded:
        return wrong(UNTOUCHED, graded, f"{graded} parameters of the teacher got a gradient.", f"{graded} graded")
    after = state_of(patient.networks)
    moved = [name for name, value in after.items() if before.get(name) != value]
    if moved:
        said = ", ".join(moved[:3]) + (", ..." if len(moved) > 3 else "")
        return wrong(
            UNTOUCHED, len(moved),
            f"Being asked changes the teacher: {said}. Its forward() must write nothing in eval mode, else its answers "
            "depend on who asked before.", f"{len(moved)} moved",
        )  # fmt: skip
    return ok(
        UNTOUCHED, 0, f"No gradient reaches its {len(inside)} parameters, and no weight or buffer of it moves.",
        "0 moved",
    )  # fmt: skip
