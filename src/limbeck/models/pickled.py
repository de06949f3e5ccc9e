"""What happens to weights that come as a pickle?"""

from __future__ import annotations

import hashlib
import logging
import re
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from limbeck.errors import DataError, LimbeckError
from limbeck.models.safefile import is_safetensors, write_weights

_SUFFIXES = frozenset({".pt", ".pth", ".bin", ".ckpt", ".pkl", ".pickle", ".tar"})
_WRAPPERS = ("state_dict", "model_state_dict", "model", "module", "net", "network", "weights", "params")
_PREFIXES = ("module.", "_orig_mod.")
_log = logging.getLogger("limbeck")


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


def convert_pickle(path: str | Path, out: str | Path | None = None, *, yes: bool) -> Path:
    """Turn a pickle of weights into a safetensors file, once, with PyTorch's weights-only reader.

    That reader builds tensors and plain containers and calls nothing else; where it refuses, so does this function. The
    usual wrappings come off: ``{"state_dict": ...}``, ``{"model": ...}`` and the like, and the prefixes ``module.``
    (DistributedDataParallel) and ``_orig_mod.`` (torch.compile) where every name has them. The new file's header holds
    the SHA-256 of the pickle.

    Args:
        path: The pickle.
        out: The file to write; the pickle's name with the suffix ``.safetensors`` where None.
        yes: That you know the file with this SHA-256 and want it read.

    Returns:
        The file that was written; the log (``logging.getLogger("limbeck")``, level info) says how much is in it.

    Raises:
        LimbeckError: If `yes` is False, `out` is there already, or the pickle holds something else than weights.
        DataError: If there is no such file, or it is safetensors already.
    """
    path = Path(path)
    if not path.is_file():
        raise DataError(f"There is no file {path}.")
    if is_safetensors(path):
        raise DataError(f"{path} holds safetensors already, whatever its suffix; it can be loaded as it is.")
    out = path.with_suffix(".safetensors") if out is None else Path(out)
    if out.exists():
        raise LimbeckError(f"{out} is there already; remove it or name another file to write.")
    if not yes:
        raise refuse_pickle(path)
    state = _stripped(_unwrapped(_read_weights_only(path), path))
    write_weights(state, out, header={"converted_from_sha256": sha256(path)})
    size = sum(t.numel() * t.element_size() for t in state.values()) / 1e6
    _log.info("Wrote %s: %d tensors, %.1f MB, from %s.", out, len(state), size, path)
    return out


def _read_weights_only(path: Path) -> Any:
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            return torch.load(path, map_location="cpu", weights_only=True)
    # The reader raises many kinds of error for what is not a pickle of weights, and each means the same here.
    except Exception as error:
        raise LimbeckError(
            f"{path} {_what_is_wrong(error)}, so it was not read. In the program that made it, save the weights alone: "
            "safetensors.torch.save_model(model, 'weights.safetensors')."
        ) from error


def _what_is_wrong(error: Exception) -> str:
    """In our own words: PyTorch's are long, coloured for a terminal, and advise to load the file unsafely."""
    if found := re.search(r"GLOBAL ([\w.]+)", str(error)):
        return f"holds more than weights: it names {found[1]}, which would be code to run"
    if "zip archive" in str(error) or isinstance(error, EOFError):
        return "is damaged: it ends too early, as after a download that was cut off"
    return "holds more than weights, or is damaged: it is no pickle of tensors by name"


def _unwrapped(content: Any, path: Path) -> dict[str, Tensor]:
    while isinstance(content, Mapping):
        if content and all(isinstance(k, str) and isinstance(v, Tensor) for k, v in content.items()):
            return dict(content)
        inner = next((content[key] for key in _WRAPPERS if isinstance(content.get(key), Mapping)), None)
        if inner is None:
            break
        content = inner
    held = f"a mapping with {', '.join(map(str, list(content)[:8]))}" if isinstance(content, Mapping) else ""
    raise LimbeckError(
        f"{path} holds {held or f'a {type(content).__name__}'}, in which no weights by name were found; "
        f"looked for tensors at the top and under {', '.join(_WRAPPERS)}."
    )


def _stripped(state: dict[str, Tensor]) -> dict[str, Tensor]:
    prefix = next((p for p in _PREFIXES if all(name.startswith(p) for name in state)), None)
    return _stripped({name.removeprefix(prefix): t for name, t in state.items()}) if prefix else state
