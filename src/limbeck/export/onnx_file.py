"""A model as an ONNX file, compared with PyTorch output by output and node by node."""

from __future__ import annotations

import copy
import json
import traceback
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, NamedTuple, cast

import numpy as np
import torch
from torch import Tensor, nn

from limbeck.atomic_io import atomic_write, make_folder
from limbeck.batch import Batch, Inputs
from limbeck.errors import LimbeckError
from limbeck.export.onnx_session import (
    count_examples,
    open_session,
    run,
    silence_logging,
    slice_inputs,
    split_chunks,
    tensor_list,
)
from limbeck.model_call import call, logits_of, place_tokens
from limbeck.models import get_description, size_in_bytes
from limbeck.models.adapters import merge_adapters
from limbeck.models.size_and_hash import unwrap_compiled
from limbeck.optional_imports import import_optional

_NODE_EXAMPLES = 100
"""Number of examples on which nodes are compared: the values of all nodes are in memory."""
_UNITS = 16 * 2.0**-23
"""16 units in the last place of float32: large logits cannot agree better."""


class Parity(NamedTuple):
    """The agreement of an exported file with its model.

    Attributes:
        max_difference: The largest absolute difference of a logit, in nats.
        examples: The number of real examples compared.
        nodes: The number of inner nodes of the graph that were compared too.
        of: The number of nodes in the graph.
        allowed: The largest difference that is allowed.
    """

    max_difference: float
    examples: int
    nodes: int = 0
    of: int = 0
    allowed: float = 0.0


def compare_outputs(
    proto: Any, program: Any, model: nn.Module, inputs: Inputs, *, tolerance: float, nodes: bool = True
) -> Parity:
    """Compare an ONNX model with its module, and with PyTorch's exported program, whose nodes have the same names.

    Raises:
        LimbeckError: If an output differs (the message names the first node that does), or the model returns NaN.
    """
    session = open_session(proto.SerializeToString())
    worst, allowed = 0.0, tolerance
    for part in split_chunks(inputs):
        with torch.no_grad():
            logits = model(*tensor_list(part)).numpy()
        _check_not_nan(logits)
        finite = np.abs(logits[np.isfinite(logits)])
        allowed = max(allowed, _UNITS * float(finite.max(initial=0.0)))
        worst = max(worst, max_difference(logits, run(session, part)[0]))
    some = split_chunks(inputs, _NODE_EXAMPLES)[0]
    first, compared = find_difference(proto, program, some, tolerance=tolerance) if nodes else (None, 0)
    if worst > allowed or first is not None:
        where = first or "no inner node that can be compared by name, only the output"
        raise LimbeckError(
            f"Outputs of the ONNX model differ from PyTorch's by up to {worst:.3g} on {count_examples(inputs)} real "
            f"examples; {allowed:.1g} is allowed. The first difference is in {where}."
        )
    return Parity(worst, count_examples(inputs), compared, len(proto.graph.node), allowed)


def _check_not_nan(logits: np.ndarray) -> None:
    wrong = int(np.isnan(logits).reshape(len(logits), -1).any(1).sum())
    if wrong:
        raise LimbeckError(
            f"The student returns NaN for {wrong} of {len(logits)} real examples, so no file can be compared with it. "
            "Check its outputs in eval mode."
        )


def find_difference(proto: Any, program: Any, inputs: Inputs, *, tolerance: float) -> tuple[str | None, int]:
    """Find the first node in the graph whose value differs. Returns its description or None, and the number compared.

    Nodes are compared if the file has floating-point values of the same name and shape. They differ if the difference
    is above `tolerance` times the largest absolute value, or times 1 if that is smaller.
    """
    values = _node_values(program, inputs)
    order = [(node.op_type, name) for node in proto.graph.node for name in node.output if name in values]
    onnx_values = _onnx_node_values(proto, [name for _, name in order], inputs)
    compared = 0
    for kind, name in order:
        ours, theirs = values[name].numpy(), onnx_values[name]
        if ours.shape != theirs.shape or ours.dtype.kind != "f" or theirs.dtype.kind != "f":
            continue
        compared += 1
        scale = max(1.0, float(np.abs(ours[np.isfinite(ours)]).max(initial=0.0)))
        if (difference := max_difference(ours, theirs)) > tolerance * scale:
            return f"the {kind} node {name!r} (by {difference:.3g}; its values reach {scale:.3g})", compared
    return None, compared


def max_difference(ours: np.ndarray, theirs: np.ndarray) -> float:
    """The largest absolute difference; infinite if shapes differ, or only one of two values is NaN or infinite.

    Example:
        >>> max_difference(np.array([1.0, np.inf]), np.array([1.5, np.inf]))
        0.5
    """
    if ours.shape != theirs.shape:
        return float("inf")
    same = (ours == theirs) | (np.isnan(ours) & np.isnan(theirs))
    with np.errstate(invalid="ignore"):
        apart = np.where(same, 0.0, np.abs(ours.astype(np.float64) - theirs.astype(np.float64)))
    return float(np.nan_to_num(apart, nan=np.inf, posinf=np.inf).max(initial=0.0))


def _node_values(program: Any, inputs: Inputs) -> dict[str, Tensor]:
    """The values of all nodes of an exported program, by name."""
    module = program.module()
    values: dict[str, Tensor] = {}

    class NodeRecorder(torch.fx.Interpreter):
        """Runs a graph and stores the values of its nodes."""

        def run_node(self, n: torch.fx.Node) -> Any:
            value = super().run_node(n)
            if isinstance(value, Tensor) and n.op == "call_function":
                values[n.name] = value.detach().clone()
            return value

    with torch.no_grad():
        NodeRecorder(module).run(*tensor_list(inputs))
    return values


def _onnx_node_values(proto: Any, names: list[str], inputs: Inputs) -> dict[str, np.ndarray]:
    """The values of inner nodes of an ONNX model, from a copy that has them as outputs."""
    onnx = import_optional("onnx", extra="export", purpose="Comparing an ONNX model")
    copied = onnx.ModelProto()
    copied.CopyFrom(proto)
    already = {output.name for output in proto.graph.output}
    inner = [name for name in dict.fromkeys(names) if name not in already]
    copied.graph.output.extend(onnx.ValueInfoProto(name=name) for name in inner)
    session = open_session(copied.SerializeToString())
    outputs = run(session, inputs)
    return dict(zip([output.name for output in session.get_outputs()], outputs, strict=True))


TOLERANCE = 1e-4
"""The largest allowed difference of a logit from PyTorch's."""
CHECKED = 1000
"""Number of real examples on which outputs are compared."""
_LIBRARIES = (str(Path(torch.__file__).parent), str(Path(__file__).parent), str(Path(copy.__file__).parent))
"""Folders of code that is not the user's."""
_LARGEST = 1_900_000_000
"""Bytes; a file of protocol buffers is limited to 2 GB."""


def to_onnx(
    model: nn.Module,
    inputs: Inputs,
    path: str | Path,
    *,
    preprocess: Callable[[Batch], Inputs] | None = None,
    metadata: Mapping[str, Any] | None = None,
    tolerance: float = TOLERANCE,
) -> Parity:
    """Write a model as ONNX with a variable batch size, and compare the file with PyTorch on real inputs.

    Outputs are compared on all inputs, and nodes of the same name on the first hundred. The file is written only if it
    agrees. The model is not changed. It is exported in eval mode, and models in half precision in float32.

    Args:
        model: Any module with logits in its output and no branch that depends on the values of tensors.
        inputs: Real inputs of the model: a tensor, a tuple, or tensors by name. A thousand examples are enough.
        path: The file; missing folders are created.
        preprocess: Function from a batch to the model's inputs that becomes a part of the file; `inputs` are then those
            of the data (raw pixels). Without it, inputs of the file must be preprocessed as in training.
        metadata: JSON values that are written into the file, such as the class names; by default those of a model that
            was loaded, or trained by `limbeck.distill`.
        tolerance: The largest allowed difference of a logit, in nats; for logits that are too large for it in float32,
            16 units in the last place.

    Returns:
        The agreement of the file with the model.

    Raises:
        LimbeckError: If the extra ``export`` is missing, the model cannot be exported (with the reason), or the file
            differs (with the first node that does).

    Example:
        >>> import limbeck as lb
        >>> # lb.export.to_onnx(student, images, "student.onnx").max_difference
    """
    import_optional("onnxscript", extra="export", purpose="Writing ONNX")
    onnx, path = import_optional("onnx", extra="export", purpose="Writing ONNX"), Path(path)
    if path.is_dir():
        raise LimbeckError(f"{path} is a folder; an ONNX model is one file, such as {path / 'model.onnx'}.")
    if size_in_bytes(unwrap_compiled(model)) > _LARGEST:
        raise LimbeckError("A model of more than 1.9 GB does not fit into one ONNX file. Use to_folder (--to folder).")
    by_name = isinstance(inputs, Mapping) and preprocess is None
    inputs = file_inputs(model, inputs) if by_name else inputs
    names = tuple(inputs) if isinstance(inputs, Mapping) else ()
    plain = prepare_module(model, preprocess, names=names, double=_are_double(inputs))
    program = run_exporter(plain, inputs)
    proto = strip_debug(program.model_proto)
    metadata_values = get_description(unwrap_compiled(model)) if metadata is None else metadata
    entry = proto.metadata_props.add()
    entry.key, entry.value = "limbeck", json.dumps({**metadata_values, "reads_included": preprocess is not None})
    parity = compare_outputs(proto, program.exported_program, plain, inputs, tolerance=tolerance)
    if by_name and _frees_length(proto):
        # The other nodes have no names in common: the program is of one length.
        shorter = slice_tokens(inputs)
        compare_outputs(proto, program.exported_program, plain, shorter, tolerance=tolerance, nodes=False)
    make_folder(path.parent)
    with atomic_write(path) as partial:
        onnx.save(proto, partial)
    return parity


def file_inputs(model: nn.Module, inputs: Inputs) -> Inputs:
    """The inputs of a file for those of its model: tensors, by the names of its arguments.

    Of texts, a file takes what `limbeck.model_call.call` gives to the model: the inputs of a decoder in place of
    labels, and no positions for a model that takes none.
    """
    if not isinstance(inputs, Mapping):
        return inputs
    first, named = place_tokens(unwrap_compiled(model), inputs)
    placed = {"input_ids": first[0], **named} if first else named
    given = {*inputs, "decoder_input_ids"}  # not the positions that are added to batches with padding on the left
    return {name: value for name, value in placed.items() if isinstance(value, Tensor) and name in given}


def prepare_module(
    model: nn.Module,
    preprocess: Callable[[Batch], Inputs] | None = None,
    *,
    names: tuple[str, ...] = (),
    double: bool = False,
) -> nn.Module:
    """Copy a model to the CPU, in eval mode and in float32, as a module that returns only logits.

    The module takes its inputs in order, also if the model takes them by `names`. For `double` inputs, a model in
    float64 stays in float64.
    """
    plain = copy.deepcopy(merge_adapters(unwrap_compiled(model))).cpu().eval()
    # For weights with the channels last, the exporter writes other nodes, whose names are not those of the program.
    plain.to(memory_format=torch.contiguous_format)  # type: ignore[call-overload]  # missing in the stubs of torch
    other = {torch.float16, torch.bfloat16} | (set() if double else {torch.float64})
    if any(p.dtype in other for p in plain.parameters()):
        plain = plain.float()
    return _PreprocessedLogits(plain, preprocess) if preprocess is not None else _Logits(plain, names)


def _are_double(inputs: Inputs) -> bool:
    tensors = (
        inputs.values() if isinstance(inputs, Mapping) else inputs if isinstance(inputs, (tuple, list)) else [inputs]
    )
    return any(isinstance(one, Tensor) and one.dtype == torch.float64 for one in tensors)


def strip_debug(proto: Any) -> Any:
    """Remove stack traces, names of Python scopes and inferred shapes, which would contradict the quantizer's."""
    for function in (proto, proto.graph, *proto.graph.node, *proto.graph.input, *proto.graph.output):
        del function.metadata_props[:]
        function.doc_string = ""
    for tensor in proto.graph.initializer:
        del tensor.metadata_props[:]
        tensor.doc_string = ""
    del proto.graph.value_info[:]
    return proto


def _frees_length(proto: Any) -> bool:
    """Give the logits as many tokens as the inputs, where the exporter wrote a number: that of an LSTM's example.

    onnxruntime would warn of each text of another length. Returns whether something was changed.
    """
    (logits, *_), ids = proto.graph.output, proto.graph.input[0]
    theirs, own = ids.type.tensor_type.shape.dim, logits.type.tensor_type.shape.dim
    if len(theirs) != 2 or len(own) != 3 or not theirs[1].dim_param or own[1].dim_param:
        return False
    own[1].dim_param = theirs[1].dim_param
    return True


def slice_tokens(inputs: Inputs) -> Inputs:
    """Inputs by name with the first half of their tokens."""
    length = max(t.shape[1] for t in tensor_list(inputs) if t.ndim == 2)
    return {
        name: t[:, : max(1, length // 2)] if t.ndim == 2 else t
        for name, t in cast(Mapping[str, Tensor], inputs).items()
    }


class _Logits(nn.Module):
    """Returns only the logits of a model, and takes inputs in order. The file does not contain the wrapper."""

    def __init__(self, model: nn.Module, names: tuple[str, ...]) -> None:
        super().__init__()
        self.model, self.names = model, names
        # A language model of a user's own, whose argument has another name.
        ids = {"input_ids": torch.zeros(1, 1, dtype=torch.int64)}
        self.takes_ids_first = names[:1] == ("input_ids",) and bool(place_tokens(model, ids)[0])

    def forward(self, *inputs: Tensor) -> Tensor:
        if not self.names:
            return logits_of(self.model(*inputs))
        count = 1 if self.takes_ids_first else 0
        named = dict(zip(self.names[count:], inputs[count:], strict=True))
        return logits_of(self.model(*inputs[:count], **named))


class _PreprocessedLogits(nn.Module):
    """Returns the logits of a model for raw examples of the data."""

    def __init__(self, model: nn.Module, preprocess: Callable[[Batch], Inputs]) -> None:
        super().__init__()
        self.model, self.preprocess = model, preprocess

    def forward(self, *inputs: Tensor) -> Tensor:
        return logits_of(call(self.model, self.preprocess(Batch(inputs[0]))))


def run_exporter(plain: nn.Module, inputs: Inputs, translations: Mapping[Any, Any] | None = None) -> Any:
    """Export a module of `prepare_module` with a variable batch size, as PyTorch's ONNX program.

    Operations of PyTorch that its exporter does not know have `translations`: functions that write nodes of ONNX.

    Raises:
        LimbeckError: If it cannot be exported, with the reason.
    """
    if count_examples(inputs) < 2:
        raise LimbeckError("At least two real examples are needed, so that the batch size of the file is variable.")
    sample = slice_inputs(inputs, slice(0, 2))
    arguments = tensor_list(sample)
    several = [f"inputs_{i}" for i in range(len(arguments))] if len(arguments) > 1 else ["inputs"]
    names = list(sample) if isinstance(sample, Mapping) else several
    batch, tokens = torch.export.Dim("batch"), {1: torch.export.Dim.AUTO}
    free = [{0: batch} | (tokens if isinstance(sample, Mapping) and t.ndim == 2 else {}) for t in arguments]
    try:
        with silence_logging(), torch.no_grad():
            return torch.onnx.export(
                plain, arguments, dynamo=True, input_names=names, output_names=["logits"], verbose=False,
                dynamic_shapes=(tuple(free),), custom_translation_table=dict(translations or {}),
            )  # fmt: skip
    except Exception as error:  # user code may raise anything under the exporter
        raise LimbeckError(
            f"{type(plain.model).__name__} cannot be exported to ONNX: {_reason(error)} "
            "to_folder (--to folder) exports it for PyTorch."
        ) from error


def _reason(error: BaseException) -> str:
    """Why an export failed: the line whose branch depends on values, or the first line of the innermost error."""
    places: list[str] = []
    while True:
        frames = traceback.extract_tb(error.__traceback__)
        places += [f"{Path(f.filename).name}, line {f.lineno}" for f in frames if not f.filename.startswith(_LIBRARIES)]
        if error.__cause__ is None:
            break
        error = error.__cause__
    if "data-dependent" in str(error):
        where = f" at {places[-1]}" if places else ""
        return f"its code has a branch that depends on the values of a tensor{where}, which a graph cannot have."
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return (lines[0] if lines else type(error).__name__)[:300].rstrip(".") + "."
