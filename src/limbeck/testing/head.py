"""`check_head`: checks the laws of heads."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from limbeck.errors import LimbeckError
from limbeck.functional import Head
from limbeck.testing.law import require, same_weights, weights

_OF = "heads"


def check_head(make: Callable[[], Head], student: Tensor, teacher: Tensor) -> None:
    """Check a head against all laws of heads.

    The laws:

    * A call before `shape` raises a `LimbeckError`.
    * The result has the teacher's shape for any number of examples, and is finite.
    * A second call of `shape` with the same shapes changes nothing.
    * A gradient reaches the student and every parameter.
    * Its state loads into another head of the same kind.

    Args:
        make: A function that makes a head without a shape.
        student: An output of the student, batch first.
        teacher: An output of the teacher.

    Raises:
        AssertionError: If a law is broken; the message names it.

    Example:
        >>> from limbeck.functional import Projector
        >>> check_head(Projector, torch.randn(4, 8), torch.randn(4, 3))
    """
    head = make()
    _check_refusal(head, student)
    head.shape(student, teacher)
    features = student.detach().clone().requires_grad_()
    projected = head(features)
    require(projected.shape == teacher.shape, f"it gives {tuple(projected.shape)}, not {tuple(teacher.shape)}", of=_OF)
    require(bool(projected.isfinite().all()), "its values are not finite", of=_OF)
    require(len(head(student[:1])) == 1, "it does not accept a single example", of=_OF)
    gradients = torch.autograd.grad(projected.square().sum(), [features, *head.parameters()], allow_unused=True)
    require(
        all(slope is not None for slope in gradients), "a gradient does not reach all of it, or the student", of=_OF
    )
    _check_state(make, head, student, teacher)


def _check_refusal(head: Head, student: Tensor) -> None:
    try:
        head(student)
    except LimbeckError:
        return
    require(False, "it can be called before shape(); raise a LimbeckError there", of=_OF)


def _check_state(make: Callable[[], Head], head: Head, student: Tensor, teacher: Tensor) -> None:
    before = weights(head)
    head.shape(student, teacher)
    require(
        same_weights(before, weights(head)),
        "a second call of shape() with the same shapes changes its parameters",
        of=_OF,
    )
    other = make()
    other.shape(student, teacher)
    other.load_state_dict(before)
    require(torch.equal(other(student), head(student)), "its state does not load into another head", of=_OF)
