"""Building blocks of methods: argument checks, fresh copies of a model, losses by name."""

from __future__ import annotations

import inspect
import math
from collections.abc import Callable
from numbers import Real
from typing import Any, final

from torch import Tensor, nn

from limbeck import functional
from limbeck.errors import ArgumentError, unknown_name_error
from limbeck.functional.kernel import declaration
from limbeck.losses import Loss
from limbeck.model_call import Adaptor
from limbeck.models import UserFile, check_fresh, reinitialize
from limbeck.recipe import Models
from limbeck.teachers import get_adaptor


def check_share(**values: Any) -> None:
    """Check that all values are numbers from 0 to 1.

    Raises:
        LimbeckError: If a value is not; the message names the first one.

    Example:
        >>> check_share(weight=1.2)
        Traceback (most recent call last):
        ...
        limbeck.errors.ArgumentError: weight is a number from 0 to 1; got 1.2.
    """
    for name, value in values.items():
        if not (_is_number(value) and 0 <= value <= 1):
            raise ArgumentError(f"{name} is a number from 0 to 1; got {value!r}.", argument=name)


def check_weight(**values: Any) -> None:
    """Check that all values are finite numbers of at least 0.

    Raises:
        LimbeckError: If a value is not; the message names the first one.
    """
    for name, value in values.items():
        if not (_is_number(value) and value >= 0):
            raise ArgumentError(f"{name} is a finite number of at least 0; got {value!r}.", argument=name)


def check_count(**values: Any) -> None:
    """Check that all values are whole numbers of at least 1.

    Raises:
        LimbeckError: If a value is not; the message names the first one.
    """
    for name, value in values.items():
        if isinstance(value, bool) or not isinstance(value, int) or value < 1:
            raise ArgumentError(f"{name} is a whole number of at least 1; got {value!r}.", argument=name)


def _is_number(value: Any) -> bool:
    return isinstance(value, Real) and not isinstance(value, bool) and math.isfinite(value)


@final
class FreshCopy:
    """Makes a newly initialized copy of a model of the run.

    The run calls `check` first, so that a model that cannot be copied is refused before the training starts.

    Args:
        of: The name of the model to copy.
    """

    def __init__(self, of: str = "student") -> None:
        self.of = of

    def __call__(self, models: Models) -> nn.Module:
        """Make the new model."""
        return reinitialize(models[self.of])

    def adaptor(self, models: Models) -> Adaptor | None:
        """Return the adaptor of the original model."""
        return get_adaptor(models, self.of)

    def check(self, models: Models) -> None:
        """Check that the model, if it exists already, can be newly initialized.

        Raises:
            LimbeckError: If one of its modules has no `reset_parameters`; the message names it.
        """
        if self.of in models:
            check_fresh(models[self.of])


_SIDES = {"student", "teacher"}


def named_loss(name: str, *, temperature: float, classes: int = -1) -> Loss:
    """Make the loss of this name.

    Args:
        name: A function of `limbeck.functional` that compares the student with the teacher (``kl_divergence``,
            ``reverse_kl``, ``total_variation``, ...), or ``my.py:function``, a function declared with `kernel`.
        temperature: The temperature, for losses that have one.
        classes: Which dimension of the logits holds the classes.

    Raises:
        UnknownNameError: If there is no such loss. The message suggests the nearest name.
        LimbeckError: If your own function is not a kernel, or takes other tensors than student, teacher and labels.

    Example:
        >>> named_loss("reverse_kl", temperature=2.0)
        Loss(reverse_kl, temperature=2.0)
    """
    kernel = _load_kernel(name)
    takes = inspect.signature(kernel).parameters
    if not set(takes) >= _SIDES:
        raise ArgumentError(
            f"The loss {name} compares student and teacher; it takes {', '.join(takes)}.", argument="loss"
        )
    hyper: dict[str, Any] = {"temperature": temperature} if "temperature" in takes else {}
    return Loss(kernel, classes=classes, **hyper)


def _load_kernel(name: str) -> Callable[..., Tensor]:
    if (own := UserFile.parse(name)) is not None:
        return own.load()
    kernels = _available_losses()
    if name not in kernels:
        raise unknown_name_error(
            "loss", name, kernels, then="Or a function in your own file: my.py:function.", argument="loss"
        )
    return kernels[name]


def _available_losses() -> dict[str, Callable[..., Tensor]]:
    """Collect the kernels that compare student and teacher and need no setting except a temperature."""
    kernels: dict[str, Callable[..., Any]] = {}
    for name in functional.__all__:
        function = getattr(functional, name)
        if declaration(function, "per") != "position" or function is functional.state_squared_error:
            continue  # it compares hidden states, which have no classes
        parameters = inspect.signature(function).parameters.values()
        needed = {p.name for p in parameters if p.default is p.empty}
        if _SIDES <= needed <= {*_SIDES, "temperature"}:
            kernels[name] = function
    return kernels
