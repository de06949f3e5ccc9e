"""Pickled weights: refused, or converted without running code."""

from __future__ import annotations

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
from limbeck.models.weights import is_safetensors, refuse_pickle, sha256, write_weights


class Placeholder:
    """Replaces an object beside the weights when a pickle is read: it accepts anything and stores nothing.

    PyTorch's weights-only reader looks up names in a list of allowed ones. For the names below the list has this
    class, so the module that the file names is never imported and none of its code runs.
    """

    def __init__(self, *_: Any, **__: Any) -> None:
        """Take any arguments."""

    def __setstate__(self, state: Any) -> None:
        """Take any state."""


_OBJECTS = (
    # Options as training scripts save them (RepDistiller, timm, DeiT).
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
    # Hydra's configurations, which Lightning saves under hyper_parameters.
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

"""For `torch.serialization.safe_globals`: the class to use, and the name in the file that it replaces."""


_WRAPPERS = ("state_dict", "model_state_dict", "model", "module", "net", "network", "weights", "params")

_PREFIXES = ("module.", "_orig_mod.")

_COUNTERS = ("n_averaged",)

"""Entries that torch's AveragedModel adds to the weights."""

_log = logging.getLogger("limbeck")


def convert_pickle(
    path: str | Path, out: str | Path | None = None, *, yes: bool, key: str | None = None, prefix: str | None = None
) -> Path:
    """Turn a pickle of weights into a safetensors file, once, with PyTorch's weights-only reader.

    That reader builds tensors and plain containers and runs no other code; what it refuses, this function refuses too.
    Options, numbers and dates that training scripts save beside the weights are skipped. The usual wrappers go:
    ``{"state_dict": ...}``, ``{"model": ...}`` and the like, the counter of ``AveragedModel``, and the prefixes
    ``module.`` (DistributedDataParallel) and ``_orig_mod.`` (torch.compile) where every name has them. Other prefixes,
    such as Lightning's ``model.``, are removed when the weights are loaded into a model. The header of the new file has
    the SHA-256 of the pickle.

    Args:
        path: The pickle.
        out: The file to write; by default the pickle's name with the suffix ``.safetensors``.
        yes: Confirms that you know the file with this SHA-256 and want it read.
        key: The key of the weights, where the file holds several: ``state_dict_ema``, or ``ema.module`` if nested.
        prefix: Take only the weights whose names have this prefix, and remove it: ``student.``.

    Returns:
        The file that was written; the log (``logging.getLogger("limbeck")``, level info) has its size.

    Raises:
        LimbeckError: If `yes` is False, `out` exists, the pickle holds something else than weights, or has none under
            `key` or `prefix`.
        DataError: If there is no such file, or it already is safetensors.
    """
    path = Path(path)
    if not path.is_file():
        raise DataError(f"There is no file {path}.")
    if is_safetensors(path):
        raise DataError(f"{path} already holds safetensors, whatever its suffix; it can be loaded as it is.")
    out = path.with_suffix(".safetensors") if out is None else Path(out)
    if out.exists():
        raise LimbeckError(f"{out} exists, and is not overwritten; name another file with --out (out=...).")
    if not yes:
        raise refuse_pickle(path)
    state = _strip_prefixes(_unwrap(_read_weights_only(path), path, key))
    state = state if prefix is None else _select_prefix(state, prefix, path)
    write_weights(state, out, header={"converted_from_sha256": sha256(path)})
    size = sum(t.numel() * t.element_size() for t in state.values()) / 1e6
    _log.info("Wrote %s: %d tensors, %.1f MB, from %s.", out, len(state), size, path)
    return out


def _read_weights_only(path: Path) -> Any:
    try:
        with warnings.catch_warnings(), torch.serialization.safe_globals(list(HARMLESS)):
            warnings.simplefilter("ignore")
            return torch.load(path, map_location="cpu", weights_only=True)
    # The reader raises many types of error for a file that is no pickle of weights.
    except Exception as error:
        raise LimbeckError(
            f"{path} {_describe_problem(error)}, so it was not read. In the program that made it, save the weights: "
            "safetensors.torch.save_model(model, 'weights.safetensors')."
        ) from error


def _describe_problem(error: Exception) -> str:
    """PyTorch's own message is long, colored for a terminal, and advises to load the file unsafely."""
    if match := re.search(r"GLOBAL ([\w.]+)", str(error)):
        return f"holds more than weights: it names {match[1]}, which would be code to run"
    if "zip archive" in str(error) or isinstance(error, EOFError):
        return "is damaged: it ends too early, as after a download that was cut off"
    return "holds more than weights, or is damaged: it is no pickle of tensors by name"


def _unwrap(content: Any, path: Path, key: str | None) -> dict[str, Tensor]:
    states = dict(_find_states(content))
    if key is not None:
        if key not in states:
            raise unknown_name_error(f"key of {path}", key, filter(None, states), then="Each holds weights by name.")
        return states[key]
    chosen = _usual_key(content, states)
    if chosen is None and len(states) == 1:
        chosen = next(iter(states))
    if chosen is None:
        raise _no_weights(content, path, states)
    others = [name for name in states if name and name != chosen]
    if others:
        warnings.warn(
            f"{path} also holds weights under {', '.join(others)}: to take those instead, type limbeck convert {path} "
            f"--yes --key {others[0]}.",
            LimbeckWarning, stacklevel=3,
        )  # fmt: skip
    return states[chosen]


def _find_states(content: Any, key: str = "", depth: int = 3) -> Iterator[tuple[str, dict[str, Tensor]]]:
    """Every mapping of tensors by name in a file, with the keys that lead to it, joined by dots."""
    if not isinstance(content, Mapping) or not all(isinstance(name, str) for name in content):
        return  # an optimizer's state is by number
    if content and all(isinstance(value, Tensor) for value in content.values()):
        yield key, dict(content)
    elif depth:
        for name, inner in content.items():
            yield from _find_states(inner, f"{key}.{name}" if key else name, depth - 1)


def _usual_key(content: Any, states: Mapping[str, Any]) -> str | None:
    """The default key of the weights: the usual names are followed from the top."""
    keys: list[str] = []
    while ".".join(keys) not in states and isinstance(content, Mapping):
        inner = next((name for name in _WRAPPERS if isinstance(content.get(name), Mapping)), None)
        if inner is None:
            return None
        keys, content = [*keys, inner], content[inner]
    return ".".join(keys) if ".".join(keys) in states else None


def _no_weights(content: Any, path: Path, states: Mapping[str, Any]) -> LimbeckError:
    if states:
        return LimbeckError(
            f"{path} holds weights under {', '.join(states)}: type which, --key {next(iter(states))}."
        )  # fmt: skip
    what = f"a mapping with {', '.join(map(str, list(content)[:8]))}" if isinstance(content, Mapping) else ""
    return LimbeckError(
        f"{path} holds {what or f'a {type(content).__name__}'}, in which no weights by name were found; "
        f"looked for tensors at the top and under {', '.join(_WRAPPERS)}."
    )


def _strip_prefixes(state: dict[str, Tensor]) -> dict[str, Tensor]:
    own = [name for name in state if name not in _COUNTERS]
    prefix = next((p for p in _PREFIXES if own and all(name.startswith(p) for name in own)), None)
    return _strip_prefixes({name.removeprefix(prefix): state[name] for name in own}) if prefix else state


def _select_prefix(state: dict[str, Tensor], prefix: str, path: Path) -> dict[str, Tensor]:
    selected = {name.removeprefix(prefix): tensor for name, tensor in state.items() if name.startswith(prefix)}
    if not selected:
        begins = sorted({name.partition(".")[0] + "." for name in state if "." in name})
        raise unknown_name_error(f"prefix in {path}", prefix, begins)
    return selected
