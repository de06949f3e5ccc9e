"""How does a model become an ONNX file that says what the model says?"""

from __future__ import annotations

import copy
import json
import logging
import os
import warnings
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from limbeck.errors import LimbeckError
from limbeck.export.parity import Parity, compared
from limbeck.export.session import length, needed, part
from limbeck.files import partial_of
from limbeck.models import size_in_bytes
from limbeck.models.size import uncompiled
from limbeck.signal import Batch, Inputs
from limbeck.tap import call, logits_of

TOLERANCE = 1e-4
"""By how much a logit of the file may differ from PyTorch's."""
CHECKED = 1000
"""On how many real examples that is looked at."""
_LARGEST = 1_900_000_000
"""Bytes: one file of protocol buffers holds no more than 2 GB."""


def to_onnx(
    model: nn.Module,
    inputs: Inputs,
    path: str | Path,
    *,
    reads: Callable[[Batch], Inputs] | None = None,
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
        reads: The way from a batch to the model's inputs, to be a part of the file: `inputs` are then those of the data
            (raw pixels). Without it, whoever runs the file has to read examples in the same way.
        metadata: JSON values that are written into the file, such as the class names.
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
    needed("onnxscript", wanted="Writing ONNX")
    onnx, path = needed("onnx", wanted="Writing ONNX"), Path(path)
    if path.is_dir():
        raise LimbeckError(f"{path} is a folder; an ONNX model is one file, such as {path / 'model.onnx'}.")
    if size_in_bytes(uncompiled(model)) > _LARGEST:
        raise LimbeckError("A model of more than 1.9 GB does not fit into one ONNX file; use a folder.")
    plain = exportable(model, reads)
    program = _exported(plain, inputs)
    proto = stripped(program.model_proto)
    tell(proto, {"limbeck": {**(metadata or {}), "reads_included": reads is not None}})
    parity = compared(proto, program.exported_program, plain, inputs, tolerance=tolerance)
    path.parent.mkdir(parents=True, exist_ok=True)
    onnx.save(proto, partial_of(path))
    os.replace(partial_of(path), path)
    return parity


def exportable(model: nn.Module, reads: Callable[[Batch], Inputs] | None = None) -> nn.Module:
    """A copy of a model on the CPU, in eval mode and in float32 or better, that returns its logits alone."""
    plain = copy.deepcopy(uncompiled(model)).cpu().eval()
    if any(p.dtype in (torch.float16, torch.bfloat16) for p in plain.parameters()):
        plain = plain.float()
    return _Reading(plain, reads) if reads is not None else _Logits(plain)


def stripped(proto: Any) -> Any:
    """The same model without what only a debugger reads: stack traces, names of Python scopes, inferred shapes.

    The shapes have to go: they contradict what the quantiser writes.
    """
    for held in (proto, proto.graph, *proto.graph.node, *proto.graph.input, *proto.graph.output):
        del held.metadata_props[:]
        held.doc_string = ""
    for tensor in proto.graph.initializer:
        del tensor.metadata_props[:]
        tensor.doc_string = ""
    del proto.graph.value_info[:]
    return proto


def tell(proto: Any, metadata: Mapping[str, Any]) -> None:
    """Write JSON values by name into a model."""
    for key, value in metadata.items():
        held = proto.metadata_props.add()
        held.key, held.value = key, json.dumps(value)


class _Logits(nn.Module):
    """A model's logits, whatever else it returns; in a file this leaves no trace."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(self, *args: Any, **kwargs: Any) -> Tensor:
        return logits_of(self.model(*args, **kwargs))


class _Reading(nn.Module):
    """A model's logits for examples as the data hold them."""

    def __init__(self, model: nn.Module, reads: Callable[[Batch], Inputs]) -> None:
        super().__init__()
        self.model, self.reads = model, reads

    def forward(self, *inputs: Tensor) -> Tensor:
        return logits_of(call(self.model, self.reads(Batch(inputs[0]))))


def _exported(plain: nn.Module, inputs: Inputs) -> Any:
    sample = part(inputs, slice(0, min(2, length(inputs))))
    given = {} if not isinstance(sample, Mapping) else dict(sample)
    args = () if given else (sample,) if isinstance(sample, Tensor) else tuple(sample)
    names = list(given) or (["inputs"] if len(args) == 1 else [f"inputs_{i}" for i in range(len(args))])
    if length(inputs) < 2:
        raise LimbeckError("A model is exported from two real examples at least, so that its batch may be of any size.")
    try:
        with _quiet(), torch.no_grad():
            return torch.onnx.export(
                plain, args, kwargs=given, dynamo=True, input_names=names, output_names=["logits"], verbose=False,
                dynamic_shapes=_free(args, given),
            )  # fmt: skip
    except Exception as error:  # whatever its code does under the exporter, the sentence is the same
        raise LimbeckError(
            f"{type(plain.model).__name__} cannot be exported to ONNX: {_reason(error)} "
            "--to folder (to_folder) ships its weights."
        ) from error


def _free(args: tuple[Tensor, ...], given: Mapping[str, Tensor]) -> Any:
    """Which sizes may change: the batch, and of tokens their number."""
    batch = torch.export.Dim("batch")
    if not given:
        return (tuple({0: batch} for _ in args),)
    free = {name: {0: batch} | ({1: torch.export.Dim.AUTO} if t.ndim == 2 else {}) for name, t in given.items()}
    return {"kwargs": free}


def _reason(error: Exception) -> str:
    """What made an export fail, in its own words: the innermost cause's first line."""
    while error.__cause__ is not None and isinstance(error.__cause__, Exception):
        error = error.__cause__
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    said = lines[0] if lines else type(error).__name__
    return said[:300].rstrip(".") + "."


@contextmanager
def _quiet() -> Iterator[None]:
    """A block in which the exporter says nothing of itself."""
    logger = logging.getLogger("torch.onnx")
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logger.setLevel(level)
