"""Losses that pull a student towards numbers, or towards several labels at once."""

from __future__ import annotations

from typing import TypeAlias

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Integer
from torch import Tensor

from limbeck.errors import LimbeckError
from limbeck.functional.binary_form import binary_divergence
from limbeck.functional.check import checked, paired
from limbeck.functional.divergence import kl_divergence
from limbeck.functional.kernel import kernel
from limbeck.functional.rows import inside_transform

_IGNORED = -100

Answers: TypeAlias = Float[Tensor, "*outputs"] | Integer[Tensor, "*outputs"] | Bool[Tensor, "*outputs"]
"""Yes or no, or the probability of a yes, for each output."""


@kernel(per="output")
@checked
def target_squared_error(
    student: Float[Tensor, "*outputs"], *, targets: Float[Tensor, "*outputs"]
) -> Float[Tensor, "*outputs"]:
    """The squared error of the student's numbers: ``(f - y)^2``, one value for each output of each example.

    Its unit is that of the targets, squared. A target that is NaN is unknown: the value and its gradient are 0 there,
    and the mean that a `Loss` takes is over the others, as in `limbeck.measure.mse`. In float32 it overflows for
    differences above 1e19.

    Args:
        student: What the student says.
        targets: What it should say, ``Batch.extra["targets"]``.

    Raises:
        LimbeckError: If the shapes differ, or targets are whole numbers: then nothing says which are unknown.

    Example:
        >>> import torch
        >>> target_squared_error(torch.tensor([[1.0, 2.0]]), targets=torch.tensor([[3.0, float("nan")]]))
        tensor([[4., 0.]])
    """
    _check_shapes(student, targets)
    if not targets.is_floating_point():
        raise LimbeckError(
            f"target_squared_error() wants targets that are floating-point numbers, NaN where unknown; these are "
            f"{str(targets.dtype).removeprefix('torch.')}: targets.float()."
        )
    unknown = targets.isnan()
    return (student - targets.masked_fill(unknown, 0.0)).masked_fill(unknown, 0.0).square()


@kernel(per="output")
@checked
def binary_cross_entropy(student: Float[Tensor, "*outputs"], *, targets: Answers) -> Float[Tensor, "*outputs"]:
    """Independent yes-or-no answers: ``-y log s(z) - (1 - y) log s(-z)`` in nats, s the logistic function.

    One value for each output of each example: for several labels at once. y is 1 for yes and 0 for no, or the
    probability of a yes. It is unknown where it is -100 in whole numbers, or NaN in floating-point ones: the value and
    its gradient are 0 there, and the mean that a `Loss` takes is over the others, as in `limbeck.measure.binary_nll`.

    Args:
        student: Logits of the student, one for each label.
        targets: The answers, ``Batch.extra["targets"]``.

    Raises:
        LimbeckError: If the shapes differ, or (on the CPU) a known answer is not from 0 to 1.

    Example:
        >>> import torch
        >>> binary_cross_entropy(torch.tensor([[0.0, 3.0]]), targets=torch.tensor([[1, -100]]))
        tensor([[0.6931, 0.0000]])
    """
    _check_shapes(student, targets)
    unknown = ~known_targets(targets)
    answers = targets.to(student.dtype).masked_fill(unknown, 0.5)
    _check_answers(answers)
    return F.binary_cross_entropy_with_logits(student, answers, reduction="none").masked_fill(unknown, 0.0)


@kernel(per="output")
@paired
def binary_kl_divergence(
    student: Float[Tensor, "*outputs"], teacher: Float[Tensor, "*outputs"], *, temperature: float = 1.0
) -> Float[Tensor, "*outputs"]:
    """KL(p || q) between independent yes-or-no answers, times T^2, in nats, one value for each label of each example.

    ``p = s(v / T)`` of the teacher and ``q = s(z / T)`` of the student, s the logistic function:
    ``p log(p / q) + (1 - p) log((1 - p) / (1 - q))``. It is `kl_divergence` between the two-class logits ``(z, 0)`` and
    ``(v, 0)``, and keeps its limits: exactly 0, with a gradient of 0, where both are equal.

    Args:
        student: Logits z of the student, one for each label.
        teacher: Logits v of the teacher.
        temperature: T.

    Raises:
        LimbeckError: If the shapes differ, or the temperature is not above 0.

    Example:
        >>> import torch
        >>> binary_kl_divergence(torch.tensor([[0.0, 2.0]]), torch.tensor([[1.0, 2.0]]))
        tensor([[0.1109, 0.0000]])

    Source: Yang et al., Multi-Label Knowledge Distillation, 2023, arXiv:2308.06453, the multi-label logits loss, here
    with a temperature.
    """
    return binary_divergence(student, teacher, temperature, _of_two_classes)


def _of_two_classes(student: Tensor, teacher: Tensor, temperature: float) -> Tensor:
    both = (torch.stack((side, torch.zeros_like(side)), -1) for side in (student, teacher))
    return kl_divergence(*both, temperature=temperature)


def _check_answers(answers: Tensor) -> None:
    """Refuse what is no probability; where asking would wait for a device, or inside a transform, nothing is asked."""
    if answers.device.type != "cpu" or torch.compiler.is_compiling():
        return
    wrong = (answers < 0) | (answers > 1)
    try:
        if not bool(wrong.any()):
            return
    except RuntimeError:  # inside vmap, which cannot answer
        if not inside_transform(wrong):
            raise
        return
    raise LimbeckError(
        "binary_cross_entropy() wants targets from 0 (no) to 1 (yes), -100 or NaN where unknown; got "
        f"{answers[wrong][0].item():g}."
    )


def known_targets(targets: Tensor) -> Tensor:
    """Where a target counts: it is not NaN, and in whole numbers not -100."""
    if targets.dtype == torch.bool:
        return torch.ones_like(targets)
    return ~targets.isnan() if targets.is_floating_point() else targets != _IGNORED


def _check_shapes(student: Tensor, targets: Tensor) -> None:
    if student.shape != targets.shape:
        raise LimbeckError(
            f"targets of shape {tuple(targets.shape)} do not match outputs of shape {tuple(student.shape)}: there is "
            "one target for each output (a single column: targets.unsqueeze(1))."
        )
