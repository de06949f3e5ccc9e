"""`projected_gradient`: adversarial inputs by projected gradient ascent (PGD) in an L-infinity ball."""

from __future__ import annotations

import math
from collections.abc import Callable
from numbers import Real
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from limbeck.errors import ArgumentError, LimbeckError


def check_attack(*, epsilon: float, step_size: float, steps: int) -> None:
    """Check the settings of an attack.

    Raises:
        ArgumentError: If epsilon is negative, the step size is not above 0, or the number of steps is negative.

    Example:
        >>> check_attack(epsilon=0.1, step_size=0.02, steps=10)
    """
    if not (is_finite_number(epsilon) and epsilon >= 0):
        raise ArgumentError(f"epsilon is a number of at least 0, such as 8/255; got {epsilon!r}.", argument="epsilon")
    if not (is_finite_number(step_size) and step_size > 0):
        raise ArgumentError(
            f"step_size is a number above 0, such as a quarter of epsilon; got {step_size!r}.", argument="step_size"
        )
    if isinstance(steps, bool) or not isinstance(steps, int) or steps < 0:
        raise ArgumentError(f"steps is a whole number of at least 0; got {steps!r}.", argument="steps")


def is_finite_number(value: Any) -> bool:
    """Whether a value is a number, and neither infinite nor NaN.

    Example:
        >>> is_finite_number(0.1), is_finite_number(float("nan")), is_finite_number(True)
        (True, False, False)
    """
    return isinstance(value, Real) and not isinstance(value, bool) and math.isfinite(value)


def find_range(inputs: Tensor, *, low: float | None = None, high: float | None = None) -> tuple[float, float]:
    """Find the smallest and the largest value of inputs: by default 0 to 255 for bytes, and 0 to 1 for other numbers.

    Example:
        >>> find_range(torch.zeros(1, dtype=torch.uint8)), find_range(torch.zeros(1), low=-1.0)
        ((0.0, 255.0), (-1.0, 1.0))
    """
    largest = 1.0 if inputs.is_floating_point() else 255.0
    return (0.0 if low is None else low), (largest if high is None else high)


def check_limits(low: float | None, high: float | None) -> None:
    """Check the smallest and the largest value of inputs, where they are given.

    Raises:
        ArgumentError: If one is not finite, or the smallest is not below the largest.
    """
    for name, value in {"low": low, "high": high}.items():
        if value is not None and not is_finite_number(value):
            raise ArgumentError(f"{name} is a finite number; got {value!r}.", argument=name)
    if low is not None and high is not None and low >= high:
        raise ArgumentError(f"low is below high; got low={low!r} and high={high!r}.", argument="low")


def check_within_range(inputs: Tensor, low: float, high: float) -> None:
    """Check that inputs are within a range.

    Raises:
        LimbeckError: If some are not.
    """
    if not bool(((inputs >= low) & (inputs <= high)).all()):  # NaN too
        raise LimbeckError(
            f"Inputs nearby stay within {low:g} and {high:g}, and these go from {float(inputs.min()):g} to "
            f"{float(inputs.max()):g}. Give the range of your data, low= and high=, or let preprocess= normalize "
            "images, so that the batch holds pixels."
        )


def projected_gradient(
    loss: Callable[[Tensor], Tensor],
    inputs: Float[Tensor, "batch ..."],
    *,
    epsilon: float,
    step_size: float,
    steps: int,
    start: Float[Tensor, "batch ..."] | None = None,
    low: float = 0.0,
    high: float = 1.0,
) -> Float[Tensor, "batch ..."]:
    r"""Search inputs near the given ones for which a loss is high.

    With :math:`x^0` the start, k steps of

    .. math:: x^{i+1} = \Pi \left( x^i + a \, \mathrm{sign} \nabla_x \sum_j L_j(x^i) \right)

    where :math:`\Pi` clips to :math:`[x - \epsilon, x + \epsilon]` and then to :math:`[low, high]`. With 0 steps it is
    the start, clipped. Nothing else is changed: no gradient reaches the parameters of a model.

    Args:
        loss: Function from inputs to one value for each example, ``[batch]``. An example's value should depend on its
            own input alone: a network in eval mode.
        inputs: x, within ``[low, high]``.
        epsilon: The largest change of a number, in the unit of the inputs.
        step_size: a, in the same unit.
        steps: k.
        start: :math:`x^0`; by default x. See `random_start`.
        low: The smallest value of an input.
        high: The largest value.

    Raises:
        ArgumentError: If a setting is out of range.

    Example:
        >>> x = torch.tensor([[0.5, 0.95]])
        >>> projected_gradient(lambda x: x.sum(1), x, epsilon=0.1, step_size=0.04, steps=5)
        tensor([[0.6000, 1.0000]])

    Source: Madry, Makelov, Schmidt, Tsipras and Vladu, Towards Deep Learning Models Resistant to Adversarial Attacks,
    2017, arXiv:1706.06083.
    """
    check_attack(epsilon=epsilon, step_size=step_size, steps=steps)
    inputs = inputs.detach()
    lowest, highest = (inputs - epsilon).clamp_min(low), (inputs + epsilon).clamp_max(high)
    current = (inputs if start is None else start.detach()).clamp(lowest, highest)
    for _ in range(steps):
        with torch.enable_grad():
            moved = current.detach().requires_grad_()
            (slope,) = torch.autograd.grad(loss(moved).sum(), moved)
        current = (current + step_size * slope.sign()).clamp(lowest, highest)
    return current.detach()


def random_start(
    inputs: Float[Tensor, "batch ..."], uniform: Float[Tensor, "batch values"], epsilon: float
) -> Float[Tensor, "batch ..."]:
    """Move inputs to a random place in the ball: each number by up to epsilon in either direction.

    Args:
        inputs: The inputs.
        uniform: Numbers from 0 to 1, such as those of `limbeck.random_seeds.counter_uniform`, one for each value.
        epsilon: The largest change.

    Example:
        >>> random_start(torch.zeros(1, 2), torch.tensor([[0.0, 0.75]]), 0.2)
        tensor([[-0.2000,  0.1000]])
    """
    return inputs + epsilon * (2 * uniform.to(inputs) - 1).reshape(inputs.shape)
