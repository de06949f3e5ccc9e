"""How are tensors written to, and read from, a safetensors file?"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

from torch import Tensor

from limbeck.errors import DataError
from limbeck.files import replacing, sort_header
from limbeck.models.size import state_fingerprint, untied


class Weights(NamedTuple):
    """What a safetensors file holds: tensors by name, and the text in its header."""

    state: dict[str, Tensor]
    header: dict[str, str]


def is_safetensors(path: Path) -> bool:
    """Whether a file begins as a safetensors file does: the length of a JSON header, then its brace."""
    with path.open("rb") as file:
        start = file.read(9)
    return len(start) == 9 and start[8:] == b"{" and int.from_bytes(start[:8], "little") <= path.stat().st_size


def write_weights(state: Mapping[str, Tensor], path: Path, *, header: Mapping[str, str]) -> None:
    """Write tensors so that the file is at any moment either the old one or the new one, whole.

    Shared tensors are written once. The header tells which names repeat which, and the SHA-256 of all of it. Equal
    tensors and texts give equal files, byte for byte.
    """
    from safetensors.torch import save_file

    once, tied = untied(state)
    # A view of part of a tensor, or a transposed one, is written as its own values.
    plain = {name: tensor.detach().cpu().contiguous().clone() for name, tensor in once.items()}
    told = {"format": "pt", "sha256": state_fingerprint(state), "tied": json.dumps(tied), **header}
    with replacing(path) as partial:
        save_file(plain, partial, metadata=told)
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
    except (ValueError, KeyError, AttributeError, TypeError) as error:
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
            return Weights(state, file.metadata() or {})
    except (SafetensorError, OSError, ValueError, KeyError) as error:
        raise DataError(f"{path} is not a whole safetensors file ({error}).") from error
