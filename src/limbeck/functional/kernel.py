"""The `kernel` decorator, which declares a function of tensors as a kernel."""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable, Iterable
from typing import Any, Literal, ParamSpec, get_args

import torch
from torch import Tensor

from limbeck.errors import LimbeckError

Per = Literal["example", "position", "output", "pair", "batch"]
P = ParamSpec("P")


def kernel(
    *, per: Per, divergence: bool = False, sampled: Callable[..., Tensor] | None = None
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
            top logits and the total weight of the others (`limbeck.functional.coarse_logits`).
        sampled: A function ``(student, *, ids, weights, entropy, **hyper)`` with the same expected value from randomly
            drawn classes, such as `limbeck.functional.sampled_kl_divergence`. It exists only if the kernel is linear in
            the teacher's probabilities, up to a term without the student.

    Returns:
        A decorator. The decorated function has the attributes ``per``, ``divergence`` and ``sampled``, and keeps its
        name and signature.

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


def _check_divergence(function: Callable[..., Tensor], per: Per) -> None:
    parameters = set(inspect.signature(function).parameters)
    if (
        per != "position"
        or not {"student", "teacher"} <= parameters
        or parameters & {"labels", "targets", "mask", "id"}
    ):
        name = getattr(function, "__name__", type(function).__name__)
        raise LimbeckError(
            f"{name}({', '.join(sorted(parameters))}) per {per} is declared a divergence. A divergence compares "
            "only student and teacher, with one value per position. Leave out divergence=True."
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
