"""The `kernel` decorator, and checks of the arguments of kernels."""

from __future__ import annotations

import functools
import inspect
import math
from collections.abc import Callable, Iterable
from numbers import Real
from typing import Any, Literal, ParamSpec, get_args

import torch
from torch import Tensor

from limbeck.errors import ArgumentError, LimbeckError, callable_name, unknown_name_error

Per = Literal["example", "position", "output", "pair", "batch"]
P = ParamSpec("P")


def kernel(
    *,
    per: Per,
    divergence: bool | Callable[..., bool] = False,
    sampled: Callable[..., Tensor] | None = None,
    across_tokenizers: Literal["distributions", "likelihoods"] | None = None,
) -> Callable[[Callable[P, Tensor]], Callable[P, Tensor]]:
    """Declare what one value of a pure function belongs to, and make it compute in float32 or better.

    `per` declares what the unreduced values belong to, so that means use the true count:

    * ``"example"``: one value for each example, shape ``[batch]``;
    * ``"position"``: one value for each row of logits, shape ``[batch, *positions]`` (``[batch]`` for a classifier);
    * ``"output"``: one value for each output of the student, shape ``[batch, *outputs]``;
    * ``"pair"``: one value for each pair of examples, shape ``[batch, batch]``;
    * ``"batch"``: one value for the whole batch, shape ``[]``.

    Inside, autocast is off and floating-point tensors narrower than float32 are converted to float32, because bfloat16
    is too imprecise for differences of nearly equal distributions.

    Args:
        per: What one value belongs to.
        divergence: Whether it is an f-divergence between ``softmax(student / T)`` and ``softmax(teacher / T)``, with T
            the hyper-parameter `temperature` (1 if there is none), up to a factor that depends only on
            hyper-parameters. Merging classes never increases an f-divergence, so it can be computed from the teacher's
            top logits and the total weight of the others (`limbeck.functional.coarse_logits`). If that depends on
            hyper-parameters, a function of them, as keywords with defaults.
        sampled: A function ``(student, *, ids, weights, entropy, **hyper)`` with the same expected value from randomly
            drawn classes, such as `limbeck.functional.sampled_kl_divergence`. It exists only if the kernel is linear in
            the teacher's probabilities, up to a term without the student.
        across_tokenizers: What it compares if the teacher has another tokenizer: ``"distributions"``, rows of logits
            with any numbers of classes, or ``"likelihoods"``, the log-likelihoods of groups of tokens. None for a
            kernel that needs the same tokens.

    Returns:
        A decorator. The decorated function has the attributes ``per``, ``divergence``, ``sampled`` and
        ``across_tokenizers``, and keeps its name and signature.

    Raises:
        LimbeckError: If `per` is not one of the five, or a divergence has other tensors than ``student`` and
            ``teacher`` or another `per` than ``"position"``.

    Example:
        >>> @kernel(per="example")
        ... def absolute_error(student, teacher):
        ...     return (student - teacher).abs().flatten(1).mean(1)
        >>> absolute_error.per
        'example'
    """
    if per not in get_args(Per):
        raise LimbeckError(f"per={per!r} is not one of {', '.join(get_args(Per))}.")

    def decorate(function: Callable[P, Tensor]) -> Callable[P, Tensor]:
        computed = in_float32(function)
        if divergence:
            _check_divergence(function, per)
        computed.per = per  # type: ignore[attr-defined]
        computed.divergence = divergence  # type: ignore[attr-defined]
        computed.sampled = sampled  # type: ignore[attr-defined]
        computed.across_tokenizers = across_tokenizers  # type: ignore[attr-defined]
        return computed

    return decorate


def in_float32(function: Callable[P, Tensor]) -> Callable[P, Tensor]:
    """Let a function of tensors compute in float32 or better, with autocast off."""

    @functools.wraps(function)
    def computed(*args: P.args, **kwargs: P.kwargs) -> Tensor:
        args_wide, kwargs_wide = map(_widened, args), {name: _widened(value) for name, value in kwargs.items()}
        device = _device(args) or _device(kwargs.values()) or "cpu"
        if device == "meta" or not torch.is_autocast_enabled(
            device
        ):  # entering the context costs microseconds per call
            return function(*args_wide, **kwargs_wide)
        with torch.autocast(device, enabled=False):
            return function(*args_wide, **kwargs_wide)

    return computed


def declaration(function: Callable[..., Any], name: str) -> Any:
    """Return what `kernel` declared of a function, such as ``per`` or ``divergence``; None without declaration."""
    # Any callable may be passed as a kernel; only the decorator sets these attributes.
    return getattr(function, name, None)


def merges(function: Callable[..., Any], **hyper: Any) -> bool:
    """Whether merging classes never increases a kernel's value, as it declares: for these hyper-parameters."""
    declared = declaration(function, "divergence")
    if not callable(declared):
        return bool(declared)
    accepted = inspect.signature(declared).parameters
    return bool(declared(**{name: value for name, value in hyper.items() if name in accepted}))


def _check_divergence(function: Callable[..., Tensor], per: Per) -> None:
    parameters = set(inspect.signature(function).parameters)
    if (
        per != "position"
        or not {"student", "teacher"} <= parameters
        or parameters & {"labels", "targets", "mask", "id"}
    ):
        raise LimbeckError(
            f"{callable_name(function)}({', '.join(sorted(parameters))}) per {per} is declared a "
            "divergence. A divergence compares only student and teacher, with one value per "
            "position. Leave out divergence=True."
        )


def _device(values: Iterable[Any]) -> str | None:
    for value in values:
        if isinstance(value, Tensor):
            return value.device.type
    return None


def _widened(value: Any) -> Any:
    # Tensors from torch.inference_mode() cannot be saved for a backward pass, so they are cloned.
    if isinstance(value, Tensor) and not torch.compiler.is_compiling() and value.is_inference():
        value = value if torch.is_inference_mode_enabled() else value.clone()
    if isinstance(value, Tensor) and value.is_floating_point() and value.element_size() < 4:
        return value.float()
    return value


_FRACTIONS = {
    "mixture": "a share of the teacher in the mixture",
    "skew": "a share of one distribution in the mixture",
    "smoothing": "a share of the uniform distribution in the target",
}

_COLDEST, _HOTTEST = 1e-39, 1e18
"""Bounds of temperatures whose reciprocal and square are representable in float32."""


def check_hyper(**hyper: Any) -> None:
    """Check the hyper-parameters of kernels.

    A temperature is finite and above 0: every name that ends in ``temperature``. mixture, skew and smoothing are
    fractions from 0 to 1.

    Raises:
        ArgumentError: If a value is out of range or not a plain number.
        UnknownNameError: If it is none of these names: nothing would be checked.

    Example:
        >>> check_hyper(temperature=4.0, smoothing=0.1)
        >>> check_hyper(temperature=0.0)
        Traceback (most recent call last):
        ...
        limbeck.errors.ArgumentError: temperature is a finite number above 0; got 0.0. Usual values are 1.0 to 20.0.
    """
    for name, value in hyper.items():
        if not is_checked(name):
            raise unknown_name_error(
                "name in check_hyper()", name, ("temperature", "NAME_temperature", *_FRACTIONS),
                then="Check other arguments with check_weight, check_share or check_count of limbeck.methods.support.",
            )  # fmt: skip
        _checked(name, value)


def is_checked(name: str) -> bool:
    """Whether `check_hyper` knows the limits of a hyper-parameter of this name.

    Example:
        >>> is_checked("student_temperature"), is_checked("weight")
        (True, False)
    """
    return name == "temperature" or name.endswith("_temperature") or name in _FRACTIONS


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
    if name == "temperature" or name.endswith("_temperature"):
        hint = "Usual values are 1.0 to 20.0." if name == "temperature" else "Type a number such as 1.0."
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
