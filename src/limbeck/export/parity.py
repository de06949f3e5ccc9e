"""Parity of ONNX and PyTorch outputs, layer by layer where they differ."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor, nn

from limbeck.batch import Inputs
from limbeck.errors import LimbeckError
from limbeck.export.onnx_session import (
    count_examples,
    open_session,
    run,
    slice_inputs,
    split_chunks,
    tensor_list,
)
from limbeck.optional_imports import import_optional

_LOOKED_INTO = 100
"""On how many examples every node is looked at: what lies between is kept in memory."""
_UNITS = 16 * 2.0**-23
"""16 units in the last place of float32: where logits are huge, nothing less can be asked."""


class Parity(NamedTuple):
    """How well an exported file agrees with the model that it was made from.

    Attributes:
        max_difference: The greatest absolute difference of a logit, in nats.
        examples: On how many real examples.
        nodes: How many inner nodes of the graph were compared by name as well.
        of: How many nodes there are.
    """

    max_difference: float
    examples: int
    nodes: int = 0
    of: int = 0


def compare_outputs(proto: Any, program: Any, model: nn.Module, inputs: Inputs, *, tolerance: float) -> Parity:
    """Compare an ONNX model with the module that it was made from.

    Args:
        proto: The ONNX model.
        program: PyTorch's exported program of the same module, whose nodes have the same names.
        model: The module, called with its inputs in order.
        inputs: Real examples, any number.
        tolerance: The greatest difference of a logit.

    Returns:
        How well it agrees.

    Raises:
        LimbeckError: If an output differs; the first node that does is named. If the model's answers hold NaN.
    """
    session = open_session(proto.SerializeToString())
    worst, allowed = 0.0, tolerance
    for some in split_chunks(inputs):
        with torch.no_grad():
            ours = model(*tensor_list(some)).numpy()
        _check_numbers(ours)
        output = max_difference(ours, run(session, some)[0])
        finite = np.abs(ours[np.isfinite(ours)])
        allowed = max(allowed, _UNITS * float(finite.max(initial=0.0)))
        worst = max(worst, output)
    first, seen = first_difference(proto, program, slice_inputs(inputs, slice(0, _LOOKED_INTO)), tolerance=tolerance)
    if worst > allowed or first is not None:
        where = first if first is not None else "no inner node that can be compared by name, only the output"
        raise LimbeckError(
            f"The ONNX model does not compute what PyTorch does: its output differs by up to {worst:.3g} on "
            f"{count_examples(inputs)} real examples, and {allowed:.1g} is allowed. What differs first is {where}."
        )
    return Parity(worst, count_examples(inputs), seen, len(proto.graph.node))


def _check_numbers(ours: np.ndarray) -> None:
    wrong = int(np.isnan(ours).reshape(len(ours), -1).any(1).sum())
    if wrong:
        raise LimbeckError(
            f"The student itself answers with NaN on {wrong} of {len(ours)} real examples, so there is nothing to "
            "compare a file with: look at what it does in eval mode."
        )


def first_difference(proto: Any, program: Any, inputs: Inputs, *, tolerance: float) -> tuple[str | None, int]:
    """The first node in the graph's order whose value differs, in words, or None; and how many were compared.

    A node is compared where the file has a value of the same name and shape, of floating-point numbers; by more than
    `tolerance`, or that part of its greatest value where that is above 1.
    """
    ours = _inner(program, inputs)
    order = [(node.op_type, name) for node in proto.graph.node for name in node.output if name in ours]
    theirs = _exposed(proto, [name for _, name in order], inputs)
    seen = 0
    for kind, name in order:
        mine, value = ours[name].numpy(), theirs[name]
        if mine.shape != value.shape or mine.dtype.kind != "f" or value.dtype.kind != "f":
            continue
        seen += 1
        scale = max(1.0, float(np.abs(mine[np.isfinite(mine)]).max(initial=0.0)))
        if (by := max_difference(mine, value)) > tolerance * scale:
            return f"the {kind} node {name!r} (by {by:.3g}, its values reach {scale:.3g})", seen
    return None, seen


def max_difference(ours: np.ndarray, theirs: np.ndarray) -> float:
    """The greatest absolute difference; infinite where shapes differ, or one is a number and the other is none.

    Example:
        >>> difference(np.array([1.0, np.inf]), np.array([1.5, np.inf]))
        0.5
    """
    if ours.shape != theirs.shape:
        return float("inf")
    same = (ours == theirs) | (np.isnan(ours) & np.isnan(theirs))
    with np.errstate(invalid="ignore"):
        apart = np.where(same, 0.0, np.abs(ours.astype(np.float64) - theirs.astype(np.float64)))
    return float(np.nan_to_num(apart, nan=np.inf, posinf=np.inf).max(initial=0.0))


def _inner(program: Any, inputs: Inputs) -> dict[str, Tensor]:
    """The value of every node of an exported program, by name."""
    module = program.module()
    values: dict[str, Tensor] = {}

    class Keeping(torch.fx.Interpreter):
        """Runs a graph and keeps what its nodes give."""

        def run_node(self, n: torch.fx.Node) -> Any:
            value = super().run_node(n)
            if isinstance(value, Tensor) and n.op == "call_function":
                values[n.name] = value.detach().clone()
            return value

    with torch.no_grad():
        Keeping(module).run(*tensor_list(inputs))
    return values


def _exposed(proto: Any, names: list[str], inputs: Inputs) -> dict[str, np.ndarray]:
    """The values of inner nodes of an ONNX model: a copy of it gives them as outputs."""
    onnx = import_optional("onnx", extra="export", purpose="Looking into an ONNX model")
    copied = onnx.ModelProto()
    copied.CopyFrom(proto)
    already = {output.name for output in proto.graph.output}
    more = [name for name in dict.fromkeys(names) if name not in already]
    copied.graph.output.extend(onnx.ValueInfoProto(name=name) for name in more)
    session = open_session(copied.SerializeToString())
    outputs = run(session, inputs)
    return dict(zip([output.name for output in session.get_outputs()], outputs, strict=True))
