"""Checks of outputs: probabilities in place of logits, one class, other class orders."""

from __future__ import annotations

import warnings
from collections.abc import Iterable, Iterator
from typing import Any

import torch
from torch import Tensor, nn

from limbeck.batch import LOGITS, Inputs, Outputs, Progress
from limbeck.errors import LimbeckError, LimbeckWarning
from limbeck.functional.kernel import are_probabilities
from limbeck.losses import Loss
from limbeck.model_call import call, logits_of
from limbeck.models.folder import find_first_moved, get_class_names
from limbeck.recipe import Stage
from limbeck.tap import FrozenParameters, Tapped


def check_class_order(stage: Stage, student: nn.Module, networks: Iterable[nn.Module]) -> None:
    """Refuse a teacher whose ``id2label`` names a class that the student has under another number.

    Nothing is said where no loss compares the logits of the two, or one of them does not name its classes.

    Raises:
        LimbeckError: With the line that gives the student the teacher's order.
    """
    compared = any(
        LOGITS in leaf.requires.student and LOGITS in leaf.requires.teacher and not leaf.heads
        for leaf, _ in stage.objective.leaves()
    )
    ours = get_class_names(student) if compared else None
    for network in networks if ours is not None else ():
        theirs = get_class_names(network)
        moved = find_first_moved(ours, theirs) if ours and theirs and len(ours) == len(theirs) else None
        if moved is not None:
            index, mine, its = moved
            raise LimbeckError(
                f"Class {index} is {mine!r} to the model {stage.trains!r} and {its!r} to its teacher: they have the "
                "classes in different orders, so the student would learn the wrong ones. If its head is new, "
                f"type limbeck.models.name_classes(student, {list(theirs or ())[:6]}) and give labels in that order; "
                "if it has learnt, reorder the rows of one head's weights."
            )


_OF_LOGITS = {"cross_entropy", "label_smoothing", "logit_squared_error", "probability_squared_error"}


def check_outputs(
    stage: Stage, tapped: Tapped, outputs: Outputs, teacher_outputs: Outputs, inputs: Inputs, *, check_eval: bool = True
) -> None:
    """Refuse answers that losses would take for logits, and that are something else.

    Args:
        stage: What is learnt.
        tapped: Its student, open, in train mode.
        outputs: What it showed.
        teacher_outputs: What the teacher showed.
        inputs: What the student read.
        check_eval: Whether to look at what it will say in eval mode.

    Raises:
        LimbeckError: If a side answers with probabilities, there is one class alone, or the student answers with
            probabilities in eval mode alone.
    """
    for leaf in _softmax_losses(stage):
        _check_one_class(stage, leaf, outputs)
        if LOGITS in leaf.teacher.values() and LOGITS in teacher_outputs:
            _check_probabilities(
                leaf, teacher_outputs[LOGITS], f"The teacher of {stage.trains!r}", "ModelTeacher(model, "
            )
        _check_probabilities(leaf, outputs[LOGITS], f"The model {stage.trains!r}", "distill(..., ")
        if check_eval:
            _check_eval(stage, leaf, tapped, outputs[LOGITS], inputs)


def _softmax_losses(stage: Stage) -> Iterator[Loss]:
    """The losses that take the student's answer for logits."""
    for leaf, _ in stage.objective.leaves():
        if isinstance(leaf, Loss) and leaf.compares_logits and _takes_logits(leaf):
            yield leaf


def _takes_logits(leaf: Loss) -> bool:
    own = leaf.kernel.function.__module__.startswith("limbeck.")
    return leaf.kernel.divergence or (own and leaf.kernel.name in _OF_LOGITS)


def _check_one_class(stage: Stage, leaf: Loss, outputs: Outputs) -> None:
    """Refuse one logit where a softmax is taken: it is 1, whatever the logit, so that nothing is learnt."""
    logits = outputs[LOGITS]
    if not -logits.ndim <= leaf.classes < logits.ndim or logits.shape[leaf.classes] != 1:
        return
    if _has_gradient(leaf):
        return
    raise LimbeckError(
        f"The model {stage.trains!r} gives one logit (shape {tuple(logits.shape)}), and {leaf.name} takes a softmax "
        "over classes: of one class that is always 1, so that nothing would be learnt. For yes or no by one logit use "
        "Loss(binary_kl_divergence) and Loss(binary_cross_entropy) with targets; or give both sides two logits."
    )


def _has_gradient(leaf: Loss) -> bool:
    """Whether a loss depends on a student of one class at all."""
    draw = torch.Generator().manual_seed(0)
    student = torch.randn(4, 1, generator=draw).requires_grad_()
    arguments: dict[str, Any] = {"student": student, "teacher": torch.randn(4, 1, generator=draw)}
    arguments["labels"] = torch.zeros(4, dtype=torch.int64)
    with torch.enable_grad():
        values = leaf.kernel({name: arguments[name] for name in leaf.kernel.inputs if name in arguments}, Progress())
        (slope,) = torch.autograd.grad(values.sum(), student, allow_unused=True)
    return slope is not None and bool(slope.any())


def _check_probabilities(leaf: Loss, logits: Tensor, who: str, where: str) -> None:
    if are_probabilities(_last(logits, leaf.classes)):
        raise LimbeckError(
            f"{who} answers with probabilities (none is below 0, and each row's sum is 1), and {leaf.name} takes the "
            "softmax of logits: of probabilities that is nearly uniform. Take its softmax away, or give their "
            f"logarithm: {where}adaptor=lambda output: output.clamp_min(1e-12).log())."
        )


def _check_eval(stage: Stage, leaf: Loss, tapped: Tapped, trained: Tensor, inputs: Inputs) -> None:
    """Look at what the student will say when it is judged, where its own code asks in which mode it is."""
    if not any(_reads_training_mode(module) for module in tapped.model.modules()):
        return
    try:
        with FrozenParameters(tapped.model), torch.no_grad():
            logits = logits_of(call(tapped.model, inputs), tapped.adaptor)
    except Exception:  # what is never asked in eval mode need not answer there
        return
    if are_probabilities(_last(logits, leaf.classes)):
        raise LimbeckError(
            f"The model {stage.trains!r} answers with logits in train mode and with probabilities in eval mode, so "
            "that it would be judged by the softmax of a softmax. Let forward() return logits in both."
        )
    if logits.shape != trained.shape:
        warnings.warn(
            f"The model {stage.trains!r} answers with shape {tuple(trained.shape)} in train mode and "
            f"{tuple(logits.shape)} in eval mode: what is learnt is not what will be judged.",
            LimbeckWarning,
            stacklevel=2,
        )


def _reads_training_mode(module: nn.Module) -> bool:
    code = getattr(getattr(type(module), "forward", None), "__code__", None)
    return not type(module).__module__.startswith("torch.") and "training" in getattr(code, "co_names", ())


def _last(logits: Tensor, classes: int) -> Tensor:
    return logits.movedim(classes, -1) if -logits.ndim <= classes < logits.ndim else logits
