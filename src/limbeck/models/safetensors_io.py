"""Tensors written to and read from safetensors files."""

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
    """What a safetensors file holds: tensors by name, and the text in its header."""

    state: dict[str, Tensor]
    header: dict[str, str]


_TEXTS = "sha256_of_texts"
"""In the header: the SHA-256 of the other texts there, since ``sha256`` is of the tensors alone."""


def is_safetensors(path: Path) -> bool:
    """Whether a file begins as a safetensors file does: the length of a JSON header, then its brace."""
    with path.open("rb") as file:
        start = file.read(9)
    return len(start) == 9 and start[8:] == b"{" and int.from_bytes(start[:8], "little") <= path.stat().st_size


def write_weights(state: Mapping[str, Tensor], path: Path, *, header: Mapping[str, str]) -> None:
    """Write tensors so that the file is at any moment either the old one or the new one, whole.

    Shared tensors are written once. The header tells which names repeat which, and the SHA-256 of all of it. Equal
    tensors and texts give equal files, byte for byte.

    Raises:
        WriteError: If it cannot be written; the old file is whole.
    """
    from safetensors import SafetensorError
    from safetensors.torch import save_file

    once, tied = untie_state(state)
    # A view of part of a tensor, or a transposed one, is written as its own values.
    plain = {name: tensor.detach().cpu().contiguous().clone() for name, tensor in once.items()}
    told = {"format": "pt", "sha256": state_fingerprint(state), "tied": json.dumps(tied), **header}
    told[_TEXTS] = digest(told)
    with atomic_write(path) as partial:
        try:
            save_file(plain, partial, metadata=told)
        except SafetensorError as error:  # it has no errno of the system's
            raise OSError(str(error)) from error
        sort_header(partial)


def read_header(path: Path) -> dict[str, str]:
    """The text in the header of a safetensors file, without its tensors.

    Raises:
        DataError: If the file is missing or damaged.
    """
    return _opened(path, tensors=False).header


def read_weights(path: Path) -> Weights:
    """The tensors in a safetensors file, under all their names, checked against the SHA-256 in it where there is one.

    Raises:
        DataError: If the file is missing or damaged.
    """
    state, header = _opened(path, tensors=True)
    try:
        tied = json.loads(header.get("tied", "{}"))
        state |= {name: state[kept] for name, kept in tied.items()}
    except (ValueError, KeyError, AttributeError, TypeError, RecursionError) as error:
        raise DataError(f"{path} is damaged: its header names shared tensors that it does not hold.") from error
    if "sha256" in header and state_fingerprint(state) != header["sha256"]:
        raise DataError(f"{path} is damaged: its tensors do not have the SHA-256 that was written with them.")
    return Weights(state, header)


def _opened(path: Path, *, tensors: bool) -> Weights:
    from safetensors import SafetensorError, safe_open

    if not path.is_file():
        raise DataError(f"There is no file {path}.")
    try:
        with safe_open(path, framework="pt") as file:
            state: dict[str, Any] = {name: file.get_tensor(name) for name in file.keys()} if tensors else {}  # noqa: SIM118
            header = file.metadata() or {}
    # Of names that are no text the library raises what its language happens to.
    except (SafetensorError, OSError, ValueError, KeyError, TypeError, OverflowError, MemoryError) as error:
        raise DataError(f"{path} is not a whole safetensors file ({error}).") from error
    told = header.pop(_TEXTS, None)
    if told is not None and told != digest(header):
        raise DataError(f"{path} is damaged: the texts in its header do not have the SHA-256 that is there with them.")
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
