"""Checks of losses: value against float64, and balance of the terms."""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Mapping
from typing import Any, cast

import torch
from torch import Tensor

from limbeck import functional
from limbeck.batch import IGNORED, LOGITS, Outputs
from limbeck.doctor.finding import Finding, fail, passed, warn
from limbeck.doctor.stage_context import StageContext
from limbeck.losses import Loss
from limbeck.schedule import Schedule

Reference = Callable[..., Tensor]

"""(student, teacher, labels, **hyper), logits in float64 with the classes last -> one value a row."""


def _kl(student: Tensor, teacher: Tensor, labels: Tensor | None, *, temperature: float = 1.0) -> Tensor:
    p, q = (teacher / temperature).softmax(-1), (student / temperature).softmax(-1)
    return temperature**2 * (p * (p / q).log()).nan_to_num(0.0).sum(-1)


def _reverse(student: Tensor, teacher: Tensor, labels: Tensor | None, *, temperature: float = 1.0) -> Tensor:
    return _kl(teacher, student, labels, temperature=temperature)


def _variation(student: Tensor, teacher: Tensor, labels: Tensor | None, *, temperature: float = 1.0) -> Tensor:
    p, q = (teacher / temperature).softmax(-1), (student / temperature).softmax(-1)
    return temperature**2 * (p - q).abs().sum(-1) / 2


def _cross_entropy(student: Tensor, teacher: Tensor | None, labels: Tensor) -> Tensor:
    picked = student.softmax(-1).gather(-1, labels.clamp_min(0).unsqueeze(-1)).squeeze(-1)
    return torch.where(labels == IGNORED, 0.0, -picked.log())


def _logits(student: Tensor, teacher: Tensor, labels: Tensor | None, *, centered: bool = True) -> Tensor:
    difference = student - teacher
    center = difference.mean(-1, keepdim=True) if centered else 0.0
    return ((difference - center) ** 2).mean(-1) / 2


def _probabilities(student: Tensor, teacher: Tensor, labels: Tensor | None, *, temperature: float = 1.0) -> Tensor:
    p, q = (teacher / temperature).softmax(-1), (student / temperature).softmax(-1)
    return temperature**2 * ((p - q) ** 2).mean(-1)


REFERENCES: Mapping[Any, Reference] = {
    functional.kl_divergence: _kl,
    functional.reverse_kl: _reverse,
    functional.total_variation: _variation,
    functional.cross_entropy: _cross_entropy,
    functional.logit_squared_error: _logits,
    functional.probability_squared_error: _probabilities,
}

"""By kernel. A kernel that is not here is set beside itself in float64."""


LOSS_VALUE = "loss in float64"

_ALLOWED = 2e-3

_FLOOR = 0.01


def check_loss_value(opened: StageContext) -> Finding:
    """Each term's value, and its gradient at what the student showed, beside float64.

    A published loss is set beside its formula as the paper prints it; any other beside itself in double precision,
    which shows what rounding does to it.
    """
    # What bfloat16 rounds is the student's own; the loss is computed wider, and looked at by itself.
    shown = Outputs({name: _widened(tensor).requires_grad_() for name, tensor in opened.shown().items()})
    off = {name: _off(opened, shown, name) for name in opened.objective.named_leaves()}
    worst, name = max((error, name) for name, error in off.items())
    text = f"{worst:.1g}"
    if not worst <= _ALLOWED:
        return fail(
            LOSS_VALUE, worst,
            f"The term {name!r} is {100 * worst:.3g} % off its value in float64, in itself or in its gradient: compute "
            "it in log space, and divide by what it is a mean over.", text, rank=worst,
        )  # fmt: skip
    return passed(LOSS_VALUE, worst, "The greatest relative error of any term, or of its gradient.", text, rank=worst)


def _widened(tensor: Tensor) -> Tensor:
    own = tensor.detach()
    return own.float() if own.element_size() < 4 else own


def _off(opened: StageContext, shown: Outputs, name: str) -> float:
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


def _square(leaf: Any, opened: StageContext) -> float:
    """T squared: what the rounding errors of a tempered loss grow with."""
    found = leaf.kernel.hyper.get("temperature", 1.0) if isinstance(leaf, Loss) else 1.0
    return max(float(found(opened.progress) if isinstance(found, Schedule) else found), 1.0) ** 2


def _formula(leaf: Loss, shown: Outputs, opened: StageContext) -> Tensor | None:
    """A published loss as it is printed; None where there is no formula for it here, or it reads more than logits."""
    written = REFERENCES.get(leaf.kernel.function)
    if written is None or leaf.head is not None or leaf.addresses != (LOGITS, LOGITS) or not _all_count(opened, shown):
        return None
    student, teacher = (
        side[LOGITS].double().movedim(leaf.classes, -1) if LOGITS in side else None for side in (shown, opened.taught)
    )
    hyper = {k: v(opened.progress) if isinstance(v, Schedule) else v for k, v in leaf.kernel.hyper.items()}
    return written(student, teacher, opened.batch.labels, **hyper).sum()


def _all_count(opened: StageContext, shown: Outputs) -> bool:
    """Whether every row of the logits counts, but for those without a label."""
    mask, whole = opened.batch.mask, shown[LOGITS].ndim == 2  # one answer to a whole text, whose mask is of tokens
    return mask is None or bool((mask.flatten(1).any(1) if whole else mask).all())


def _wide(outputs: Outputs, *, grad: bool = False) -> Outputs:
    return Outputs({k: v.detach().double().requires_grad_(grad) for k, v in outputs.items()})


def _slope(total: Tensor, outputs: Outputs) -> Tensor:
    found = torch.autograd.grad(total, list(outputs.values()), allow_unused=True, materialize_grads=True)
    return torch.cat([gradient.double().flatten() for gradient in found])


def _apart(ours: Tensor, plain: Tensor) -> float:
    """How far two gradients are apart, beside the length of the right one."""
    if not bool(ours.isfinite().all()):
        return float("inf")
    length, least = float(plain.norm()), 1e-5 * plain.numel() ** 0.5
    return float((ours - plain).norm()) / max(length, least)


TERM_BALANCE = "terms"

_LEAST = 0.01

_SURE = 0.9


def check_term_balance(opened: StageContext) -> Finding:
    """The norm of each term's weighted gradient at the parameters, as a share of their sum, halfway through the stage.

    A teacher that has learnt nothing yet is made sure of the labels first: between two that know nothing there is
    hardly a difference to learn from.
    """
    taught = opened.taught if opened.learnt else _learned(opened)
    norms = {name: float(gradient.norm()) for name, gradient in opened.gradients(taught).items()}
    whole = sum(norms.values())
    if not math.isfinite(whole) or whole == 0:
        return warn(TERM_BALANCE, norms, "Not known: there is no finite gradient to share.")
    shares = {name: norm / whole for name, norm in norms.items()}
    shown = " : ".join(f"{100 * share:.3g}" for share in shares.values()) + " %"
    value = {name: {"norm": norms[name], "share": shares[name]} for name in norms}
    small = {name: share for name, share in shares.items() if share < _LEAST}
    if small:
        return warn(TERM_BALANCE, value, _why(small, opened), shown, rank=1.0 - min(small.values()))
    said = ", ".join(f"{name} {norm:.2g}" for name, norm in norms.items())
    sentence = f"The norm of each term's gradient at the parameters: {said}.{_stand_in(opened)}"
    return passed(TERM_BALANCE, value, sentence, shown, rank=1.0 - min(shares.values()))


def _why(small: dict[str, float], opened: StageContext) -> str:
    weights = {name: weigh(opened.progress) for name, (_, weigh) in opened.objective.named_leaves().items()}
    off = [name for name in small if weights[name] == 0]
    if len(off) == len(small):
        return f"The term {off[0]!r} has weight 0 here: it takes no part."
    name, share = min(((n, s) for n, s in small.items() if weights[n] != 0), key=lambda pair: pair[1])
    return (
        f"The term {name!r} is {100 * share:.2g} % of the gradient: it hardly has a say. Is it a mean over classes or "
        f"tokens too, or is its weight ({weights[name]:.3g}) or temperature too small?{_stand_in(opened)}"
    )


def _stand_in(opened: StageContext) -> str:
    made = not opened.learnt and LOGITS in opened.taught
    return " The teacher has yet to learn: here it is 90 % sure of each label." if made else ""


def _learned(opened: StageContext) -> Outputs:
    """What the teacher might show once it has learnt: its answers, with the right class at 90 %."""
    if LOGITS not in opened.taught:
        return opened.taught
    logits = opened.taught[LOGITS].float()
    place = next((leaf.classes for leaf, _ in opened.objective.leaves() if isinstance(leaf, Loss)), -1)
    rows = logits.movedim(place, -1)
    targets = _targets(rows, opened.batch.labels)
    other = rows.scatter(-1, targets.unsqueeze(-1), -torch.inf).logsumexp(-1, keepdim=True)
    made = rows.scatter(-1, targets.unsqueeze(-1), other + math.log(_SURE / (1.0 - _SURE)))
    return Outputs({**opened.taught, LOGITS: made.movedim(-1, place)})


def _targets(rows: Tensor, labels: Tensor | None) -> Tensor:
    guesses = rows.argmax(-1)
    if labels is None or labels.shape != guesses.shape:
        return guesses
    return torch.where((labels >= 0) & (labels < rows.shape[-1]), labels, guesses)
