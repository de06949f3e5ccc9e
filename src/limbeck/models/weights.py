"""Reads, writes and loads weights in safetensors files; refuses pickles."""

from __future__ import annotations

import hashlib
import json
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from limbeck.atomic_io import write_safetensors
from limbeck.checksums import digest
from limbeck.errors import DataError, LimbeckError, LimbeckWarning, nearest
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
    once, tied = untie_state(state)
    # A view of a part of a tensor, or a transposed one, is written as values of its own.
    plain = {name: tensor.detach().cpu().contiguous().clone() for name, tensor in once.items()}
    texts = {"format": "pt", "sha256": state_fingerprint(state), "tied": json.dumps(tied), **header}
    texts[_TEXTS] = digest(texts)
    write_safetensors(plain, path, metadata=texts)


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


def load_weights(model: nn.Module, path: str | Path) -> nn.Module:
    """Copy the weights in a safetensors file, or in a student folder, into a model.

    Every name and shape has to match, except for a prefix: weights that a file holds as ``model.conv1.weight``, as
    Lightning's checkpoints do, are loaded into a model that has ``conv1.weight``. Values keep the model's dtype and
    device. Tensors that the model shares may be in the file once.

    Args:
        model: Changed in place.
        path: A ``.safetensors`` file or a folder with ``model.safetensors``.

    Returns:
        The same model.

    Raises:
        LimbeckError: If the file is a pickle: with its SHA-256 and the command that converts it.
        DataError: If the file is missing or damaged, or does not fit; the first names that differ are given.
    """
    path = Path(path)
    path = path / "model.safetensors" if path.is_dir() else path
    model.load_state_dict(match_state(model, open_weights(path).state, source=str(path)))
    return model


def open_weights(path: Path) -> Weights:
    """`read_weights`, with a pickle refused by name.

    Raises:
        LimbeckError: If the file is a pickle.
        DataError: If the file is missing or damaged.
    """
    if path.is_file() and is_pickle(path):
        raise refuse_pickle(path)
    return read_weights(path)


def match_state(
    model: nn.Module, state: Mapping[str, Tensor], *, source: str, whole: bool = False
) -> dict[str, Tensor]:
    """`state` under the names of the model's own state: shared tensors filled in, a common prefix removed.

    Args:
        model: The model that gets the weights.
        state: The weights.
        source: The file, for messages.
        whole: Whether a prefix is refused, as for a student's folder, where names with a prefix belong to another
            model.

    Raises:
        DataError: If a name is missing or unknown, a shape differs, or several prefixes fit.
    """
    expected = model.state_dict()
    full = dict(state) if whole else _below_prefix(expected, state, source)
    _fill_shared(full, untie_state({n: t for n, t in expected.items() if isinstance(t, Tensor)})[1])
    missing = [name for name in expected if name not in full]
    unexpected = [name for name in full if name not in expected]
    other = [
        n for n in expected if n in full and isinstance(expected[n], Tensor) and full[n].shape != expected[n].shape
    ]
    if missing or unexpected or other:
        parts = [_absent("lacks", missing, unexpected), _absent("also has", unexpected, missing)]
        parts += [f"has {n} as {list(full[n].shape)}, the model as {list(expected[n].shape)}" for n in other[:1]]
        more = f" (and {len(other) - 1} more shapes differ)" if len(other) > 1 else ""
        raise DataError(f"{source} does not fit {type(model).__name__}: it {'; '.join(filter(None, parts))}{more}.")
    return full


def copy_in_order(state: Mapping[str, Tensor], outline: nn.Module) -> dict[str, Tensor]:
    """Copy tensors that were read, which may be mapped from a file, in the order in memory of an outline's tensors.

    The outline may store channels last, and a convolution of another order rounds otherwise.
    """
    own = outline.state_dict(keep_vars=True)
    return {name: torch.empty_like(own[name], dtype=t.dtype, device="cpu").copy_(t) for name, t in state.items()}


def _below_prefix(expected: Mapping[str, Any], state: Mapping[str, Tensor], source: str) -> dict[str, Tensor]:
    """`state` itself where it has the model's names; otherwise the part with a prefix that fits, without the prefix."""
    needed = untie_state({name: t for name, t in expected.items() if isinstance(t, Tensor)})[0]
    if not needed or any(name in state for name in needed):
        return dict(state)
    first = min(needed)
    prefixes = [name.removesuffix(first) for name in state if name.endswith(f".{first}")]
    named = [prefix for prefix in prefixes if all(prefix + name in state for name in needed)]
    fitting = [p for p in named if all(state[p + name].shape == t.shape for name, t in needed.items())]
    if len(fitting) > 1:
        raise DataError(
            f"{source} holds {len(fitting)} sets of weights that fit, under {' and '.join(fitting)}: convert its "
            f"pickle once more with the one that you want: limbeck convert FILE --yes --prefix {fitting[0]}"
        )
    if not named:
        return dict(state)
    prefix = (fitting or named)[0]
    if rest := [name for name in state if not name.startswith(prefix)]:
        more = f" and {len(rest) - 1} more" if len(rest) > 1 else ""
        message = f"Of {source}, the weights under {prefix} are loaded; left out: {rest[0]}{more}."
        warnings.warn(message, LimbeckWarning, stacklevel=4)
    return {name.removeprefix(prefix): tensor for name, tensor in state.items() if name.startswith(prefix)}


def cast_parameters(model: nn.Module, state: Mapping[str, Tensor]) -> None:
    """Cast each parameter and buffer to its dtype in `state`, in place, so that shared ones stay shared."""
    for name, tensor in [*model.named_parameters(), *model.named_buffers()]:
        if name in state and tensor.dtype != state[name].dtype:
            tensor.data = tensor.data.to(state[name].dtype)


def _fill_shared(state: dict[str, Tensor], tied: Mapping[str, str]) -> None:
    # The first loop takes the tensor from any name that the file has; the second gives it to all other names.
    for name, first in tied.items():
        if name in state:
            state.setdefault(first, state[name])
    for name, first in tied.items():
        if first in state:
            state.setdefault(name, state[first])


def _absent(verb: str, names: list[str], others: list[str]) -> str:
    if not names:
        return ""
    near = nearest(names[0], others)
    hint = f" (it may be {near})" if near else ""
    more = f" and {len(names) - 1} more" if len(names) > 1 else ""
    return f"{verb} {names[0]}{hint}{more}"


_SUFFIXES = frozenset({".pt", ".pth", ".bin", ".ckpt", ".pkl", ".pickle", ".tar"})


def is_pickle(path: Path) -> bool:
    """Whether a file may be a pickle: by its first bytes, or by its suffix where these do not say safetensors."""
    if is_safetensors(path):
        return False
    with path.open("rb") as file:
        start = file.read(4)
    # A zip archive (torch.save since 1.6), or a pickle of protocol 2 or later.
    magic = start == b"PK\x03\x04" or (len(start) > 1 and start[0] == 0x80 and 2 <= start[1] <= 5)
    return magic or path.suffix.lower() in _SUFFIXES


def refuse_pickle(path: Path) -> LimbeckError:
    """The error for a pickle: why, its SHA-256, and the command that converts it."""
    return LimbeckError(
        f"{path} is a pickle, which can run code when it is opened; limbeck does not open it. "
        f"Its SHA-256 is {sha256(path)}. If that is the file you expect, type: limbeck convert {path} --yes"
    )


def sha256(path: Path) -> str:
    """The SHA-256 of a file's bytes."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
