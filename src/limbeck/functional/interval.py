"""Interval bounds: where the outputs of a network can be while its inputs are anywhere in a box."""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager, nullcontext
from typing import Any, NamedTuple, cast

import torch
from jaxtyping import Float, Int
from torch import Tensor

from limbeck.errors import ArgumentError, LimbeckError
from limbeck.functional.adversarial import check_within_range, find_range, is_finite_number
from limbeck.functional.interval_rules import RULES, Ends, Evaluate, flatten


class Bounds(NamedTuple):
    """The smallest and the largest value of each number of a tensor.

    Attributes:
        low: The smallest values.
        high: The largest values, of the same shape.
    """

    low: Float[Tensor, "*shape"]
    high: Float[Tensor, "*shape"]


class _Memory:
    """The memory that a tensor shares with its views, and how often it was changed in place."""

    changes = 0


class IntervalTensor(Tensor):
    """A tensor of which only the smallest and the largest value of each number are known.

    A network that is called with one computes bounds of its outputs: each function of PyTorch that it calls is
    replaced by the rule for intervals in `limbeck.functional.interval_rules`. A function without a rule raises an
    error. `interval_bounds` makes it and reads it.

    Attributes:
        low: The smallest values.
        high: The largest values.
    """

    low: Tensor
    high: Tensor
    _memory: _Memory
    _seen: int  # the changes of the memory that the ends have; with fewer they are those of before

    @staticmethod
    def of(low: Tensor, high: Tensor) -> IntervalTensor:
        """Make one from its ends."""
        # Its own storage is only there for shape, type and device. It is NaN, so that a function that reads it, without
        # a rule, such as inside vmap, cannot pass for one that does not depend on the inputs.
        own = low.detach()
        if own.is_floating_point():
            own = own.new_full((), torch.nan).expand(own.shape)
        made = own.as_subclass(IntervalTensor)
        made.low, made.high = low, high
        made._memory, made._seen = _Memory(), 0
        return made

    @classmethod
    def __torch_function__(
        cls, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        """Compute the bounds of a function of intervals."""
        return _evaluate(func, args, dict(kwargs or {}))

    def __repr__(self, *, tensor_contents: Any = None) -> str:  # type: ignore[override]
        return f"IntervalTensor(low={self.low!r}, high={self.high!r})"


_FACTS = frozenset((
    "__len__", "_version", "device", "dim", "dtype", "element_size", "get_device", "is_complex", "is_contiguous",
    "is_cpu", "is_cuda", "is_floating_point", "is_inference", "is_meta", "is_mps", "is_nested", "is_quantized",
    "is_signed", "is_sparse", "is_xpu", "itemsize", "layout", "nbytes", "ndim", "ndimension", "nelement", "numel",
    "requires_grad", "shape", "size", "stride",
))  # fmt: skip
"""What a tensor is asked that does not depend on its values."""
_ALIASES = {
    "truediv": "div",
    "true_divide": "div",
    "divide": "div",
    "multiply": "mul",
    "subtract": "sub",
    "negative": "neg",
}


def _evaluate(func: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    name = func.__name__ if hasattr(func, "__name__") else type(func).__name__  # methods of TorchScript have none
    if name == "__get__":  # an attribute
        name = func.__self__.__name__
        if name not in _FACTS:
            raise _unknown_rule_error(name)
        return func(cast(IntervalTensor, args[0]).low)
    if name in _FACTS:
        return func(cast(IntervalTensor, args[0]).low, *args[1:], **kwargs)
    args = (*args, *(kwargs.pop(key) for key in ("input", "other") if key in kwargs))  # rules read them by place
    in_place, args, kwargs = _take_in_place(func, args, kwargs)
    plain = name.strip("_")
    in_place = in_place or (name.endswith("_") and not name.endswith("__"))
    if name.startswith("__i") and plain[1:] in {"add", "sub", "mul", "truediv"}:
        in_place, plain = True, plain[1:]
    if name.startswith("__r") and plain[1:] in {"add", "sub", "mul", "matmul"}:
        args, plain = (args[1], args[0], *args[2:]), plain[1:]
    plain = _ALIASES.get(plain, plain)
    if plain not in RULES:
        raise _unknown_rule_error(plain)
    _check_target(plain, args, kwargs, in_place=in_place)
    _check_current((args, kwargs))
    result = _wrap(RULES[plain](_caller(func, plain, name), _unwrap(args), _unwrap(kwargs)))
    if in_place:
        # The same object, because the network may go on with it.
        args[0].low, args[0].high = result.low, result.high
        args[0]._memory.changes += 1
        args[0]._seen = args[0]._memory.changes
        return args[0]
    first = args[0] if args else None
    is_same = isinstance(result, IntervalTensor) and isinstance(first, IntervalTensor) and result.low is first.low
    if is_same:
        return first  # a later change in place is a change of both
    if isinstance(first, IntervalTensor):
        _join_memory(plain, first, result)
    return result


_MAY_SHARE = frozenset(("contiguous", "flatten", "reshape", "reshape_as", "unflatten"))
"""Functions that return a view or a copy, by the strides of their input, which may not be those of the ends."""


def _join_memory(name: str, source: IntervalTensor, result: Any) -> None:
    """Note which results are views: a change of one in place is a change of all."""
    own = source.low.untyped_storage().data_ptr()
    for one in result if isinstance(result, tuple) else (result,):
        if isinstance(one, IntervalTensor) and (name in _MAY_SHARE or one.low.untyped_storage().data_ptr() == own):
            one._memory, one._seen = source._memory, source._seen


def _check_current(arguments: Any) -> None:
    """Check that no argument was changed in place through a view of it, or through what it is a view of."""
    for one in flatten(arguments):
        if isinstance(one, IntervalTensor) and one._seen != one._memory.changes:
            raise LimbeckError(
                "Interval bounds cannot follow a change in place that another view of the same memory sees, such as "
                "y = x[:, :3]; y.relu_(); x + 1. Use the function that returns a new tensor: y = y.relu()."
            )


def _check_target(name: str, args: tuple[Any, ...], kwargs: Mapping[str, Any], *, in_place: bool) -> None:
    """Check that the result is not written into a plain tensor, which has no ends."""
    if kwargs.get("out") is not None or (in_place and not isinstance(args[0], IntervalTensor)):
        raise LimbeckError(
            f"Interval bounds cannot follow {name!r}, which writes what depends on the inputs into a constant tensor, "
            "with out= or in place: write y = y + x in place of y += x."
        )


def _caller(func: Any, plain: str, name: str) -> Evaluate:
    """The function for plain tensors that does not change its arguments."""
    dunder = name.startswith("__")
    if not (dunder or name.endswith("_")) or plain == "getitem":
        return cast(Evaluate, func)
    places = (torch, Tensor, torch.nn.functional)
    return next(cast(Evaluate, getattr(place, plain)) for place in places if hasattr(place, plain))


def _take_in_place(
    func: Any, args: tuple[Any, ...], kwargs: dict[str, Any]
) -> tuple[bool, tuple[Any, ...], dict[str, Any]]:
    """Whether ``inplace=True`` was given, and the arguments with False: both ends may be one tensor."""
    code = getattr(func, "__code__", None)  # functions that are built into PyTorch have none
    names = () if code is None else code.co_varnames[: code.co_argcount]
    if kwargs.get("inplace"):
        return True, args, {**kwargs, "inplace": False}
    at = names.index("inplace") if "inplace" in names else len(args)
    if at < len(args) and args[at]:
        return True, (*args[:at], False, *args[at + 1 :]), kwargs
    return False, args, kwargs


def _unwrap(value: Any) -> Any:
    if isinstance(value, IntervalTensor):
        return Ends(value.low, value.high)
    if isinstance(value, dict):
        return {key: _unwrap(one) for key, one in value.items()}
    return type(value)(map(_unwrap, value)) if type(value) in (tuple, list) else value


def _wrap(value: Any) -> Any:
    if isinstance(value, Ends):
        return IntervalTensor.of(value.low, value.high)
    return tuple(map(_wrap, value)) if isinstance(value, list) else value


def _unknown_rule_error(name: str) -> LimbeckError:
    return LimbeckError(
        f"Interval bounds have no rule for {name!r}, which this network calls. They go through linear and "
        "convolutional layers, BatchNorm, pooling, sums, products and activations such as ReLU, not through attention, "
        "LayerNorm or embeddings: use a plain convolutional network, a residual one, or a perceptron."
    )


def interval_bounds(
    function: Callable[[Tensor], Tensor], low: Float[Tensor, "batch ..."], high: Float[Tensor, "batch ..."]
) -> Bounds:
    r"""Compute bounds of a network's outputs over all inputs between two ends, by interval arithmetic.

    Each operation is replaced by one on intervals: :math:`W x + b` with :math:`x \in [m - r, m + r]` is within
    :math:`W m + b \pm |W| r`, and a monotone function of an interval has its values at the ends as bounds. The result
    is sound: no input of the box has an output outside of it, up to the rounding of floating point. It is exact for one
    linear layer, and the more layers follow, the wider it is. Where both ends are equal it is the plain forward pass.

    The network is called as it is, with an `IntervalTensor`. It may have residual sums, slices and padding. Autocast is
    off, because 16 bits would round bounds inward. Gradients flow to the parameters.

    Args:
        function: The network, in eval mode, or a function that calls it.
        low: The smallest value of each input.
        high: The largest value of each input.

    Raises:
        LimbeckError: If the ends do not fit, or the network has an operation without a rule, which the message names;
            or it changes a tensor in place and then uses another view of it.

    Example:
        >>> layer = torch.nn.Linear(2, 1)
        >>> _ = layer.load_state_dict({"weight": torch.tensor([[1.0, -2.0]]), "bias": torch.tensor([0.5])})
        >>> bounds = interval_bounds(layer, torch.zeros(1, 2), torch.ones(1, 2))
        >>> bounds.low.tolist(), bounds.high.tolist()
        ([[-1.5]], [[1.5]])

    Source: Gowal et al., On the Effectiveness of Interval Bound Propagation for Training Verifiably Robust Models,
    2018, arXiv:1810.12715.
    """
    if (
        low.shape != high.shape
        or not low.is_floating_point()
        or low.dtype != high.dtype
        or not bool((low <= high).all())
    ):
        raise LimbeckError(
            f"The ends of intervals are two floating-point tensors of one shape, low <= high; got {list(low.shape)} "
            f"({low.dtype}) and {list(high.shape)} ({high.dtype})."
        )
    with torch.autocast(low.device.type, enabled=False), _uncompiled():
        result = function(IntervalTensor.of(low, high))
    if isinstance(result, IntervalTensor):
        _check_current((result,))
        return Bounds(result.low, result.high)
    # A network that does not depend on its inputs returns a plain tensor.
    if bool(result.isnan().any()) and not bool(function(low).isnan().any()):
        raise LimbeckError(
            "Interval bounds cannot follow this network: a function that it calls takes the tensor without PyTorch's "
            "rules, such as torch.tensor, vmap or TorchScript."
        )
    return Bounds(result, result)


def _uncompiled() -> AbstractContextManager[Any]:
    """A block in which a compiled network runs as it was written, because its graph has no rules."""
    # Nothing is compiled where the compiler was not loaded, and to load it takes a second.
    return torch.compiler.set_stance("force_eager") if "torch._dynamo" in sys.modules else nullcontext()


def input_box(inputs: Tensor, epsilon: float, *, low: float | None = None, high: float | None = None) -> Bounds:
    """The box of all inputs near the given ones: each number within epsilon, as a fraction of the range.

    Args:
        inputs: Bytes or floating-point numbers, ``[batch, ...]``.
        epsilon: The largest change of a number, as a fraction of the range.
        low: The smallest value of an input; by default 0. The box ends there.
        high: The largest; by default 255 for bytes and 1 for floating-point inputs.

    Raises:
        LimbeckError: If inputs are outside of the range.

    Example:
        >>> input_box(torch.tensor([[0.5, 1.0]]), 0.25).high.tolist()
        [[0.75, 1.0]]
    """
    smallest, largest = find_range(inputs, low=low, high=high)
    center = inputs if inputs.is_floating_point() else inputs.float()
    check_within_range(center, smallest, largest)
    radius = epsilon * (largest - smallest)
    return Bounds((center - radius).clamp_min(smallest), (center + radius).clamp_max(largest))


def confidence_bounds(logits: Bounds, classes: Int[Tensor, " batch"]) -> Bounds:
    r"""Compute bounds of one class's probability from those of the logits.

    :math:`p_c` is smallest where the logit of c is smallest and all others are largest:
    :math:`p_c^{lo} = softmax(l_c, u_{\ne c})_c`, and :math:`p_c^{hi} = softmax(u_c, l_{\ne c})_c`. Both are reached if
    the logits are anywhere in their intervals.

    Args:
        logits: Bounds of the logits, ``[batch, classes]``.
        classes: c of each example.

    Example:
        >>> bounds = Bounds(torch.tensor([[0.0, 0.0]]), torch.tensor([[0.0, 0.0]]))
        >>> confidence_bounds(bounds, torch.tensor([1])).low.tolist()
        [0.5]
    """
    own = torch.nn.functional.one_hot(classes, logits.low.shape[-1]).bool()
    least, most = (end.gather(-1, classes[:, None])[:, 0] for end in logits)
    others_least, others_most = (end.masked_fill(own, -torch.inf).logsumexp(-1) for end in logits)
    return Bounds(torch.sigmoid(least - others_most), torch.sigmoid(most - others_least))


def bound_gap(student: Bounds, teacher: Bounds, classes: Int[Tensor, " batch"]) -> Float[Tensor, " batch"]:
    r"""Compute an upper bound of the gap in confidence between student and teacher in a class.

    :math:`|q_c(x') - p_c(x')| \le \max(p_c^{hi} - q_c^{lo}, q_c^{hi} - p_c^{lo})` for all x' of a box. It is from 0 to
    1, and exact where both boxes are points. As both networks are bounded alone, it is above 0 even for equal ones.

    Args:
        student: Bounds of the student's logits, ``[batch, classes]``.
        teacher: The same of the teacher.
        classes: c of each example: the teacher's class.

    Example:
        >>> point = Bounds(torch.zeros(1, 2), torch.zeros(1, 2))
        >>> bound_gap(point, point, torch.tensor([0])).tolist()
        [0.0]

    Source: Lamb, Brunel, Dvijotham, Kumar, Torr and Eiras, Faithful Knowledge Distillation, 2023, arXiv:2306.04431.
    """
    q, p = confidence_bounds(student, classes), confidence_bounds(teacher, classes)
    return torch.maximum(p.high - q.low, q.high - p.low)


def check_epsilon(epsilon: float) -> None:
    """Check the size of a box.

    Raises:
        ArgumentError: If it is not a finite number of at least 0.
    """
    if not (is_finite_number(epsilon) and epsilon >= 0):
        raise ArgumentError(f"epsilon is a number of at least 0, such as 2/255; got {epsilon!r}.", argument="epsilon")
