"""The state of a run: checkpoint files without pickle, and random generators."""

from __future__ import annotations

import json
import zlib
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from limbeck.atomic_io import write_safetensors
from limbeck.batch import sequence_like
from limbeck.errors import LimbeckError

_VERSION = 1


def write_checkpoint(path: Path, state: Mapping[str, Any]) -> None:
    """Write nested state (mappings, sequences, numbers, strings, tensors) to one file, atomically and without pickle.

    The file is written under a temporary name, flushed to disk and renamed, so after a kill at any moment `path` holds
    either the complete old state or the complete new state. A checksum over all of it detects damage.

    Raises:
        WriteError: If the file cannot be written; the old state is unchanged.
    """
    tensors: dict[str, Tensor] = {}
    tree = json.dumps(_packed(state, tensors))
    metadata = {"limbeck_checkpoint": str(_VERSION), "state": tree, "checksum": _checksum(tree, tensors)}
    write_safetensors(tensors, path, metadata=metadata)


def read_checkpoint(path: Path) -> dict[str, Any]:
    """Read the state that `write_checkpoint` wrote.

    Raises:
        LimbeckError: If the file is missing, damaged, or not a checkpoint.
    """
    if not path.is_file():
        raise LimbeckError(f"{path.parent} holds no checkpoint to continue from ({path.name} is missing).")
    try:
        with safe_open(path, framework="pt") as opened:
            metadata = opened.metadata() or {}
            tensors = {key: opened.get_tensor(key) for key in opened.keys()}  # noqa: SIM118 - not a mapping
    except (SafetensorError, OSError) as error:
        raise LimbeckError(f"{path} is damaged and cannot be read: {error}.") from error
    if metadata.get("limbeck_checkpoint") != str(_VERSION):
        raise LimbeckError(f"{path} is not a limbeck checkpoint of version {_VERSION}.")
    if metadata.get("checksum") != _checksum(metadata.get("state", ""), tensors):
        raise LimbeckError(f"{path} is damaged: its checksum does not fit. Begin again in a new folder.")
    state: dict[str, Any] = _unpacked(json.loads(metadata["state"]), tensors)
    return state


def _checksum(tree: str, tensors: Mapping[str, Tensor]) -> str:
    """The CRC-32 of the tree and of every tensor's type, shape and bytes, in the order of their names."""
    checksum = zlib.crc32(tree.encode())
    for name in sorted(tensors):
        tensor = tensors[name]
        checksum = zlib.crc32(f"{name} {tensor.dtype} {tuple(tensor.shape)}".encode(), checksum)
        checksum = zlib.crc32(tensor.reshape(-1).view(torch.uint8).numpy().data, checksum)
    return f"{checksum:08x}"


def _packed(value: Any, tensors: dict[str, Tensor]) -> Any:
    if isinstance(value, Tensor):
        name = f"t{len(tensors)}"
        # Aliases (tied weights) are stored twice: safetensors refuses tensors that share memory.
        tensors[name] = value.detach().to("cpu", copy=True).contiguous()
        return {"tensor": name}
    if isinstance(value, Mapping):
        return {"items": [[key, _packed(inner, tensors)] for key, inner in value.items()]}
    if isinstance(value, tuple):
        return {"tuple": [_packed(inner, tensors) for inner in value]}
    if isinstance(value, list):
        return [_packed(inner, tensors) for inner in value]
    if value is None or isinstance(value, (bool, int, float, str)):
        return value
    raise LimbeckError(f"A checkpoint holds tensors, numbers, strings and collections; got a {type(value).__name__}.")


def _unpacked(value: Any, tensors: Mapping[str, Tensor]) -> Any:
    if isinstance(value, list):
        return [_unpacked(inner, tensors) for inner in value]
    if not isinstance(value, dict):
        return value
    if "tensor" in value:
        return tensors[value["tensor"]]
    if "tuple" in value:
        return tuple(_unpacked(inner, tensors) for inner in value["tuple"])
    return {key: _unpacked(inner, tensors) for key, inner in value["items"]}


def to_device(value: Any, device: torch.device) -> Any:
    """A nested state with its tensors on `device`."""
    if isinstance(value, Tensor):
        return value.to(device)
    if isinstance(value, Mapping):
        return {key: to_device(inner, device) for key, inner in value.items()}
    if isinstance(value, (list, tuple)):
        return sequence_like(value, (to_device(inner, device) for inner in value))
    return value


def keep_memory_format(optimizer: torch.optim.Optimizer) -> None:
    """Store what an optimizer keeps for a parameter in the parameter's memory format, as before it was saved.

    A file has no memory formats, and a step on tensors of two formats rounds otherwise than one on tensors of one.
    """
    for parameter, state in optimizer.state.items():
        for name, value in state.items():
            if isinstance(value, Tensor) and value.shape == parameter.shape and value.stride() != parameter.stride():
                state[name] = torch.empty_like(parameter, dtype=value.dtype).copy_(value)


def clone_state(value: Any) -> Any:
    """A copy of a nested state that later steps cannot change."""
    if isinstance(value, Tensor):
        return value.detach().clone()
    if isinstance(value, Mapping):
        return {key: clone_state(inner) for key, inner in value.items()}
    if isinstance(value, (list, tuple)):
        return sequence_like(value, (clone_state(inner) for inner in value))
    return value


@contextmanager
def preserved_tensors(state: Any) -> Iterator[None]:
    """A block after which the tensors of a nested state have their old values again, in place."""
    copies = [(tensor, tensor.detach().clone()) for tensor in _tensors(state)]
    yield
    for tensor, copy in copies:
        tensor.copy_(copy)


def _tensors(state: Any) -> Iterator[Tensor]:
    if isinstance(state, Tensor):
        yield state
    elif isinstance(state, Mapping):
        for inner in state.values():
            yield from _tensors(inner)
    elif isinstance(state, (list, tuple)):
        for inner in state:
            yield from _tensors(inner)
