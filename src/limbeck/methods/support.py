"""Building blocks of methods: argument checks, fresh copies of a model, losses by name."""

from __future__ import annotations

import inspect
import math
from collections.abc import Callable
from numbers import Real
from typing import Any, final

from torch import Tensor, nn

from limbeck import functional
from limbeck.errors import ArgumentError, unknown
from limbeck.losses import Loss
from limbeck.models import UserFile, check_fresh, reinitialize
from limbeck.recipe import Models
from limbeck.tap import Adaptor
from limbeck.teachers import get_adaptor


def check_share(**values: Any) -> None:
    """Refuse what is no share from 0 to 1.

    Raises:
        LimbeckError: Naming the first that is none.

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
    """Refuse what is no finite number of at least 0.

    Raises:
        LimbeckError: Naming the first that is none.
    """
    for name, value in values.items():
        if not (_is_number(value) and value >= 0):
            raise ArgumentError(f"{name} is a finite number of at least 0; got {value!r}.", argument=name)


def check_count(**values: Any) -> None:
    """Refuse what is no whole number of at least 1.

    Raises:
        LimbeckError: Naming the first that is none.
    """
    for name, value in values.items():
        if isinstance(value, bool) or not isinstance(value, int) or value < 1:
            raise ArgumentError(f"{name} is a whole number of at least 1; got {value!r}.", argument=name)


def _is_number(value: Any) -> bool:
    return isinstance(value, Real) and not isinstance(value, bool) and math.isfinite(value)


@final
class FreshCopy:
    """A maker of a model like another of the run, newly initialized; the run asks it before anything is paid for.

    Args:
        of: The name of the model whose architecture it has.
    """

    def __init__(self, of: str = "student") -> None:
        self.of = of

    def __call__(self, models: Models) -> nn.Module:
        """The new model."""
        return reinitialize(models[self.of])

    def adaptor(self, models: Models) -> Adaptor | None:
        """Its outputs are read as those of the model that it is like."""
        return get_adaptor(models, self.of)

    def check(self, models: Models) -> None:
        """Refuse a model that cannot be made anew, where it is there already.

        Raises:
            LimbeckError: If one of its modules cannot initialize itself; it is named.
        """
        if self.of in models:
            check_fresh(models[self.of])


_SIDES = {"student", "teacher"}


def named_loss(name: str, *, temperature: float, classes: int = -1) -> Loss:
    """The loss that a name stands for, at this temperature where it has one.

    Args:
        name: A function of `limbeck.functional` that compares the student with the teacher (``kl_divergence``,
            ``reverse_kl``, ``total_variation``, ...), or ``my.py:function``, a function declared with `kernel`.
        temperature: Given to it where it takes a temperature.
        classes: Which dimension of the logits holds the classes.

    Raises:
        UnknownNameError: If there is no such loss; the nearest is named.
        LimbeckError: If one's own is no kernel, or reads something else than student, teacher and labels.

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
        raise unknown("loss", name, kernels, then="Or one of your own: my.py:function.", argument="loss")
    return kernels[name]


def _available_losses() -> dict[str, Callable[..., Tensor]]:
    """What compares a student with a teacher by itself, and needs no setting but a temperature."""
    kernels: dict[str, Callable[..., Any]] = {}
    for name in functional.__all__:
        function = getattr(functional, name)
        if getattr(function, "per", None) != "position" or function is functional.state_squared_error:
            continue  # that one compares hidden states, which have no classes
        parameters = inspect.signature(function).parameters.values()
        needed = {p.name for p in parameters if p.default is p.empty}
        if _SIDES <= needed <= {*_SIDES, "temperature"}:
            kernels[name] = function
    return kernels
