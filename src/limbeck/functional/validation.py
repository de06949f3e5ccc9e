"""Checks of the arguments of kernels."""

from __future__ import annotations

import functools
import math
from collections.abc import Callable
from numbers import Real
from typing import Any

import torch
from torch import Tensor

from limbeck.errors import ArgumentError, LimbeckError
from limbeck.functional.kernel import P



_FRACTIONS = {
    "mixture": "a share of the teacher in the mixture",
    "skew": "a share of one distribution in the mixture",
    "smoothing": "a share of the uniform distribution in the target",
}

_COLDEST, _HOTTEST = 1e-39, 1e18
"""Bounds of temperatures whose reciprocal and square are representable in float32."""


def check_hyper(**hyper: Any) -> None:
    """Check the hyper-parameters of kernels.

    A temperature is finite and above 0; mixture, skew and smoothing are fractions from 0 to 1. Other names are not
    checked here.

    Raises:
        LimbeckError: If a value is out of range or not a plain number.

    Example:
        >>> check_hyper(temperature=4.0, smoothing=0.1)
        >>> check_hyper(temperature=0.0)
        Traceback (most recent call last):
        ...
        limbeck.errors.LimbeckError: temperature is a finite number above 0; got 0.0. Usual values are 1.0 to 20.0.
    """
    for name, value in hyper.items():
        _checked(name, value)


def validates_student(function: Callable[P, Tensor]) -> Callable[P, Tensor]:
    """Make a kernel check the student's dtype and the hyper-parameters, and convert whole numbers to floats."""

    @functools.wraps(function)
    def computed(*args: P.args, **hyper: P.kwargs) -> Tensor:
        if args and isinstance(args[0], Tensor):
            _check_floating("student", args[0])
        return function(*args, **{name: _checked(name, value) for name, value in hyper.items()})

    return computed


def validates_pair(function: Callable[P, Tensor]) -> Callable[P, Tensor]:
    """Make a kernel check that student and teacher match, and the hyper-parameters.

    Both are converted to the wider dtype: the same logits in two dtypes would otherwise differ by rounding.
    """

    @functools.wraps(function)
    def computed(student: Tensor, teacher: Tensor, **hyper: Any) -> Tensor:
        if student.shape != teacher.shape:
            raise _mismatch(student, teacher)
        if student.dtype != teacher.dtype:
            wide = torch.promote_types(student.dtype, teacher.dtype)
            student, teacher = student.to(wide), teacher.to(wide)
        _check_floating("student and the teacher", student)
        return function(student, teacher, **{name: _checked(name, value) for name, value in hyper.items()})  # type: ignore[arg-type]

    return computed  # type: ignore[return-value]


def are_probabilities(rows: Tensor) -> bool:
    """Whether rows are distributions over two or more classes: not negative, each sum 1; False for few rows.

    Example:
        >>> are_probabilities(torch.randn(8, 3).softmax(-1)), are_probabilities(torch.randn(8, 3))
        (True, False)
    """
    if not rows.is_floating_point() or rows.ndim < 2 or rows.shape[-1] < 2 or rows[..., 0].numel() < 4:
        return False
    sums = rows.detach().float().sum(-1)
    return bool((rows >= 0).all()) and torch.allclose(sums, torch.ones_like(sums), rtol=0.0, atol=1e-2)


def _check_floating(who: str, tensor: Tensor) -> None:
    if not tensor.is_floating_point():
        kind = str(tensor.dtype).removeprefix("torch.")
        raise LimbeckError(
            f"The {who} must be floating-point numbers, and {'is' if who == 'student' else 'are'} {kind}: give logits "
            "or features, not class indices, or convert them with .float()."
        )


def _mismatch(student: Tensor, teacher: Tensor) -> LimbeckError:
    mine, its = tuple(student.shape), tuple(teacher.shape)
    if mine[:-1] == its[:-1] and mine and its:
        return LimbeckError(
            f"The student has {mine[-1]} values in the last dimension (classes, or features) and the teacher "
            f"{its[-1]}. Give both the same classes in the same order; for features use a head such as Projector()."
        )
    return LimbeckError(
        f"The student's shape {mine} is not the teacher's {its}; a kernel compares them value by value "
        "and never broadcasts. Use outputs of the same shape, or a head such as Projector()."
    )


def _checked(name: str, value: Any) -> Any:
    if name == "temperature":
        hint = "Usual values are 1.0 to 20.0."
        number = _number(name, value, "a finite number above 0", hint, lambda v: v > 0)
        bounds = f"a finite number above 0, in float32 from {_COLDEST:g} to {_HOTTEST:g}"
        return _number(name, number, bounds, hint, lambda v: _COLDEST <= v <= _HOTTEST)
    if name in _FRACTIONS:
        return _number(name, value, "a number from 0 to 1", f"It is {_FRACTIONS[name]}.", lambda v: 0 <= v <= 1)
    return value


def _number(name: str, value: Any, kind: str, hint: str, fits: Callable[[float], bool]) -> float:
    if isinstance(value, (float, Real)) and math.isfinite(value) and fits(float(value)):
        return float(value)
    raise ArgumentError(f"{name} is {kind}; got {value!r}. {hint}", argument=name)
