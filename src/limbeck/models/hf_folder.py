"""How does a Hugging Face model come back from a folder, without any code of the folder's?"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from torch import nn

from limbeck.errors import DataError, LimbeckError
from limbeck.models.adapters import without_adapter
from limbeck.models.hf_bounds import Held, check_config, check_size
from limbeck.models.library import needed
from limbeck.models.reference import seeded
from limbeck.models.safefile import read_header

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
    held = Held.of(path)
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
    held = Held.of(path)
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


def _class(path: Path, config: Mapping[str, Any], held: Held) -> Any:
    hf = needed("transformers", extra="hf", wanted=f"limbeck.load({str(path)!r})")
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
