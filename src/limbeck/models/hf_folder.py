"""Hugging Face models from a folder, without the folder's code and within bounds."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import nn

from limbeck.errors import DataError, LimbeckError
from limbeck.models.adapters import without_adapter
from limbeck.models.hub import import_library
from limbeck.models.reference import seeded
from limbeck.models.safetensors_io import read_header, read_shapes

_COUNTED = re.compile(r"(layer|block|depth|expert|stage|repeat|branch|codebook)s?$")

"""Keys that say how many parts of a kind a network has; each part has a tensor of its own."""

_ALWAYS = 256

"""So many parts are never too many: some networks share the tensors of all their layers."""

_LARGEST = 2**31

_ROOM = 50_000_000

"""So many numbers more than the file holds may a network have: tables of positions, masks, a head that is new."""


class TensorBudget(NamedTuple):
    """What the weights in a folder hold.

    Attributes:
        tensors: How many there are.
        numbers: How many numbers they have.
        longest: The largest side of any of them.
    """

    tensors: int
    numbers: int
    longest: int

    @classmethod
    def of(cls, folder: Path) -> TensorBudget:
        """Of all safetensors files in a folder; only their headers are read.

        Raises:
            DataError: If one is damaged.
        """
        shapes = [shape for file in sorted(folder.glob("*.safetensors")) for shape in read_shapes(file).values()]
        return cls(len(shapes), sum(map(math.prod, shapes)), max((max(s, default=1) for s in shapes), default=0))


def check_config(file: Path, config: Mapping[str, Any], held: TensorBudget) -> None:
    """Refuse numbers in a configuration that no network with these weights has, before anything is made of it.

    Raises:
        DataError: Naming the key.
    """
    for name, value in _numbers(config):
        if abs(value) > _LARGEST:
            raise DataError(f"{file} is damaged: {name}={_digits(value)}; no network is so large.")
        most = max(held.tensors, _ALWAYS)
        if _COUNTED.search(name) and value > most:
            raise DataError(f"{file} is damaged: {name}={value}; its weights are {held.tensors} tensors.")
        # A name is made for each label.
        if name == "num_labels" and value > max(held.longest, 1000):
            raise DataError(f"{file} is damaged: {name}={value}; no tensor of its weights is so long.")


def check_size(file: Path, kind: Any, config: Any, held: TensorBudget) -> None:
    """Refuse a network that is larger than its weights; it is made without memory, of shapes alone.

    Raises:
        DataError: Naming both sizes.
    """
    with torch.device("meta"):
        model: nn.Module = kind(config)
    wanted = sum(one.numel() for one in (*model.parameters(), *model.buffers()))
    if wanted > 4 * held.numbers + _ROOM:
        raise DataError(
            f"{file} is damaged: it describes a network of {wanted / 1e6:,.0f} million numbers, and the weights beside "
            f"it are {held.numbers / 1e6:,.1f} million."
        )


def _numbers(value: Any, name: str = "") -> Iterator[tuple[str, int]]:
    if isinstance(value, Mapping):
        for key, inner in value.items():
            yield from _numbers(inner, str(key))
    elif isinstance(value, list):
        whole = [one for one in value if isinstance(one, int)]
        if whole:
            yield name, sum(whole) if all(one >= 0 for one in whole) else max(whole)
        for inner in value:
            if not isinstance(inner, int):
                yield from _numbers(inner, name)
    elif isinstance(value, int) and not isinstance(value, bool):
        yield name, value


def _digits(number: int) -> str:
    # To spell an integer of many digits takes long, and Python refuses it.
    return str(number) if abs(number) < 2**63 else "a number of more than 18 digits"


_CODE = frozenset({"auto_map", "attn_implementation", "experts_implementation", "custom_pipelines", "checkpoint_path"})

"""Keys of a configuration that may lead to code which transformers does not hold: timm unpickles `checkpoint_path`."""


def is_transformers(model: nn.Module) -> bool:
    """Whether a model is of a class that transformers itself holds."""
    bases = type(model).__mro__
    own = type(model).__module__.startswith("transformers.")
    return own and any(base.__module__ == "transformers.modeling_utils" for base in bases)


def hf_description(model: nn.Module) -> dict[str, Any]:
    """What ``from_pretrained`` looks for in a ``config.json``; empty for a model that transformers does not hold."""
    if not is_transformers(model):
        return {}
    given: Any = model
    told: dict[str, Any] = json.loads(given.config.to_json_string())
    return {**told, "architectures": [type(model).__name__], "dtype": str(given.dtype).removeprefix("torch.")}


def name_classes(model: nn.Module, names: Sequence[str] | None) -> nn.Module:
    """Write the classes' names into a Hugging Face classifier's configuration, where it has as many outputs.

    Args:
        model: Changed in place; any other module is left as it is.
        names: The classes in the order of the labels; None leaves what is there.

    Returns:
        The same model.
    """
    config: Any = getattr(model, "config", None)
    if names and is_transformers(without_adapter(model)) and getattr(config, "num_labels", None) == len(names):
        config.id2label = dict(enumerate(names))
        config.label2id = {name: number for number, name in enumerate(names)}
    return model


def hf_outline(path: Path, config: Mapping[str, Any]) -> nn.Module:
    """The model that a ``config.json`` describes, with weights of its own: the generators are left as they were.

    Its class is looked up in transformers by its name in ``architectures``; nothing that the folder holds is imported.

    Raises:
        LimbeckError: If transformers is not installed (extra ``hf``).
        DataError: If transformers has no such class, or the configuration does not fit it.
    """
    held = TensorBudget.of(path)
    kind, made = _class(path, config, held), _plain(config)
    try:
        with seeded(0):
            described = kind.config_class.from_dict(made)
            check_size(path / "config.json", kind, described, held)
            model: nn.Module = kind(described)
    except LimbeckError:
        raise
    # Whatever a configuration makes transformers raise, the sentence says which file it is in.
    except Exception as error:
        raise DataError(f"{path / 'config.json'} does not make a {kind.__name__}: {_first_line(error)}") from error
    return model


def is_hf_folder(path: Path) -> bool:
    """Whether a folder is one that transformers wrote (``save_pretrained``), not limbeck."""
    try:
        config = json.loads((path / "config.json").read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError):
        return False
    if not isinstance(config, dict) or not config.get("architectures"):
        return False
    return "limbeck" not in config or not _signed(path)


def open_hf_folder(path: Path) -> nn.Module:
    """The model in a folder that ``save_pretrained`` wrote, in eval mode: safetensors alone, and no code.

    Raises:
        LimbeckError: If transformers is not installed (extra ``hf``).
        DataError: If it has no such class, there are no safetensors, or they do not hold the whole model.
    """
    config = json.loads((path / "config.json").read_text(encoding="utf-8"))
    held = TensorBudget.of(path)
    kind = _class(path, config, held)
    try:
        with seeded(0):
            described = kind.config_class.from_dict(_plain(config))
            check_size(path / "config.json", kind, described, held)
            model, found = kind.from_pretrained(
                str(path), config=described, use_safetensors=True, dtype="auto",
                local_files_only=True, trust_remote_code=False, output_loading_info=True,
            )  # fmt: skip
    except LimbeckError:
        raise
    except Exception as error:  # as above
        raise DataError(f"{path} cannot be opened as a {kind.__name__}: {_first_line(error)}") from error
    if lacking := sorted(found["missing_keys"]):
        raise DataError(f"{path} lacks weights of a {kind.__name__}: {', '.join(map(str, lacking[:5]))}.")
    opened: nn.Module = model.eval()
    return opened


def _class(path: Path, config: Mapping[str, Any], held: TensorBudget) -> Any:
    hf = import_library("transformers", extra="hf", wanted=f"limbeck.load({str(path)!r})")
    check_config(path / "config.json", config, held)
    listed = config.get("architectures")
    named = listed[0] if isinstance(listed, list) and listed else listed
    kind: Any = getattr(hf, named, None) if isinstance(named, str) else None
    ours = isinstance(kind, type) and issubclass(kind, hf.PreTrainedModel)
    if not ours or kind.config_class is None:
        raise DataError(f"{path / 'config.json'} names {named!r}, which is no model of transformers {hf.__version__}.")
    own = getattr(kind.config_class, "model_type", None)
    if config.get("model_type", own) != own:
        raise DataError(
            f"{path / 'config.json'} is damaged: a {named} is of the kind {own!r}, not {config['model_type']!r}."
        )
    return kind


def _plain(config: Mapping[str, Any]) -> dict[str, Any]:
    """A configuration without limbeck's own keys, and without what could lead to code from elsewhere."""
    mine = {"format", "limbeck", "model", "metadata", "sha256", "checksum"} if "limbeck" in config else set[str]()
    kept: dict[str, Any] = {}
    for name, value in config.items():
        if name not in _CODE and name not in mine and not str(name).startswith("_"):
            kept[name] = _plain(value) if isinstance(value, Mapping) else value
    return kept


def _signed(path: Path) -> bool:
    """Whether the weights beside a configuration are those that `save` wrote with it."""
    try:
        return "sha256" in read_header(path / "model.safetensors")
    except LimbeckError:
        return True  # damaged or missing: limbeck's own reading says so


def _first_line(error: Exception) -> str:
    return str(error).strip().partition("\n")[0] or type(error).__name__
