"""Layers whose weights and inputs are rounded to 8 or fewer bits while they learn (fake quantization)."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from limbeck.batch import Inputs
from limbeck.errors import ArgumentError, LimbeckError, unknown_name_error
from limbeck.model_call import call
from limbeck.models.size_and_hash import size_in_bytes

WEIGHT_LEVELS: Mapping[str, int] = {"int8": 127, "int4": 7, "ternary": 1}
"""The largest integer of a weight, by the name of its type; the smallest is its negative."""
LOWEST, HIGHEST = -128, 127
"""The integers of inputs."""
_LEAST = 1e-20
"""The least scale: that of weights that are all 0."""
_RATE = 0.01
"""The share of a new batch in the range of an input, as in PyTorch's moving averages of ranges."""
_KINDS = (nn.Linear, nn.Conv1d, nn.Conv2d, nn.Conv3d)


def quantize_weight(
    weight: Float[Tensor, "*shape"], kind: str, *, per_channel: bool = True
) -> tuple[Float[Tensor, "*shape"], Float[Tensor, " rows"]]:
    r"""Round weights to integers times a scale, symmetric about 0.

    ``int8`` and ``int4``: :math:`s = \max |w| / L` with L = 127 or 7, and :math:`n = round(w / s)`, so no weight is cut
    off. ``ternary``: :math:`n = sign(w)` where :math:`|w| > 0.7\,mean |w|`, else 0, and s is the mean of |w| over the
    weights that are not 0.

    Args:
        weight: The weights of a layer, output channels first.
        kind: ``int8``, ``int4`` or ``ternary``.
        per_channel: Whether each output channel has its own scale; if not, the layer has one.

    Returns:
        The integers, as floating-point numbers, and the scale of each output channel, both in float32 or better.

    Example:
        >>> integers, scale = quantize_weight(torch.tensor([[1.0, -2.0, 0.1, 1.5]]), "ternary")
        >>> integers.tolist(), scale.tolist()
        ([[1.0, -1.0, 0.0, 1.0]], [1.5])

    Source: Jacob et al., 2017, arXiv:1712.05877; ternary: Li, Zhang and Liu, Ternary Weight Networks, 2016,
        arXiv:1605.04711, as in Kim et al., 2022, arXiv:2211.11014.
    """
    plain = weight.detach()
    plain = plain.to(torch.promote_types(plain.dtype, torch.float32))  # small scales are 0 in half precision
    rows = plain.flatten(1) if per_channel else plain.flatten().unsqueeze(0)
    size = rows.abs()
    if kind == "ternary":
        large = size > 0.7 * size.mean(1, keepdim=True)
        scale = (size * large).sum(1, keepdim=True) / large.sum(1, keepdim=True).clamp_min(1)
        integers = rows.sign() * large
    else:
        scale = (size.amax(1, keepdim=True) / WEIGHT_LEVELS[kind]).clamp_min(_LEAST)
        integers = (rows / scale).round()
    return integers.reshape(plain.shape), scale.clamp_min(_LEAST).flatten().expand(len(plain))


class FakeQuantizedWeight(nn.Module):
    """Rounds a weight in the forward pass; its gradient passes as if it were not rounded.

    Args:
        kind: ``int8``, ``int4`` or ``ternary``.
        per_channel: Whether each output channel has its own scale.

    Example:
        >>> FakeQuantizedWeight("ternary")(torch.tensor([[1.0, -2.0, 0.1, 1.5]]))
        tensor([[ 1.5000, -1.5000,  0.0000,  1.5000]])
    """

    def __init__(self, kind: str, *, per_channel: bool = True) -> None:
        super().__init__()
        self.kind, self.per_channel = kind, per_channel

    def forward(self, weight: Float[Tensor, "*shape"]) -> Float[Tensor, "*shape"]:
        """The rounded weights."""
        integers, scale = quantize_weight(weight, self.kind, per_channel=self.per_channel)
        rounded = (integers * scale.reshape(-1, *[1] * (weight.ndim - 1))).to(weight.dtype)
        # The difference is exactly 0, so that the values are exactly those that an export writes.
        return rounded + (weight - weight.detach())


class FakeQuantizedInput(nn.Module):
    r"""Rounds the inputs of a layer to 256 levels between two numbers, which have one scale and a zero point.

    With :math:`s = (high - low) / 255` and :math:`z = round(-128 - low / s)` it is
    :math:`s\,(clamp(round(x / s) + z, -128, 127) - z)`. The gradient is 1 within the range and 0 outside. The range
    always has 0, which stays 0. In train mode it follows the batches, as a moving average of their smallest and largest
    values, for as many forward passes as `observe`; then it is fixed. A batch with NaN or infinite values, as a step of
    mixed precision that overflows has it, is left out. A range of width 0 rounds nothing.

    Args:
        low: The lowest value, at the beginning.
        high: The highest value, at the beginning; equal to `low` if it is not known.
        observe: The number of forward passes in train mode in which the range is updated.

    Example:
        >>> FakeQuantizedInput(low=0.0, high=2.55)(torch.tensor([0.014, 1.0, 9.0]))
        tensor([0.0100, 1.0000, 2.5500])
    """

    low: Tensor
    high: Tensor
    left: Tensor

    def __init__(self, *, low: float = 0.0, high: float = 0.0, observe: int = 0) -> None:
        super().__init__()
        self.register_buffer("low", torch.tensor(min(float(low), 0.0)))
        self.register_buffer("high", torch.tensor(max(float(high), 0.0)))
        self.register_buffer("left", torch.tensor(observe))

    def forward(self, inputs: Float[Tensor, "*shape"]) -> Float[Tensor, "*shape"]:
        """The rounded inputs."""
        if self.training and int(self.left) > 0:
            self._observe(inputs.detach())
        if not self.high > self.low:
            return inputs
        scale, zero = self.read_scale()
        # Half precision has fewer digits than there are levels.
        exact = inputs if inputs.dtype in (torch.float32, torch.float64) else inputs.float()
        rounded: Tensor = torch.fake_quantize_per_tensor_affine(exact, scale, zero, LOWEST, HIGHEST)
        return rounded

    def _observe(self, inputs: Tensor) -> None:
        if not inputs.numel():
            return
        low = inputs.amin().float().clamp_max(0).nan_to_num(-torch.inf, neginf=-torch.inf)
        high = inputs.amax().float().clamp_min(0).nan_to_num(torch.inf, posinf=torch.inf)
        if torch.distributed.is_available() and torch.distributed.is_initialized():
            torch.distributed.all_reduce(low, torch.distributed.ReduceOp.MIN)
            torch.distributed.all_reduce(high, torch.distributed.ReduceOp.MAX)
        if not bool((high - low).isfinite()):
            return
        rate = _RATE if self.high > self.low else 1.0
        self.low.lerp_(low, rate)
        self.high.lerp_(high, rate)
        self.left -= 1

    def read_scale(self) -> tuple[Float[Tensor, ""], Int[Tensor, ""]]:
        """The scale s and the zero point z."""
        scale = ((self.high - self.low) / (HIGHEST - LOWEST)).clamp_min(_LEAST)
        zero = (LOWEST - self.low / scale).round().clamp(LOWEST, HIGHEST)
        return scale, zero.to(torch.int32)


class QuantizedLayer(nn.Module):
    """A linear or convolutional layer whose weight and inputs are rounded in the forward pass.

    Args:
        layer: The layer, which keeps its weight in full precision.
        weight_quantizer: Rounds the weight.
        input_quantizer: Rounds the inputs.
    """

    def __init__(self, layer: nn.Module, weight_quantizer: nn.Module, input_quantizer: nn.Module) -> None:
        super().__init__()
        self.layer, self.weight_quantizer, self.input_quantizer = layer, weight_quantizer, input_quantizer

    @property
    def weight(self) -> Tensor:
        """The rounded weight."""
        rounded: Tensor = self.weight_quantizer(self.layer.weight)
        return rounded

    @property
    def bias(self) -> Any:
        """The bias, which is not rounded."""
        return self.layer.bias

    def forward(self, inputs: Float[Tensor, "*inputs"]) -> Float[Tensor, "*outputs"]:
        """The outputs of the layer with rounded weight and inputs."""
        inputs, layer = self.input_quantizer(inputs), self.layer
        if isinstance(layer, nn.Linear):
            return nn.functional.linear(inputs, self.weight, layer.bias)
        outputs: Tensor = layer._conv_forward(inputs, self.weight, layer.bias)  # type: ignore[operator]
        return outputs

    def read_scales(self) -> tuple[Tensor, Tensor]:
        """The integers and the scales of its weight, as `quantize_weight` returns them."""
        own = self.weight_quantizer
        if not isinstance(own, FakeQuantizedWeight):
            raise LimbeckError("The scales of this layer are fixed; as in an export.")
        return quantize_weight(self.layer.weight, own.kind, per_channel=own.per_channel)  # type: ignore[arg-type]


def find_quantizable_layers(model: nn.Module, at: Sequence[str] | None = None) -> dict[str, nn.Module]:
    """The linear and convolutional layers by name, or those with the names `at`.

    The last layer inside ``nn.MultiheadAttention`` is left out: attention reads its weight without calling it.

    Raises:
        LimbeckError: If there is none, or none of that name.
    """
    uncalled = nn.modules.linear.NonDynamicallyQuantizableLinear
    named = {
        name: module
        for name, module in model.named_modules()
        if isinstance(module, _KINDS) and not isinstance(module, uncalled)
    }
    for name in at or ():
        if name not in named:
            raise unknown_name_error("layer to quantize", name, named, argument="at")
    if not named:
        raise LimbeckError(
            f"{type(model).__name__} has no linear or convolutional layer, so there is none to quantize."
        )
    return {name: named[name] for name in at or named}


def fake_quantize(
    model: nn.Module,
    *,
    weights: str = "int8",
    activations: str = "int8",
    per_channel: bool = True,
    observe: int = 0,
    ranges: Mapping[str, Sequence[float]] | None = None,
    at: Sequence[str] | None = None,
) -> nn.Module:
    """Round the weights and inputs of linear and convolutional layers in the forward pass, also while they learn.

    Gradients pass straight through (`FakeQuantizedWeight`, `FakeQuantizedInput`). `limbeck.export.to_int8_trained` and
    ``limbeck export --to int8`` write the scales of the model, so that the file has the same outputs.

    Args:
        model: The model; it is changed.
        weights: ``int8``, ``int4`` or ``ternary``.
        activations: ``int8``, or ``float`` for inputs that are not rounded.
        per_channel: Whether each output channel of a layer has its own scale of weights.
        observe: The number of forward passes in train mode in which the ranges of inputs follow the batches.
        ranges: The lowest and highest input of layers by name, at the beginning (see `observe_ranges`).
        at: The names of the layers; by default all linear and convolutional ones.

    Returns:
        The model, or a new module if the model is a single layer.

    Raises:
        ArgumentError: If a type is unknown, or the range of the inputs of a layer is not known.
        LimbeckError: If the model has no such layer, or is quantized already.

    Example:
        >>> net = nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 3))
        >>> net = fake_quantize(net, ranges=observe_ranges(net, [torch.randn(64, 4)]))
        >>> sorted(find_quantized_layers(net))
        ['0', '2']

    Source: Jacob et al., Quantization and Training of Neural Networks for Efficient Integer-Arithmetic-Only Inference,
        2017, arXiv:1712.05877.
    """
    check_types(weights=weights, activations=activations)
    if is_fake_quantized(model):
        raise LimbeckError("The model is quantized already: fake_quantize can be applied once.")
    layers = find_quantizable_layers(model, at)
    bounds = {name: _range_of(name, ranges or {}, observe) for name in layers if activations == "int8"}
    wrapped: dict[nn.Module, nn.Module] = {}
    for name, layer in layers.items():
        inputs: nn.Module = nn.Identity()
        if activations == "int8":
            inputs = FakeQuantizedInput(low=bounds[name][0], high=bounds[name][1], observe=observe)
        made = QuantizedLayer(layer, FakeQuantizedWeight(weights, per_channel=per_channel), inputs)
        wrapped[layer] = made.to(next(layer.parameters()).device).train(layer.training)
    return _replace_modules(model, wrapped)


def _replace_modules(model: nn.Module, new: Mapping[nn.Module, nn.Module]) -> nn.Module:
    """Replace modules of a model wherever they stand; returns the model, or its replacement."""
    for parent in [module for module in model.modules() if module not in new.values()]:
        for name, child in list(parent._modules.items()):  # named_children() has a shared module once
            if child is not None and child in new:
                setattr(parent, name, new[child])
    return new.get(model, model)


def _range_of(name: str, ranges: Mapping[str, Sequence[float]], observe: int) -> Sequence[float]:
    if name not in ranges and not observe:
        raise ArgumentError(
            f"The range of the inputs of {name} is not known: give ranges=observe_ranges(model, batches), "
            "observe=100 (steps in which it is measured), or activations='float'.",
            argument="ranges",
        )
    return ranges.get(name, (0.0, 0.0))


def check_types(*, weights: str, activations: str) -> None:
    """Check the types of weights and activations.

    Raises:
        ArgumentError: If one is unknown.
    """
    if weights not in WEIGHT_LEVELS:
        raise unknown_name_error("type of weights", weights, WEIGHT_LEVELS, argument="weights")
    if activations not in ("int8", "float"):
        raise unknown_name_error("type of activations", activations, ("int8", "float"), argument="activations")


def find_quantized_layers(model: nn.Module) -> dict[str, QuantizedLayer]:
    """The layers by name whose weights `fake_quantize` rounds."""
    return {name: module for name, module in model.named_modules() if isinstance(module, QuantizedLayer)}


def is_fake_quantized(model: nn.Module) -> bool:
    """Whether `fake_quantize` was applied to a model."""
    return bool(find_quantized_layers(model))


def observe_ranges(
    model: nn.Module, inputs: Iterable[Inputs], *, at: Sequence[str] | None = None
) -> dict[str, list[float]]:
    """The lowest and highest input of each layer that can be quantized, over batches, in eval mode.

    Args:
        model: The model; it is not changed.
        inputs: Batches of inputs of the model.
        at: The names of the layers; by default all.

    Example:
        >>> observe_ranges(nn.Sequential(nn.Linear(2, 1)), [torch.tensor([[0.0, 3.0], [-1.0, 1.0]])])
        {'0': [-1.0, 3.0]}
    """
    ranges: dict[str, list[float]] = {}
    layers = find_quantizable_layers(model, at)
    learning = [module for module in model.modules() if module.training]
    hooks = [module.register_forward_pre_hook(_make_observer(ranges, name)) for name, module in layers.items()]
    try:
        model.eval()
        with torch.no_grad():
            for batch in inputs:
                call(model, batch)
    finally:
        for hook in hooks:
            hook.remove()
        for module in learning:
            module.training = True
    return ranges


def set_ranges(model: nn.Module, ranges: Mapping[str, Sequence[float]]) -> None:
    """Set the lowest and highest input of quantized layers by name, which are then fixed.

    Args:
        model: The model; it is changed.
        ranges: The ranges, as `observe_ranges` returns them for the model before.
    """
    for name, module in find_quantized_layers(model).items():
        own = module.input_quantizer
        if isinstance(own, FakeQuantizedInput) and name in ranges:
            own.low.fill_(ranges[name][0])
            own.high.fill_(ranges[name][1])
            own.left.zero_()


def _make_observer(ranges: dict[str, list[float]], name: str) -> Callable[[nn.Module, tuple[Tensor, ...]], None]:
    def observe(module: nn.Module, inputs: tuple[Tensor, ...]) -> None:
        if inputs[0].numel():
            low, high = ranges.get(name, (0.0, 0.0))
            ranges[name] = [min(low, float(inputs[0].min())), max(high, float(inputs[0].max()))]

    return observe


def remove_fake_quantize(model: nn.Module) -> nn.Module:
    """Take the rounding out of a model, which then has its weights as they were learned, in full precision.

    Args:
        model: The model; it is changed.

    Returns:
        The model, or its layer if the model is a single rounded layer.

    Example:
        >>> net = fake_quantize(nn.Sequential(nn.Linear(4, 3)), observe=1)
        >>> is_fake_quantized(remove_fake_quantize(net))
        False
    """
    return _replace_modules(model, {module: module.layer for module in find_quantized_layers(model).values()})


def quantized_bytes(model: nn.Module) -> int:
    """The bytes of a model whose quantized weights take one byte each, and four for each scale.

    Weights of fewer bits take one byte as well, as in the file that an export writes.

    Example:
        >>> quantized_bytes(fake_quantize(nn.Sequential(nn.Linear(100, 10)), activations="float"))
        1080
    """
    weights: list[Any] = [module.layer.weight for module in find_quantized_layers(model).values()]
    return size_in_bytes(model) - sum(w.numel() * (w.element_size() - 1) - 4 * len(w) for w in weights)
