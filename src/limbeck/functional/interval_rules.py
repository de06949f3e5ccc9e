"""Rules of interval arithmetic: the bounds of each function of PyTorch from those of its arguments."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping
from typing import Any, NamedTuple

import torch
from torch import Tensor

from limbeck.errors import LimbeckError


class Ends(NamedTuple):
    """Both ends of an interval, in place of a tensor among the arguments of a rule."""

    low: Tensor
    high: Tensor


Evaluate = Callable[..., Any]
"""A function of PyTorch, for plain tensors."""
Rule = Callable[[Evaluate, tuple[Any, ...], dict[str, Any]], Any]
"""A rule gets the function and its arguments, with `Ends` where a tensor of intervals was. It returns `Ends`, or a list
of them where the function returns several tensors."""


def _at(value: Any, end: int) -> Any:
    """Arguments with one end of each interval."""
    if isinstance(value, Ends):
        return value[end]
    if isinstance(value, dict):
        return {key: _at(one, end) for key, one in value.items()}
    return type(value)(_at(one, end) for one in value) if type(value) in (tuple, list) else value


def increasing(evaluate: Evaluate, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> Any:
    """The rule of a function that does not fall where an argument rises: its values at both ends."""
    low, high = (evaluate(*_at(args, end), **_at(kwargs, end)) for end in (0, 1))
    if isinstance(low, (tuple, list)):
        return [Ends(*pair) for pair in zip(low, high, strict=True)]
    return Ends(low, high)


_ORDERED = (torch.float64, torch.float32, torch.bfloat16, torch.float16, torch.int64)
"""Types to which numbers of another type can be rounded without a change of their order."""


def cast(evaluate: Evaluate, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> Any:
    """The rule of a change of shape or type; other types wrap around, or read the same bits as other numbers."""
    name, values = _name(evaluate), list(flatten((args[1:], dict(kwargs))))
    result = increasing(evaluate, args, kwargs)
    reads_bits = name == "view" and any(isinstance(one, torch.dtype) for one in values)
    if reads_bits or result.low.dtype not in _ORDERED:
        raise LimbeckError(
            f"Interval bounds cannot follow {name!r} to {result.low.dtype}, which does not keep the order of numbers. "
            "Use floating-point types."
        )
    return result


def softplus(evaluate: Evaluate, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> Ends:
    """The rule of Softplus, which falls at one point: from beta * x > threshold on it is x itself, and before more."""
    settings = dict(zip(("beta", "threshold"), args[1:], strict=False)) | dict(kwargs)
    beta, threshold = settings.get("beta", 1), settings.get("threshold", 20)
    ends, (low, high), turn = increasing(evaluate, args, kwargs), args[0], threshold / beta
    before = math.log1p(math.exp(-abs(threshold))) / beta + max(threshold, 0.0) / beta
    inside = (low <= turn) & (turn <= high) & (low < high)
    least, most = sorted((turn, before))
    return Ends(
        torch.where(inside, ends.low.clamp_max(least), ends.low),
        torch.where(inside, ends.high.clamp_min(most), ends.high),
    )


def monotone(evaluate: Evaluate, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> Ends:
    """The rule of a function of one interval that rises or falls in each element, such as a product with a constant."""
    _check_one_interval(evaluate, args)
    first, second = (evaluate(*_at(args, end), **_at(kwargs, end)) for end in (0, 1))
    return Ends(torch.minimum(first, second), torch.maximum(first, second))


def moved(evaluate: Evaluate, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> Any:
    """The rule of a choice of elements by constant places, such as a slice."""
    if not isinstance(args[0], Ends) or any(isinstance(one, Ends) for one in flatten((args[1:], kwargs))):
        raise LimbeckError("Interval bounds need places in a tensor that do not depend on the inputs.")
    return increasing(evaluate, args, kwargs)


def flatten(value: Any) -> Iterator[Any]:
    """The values in nested containers."""
    if type(value) is dict:
        value = tuple(value.values())
    if type(value) in (tuple, list):
        for one in value:
            yield from flatten(one)
    else:
        yield value


def turning_once(turn: float, least: float) -> Rule:
    """The rule of an activation that may turn once, from falling to rising: its values at both ends and there.

    Args:
        turn: The point.
        least: The value at this point.
    """

    def rule(evaluate: Evaluate, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> Ends:
        (low, high), ends = args[0], monotone(evaluate, args, kwargs)
        inside = (low <= turn) & (turn <= high)
        return Ends(torch.where(inside, ends.low.clamp_max(least), ends.low), ends.high)

    return rule


def affine(evaluate: Evaluate, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> Ends:
    """The rule of linear and convolutional layers: the center with the weights, the radius with their size."""
    names = dict(zip(("input", "weight", "bias"), args, strict=False)) | dict(kwargs)
    box, weight, bias = names["input"], names["weight"], names.get("bias")
    if not isinstance(box, Ends) or isinstance(weight, Ends) or isinstance(bias, Ends):
        raise LimbeckError("Interval bounds need layers whose weights do not depend on the inputs.")
    rest = {key: value for key, value in kwargs.items() if key not in ("input", "weight", "bias")}
    center, radius = _center(box)
    middle = evaluate(center, weight, bias, *args[3:], **rest)
    width = evaluate(radius, weight.abs(), None, *args[3:], **rest)
    return Ends(middle - width, middle + width)


def product(evaluate: Evaluate, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> Ends:
    """The rule of a matrix product with a constant matrix on one side."""
    _check_one_interval(evaluate, args[:2])
    on_left = isinstance(args[0], Ends)
    center, radius = _center(args[0] if on_left else args[1])
    constant = args[1] if on_left else args[0]
    middle, width = (
        evaluate(one, other) if on_left else evaluate(other, one)
        for one, other in ((center, constant), (radius, constant.abs()))
    )
    return Ends(middle - width, middle + width)


def _center(box: Ends) -> tuple[Tensor, Tensor]:
    # Half of the sum, so that the center of equal ends is the number itself.
    return (box.low + box.high) / 2, (box.high - box.low) / 2


def multiply(evaluate: Evaluate, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> Ends:
    """The rule of an elementwise product: the extremes are among the products of the ends."""
    first, second, *_ = args
    if not (isinstance(first, Ends) and isinstance(second, Ends)):
        return monotone(evaluate, args, kwargs)
    products = torch.stack([evaluate(a, b) for a in first for b in second])
    return Ends(products.amin(0), products.amax(0))


def add(evaluate: Evaluate, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> Ends:
    """The rule of a sum, ``x + alpha * y``."""
    first, second = args[0], _scaled(args[1], kwargs.get("alpha", 1))
    return Ends(_at(first, 0) + _at(second, 0), _at(first, 1) + _at(second, 1))


def subtract(evaluate: Evaluate, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> Ends:
    """The rule of a difference, ``x - alpha * y``."""
    return add(evaluate, args, {"alpha": -kwargs.get("alpha", 1)})


def _scaled(value: Any, factor: float | int) -> Any:
    if factor == 1:
        return value
    if not isinstance(value, Ends):
        return factor * value
    low, high = factor * value.low, factor * value.high
    return Ends(low, high) if factor > 0 else Ends(high, low)


def divide(evaluate: Evaluate, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> Ends:
    """The rule of a quotient with a constant below."""
    if isinstance(args[1], Ends):
        raise LimbeckError(
            "Interval bounds need a division by constants, and this one is by what depends on the inputs."
        )
    return monotone(evaluate, args, kwargs)


def evaluation_only(rule: Rule, at: int, name: str) -> Rule:
    """The same rule, for a function that is random, or depends on the batch, in training mode.

    Args:
        rule: The rule in eval mode.
        at: The place of the argument ``training``.
        name: What it is, for the message.
    """

    def checked(evaluate: Evaluate, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        training = args[at] if len(args) > at else kwargs.get("training", kwargs.get("train", name == "Dropout"))
        if training and name == "BatchNorm" and args[1] is None:
            raise LimbeckError(
                "Interval bounds are those of one example, and a BatchNorm without running statistics "
                "(track_running_stats=False) depends on the whole batch, in eval mode too: train with "
                "track_running_stats=True."
            )
        if training:
            raise LimbeckError(
                f"Interval bounds are those of a network in eval mode, and {name} is in training mode: model.eval()."
            )
        return rule(evaluate, args, kwargs)

    return checked


def unchanged(evaluate: Evaluate, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> Any:
    """The rule of what does nothing."""
    return args[0]


def _name(evaluate: Evaluate) -> str:
    return str(getattr(evaluate, "__name__", evaluate)).strip("_")  # a partial has no name


def _check_one_interval(evaluate: Evaluate, args: tuple[Any, ...]) -> None:
    if sum(isinstance(one, Ends) for one in args) != 1:
        raise LimbeckError(
            f"Interval bounds of {_name(evaluate)!r} need one argument that depends on the inputs, and constants."
        )


_INCREASING = (
    # shape and place
    "flatten", "unflatten", "reshape", "view_as", "reshape_as", "permute", "transpose", "t", "movedim",
    "squeeze", "unsqueeze", "contiguous", "clone", "detach", "expand", "expand_as", "repeat", "cat", "concat",
    "stack", "chunk", "split", "unbind", "narrow", "select", "flip", "roll", "float", "double",
    "pixel_shuffle", "pixel_unshuffle", "channel_shuffle", "pad",
    # pooling and means
    "max_pool1d", "max_pool2d", "max_pool3d", "adaptive_max_pool1d", "adaptive_max_pool2d", "adaptive_max_pool3d",
    "avg_pool1d", "adaptive_avg_pool1d", "adaptive_avg_pool2d", "adaptive_avg_pool3d",
    "mean", "sum", "amax", "amin", "maximum", "minimum",
    # activations
    "relu", "relu6", "sigmoid", "tanh", "logsigmoid", "log_sigmoid", "softsign", "hardtanh",
    "hardsigmoid", "clamp", "clamp_min", "clamp_max", "clip", "exp", "celu", "selu",
)  # fmt: skip
_AFFINE = (
    "linear", "conv1d", "conv2d", "conv3d", "conv_transpose1d", "conv_transpose2d", "conv_transpose3d",
)  # fmt: skip
_DROPOUT = ("dropout", "dropout1d", "dropout2d", "dropout3d", "alpha_dropout", "feature_alpha_dropout")

RULES: dict[str, Rule] = {
    **dict.fromkeys(_INCREASING, increasing),
    **dict.fromkeys(_AFFINE, affine),
    **dict.fromkeys(("getitem", "index_select"), moved),
    **dict.fromkeys(("avg_pool2d", "avg_pool3d"), monotone),  # the divisor may be negative
    "batch_norm": evaluation_only(monotone, 5, "BatchNorm"),
    **dict.fromkeys(_DROPOUT, evaluation_only(unchanged, 2, "Dropout")),
    **dict.fromkeys(("view", "to"), cast),
    "softplus": softplus,
    "add": add,
    "sub": subtract,
    "neg": monotone,
    "mul": multiply,
    "div": divide,
    **dict.fromkeys(("matmul", "mm", "bmm"), product),
    "leaky_relu": turning_once(0.0, 0.0),
    "prelu": turning_once(0.0, 0.0),
    "elu": turning_once(0.0, 0.0),
    "silu": turning_once(-1.2784645427610738, -0.27846454276107385),
    "hardswish": turning_once(-1.5, -0.375),
}
"""The rules by the name of the function."""
