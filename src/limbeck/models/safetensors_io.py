"""Writes tensors to safetensors files, and reads them."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

from torch import Tensor

from limbeck.atomic_io import atomic_write, sort_header
from limbeck.checksums import digest
from limbeck.errors import DataError
from limbeck.models.size_and_hash import state_fingerprint, untie_state


class Weights(NamedTuple):
    """The content of a safetensors file: tensors by name, and the texts in its header."""

    state: dict[str, Tensor]
    header: dict[str, str]


_TEXTS = "sha256_of_texts"
"""The header's key with the SHA-256 of its other texts; ``sha256`` covers the tensors alone."""


def is_safetensors(path: Path) -> bool:
    """Whether a file begins as a safetensors file does: the length of a JSON header, then its brace."""
    with path.open("rb") as file:
        start = file.read(9)
    return len(start) == 9 and start[8:] == b"{" and int.from_bytes(start[:8], "little") <= path.stat().st_size


def write_weights(state: Mapping[str, Tensor], path: Path, *, header: Mapping[str, str]) -> None:
    """Write tensors atomically: at any time the file is either the old one or the new one, complete.

    Shared tensors are written once. The header has the names that share tensors, and the SHA-256 of all tensors. Equal
    tensors and texts give equal files, byte for byte.

    Raises:
        WriteError: If it cannot be written; the old file is unchanged.
    """
    from safetensors import SafetensorError
    from safetensors.torch import save_file

    once, tied = untie_state(state)
    # A view of a part of a tensor, or a transposed one, is written as values of its own.
    plain = {name: tensor.detach().cpu().contiguous().clone() for name, tensor in once.items()}
    texts = {"format": "pt", "sha256": state_fingerprint(state), "tied": json.dumps(tied), **header}
    texts[_TEXTS] = digest(texts)
    with atomic_write(path) as partial:
        try:
            save_file(plain, partial, metadata=texts)
        except SafetensorError as error:  # it has no errno
            raise OSError(str(error)) from error
        sort_header(partial)


def read_header(path: Path) -> dict[str, str]:
    """The texts in the header of a safetensors file; no tensor is read.

    Raises:
        DataError: If the file is missing or damaged.
    """
    return _opened(path, tensors=False).header


def read_weights(path: Path) -> Weights:
    """The tensors in a safetensors file, under all their names, checked against the SHA-256 in it if there is one.

    Raises:
        DataError: If the file is missing or damaged.
    """
    state, header = _opened(path, tensors=True)
    try:
        tied = json.loads(header.get("tied", "{}"))
        state |= {name: state[first] for name, first in tied.items()}
    except (ValueError, KeyError, AttributeError, TypeError, RecursionError) as error:
        raise DataError(f"{path} is damaged: its header names shared tensors that it does not hold.") from error
    if "sha256" in header and state_fingerprint(state) != header["sha256"]:
        raise DataError(f"{path} is damaged: the SHA-256 of its tensors does not match.")
    return Weights(state, header)


def _opened(path: Path, *, tensors: bool) -> Weights:
    from safetensors import SafetensorError, safe_open

    if not path.is_file():
        raise DataError(f"There is no file {path}.")
    try:
        with safe_open(path, framework="pt") as file:
            state: dict[str, Any] = {name: file.get_tensor(name) for name in file.keys()} if tensors else {}  # noqa: SIM118
            header = file.metadata() or {}
    # For names that are no text, the library raises errors of other types.
    except (SafetensorError, OSError, ValueError, KeyError, TypeError, OverflowError, MemoryError) as error:
        raise DataError(f"{path} is not a whole safetensors file ({error}).") from error
    checksum = header.pop(_TEXTS, None)
    if checksum is not None and checksum != digest(header):
        raise DataError(f"{path} is damaged: the SHA-256 of the texts in its header does not match.")
    return Weights(state, header)


def read_shapes(path: Path) -> dict[str, list[int]]:
    """The shapes of the tensors in a safetensors file, by name; no tensor is read.

    Raises:
        DataError: If the file is missing or damaged.
    """
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(path, framework="pt") as file:
            return {name: list(file.get_slice(name).get_shape()) for name in file.keys()}  # noqa: SIM118
    except (SafetensorError, OSError, ValueError, KeyError, TypeError, OverflowError) as error:
        raise DataError(f"{path} is not a whole safetensors file ({error}).") from error
