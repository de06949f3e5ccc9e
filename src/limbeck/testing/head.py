"""`check_head`: laws of heads."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from limbeck.errors import LimbeckError
from limbeck.functional import Head
from limbeck.testing.law import require, same_weights, weights

_OF = "heads"


def check_head(make: Callable[[], Head], student: Tensor, teacher: Tensor) -> None:
    """Check a kind of head against every law that applies to it.

    The laws: before it has seen a signal of each side it refuses to be called; after that it gives the teacher's shape,
    for any number of examples, finite; seeing the same shapes again changes nothing; a gradient reaches the student and
    every parameter; its state loads into another of its kind.

    Args:
        make: Makes a head that has no shape yet.
        student: A signal of the student, batch first.
        teacher: A signal of the teacher.

    Raises:
        AssertionError: With a sentence that says which law is broken.

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
    require(len(head(student[:1])) == 1, "it does not take one example alone", of=_OF)
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
    require(False, "it can be called before shape() has seen both sides; raise a LimbeckError there", of=_OF)


def _check_state(make: Callable[[], Head], head: Head, student: Tensor, teacher: Tensor) -> None:
    before = weights(head)
    head.shape(student, teacher)
    require(same_weights(before, weights(head)), "seeing the same shapes again changes its parameters", of=_OF)
    other = make()
    other.shape(student, teacher)
    other.load_state_dict(before)
    require(torch.equal(other(student), head(student)), "its state does not make another like it", of=_OF)
