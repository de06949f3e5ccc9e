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
from limbeck.doctor.context import Finding, StageContext, fail, passed, warn
from limbeck.losses import Loss
from limbeck.schedule import Schedule

Reference = Callable[..., Tensor]

"""(student, teacher, labels, **hyper) -> one value per row. Logits are float64, with the classes last."""


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

"""The reference formulas by kernel. Other kernels are compared with themselves in float64."""


LOSS_VALUE = "loss in float64"

_ALLOWED = 2e-3

_FLOOR = 0.01


def check_loss_value(context: StageContext) -> Finding:
    """Compare each term and its gradient at the student's outputs with float64.

    A published loss is compared with its formula as printed in the paper, any other with itself in float64, which
    shows rounding errors only.
    """
    # Rounding of the outputs to bfloat16 is not an error of the loss.
    student_outputs = Outputs(
        {name: _widened(tensor).requires_grad_() for name, tensor in context.student_outputs().items()}
    )
    off = {name: _off(context, student_outputs, name) for name in context.objective.named_leaves()}
    worst, name = max((error, name) for name, error in off.items())
    text = f"{worst:.1g}"
    if not worst <= _ALLOWED:
        return fail(
            LOSS_VALUE, worst,
            f"The term {name!r} or its gradient differs from float64 by {100 * worst:.3g} %. Compute it in log space, "
            "and divide means by the number of values.", text, rank=worst,
        )  # fmt: skip
    return passed(LOSS_VALUE, worst, "The largest relative error of a term or its gradient.", text, rank=worst)


def _widened(tensor: Tensor) -> Tensor:
    own = tensor.detach()
    return own.float() if own.element_size() < 4 else own


def _off(context: StageContext, student_outputs: Outputs, name: str) -> float:
    """The relative error of one term."""
    leaf, _ = context.objective.named_leaves()[name]
    ours = leaf.term(student_outputs, context.teacher_outputs, context.batch, context.progress).total
    outputs64 = _wide(student_outputs, grad=True)
    plain = _formula(leaf, outputs64, context) if isinstance(leaf, Loss) else None
    if plain is None:
        loss64 = cast(Any, copy.deepcopy(leaf)).double()
        plain = loss64.term(outputs64, _wide(context.teacher_outputs), context.batch, context.progress).total
    if not (bool(ours.isfinite()) and bool(plain.isfinite())):
        return 0.0 if bool(ours == plain) else float("inf")
    scale = _square(leaf, context) * _FLOOR * max(leaf.count(context.batch), 1.0)
    mine, right = float(ours.detach()), float(plain.detach())
    value = abs(mine - right) / max(abs(right), scale)
    return max(value, _relative_distance(_slope(ours, student_outputs), _slope(plain, outputs64)))


def _square(leaf: Any, context: StageContext) -> float:
    """T squared: rounding errors of a loss with temperature grow with it."""
    temperature = leaf.kernel.hyper.get("temperature", 1.0) if isinstance(leaf, Loss) else 1.0
    return max(float(temperature(context.progress) if isinstance(temperature, Schedule) else temperature), 1.0) ** 2


def _formula(leaf: Loss, student_outputs: Outputs, context: StageContext) -> Tensor | None:
    """The value of a published loss by its formula; None if there is no formula here, or it uses more than logits."""
    formula = REFERENCES.get(leaf.kernel.function)
    if (
        formula is None
        or leaf.heads
        or set(leaf.student.values()) | set(leaf.teacher.values()) != {LOGITS}
        or LOGITS in context.teacher_outputs.partial
        or not _all_count(context, student_outputs)
    ):
        return None
    student, teacher = (
        side[LOGITS].double().movedim(leaf.classes, -1) if LOGITS in side else None
        for side in (student_outputs, context.teacher_outputs)
    )
    hyper = {k: v(context.progress) if isinstance(v, Schedule) else v for k, v in leaf.kernel.hyper.items()}
    return formula(student, teacher, context.batch.labels, **hyper).sum()


def _all_count(context: StageContext, student_outputs: Outputs) -> bool:
    """Whether no row of the logits is masked."""
    mask, whole = context.batch.mask, student_outputs[LOGITS].ndim == 2  # one output per text; the mask is per token
    return mask is None or bool((mask.flatten(1).any(1) if whole else mask).all())


def _wide(outputs: Outputs, *, grad: bool = False) -> Outputs:
    tensors = {k: v.detach().double().requires_grad_(grad) for k, v in outputs.items()}
    return Outputs.of({**{k: v.double() for k, v in outputs.partial.items()}, **tensors})


def _slope(total: Tensor, outputs: Outputs) -> Tensor:
    gradients = torch.autograd.grad(total, list(outputs.values()), allow_unused=True, materialize_grads=True)
    return torch.cat([gradient.double().flatten() for gradient in gradients])


def _relative_distance(ours: Tensor, plain: Tensor) -> float:
    """The distance of two gradients relative to the norm of the correct one."""
    if not bool(ours.isfinite().all()):
        return float("inf")
    length, least = float(plain.norm()), 1e-5 * plain.numel() ** 0.5
    return float((ours - plain).norm()) / max(length, least)


TERM_BALANCE = "terms"

_LEAST = 0.01

_SURE = 0.9


def check_term_balance(context: StageContext) -> Finding:
    """Check the share of each term in the gradient at the parameters, halfway through the stage."""
    if not context.teacher_trained and context.batch.labels is None and "targets" in context.batch.extra:
        return warn(
            TERM_BALANCE, None, "Unknown: the job trains the teacher first, and two untrained networks are alike."
        )
    # Two untrained networks hardly differ, so an untrained teacher is replaced by one that knows the labels.
    teacher_outputs = context.teacher_outputs if context.teacher_trained else _confident_outputs(context)
    norms = {name: float(gradient.norm()) for name, gradient in context.gradients(teacher_outputs).items()}
    # In this batch nothing may count for a term, such as the labels of given texts where the student wrote all.
    counts = context.objective.counts(context.batch)
    norms = {name: norm for name, norm in norms.items() if counts.get(name, 1)}
    whole = sum(norms.values())
    if not math.isfinite(whole) or whole == 0:
        return warn(TERM_BALANCE, norms, "Unknown: the gradient is 0 or not finite.")
    shares = {name: norm / whole for name, norm in norms.items()}
    text = " : ".join(f"{100 * share:.3g}" for share in shares.values()) + " %"
    value = {name: {"norm": norms[name], "share": shares[name]} for name in norms}
    small = {name: share for name, share in shares.items() if share < _LEAST}
    if small:
        return warn(TERM_BALANCE, value, _explain(small, context), text, rank=1.0 - min(small.values()))
    listed = ", ".join(f"{name} {norm:.2g}" for name, norm in norms.items())
    sentence = f"The gradient norm of each term at the parameters: {listed}.{_describe_teacher(context)}"
    return passed(TERM_BALANCE, value, sentence, text, rank=1.0 - min(shares.values()))


def _explain(small: dict[str, float], context: StageContext) -> str:
    weights = {name: weigh(context.progress) for name, (_, weigh) in context.objective.named_leaves().items()}
    off = [name for name in small if weights[name] == 0]
    if len(off) == len(small):
        return f"The term {off[0]!r} has weight 0 here, so it has no effect."
    name, share = min(((n, s) for n, s in small.items() if weights[n] != 0), key=lambda pair: pair[1])
    return (
        f"The term {name!r} is only {100 * share:.2g} % of the gradient. Does it average over classes or tokens too, "
        f"or is its weight ({weights[name]:.3g}) or temperature too small?{_describe_teacher(context)}"
    )


def _describe_teacher(context: StageContext) -> str:
    replaced = not context.teacher_trained and LOGITS in context.teacher_outputs
    return " The teacher is not trained yet; for this check it has 90 % confidence in each label." if replaced else ""


def _confident_outputs(context: StageContext) -> Outputs:
    """The teacher's outputs with the probability of the label set to 90 %."""
    if LOGITS not in context.teacher_outputs:
        return context.teacher_outputs
    logits = context.teacher_outputs[LOGITS].float()
    axis = next((leaf.classes for leaf, _ in context.objective.leaves() if isinstance(leaf, Loss)), -1)
    rows = logits.movedim(axis, -1)
    targets = _targets(rows, context.batch.labels)
    other = rows.scatter(-1, targets.unsqueeze(-1), -torch.inf).logsumexp(-1, keepdim=True)
    confident = rows.scatter(-1, targets.unsqueeze(-1), other + math.log(_SURE / (1.0 - _SURE)))
    return Outputs({**context.teacher_outputs, LOGITS: confident.movedim(-1, axis)})


def _targets(rows: Tensor, labels: Tensor | None) -> Tensor:
    guesses = rows.argmax(-1)
    if labels is None or labels.shape != guesses.shape:
        return guesses
    return torch.where((labels >= 0) & (labels < rows.shape[-1]), labels, guesses)
