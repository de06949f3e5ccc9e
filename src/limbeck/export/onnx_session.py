"""ONNX files run on batches, without log output."""

from __future__ import annotations

import io
import logging
import warnings
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager, redirect_stderr, redirect_stdout
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from limbeck.batch import Inputs
from limbeck.errors import DataError, LimbeckError
from limbeck.optional_imports import import_optional


@contextmanager
def silence_logging() -> Iterator[None]:
    """Context manager that suppresses logs, warnings and output: exporters print whole graphs."""
    before = logging.root.manager.disable
    logging.disable(logging.CRITICAL)
    try:
        with warnings.catch_warnings(), redirect_stdout(io.StringIO()), redirect_stderr(io.StringIO()):
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(before)


CHUNK = 250
"""Number of examples in one call of a model."""
_TOKENS = 4096
"""Number of tokens in one call of a model, which may have logits of a whole vocabulary for each."""


def open_session(model: str | Path | bytes, *, threads: int | None = None) -> Any:
    """Open an onnxruntime session on the CPU, by default with as many threads as PyTorch uses.

    Raises:
        DataError: If the file does not exist, or is not an ONNX model.
    """
    runtime = import_optional("onnxruntime", extra="export", purpose="Running an ONNX file")
    settings = runtime.SessionOptions()
    settings.intra_op_num_threads = torch.get_num_threads() if threads is None else threads
    settings.log_severity_level = 3  # warnings about the graph do not help users
    try:
        return runtime.InferenceSession(
            model if isinstance(model, bytes) else str(model), settings, providers=["CPUExecutionProvider"]
        )
    except Exception as error:  # its exceptions have no other common type
        what = "The model" if isinstance(model, bytes) else str(model)
        raise DataError(f"{what} cannot be opened by onnxruntime: {_line(error)}") from error


def predict_onnx(model: str | Path, inputs: Inputs | Iterable[Inputs]) -> Tensor:
    """Compute the logits of an ONNX file, on the CPU, a few hundred examples at a time.

    Args:
        model: The file.
        inputs: A tensor, a tuple of tensors, or tensors by name, with examples first; or batches of these.

    Raises:
        LimbeckError: If onnxruntime is not installed (extra ``export``), or the file does not take these inputs.

    Example:
        >>> # predict_onnx("export/model.onnx", images).argmax(-1)
    """
    session = open_session(model)
    parts = [inputs] if isinstance(inputs, (Tensor, tuple, Mapping)) else inputs
    return torch.cat([torch.from_numpy(run(session, some)[0]) for part in parts for some in split_chunks(part)])


def run(session: Any, inputs: Inputs) -> list[np.ndarray]:
    """Compute all outputs of a session for one batch."""
    try:
        return session.run(None, input_feed(session, inputs))
    except Exception as error:
        raise LimbeckError(f"onnxruntime could not run the model: {_line(error)}") from error


def input_feed(session: Any, inputs: Inputs) -> dict[str, np.ndarray]:
    """The inputs of a session by name: mappings by key, others in order."""
    names = [feed.name for feed in session.get_inputs()]
    values = _values(inputs)
    tensors = values if isinstance(values, Mapping) else dict(zip(names, values, strict=False))
    if set(names) - set(tensors):
        raise LimbeckError(f"The ONNX model has the inputs {', '.join(names)}; got {', '.join(tensors) or 'none'}.")
    return {name: tensors[name].detach().cpu().contiguous().numpy() for name in names}


def split_chunks(inputs: Inputs, size: int = CHUNK) -> list[Any]:
    """Split inputs into parts of at most `size` examples, and of at most a few thousand tokens."""
    count = count_examples(inputs)
    if isinstance(inputs, Mapping) and isinstance(tokens := inputs.get("input_ids"), Tensor) and tokens.ndim == 2:
        size = min(size, max(_TOKENS // max(tokens.shape[1], 1), 1))
    return [slice_inputs(inputs, slice(start, start + size)) for start in range(0, count, size)]


def slice_inputs(inputs: Inputs, rows: slice) -> Any:
    """Select some of the examples."""
    if isinstance(inputs, Tensor):
        return inputs[rows]
    if isinstance(inputs, Mapping):
        return {name: tensor[rows] for name, tensor in inputs.items()}
    return tuple(tensor[rows] for tensor in inputs)


def count_examples(inputs: Inputs) -> int:
    """Count the examples.

    Raises:
        DataError: If there are none, or the inputs are not tensors.
    """
    tensors = tensor_list(inputs)
    if not tensors or not all(isinstance(one, Tensor) and one.ndim for one in tensors):
        raise DataError("The inputs of an exported model must be tensors with examples in the first dimension.")
    if not len(tensors[0]):
        raise DataError("The inputs have no examples, so nothing can be checked.")
    return len(tensors[0])


def tensor_list(inputs: Inputs) -> tuple[Tensor, ...]:
    """The tensors of inputs, in order."""
    return tuple(inputs.values()) if isinstance(inputs, Mapping) else tuple(_values(inputs))


def _values(inputs: Inputs) -> Any:
    return inputs if isinstance(inputs, Mapping) else [inputs] if isinstance(inputs, Tensor) else list(inputs)


def _line(error: Exception) -> str:
    """The message of a library's error as one line of at most 300 characters."""
    message = " ".join(str(error).split())
    return (message if len(message) < 300 else message[:297] + "...").rstrip(".") + "."
