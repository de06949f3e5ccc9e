"""A model as an ONNX file."""

from __future__ import annotations

import copy
import json
import traceback
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from limbeck.atomic_io import atomic_write
from limbeck.batch import Batch, Inputs
from limbeck.errors import LimbeckError
from limbeck.export.onnx_session import count_examples, silence_logging, slice_inputs, tensor_list
from limbeck.export.parity import Parity, compare_outputs
from limbeck.model_call import call, logits_of
from limbeck.models import get_description, size_in_bytes
from limbeck.models.size_and_hash import unwrap_compiled
from limbeck.optional_imports import import_optional

TOLERANCE = 1e-4
"""By how much a logit of the file may differ from PyTorch's."""
CHECKED = 1000
"""On how many real examples that is looked at."""
_LIBRARIES = (str(Path(torch.__file__).parent), str(Path(__file__).parent), str(Path(copy.__file__).parent))
"""Where code lies that is not a person's own."""
_LARGEST = 1_900_000_000
"""Bytes: one file of protocol buffers holds no more than 2 GB."""


def to_onnx(
    model: nn.Module,
    inputs: Inputs,
    path: str | Path,
    *,
    preprocess: Callable[[Batch], Inputs] | None = None,
    metadata: Mapping[str, Any] | None = None,
    tolerance: float = TOLERANCE,
) -> Parity:
    """Write a model as ONNX, with any number of examples to a batch, and compare the file with PyTorch on real inputs.

    The file is compared output by output on all inputs, and node by node on the first hundred of them, wherever a node
    of the file has the name of one in PyTorch's graph. It appears only when it agrees. The model is left as it was; it
    is exported in eval mode, and one in half precision in float32, which is what processors compute in.

    Args:
        model: Any module whose output has logits, and whose code has no branch that depends on values.
        inputs: Real examples, a tensor, a tuple, or tensors by name, as the model is called: a thousand are enough.
        path: The file; its folder is made.
        preprocess: The way from a batch to the model's inputs, to be a part of the file: `inputs` are then those of
            the data (raw pixels). Without it, whoever runs the file has to read examples in the same way.
        metadata: JSON values that are written into the file, such as the class names; by default what is known of a
            model that was loaded, or trained by `limbeck.distill`.
        tolerance: The greatest difference of a logit, in nats; where logits are so large that float32 cannot hold it,
            16 units in the last place.

    Returns:
        How well the file agrees, and on what that is known.

    Raises:
        LimbeckError: If the extra ``export`` is missing, the model cannot be exported (the reason is given), or the
            file differs (the first node that does is named).

    Example:
        >>> import limbeck as lb
        >>> # lb.export.to_onnx(student, images, "student.onnx").max_difference
    """
    import_optional("onnxscript", extra="export", purpose="Writing ONNX")
    onnx, path = import_optional("onnx", extra="export", purpose="Writing ONNX"), Path(path)
    if path.is_dir():
        raise LimbeckError(f"{path} is a folder; an ONNX model is one file, such as {path / 'model.onnx'}.")
    if size_in_bytes(unwrap_compiled(model)) > _LARGEST:
        raise LimbeckError("A model of more than 1.9 GB does not fit into one ONNX file; use a folder.")
    plain = prepare_module(
        model, preprocess, names=tuple(inputs) if isinstance(inputs, Mapping) else (), double=_are_double(inputs)
    )
    program = _exported(plain, inputs)
    proto = strip_debug(program.model_proto)
    metadata_values = get_description(unwrap_compiled(model)) if metadata is None else metadata
    write_metadata(proto, {"limbeck": {**metadata_values, "reads_included": preprocess is not None}})
    parity = compare_outputs(proto, program.exported_program, plain, inputs, tolerance=tolerance)
    path.parent.mkdir(parents=True, exist_ok=True)
    with atomic_write(path) as partial:
        onnx.save(proto, partial)
    return parity


def prepare_module(
    model: nn.Module,
    preprocess: Callable[[Batch], Inputs] | None = None,
    *,
    names: tuple[str, ...] = (),
    double: bool = False,
) -> nn.Module:
    """A copy of a model on the CPU, in eval mode and in float32, that returns its logits alone.

    It takes its inputs in order, also those that the model wants by `names`. Where these are `double`, one in float64
    stays so.
    """
    plain = copy.deepcopy(unwrap_compiled(model)).cpu().eval()
    other = {torch.float16, torch.bfloat16} | (set() if double else {torch.float64})
    if any(p.dtype in other for p in plain.parameters()):
        plain = plain.float()
    return _Reading(plain, preprocess) if preprocess is not None else _Logits(plain, names)


def _are_double(inputs: Inputs) -> bool:
    tensors = (
        inputs.values() if isinstance(inputs, Mapping) else inputs if isinstance(inputs, (tuple, list)) else [inputs]
    )
    return any(isinstance(one, Tensor) and one.dtype == torch.float64 for one in tensors)


def strip_debug(proto: Any) -> Any:
    """The same model without what only a debugger reads: stack traces, names of Python scopes, inferred shapes.

    The shapes have to go: they contradict what the quantizer writes.
    """
    for function in (proto, proto.graph, *proto.graph.node, *proto.graph.input, *proto.graph.output):
        del function.metadata_props[:]
        function.doc_string = ""
    for tensor in proto.graph.initializer:
        del tensor.metadata_props[:]
        tensor.doc_string = ""
    del proto.graph.value_info[:]
    return proto


def write_metadata(proto: Any, metadata: Mapping[str, Any]) -> None:
    """Write JSON values by name into a model."""
    for key, value in metadata.items():
        entry = proto.metadata_props.add()
        entry.key, entry.value = key, json.dumps(value)


class _Logits(nn.Module):
    """A model's logits, whatever else it returns, for inputs in order; in a file this leaves no trace."""

    def __init__(self, model: nn.Module, names: tuple[str, ...]) -> None:
        super().__init__()
        self.model, self.names = model, names

    def forward(self, *inputs: Tensor) -> Tensor:
        return logits_of(
            self.model(**dict(zip(self.names, inputs, strict=True))) if self.names else self.model(*inputs)
        )


class _Reading(nn.Module):
    """A model's logits for examples as the data hold them."""

    def __init__(self, model: nn.Module, preprocess: Callable[[Batch], Inputs]) -> None:
        super().__init__()
        self.model, self.preprocess = model, preprocess

    def forward(self, *inputs: Tensor) -> Tensor:
        return logits_of(call(self.model, self.preprocess(Batch(inputs[0]))))


def _exported(plain: nn.Module, inputs: Inputs) -> Any:
    if count_examples(inputs) < 2:
        raise LimbeckError("A model is exported from two real examples at least, so that its batch may be of any size.")
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
                dynamic_shapes=(tuple(free),),
            )  # fmt: skip
    except Exception as error:  # whatever its code does under the exporter, the sentence is the same
        raise LimbeckError(
            f"{type(plain.model).__name__} cannot be exported to ONNX: {_reason(error)} "
            "--to folder (to_folder) ships its weights."
        ) from error


def _reason(error: BaseException) -> str:
    """What made an export fail: where its code decides by values, or the innermost cause's first line."""
    places: list[str] = []
    while True:
        frames = traceback.extract_tb(error.__traceback__)
        places += [f"{Path(f.filename).name}, line {f.lineno}" for f in frames if not f.filename.startswith(_LIBRARIES)]
        if error.__cause__ is None:
            break
        error = error.__cause__
    if "data-dependent" in str(error):
        where = f" at {places[-1]}" if places else ""
        return f"its code decides by the values of a tensor{where}, and a graph has one way only."
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return (lines[0] if lines else type(error).__name__)[:300].rstrip(".") + "."
