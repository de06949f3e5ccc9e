"""8-bit ONNX files of students that were trained with rounded weights and inputs: the file has their scales."""

from __future__ import annotations

import copy
import json
from collections.abc import Callable, Mapping
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor, nn

from limbeck.atomic_io import atomic_write, make_folder
from limbeck.batch import Batch, Inputs
from limbeck.errors import LimbeckError
from limbeck.export.onnx_file import Parity, prepare_module, run_exporter, strip_debug
from limbeck.export.onnx_session import count_examples, open_session, run, split_chunks, tensor_list
from limbeck.models import get_description
from limbeck.models.quantization import (
    HIGHEST,
    LOWEST,
    FakeQuantizedInput,
    find_quantized_layers,
    is_fake_quantized,
    remove_fake_quantize,
)
from limbeck.models.size_and_hash import unwrap_compiled
from limbeck.optional_imports import import_optional

_SHARE = 0.25
"""The largest allowed difference from the student, as a share of what the rounding itself changes (both RMS)."""
_TOLERANCE = 1e-3
"""The difference that is allowed in any case."""


def to_int8_trained(
    model: nn.Module,
    inputs: Inputs,
    path: str | Path,
    *,
    preprocess: Callable[[Batch], Inputs] | None = None,
    metadata: Mapping[str, Any] | None = None,
) -> Parity:
    """Write a model with rounded weights and inputs (`limbeck.models.fake_quantize`) as ONNX with 8-bit integers.

    Weights are stored as integers, with the scales that the model has; weights of 4 bits and ternary weights take 8
    bits. Inputs of layers are rounded by pairs of QuantizeLinear and DequantizeLinear nodes with the ranges that the
    model has. A BatchNorm behind such a layer becomes a part of its scales. Nothing is measured anew.

    An input that lies in the middle between two levels may be rounded to the other one than in PyTorch. So logits may
    differ in few places, by a fraction of what the rounding changes; more is an error.

    Args:
        model: The model, as `limbeck.load` or a run returns it.
        inputs: Real inputs of the model; a thousand are enough.
        path: The file to write.
        preprocess: As for `to_onnx`.
        metadata: As for `to_onnx`.

    Returns:
        The agreement of the file with the model.

    Raises:
        LimbeckError: If the model is not quantized, the extra ``export`` is missing, it cannot be exported, or the
            outputs of the file differ.

    Example:
        >>> # to_int8_trained(limbeck.load("student"), images, "model_int8.onnx").max_difference
    """
    if not is_fake_quantized(unwrap_compiled(model)):
        raise LimbeckError(
            f"This {type(model).__name__} was not trained with rounded weights, so it has no scales: use to_int8 or "
            "choose_int8, which measure them."
        )
    onnx = import_optional("onnx", extra="export", purpose="Writing ONNX")
    import_optional("onnxscript", extra="export", purpose="Writing ONNX")
    own = copy.deepcopy(unwrap_compiled(model)).cpu()
    names = tuple(inputs) if isinstance(inputs, Mapping) else ()
    plain = prepare_module(own, preprocess, names=names)
    fixed = prepare_module(fix_scales(copy.deepcopy(own)), preprocess, names=names)
    proto = strip_debug(run_exporter(fixed, inputs, translate_rounding()).model_proto)
    fold_weights(proto)
    fold_batch_norms(proto)
    values = get_description(unwrap_compiled(model)) if metadata is None else metadata
    entry = proto.metadata_props.add()
    entry.key, entry.value = "limbeck", json.dumps({**values, "reads_included": preprocess is not None})
    parity = _compare(proto, plain, prepare_module(remove_fake_quantize(own), preprocess, names=names), inputs)
    path = Path(path)
    make_folder(path.parent)
    with atomic_write(path) as partial:
        onnx.save(proto, partial)
    return parity


def _compare(proto: Any, rounded: nn.Module, full: nn.Module, inputs: Inputs) -> Parity:
    """Compare a file with its model; what rounding changes is the scale on which they may differ."""
    session = open_session(proto.SerializeToString())
    ours, theirs, plain = [], [], []
    for part in split_chunks(inputs):
        with torch.no_grad():
            theirs.append(rounded(*tensor_list(part)).numpy())
            plain.append(full(*tensor_list(part)).numpy())
        ours.append(run(session, part)[0])
    file, model, unrounded = map(np.concatenate, (ours, theirs, plain))
    difference, change = _rms(file - model), _rms(unrounded - model)
    allowed = max(_TOLERANCE, _SHARE * change)
    if not difference <= allowed:
        raise LimbeckError(
            f"Outputs of the 8-bit file differ from the student's by {difference:.3g} (root mean square) on "
            f"{count_examples(inputs)} real examples, and rounding alone changes {change:.3g}; {allowed:.3g} is "
            "allowed."
        )
    return Parity(float(np.abs(file - model).max()), count_examples(inputs), allowed=allowed)


def _rms(values: np.ndarray) -> float:
    return float(np.sqrt(np.mean(np.square(values, dtype=np.float64))))


class FixedScales(nn.Module):
    """Rounds a weight or an input with constant scales, by an operation that `run_exporter` can translate.

    Args:
        scale: The scale, or one for each output channel.
        zero: The zero point, as many.
    """

    scale: Tensor
    zero: Tensor

    def __init__(self, scale: Tensor, zero: Tensor) -> None:
        super().__init__()
        self.register_buffer("scale", scale.detach().float().clone().contiguous())
        self.register_buffer("zero", zero.detach().to(torch.int8).clone().contiguous())

    def forward(self, values: Float[Tensor, "*shape"]) -> Float[Tensor, "*shape"]:
        """The rounded values."""
        rounded: Tensor = get_rounding()(values, self.scale, self.zero)
        return rounded


@cache
def get_rounding() -> Any:
    """The operation that rounds values along their first dimension, or all alike, as ONNX does."""
    schema = "(Tensor values, Tensor scale, Tensor zero) -> Tensor"

    def round_values(values: Tensor, scale: Tensor, zero: Tensor) -> Tensor:
        along = [-1, *[1] * (values.ndim - 1)] if scale.ndim else []
        scale, zero = scale.reshape(along), zero.reshape(along).float()
        return ((values / scale).round() + zero).clamp(LOWEST, HIGHEST).sub(zero) * scale

    own = torch.library.custom_op("limbeck::round_values", round_values, mutates_args=(), schema=schema)
    own.register_fake(lambda values, scale, zero: torch.empty_like(values))
    return own


def translate_rounding() -> dict[Any, Any]:
    """How PyTorch's exporter writes `get_rounding` as nodes of ONNX."""
    opset = import_optional("onnxscript", extra="export", purpose="Writing ONNX").opset18
    get_rounding()
    return {
        torch.ops.limbeck.round_values.default: lambda values, scale, zero: opset.DequantizeLinear(
            opset.QuantizeLinear(values, scale, zero, axis=0), scale, zero, axis=0
        )
    }


def fix_scales(model: nn.Module) -> nn.Module:
    """Make the scales of a quantized model constant, for an exporter. The outputs stay the same; it learns no more.

    Args:
        model: The model; it is changed.

    Returns:
        The model.
    """
    for module in find_quantized_layers(model).values():
        _, scale = module.read_scales()
        module.layer.weight = nn.Parameter(module.weight.detach())
        module.weight_quantizer = FixedScales(scale, torch.zeros_like(scale))
        own = module.input_quantizer
        if isinstance(own, FakeQuantizedInput):
            module.input_quantizer = FixedScales(*own.read_scale()) if own.high > own.low else nn.Identity()
    return model


class _Graph:
    """The constants of an ONNX graph by name, and who makes and reads each value."""

    def __init__(self, proto: Any) -> None:
        from onnx import numpy_helper

        self.graph = proto.graph
        self.constants = {one.name: numpy_helper.to_array(one) for one in self.graph.initializer}
        self.makers = {name: node for node in self.graph.node for name in node.output}

    def readers(self, name: str) -> list[Any]:
        """The nodes that read a value."""
        return [node for node in self.graph.node if name in node.input]

    def add(self, name: str, values: np.ndarray) -> str:
        """Add or replace a constant."""
        from onnx import numpy_helper

        self.constants[name] = values
        remaining = [one for one in self.graph.initializer if one.name != name]
        del self.graph.initializer[:]
        self.graph.initializer.extend([*remaining, numpy_helper.from_array(np.ascontiguousarray(values), name)])
        return name

    def remove_unused(self) -> None:
        """Remove the constants that no node reads."""
        read = {name for node in self.graph.node for name in node.input} | {one.name for one in self.graph.output}
        remaining = [one for one in self.graph.initializer if one.name in read]
        del self.graph.initializer[:]
        self.graph.initializer.extend(remaining)


def read_attribute(node: Any, name: str, default: Any) -> Any:
    """An attribute of a node, or its default."""
    import onnx

    return next((onnx.helper.get_attribute_value(one) for one in node.attribute if one.name == name), default)


def fold_weights(proto: Any) -> None:
    """Round the weights of a graph, which then has integers in their place."""
    own = _Graph(proto)
    for node in list(own.graph.node):
        if node.op_type != "QuantizeLinear" or not all(name in own.constants for name in node.input):
            continue
        weight, scale, zero = (own.constants[name] for name in node.input)
        along = [-1, *[1] * (weight.ndim - 1)] if scale.ndim else []
        integers = np.rint(weight / scale.reshape(along)) + zero.reshape(along)
        own.add(node.output[0], integers.clip(LOWEST, HIGHEST).astype(np.int8))
        own.graph.node.remove(node)
    own.remove_unused()


def fold_batch_norms(proto: Any) -> None:
    r"""Make each BatchNorm behind a quantized layer a part of its scales and its bias.

    With :math:`g = \gamma / \sqrt{v + \epsilon}`, a channel's scale becomes :math:`s |g|`, its integers get the sign
    of g, and its bias becomes :math:`(b - m) g + \beta`: the same function, without another rounding.
    """
    own = _Graph(proto)
    for norm in [node for node in own.graph.node if node.op_type == "BatchNormalization"]:
        layer = own.makers.get(norm.input[0])
        if layer is None or len(own.readers(norm.input[0])) != 1 or not _has_rows(layer):
            continue
        weight = own.makers.get(layer.input[1])
        known = [*norm.input[1:], *layer.input[2:], *(weight.input[:2] if weight is not None else ())]
        if weight is None or weight.op_type != "DequantizeLinear" or not all(name in own.constants for name in known):
            continue
        _fold_one(own, norm, layer, weight)
    own.remove_unused()


def _has_rows(layer: Any) -> bool:
    """Whether the first dimension of a layer's weight is its output channels."""
    return layer.op_type == "Conv" or (layer.op_type == "Gemm" and read_attribute(layer, "transB", 0) == 1)


def _fold_one(own: _Graph, norm: Any, layer: Any, weight: Any) -> None:
    gamma, beta, mean, variance = (own.constants[name].astype(np.float64) for name in norm.input[1:])
    factor = gamma / np.sqrt(variance + read_attribute(norm, "epsilon", 1e-5))
    bias = own.constants[layer.input[2]] if len(layer.input) > 2 else np.zeros_like(factor)
    integers, scale = (own.constants[name] for name in weight.input[:2])
    rows = [-1] + [1] * (integers.ndim - 1)
    absolute = np.where(factor == 0, 1.0, np.abs(factor))  # a scale is above 0
    name = weight.output[0]
    weight.input[0] = own.add(f"{name}_integers", integers * np.sign(factor).astype(np.int8).reshape(rows))
    weight.input[1] = own.add(f"{name}_scale", (scale * absolute).astype(np.float32))
    folded = own.add(f"{name}_bias", ((bias - mean) * factor + beta).astype(np.float32))
    if len(layer.input) > 2:
        layer.input[2] = folded
    else:
        layer.input.append(folded)
    layer.output[0] = norm.output[0]
    own.graph.node.remove(norm)
