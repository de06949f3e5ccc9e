"""Pickled weights: refused, or converted without running code."""

from __future__ import annotations

import hashlib
import logging
import re
import warnings
from collections import OrderedDict
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from limbeck.errors import DataError, LimbeckError, LimbeckWarning, unknown_name_error
from limbeck.models.safetensors_io import is_safetensors, write_weights


class Placeholder:
    """What is read in place of an object beside the weights: it takes anything and keeps nothing.

    PyTorch's weights-only reader looks a name up in its list of allowed ones. For the names below it finds this class,
    so neither the module that the file names is imported nor anything of it called.
    """

    def __init__(self, *_: Any, **__: Any) -> None:
        """Take any arguments."""

    def __setstate__(self, state: Any) -> None:
        """Take any state."""


_OBJECTS = (
    # Options as training scripts keep them (RepDistiller, timm, DeiT).
    "argparse.Namespace", "types.SimpleNamespace",
    # A number, a dtype or an array of NumPy, as in {"best_acc": accuracy}; before and since NumPy 2.
    "numpy.dtype", "numpy.ndarray", "_codecs.encode",
    *(f"numpy.{core}.multiarray.{name}" for core in ("core", "_core") for name in ("scalar", "_reconstruct")),
    *(f"numpy.{core}.numeric._frombuffer" for core in ("core", "_core")),
    *(f"numpy.dtypes.{kind}DType" for kind in (
        "Bool", "Int8", "Int16", "Int32", "Int64", "UInt8", "UInt16", "UInt32", "UInt64", "Float16", "Float32",
        "Float64", "LongLong", "ULongLong", "Str", "Bytes", "Object")),
    *(f"numpy.{kind}" for kind in (
        "bool", "bool_", "int8", "int16", "int32", "int64", "uint8", "float16", "float32", "float64")),
    # Paths and dates.
    *(f"{module}.{pure}{kind}" for module in ("pathlib", "pathlib._local") for pure in ("", "Pure")
      for kind in ("Path", "PosixPath", "WindowsPath")),
    "datetime.date", "datetime.datetime", "datetime.timedelta", "datetime.timezone", "uuid.UUID", "decimal.Decimal",
    # What Hydra's configurations are made of, as Lightning keeps them under hyper_parameters.
    "omegaconf.dictconfig.DictConfig", "omegaconf.listconfig.ListConfig", "omegaconf.base.ContainerMetadata",
    "omegaconf.base.Metadata", "omegaconf._utils.ValueKind", "collections.defaultdict", "typing.Any",
    *(f"omegaconf.nodes.{kind}Node" for kind in (
        "Any", "Boolean", "Bytes", "Enum", "Float", "Integer", "Path", "String", "Union")),
    *(f"{module}.{kind}" for module in ("builtins", "__builtin__") for kind in (
        "bool", "bytearray", "bytes", "complex", "dict", "float", "frozenset", "int", "list", "set", "slice", "str",
        "tuple", "type")),
)  # fmt: skip

_MAPPINGS = (
    "lightning_fabric.utilities.data.AttributeDict", "lightning.fabric.utilities.data.AttributeDict",
    "pytorch_lightning.utilities.parsing.AttributeDict", "lightning.pytorch.utilities.parsing.AttributeDict",
    "yacs.config.CfgNode", "fvcore.common.config.CfgNode", "detectron2.config.config.CfgNode", "easydict.EasyDict",
    "addict.addict.Dict", "mmengine.config.config.ConfigDict", "mmcv.utils.config.ConfigDict",
)  # fmt: skip

HARMLESS: tuple[tuple[Any, str], ...] = (
    *((Placeholder, name) for name in _OBJECTS),
    *((OrderedDict, name) for name in _MAPPINGS),
)

"""For `torch.serialization.safe_globals`: what is read, and the name in the file that it stands for."""


_SUFFIXES = frozenset({".pt", ".pth", ".bin", ".ckpt", ".pkl", ".pickle", ".tar"})

_WRAPPERS = ("state_dict", "model_state_dict", "model", "module", "net", "network", "weights", "params")

_PREFIXES = ("module.", "_orig_mod.")

_COUNTERS = ("n_averaged",)

"""What torch's AveragedModel keeps beside the weights."""

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


def convert_pickle(
    path: str | Path, out: str | Path | None = None, *, yes: bool, key: str | None = None, prefix: str | None = None
) -> Path:
    """Turn a pickle of weights into a safetensors file, once, with PyTorch's weights-only reader.

    That reader builds tensors and plain containers and calls nothing else; where it refuses, so does this function. Of
    the options, numbers and dates that training scripts keep beside the weights (`limbeck.models.pickle_conversion`)
    it reads nothing. The usual wrappings come off: ``{"state_dict": ...}``, ``{"model": ...}`` and the like, the
    counter of ``AveragedModel``, and the prefixes ``module.`` (DistributedDataParallel) and ``_orig_mod.``
    (torch.compile) where every name has them. Other prefixes, such as Lightning's ``model.``, come off when the
    weights are loaded into a model whose names say which. The new file's header holds the SHA-256 of the pickle.

    Args:
        path: The pickle.
        out: The file to write; the pickle's name with the suffix ``.safetensors`` where None.
        yes: That you know the file with this SHA-256 and want it read.
        key: Which weights, where the file holds several: ``state_dict_ema``, or ``ema.module`` within another.
        prefix: Take only the weights whose names begin so, and take it off: ``student.``.

    Returns:
        The file that was written; the log (``logging.getLogger("limbeck")``, level info) says how much is in it.

    Raises:
        LimbeckError: If `yes` is False, `out` is there already, the pickle holds something else than weights, or has
            none under `key` or `prefix`.
        DataError: If there is no such file, or it is safetensors already.
    """
    path = Path(path)
    if not path.is_file():
        raise DataError(f"There is no file {path}.")
    if is_safetensors(path):
        raise DataError(f"{path} holds safetensors already, whatever its suffix; it can be loaded as it is.")
    out = path.with_suffix(".safetensors") if out is None else Path(out)
    if out.exists():
        raise LimbeckError(f"{out} is there already, and is left alone; name another file with --out (out=...).")
    if not yes:
        raise refuse_pickle(path)
    state = _stripped(_unwrapped(_read_weights_only(path), path, key))
    state = state if prefix is None else _below(state, prefix, path)
    write_weights(state, out, header={"converted_from_sha256": sha256(path)})
    size = sum(t.numel() * t.element_size() for t in state.values()) / 1e6
    _log.info("Wrote %s: %d tensors, %.1f MB, from %s.", out, len(state), size, path)
    return out


def _read_weights_only(path: Path) -> Any:
    try:
        with warnings.catch_warnings(), torch.serialization.safe_globals(list(HARMLESS)):
            warnings.simplefilter("ignore")
            return torch.load(path, map_location="cpu", weights_only=True)
    # The reader raises many kinds of error for what is not a pickle of weights, and each means the same here.
    except Exception as error:
        raise LimbeckError(
            f"{path} {_what_is_wrong(error)}, so it was not read. In the program that made it, save the weights alone: "
            "safetensors.torch.save_model(model, 'weights.safetensors')."
        ) from error


def _what_is_wrong(error: Exception) -> str:
    """In our own words: PyTorch's are long, colored for a terminal, and advise to load the file unsafely."""
    if found := re.search(r"GLOBAL ([\w.]+)", str(error)):
        return f"holds more than weights: it names {found[1]}, which would be code to run"
    if "zip archive" in str(error) or isinstance(error, EOFError):
        return "is damaged: it ends too early, as after a download that was cut off"
    return "holds more than weights, or is damaged: it is no pickle of tensors by name"


def _unwrapped(content: Any, path: Path, key: str | None) -> dict[str, Tensor]:
    held = dict(_states(content))
    if key is not None:
        if key not in held:
            raise unknown_name_error(f"key of {path}", key, filter(None, held), then="Each holds weights by name.")
        return held[key]
    chosen = _usual(content, held)
    if chosen is None and len(held) == 1:
        chosen = next(iter(held))
    if chosen is None:
        raise _no_weights(content, path, held)
    others = [one for one in held if one and one != chosen]
    if others:
        warnings.warn(
            f"{path} also holds weights under {', '.join(others)}: to take those instead, type limbeck convert {path} "
            f"--yes --key {others[0]}.",
            LimbeckWarning, stacklevel=3,
        )  # fmt: skip
    return held[chosen]


def _states(content: Any, place: str = "", depth: int = 3) -> Iterator[tuple[str, dict[str, Tensor]]]:
    """Every mapping of tensors by name in a file, with the keys that lead to it, joined by dots."""
    if not isinstance(content, Mapping) or not all(isinstance(name, str) for name in content):
        return  # an optimizer's state is by number
    if content and all(isinstance(value, Tensor) for value in content.values()):
        yield place, dict(content)
    elif depth:
        for name, inner in content.items():
            yield from _states(inner, f"{place}.{name}" if place else name, depth - 1)


def _usual(content: Any, held: Mapping[str, Any]) -> str | None:
    """The place of the weights that are meant where nobody says which: under the usual names, from the top."""
    place: list[str] = []
    while ".".join(place) not in held and isinstance(content, Mapping):
        inner = next((name for name in _WRAPPERS if isinstance(content.get(name), Mapping)), None)
        if inner is None:
            return None
        place, content = [*place, inner], content[inner]
    return ".".join(place) if ".".join(place) in held else None


def _no_weights(content: Any, path: Path, held: Mapping[str, Any]) -> LimbeckError:
    if held:
        return LimbeckError(
            f"{path} holds weights under {', '.join(held)}: type which, --key {next(iter(held))}."
        )  # fmt: skip
    what = f"a mapping with {', '.join(map(str, list(content)[:8]))}" if isinstance(content, Mapping) else ""
    return LimbeckError(
        f"{path} holds {what or f'a {type(content).__name__}'}, in which no weights by name were found; "
        f"looked for tensors at the top and under {', '.join(_WRAPPERS)}."
    )


def _stripped(state: dict[str, Tensor]) -> dict[str, Tensor]:
    own = [name for name in state if name not in _COUNTERS]
    prefix = next((p for p in _PREFIXES if own and all(name.startswith(p) for name in own)), None)
    return _stripped({name.removeprefix(prefix): state[name] for name in own}) if prefix else state


def _below(state: dict[str, Tensor], prefix: str, path: Path) -> dict[str, Tensor]:
    found = {name.removeprefix(prefix): tensor for name, tensor in state.items() if name.startswith(prefix)}
    if not found:
        begins = sorted({name.partition(".")[0] + "." for name in state if "." in name})
        raise unknown_name_error(f"prefix in {path}", prefix, begins)
    return found
