"""Checks of gradients: reach, split batches, self-distillation."""

from __future__ import annotations

import copy
from collections.abc import Iterable, Mapping
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn

from limbeck.batch import LOGITS, Batch, Outputs, Progress, input_rows
from limbeck.doctor.context import CheckContext, CheckedArm, Finding, StageContext, fail, passed, warn
from limbeck.engine import open_stage
from limbeck.errors import LimbeckError
from limbeck.losses import Loss, weighted_loss
from limbeck.recipe import Stage
from limbeck.tap import FrozenParameters
from limbeck.teachers import AlignedTeacher, ModelTeacher

GRADIENT, UNUSED = "gradient", "unused parameters"


def check_gradient(context: StageContext) -> Finding:
    """Check that the gradient of the first step is finite and not 0."""
    total = sum(context.gradients(context.teacher_outputs).values())
    norm = float(total.norm())  # type: ignore[union-attr]
    if not bool(total.isfinite().all()):  # type: ignore[union-attr]
        count = int((~total.isfinite()).sum())  # type: ignore[union-attr]
        return fail(
            GRADIENT, None,
            f"{count} values of the first gradient are infinite or NaN. Compute the loss in log space, lower the "
            "learning rate, or use precision=32-true.", "not finite",
        )  # fmt: skip
    if norm == 0.0:
        return fail(GRADIENT, 0.0, "The first gradient is 0, so nothing would be learned.", "0")
    count = len(context.reached)
    return passed(GRADIENT, norm, f"It is finite and reaches {count} parameter tensors.", f"{norm:.2g}")


def unused_parameters(trained: Mapping[str, nn.Module], reached: Iterable[nn.Parameter]) -> Finding:
    """Find trainable parameters that get no gradient in any stage of an arm.

    Args:
        trained: The models that the stages of the arm train, by name.
        reached: The parameters that get a gradient in any stage.
    """
    reached_ids = {id(parameter) for parameter in reached}
    named = [(name, p) for model in trained.values() for name, p in model.named_parameters() if p.requires_grad]
    unused = [(name, parameter) for name, parameter in named if id(parameter) not in reached_ids]
    if not unused:
        return passed(UNUSED, 0, f"All {len(named)} parameter tensors of the student are trained.", "0")
    numbers, whole = sum(p.numel() for _, p in unused), sum(p.numel() for _, p in named)
    listed = ", ".join(name for name, _ in unused[:3]) + (", ..." if len(unused) > 3 else "")
    return warn(
        UNUSED, len(unused),
        f"{len(unused)} of {len(named)} parameter tensors ({100 * numbers / max(whole, 1):.0f} % of the numbers) never "
        f"learn: {listed}. Leave them out of the model, call them in forward(), or freeze them (requires_grad=False).",
        str(len(unused)), rank=float(numbers),
    )  # fmt: skip


SPLIT_BATCHES = "split batch"

_ALLOWED = 2e-3

_ROUNDINGS = 8


def check_split_batches(context: StageContext) -> Finding | None:
    """Compare loss and gradient of the whole batch with the sum over a quarter and the rest, in eval mode.

    None for a batch of one.
    """
    cross_example = [
        name for name, (leaf, _) in context.objective.named_leaves().items() if leaf.per in ("pair", "batch")
    ]
    if cross_example:
        return passed(
            SPLIT_BATCHES, None, f"Not applicable: {cross_example[0]} compares examples with each other (accumulate=1)."
        )
    if context.batch.size < 2:
        return None
    cut = max(context.batch.size // 4, 1)
    rows = torch.arange(context.batch.size, device=context.fabric.device)
    with FrozenParameters(context.tapped.model):  # no autocast: its rounding depends on the batch size
        whole, slope = _loss(context, [rows])
        parts, pieces = _loss(context, [rows[:cut], rows[cut:]])
    off = max(_off(whole, parts), float((slope - pieces).norm() / slope.norm().clamp_min(1e-9)))
    text = f"{off:.1g}"
    if not off <= max(_ALLOWED, _ROUNDINGS * torch.finfo(_dtype(context)).eps):
        return fail(
            SPLIT_BATCHES, off,
            f"Loss or gradient differ by {100 * off:.3g} % if the batch is split in two. A loss declared per example "
            "or position must use that example only, and must not average over the batch.", text,
            rank=off,
        )  # fmt: skip
    if context.accumulate > 1 and any(
        isinstance(module, nn.modules.batchnorm._BatchNorm) for module in context.tapped.modules()
    ):
        return warn(
            SPLIT_BATCHES, off, "The loss is the same, but the student's BatchNorm normalizes each micro-batch of "
            f"accumulate={context.accumulate} separately.", text, rank=off,
        )  # fmt: skip
    return passed(SPLIT_BATCHES, off, "Loss and gradient do not depend on how a batch is split.", text, rank=off)


def _dtype(context: StageContext) -> torch.dtype:
    """The least precise dtype of the trained weights: gradients in bfloat16 have two or three digits."""
    return max((p.dtype for p in context.learning()), key=lambda dtype: torch.finfo(dtype).eps)


def _off(whole: float, parts: float) -> float:
    return 0.0 if whole == parts else abs(whole - parts) / max(abs(whole), 1e-6)


def _loss(context: StageContext, parts: list[Tensor]) -> tuple[float, Tensor]:
    """The loss over all parts and its gradient at all trainable parameters, accumulated as in the engine."""
    pieces = [context.batch.rows(rows) for rows in parts]
    counts = _counts(context, pieces)
    total, slope = 0.0, None
    learning = context.learning()
    for rows, piece in zip(parts, pieces, strict=True):
        student_outputs = context.tapped(input_rows(context.inputs, rows))
        every: dict[str, Any] = {**context.teacher_outputs, **context.teacher_outputs.partial}
        teacher_outputs = Outputs.of({address: output[rows] for address, output in every.items()})
        loss = weighted_loss(context.objective(student_outputs, teacher_outputs, piece, context.progress), counts)
        gradients = torch.autograd.grad(loss, learning, allow_unused=True, materialize_grads=True)
        flat = torch.cat([gradient.flatten().double() for gradient in gradients])
        total, slope = total + float(loss.detach()), flat if slope is None else slope + flat
    return total, torch.zeros(1) if slope is None else slope


def _counts(context: StageContext, pieces: list[Batch]) -> dict[str, float]:
    counts: dict[str, float] = {}
    for piece in pieces:
        for name, count in context.objective.counts(piece).items():
            counts[name] = counts.get(name, 0.0) + count
    return counts


SELF_DISTILLATION = "teacher as student"

_ZERO, _STILL = 1e-4, 1e-3


def check_self_distillation(context: StageContext) -> Finding | None:
    """Check that a divergence and its gradient are 0 if the student's outputs equal the teacher's.

    None if no term compares the two directly: a hint goes through a head that is not trained yet.
    """
    student_outputs = context.student_outputs()
    results = {
        name: _compare_with_itself(context, leaf, student_outputs)
        for name, (leaf, _) in context.objective.named_leaves().items()
    }
    comparable = {name: result for name, result in results.items() if result is not None}
    if not comparable:
        return None
    for name, (value, _, divergence) in comparable.items():
        if divergence and not abs(value) <= _ZERO:
            return fail(
                SELF_DISTILLATION, value,
                f"The term {name!r} is {value:.3g} for equal outputs of student and teacher, and must be 0. Do both "
                "use the same temperature, and is the teacher's entropy subtracted?", f"{value:.1g}", rank=abs(value),
            )  # fmt: skip
    for name, (value, slope, _) in comparable.items():
        if not slope <= _STILL:
            return warn(
                SELF_DISTILLATION, value,
                f"The term {name!r} has a gradient even for equal outputs of student and teacher "
                f"({100 * slope:.2g} % of the student's gradient now). Is this intended?", f"{value:.1g}", rank=slope,
            )  # fmt: skip
    largest = max(abs(value) for value, _, _ in comparable.values())
    return passed(
        SELF_DISTILLATION,
        largest,
        "The loss and its gradient are 0 for equal outputs of student and teacher.",
        f"{largest:.1g}",
        rank=largest,
    )


EQUAL_MODELS = "copy of teacher"

_ROUNDING = 1e-6


def check_equal_models(
    stage: Stage, arm: CheckedArm, models: Mapping[str, nn.Module], context: CheckContext
) -> Finding | None:
    """Check that the divergences of a copy of the teacher from the teacher are 0, computed as in a training step.

    None if the losses read more than the logits, or the teacher of the stage is not one model with the student's ids.
    """
    teacher = context.teacher
    if isinstance(teacher, AlignedTeacher) and teacher.reads_own_ids:
        teacher = teacher.inner
    leaves = stage.objective.named_leaves()
    divergences = [name for name, (leaf, _) in leaves.items() if isinstance(leaf, Loss) and leaf.kernel.divergence]
    reads_more = any(leaf.heads or leaf.requires.student != {LOGITS} for leaf, _ in leaves.values())
    if stage.teacher is not context.teacher or not isinstance(teacher, ModelTeacher) or reads_more or not divergences:
        return None
    copied = copy.deepcopy(teacher.model).requires_grad_(True)
    opened = open_stage(
        replace(stage, teacher=teacher, only=None), {**models, stage.trains: copied}, arm.loader, arm.setting,
        fabric=context.fabric,
    )  # fmt: skip
    with opened as trainer, FrozenParameters(copied), context.fabric.autocast():
        batch = trainer.batch
        outputs = trainer.tapped(trainer.preprocess(batch))
        terms = trainer.objective(outputs, trainer.get_teacher_outputs(batch), batch, Progress(1, 3))
    values = {name: float(terms[name].mean) for name in divergences if name in terms}
    worst = max(map(abs, values.values()), default=0.0)
    if not worst <= _ROUNDING:
        return fail(
            EQUAL_MODELS, values,
            f"A student that is a copy of the teacher has a loss of {worst:.2g}, and must have 0: student and teacher "
            "are called in another way. Has the teacher inputs or an adaptor of its own?", f"{worst:.1g}", rank=worst,
        )  # fmt: skip
    exactly = "exactly 0" if worst == 0 else f"0 up to rounding ({worst:.1g})"
    return passed(
        EQUAL_MODELS, values, f"The loss of a student that is a copy of the teacher is {exactly}.", f"{worst:.1g}"
    )


def _compare_with_itself(
    context: StageContext, leaf: object, student_outputs: Outputs
) -> tuple[float, float, bool] | None:
    """Loss of the teacher as its own student, its gradient relative to the student's, and whether both must be 0."""
    if not isinstance(leaf, Loss) or leaf.heads or len(leaf.student) != 1 or len(leaf.teacher) != 1:
        return None
    (mine,), (theirs,) = leaf.student.values(), leaf.teacher.values()
    partial = context.teacher_outputs.partial.get(theirs)
    own = context.teacher_outputs.get(theirs) if partial is None else partial.to_dense()
    if own is None or own.shape != student_outputs[mine].shape:
        return None
    value, slope = _term(context, leaf, mine, own)
    _, usual = _term(context, leaf, mine, student_outputs[mine])
    scale = max(float(usual.norm()), 1e-6)
    return value, float(slope.norm()) / scale, leaf.kernel.divergence


def _term(context: StageContext, leaf: Loss, address: str, student: Tensor) -> tuple[float, Tensor]:
    student = student.detach().float().requires_grad_()
    term = leaf.term(Outputs({address: student}), context.teacher_outputs, context.batch, context.progress)
    if not term.total.requires_grad:
        raise LimbeckError(f"The term {leaf.name!r} does not depend on the student.")
    (slope,) = torch.autograd.grad(term.total, student)
    return float(term.mean.detach()), slope
