"""Saves a student in a folder, and loads it again, with its metadata and class names."""

from __future__ import annotations

import importlib.metadata
import json
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import cache
from pathlib import Path
from types import FunctionType
from typing import Any
from weakref import WeakKeyDictionary

from torch import nn

from limbeck.atomic_io import new_partial_folder, publish_folder, write_text
from limbeck.checksums import digest
from limbeck.errors import DataError, LimbeckError
from limbeck.models.adapters import ADAPTER, has_adapter, merge_adapters, write_adapter
from limbeck.models.hf_folder import (
    find_hf_config,
    hf_description,
    hf_outline,
    is_hf_folder,
    open_hf_folder,
    read_generation_config,
    set_token_ids,
    write_hf_files,
)
from limbeck.models.model_transforms import (
    MODEL_TRANSFORMS,
    ModelTransform,
    explain_build,
    replay_transforms,
    transforms_of,
    without_indices,
)
from limbeck.models.networks import ModelSpec
from limbeck.models.reference import build as build_reference
from limbeck.models.reference import build_on_meta, get_model_spec, reference_names
from limbeck.models.size_and_hash import tensors_of, unwrap_compiled
from limbeck.models.user_file import call_builder, plain_name
from limbeck.models.weights import cast_parameters, copy_in_order, match_state, open_weights, read_header, write_weights

_DESCRIPTIONS: WeakKeyDictionary[nn.Module, dict[str, Any]] = WeakKeyDictionary()


def describe_model(model: nn.Module, metadata: Mapping[str, Any]) -> nn.Module:
    """Attach a student folder's metadata to a model, so that an export of it has the same metadata.

    Example:
        >>> get_description(describe_model(nn.Linear(2, 2), {"class_names": ["no", "yes"]}))
        {'class_names': ['no', 'yes']}
    """
    _DESCRIPTIONS[model] = dict(metadata)
    return model


def get_description(model: nn.Module) -> dict[str, Any]:
    """The metadata that `describe_model` attached; empty where there are none."""
    return dict(_DESCRIPTIONS.get(model, {}))


class OtherModelError(LimbeckError):
    """The folder already holds another model."""


FORMAT = 1
"""The version of the folder's layout."""

WEIGHTS = "model.safetensors"
CONFIG = "config.json"
_CHECKSUM = "checksum"
"""The key of the configuration with the SHA-256 of all its other keys."""


def save(
    model: nn.Module, folder: str | Path, *, metadata: Mapping[str, Any] | None = None, tokenizer: Any = None
) -> Path:
    """Write a model to a folder that is valid at any time, also after a kill.

    The folder holds ``model.safetensors`` and ``config.json``::

        {"format": 1, "limbeck": "0.1.0", "model": {"name": ..., "arguments": {...}}, "metadata": {...}}

    A model that is no reference network has ``"model": {"class": ...}``, for information. A model of transformers also
    has its whole configuration there, and ``generation_config.json`` beside it, so that ``from_pretrained`` opens the
    folder too. The first save is atomic: one
    rename. A later one replaces the weights by one rename. Entries that depend on the weights (their SHA-256, and a
    copy of `metadata`) are in the header of ``model.safetensors``, so that they always agree with the weights. Shared
    tensors are written once. Equal weights and metadata give equal files, byte for byte.

    For a model of peft (LoRA), the plain model is saved, with the adapter merged into a copy of its weights. The
    adapter alone is in ``adapter/``, for ``PeftModel.from_pretrained(base, folder / "adapter")``.

    Args:
        model: Any module whose state consists of tensors.
        folder: A new or empty folder, or one that holds the same kind of model; parents are made.
        metadata: JSON values to save with the weights, such as class names or the epoch; by default the metadata of the
            folder that the model was loaded from, or of the run that trained it.
        tokenizer: The tokenizer of a language model, whose files are written too, for ``AutoTokenizer``. The model gets
            its end, padding and start tokens (`set_token_ids`).

    Returns:
        The folder.

    Raises:
        LimbeckError: If the folder holds another model or other files of these names, the metadata are no JSON values,
            the state holds something else than tensors, or an adapter cannot be merged.
    """
    original = unwrap_compiled(model)
    set_token_ids(original, tokenizer)
    metadata = get_description(original) if metadata is None else metadata
    model = merge_adapters(original)
    folder = Path(folder)
    recipe = describe_structure(original if transforms_of(original) else model)
    values = json.loads(_json_text(dict(metadata)))
    config = {"format": FORMAT, "limbeck": _version(), "model": recipe, "metadata": values}
    config |= {key: value for key, value in hf_description(model).items() if key not in config}
    config[_CHECKSUM] = digest(json.loads(json.dumps(config)))
    if folder.exists() and not folder.is_dir():
        raise LimbeckError(f"{folder} is a file; a student is saved to a folder.")
    new = not folder.exists() or not any(folder.iterdir())
    ours = new or (folder / CONFIG).exists()
    if not new:
        _check_same_model(folder, recipe)
    if not ours and has_adapter(original) and (folder / ADAPTER).exists():
        raise LimbeckError(f"{folder / ADAPTER} exists, and no student is saved in {folder}. Name another folder.")
    target = new_partial_folder(folder) if new else folder
    write_weights(tensors_of(model), target / WEIGHTS, header={"metadata": json.dumps(values, sort_keys=True)})
    write_text(json.dumps(config, indent=2) + "\n", target / CONFIG)
    write_hf_files(model, target, tokenizer)
    if ours or has_adapter(original):
        write_adapter(original, target)
    if new:
        publish_folder(target, folder)
    return folder


def describe_structure(model: nn.Module) -> dict[str, Any]:
    """The structure of a model: its reference network or class, and the changes since."""
    changed = transforms_of(model)
    if changed is not None:
        # Adapters are merged into the plain model that is saved.
        return {**changed[0], "transforms": [record for record in changed[1] if record["function"] != "lora"]}
    spec = get_model_spec(model)
    return {"class": _class_name(model)} if spec is None else {"name": spec.name, "arguments": spec.arguments}


def load(
    path: str | Path, *, build: Callable[[], nn.Module] | None = None, transforms: Sequence[ModelTransform] = ()
) -> nn.Module:
    """Load a model from a student folder: on the CPU, in eval mode, in the dtypes in which it was saved.

    A reference network needs nothing else, and a Hugging Face model needs transformers, where its class is looked up by
    name. Code that a folder names is never imported: for a class of your own, pass `build`. What a method put around
    your model, or changed in it, is recorded and made again: `build` makes the model that was given to the run.

    Args:
        path: A folder that `save` wrote, or ``save_pretrained`` of a model of transformers.
        build: A function without arguments that builds the module for the weights, before the transforms of a run and
            of its method.
        transforms: The functions of your own with which a run transformed it (see `limbeck.recipe.TransformModel`).

    Returns:
        The model.

    Raises:
        LimbeckError: If the model has a class of your own and `build` is None, with the line to type; or it is a model
            of transformers, which is not installed (extra ``hf``).
        DataError: If a file is missing or damaged, or names or shapes do not match.
    """
    path = Path(path)
    if build is None and is_hf_folder(path):
        return open_hf_folder(path)
    written = _config(path)
    config = _with_header(path, written)
    model = _load_model(path, config, build, transforms)
    _check_whole(path, written)
    return describe_model(model, config["metadata"])


def _load_model(
    path: Path, config: Mapping[str, Any], build: Any, transforms: Sequence[ModelTransform] = ()
) -> nn.Module:
    state = open_weights(path / WEIGHTS).state
    changed = bool(config["model"].get("transforms"))
    if build is not None or "architectures" in config or changed:
        who = f"build={build.__name__ if isinstance(build, (FunctionType, type)) else build}"
        if build is not None:
            model = call_builder(build, who)
        else:
            model = hf_outline(path, config) if "architectures" in config else _build_whole(path, config["model"])
        model = replay_transforms(model, config["model"], transforms, source=str(path))
        cast_parameters(model, state)
        model.load_state_dict(match_state(model, state, source=str(path / WEIGHTS), whole=True))
        return read_generation_config(model, path).eval()
    model = _build_outline(path, config["model"])
    full = match_state(model, state, source=str(path / WEIGHTS), whole=True)
    model.load_state_dict(copy_in_order(full, model), assign=True)
    return model.eval()


def read_config(path: str | Path) -> dict[str, Any]:
    """The configuration of a student folder, with the ``sha256`` of its weights (see `fingerprint`).

    Metadata are read from the header of the weights, which is written together with them.

    Raises:
        DataError: If the folder or a file in it is missing or damaged, or was written by a later limbeck.
    """
    path = Path(path)
    config = _config(path)
    _check_whole(path, config)
    return _with_header(path, config)


def _with_header(path: Path, written: Mapping[str, Any]) -> dict[str, Any]:
    """A configuration with the entries of the weights' header."""
    config = {key: value for key, value in written.items() if key != _CHECKSUM}
    header = read_header(path / WEIGHTS)
    try:
        config["metadata"] = json.loads(header["metadata"])
        config["sha256"] = header["sha256"]
        if not isinstance(config["metadata"], dict):
            raise ValueError("metadata are a mapping")
    except (KeyError, ValueError, RecursionError) as error:
        raise DataError(f"{path / WEIGHTS} was not written by limbeck.save: its header has no metadata.") from error
    return config


def is_student_folder(path: Path) -> bool:
    """Whether a folder looks like one that `save` wrote."""
    try:
        _config(path)
    except DataError:
        return False
    return True


def loads_without_code(config: Mapping[str, Any]) -> bool:
    """Whether `load` opens a student with this configuration (see `read_config`) without a function of the user."""
    own = [
        record["function"]
        for record in config["model"].get("transforms", ())
        if record["function"] not in MODEL_TRANSFORMS
    ]
    return not own and ("name" in config["model"] or "architectures" in config)


def _build_outline(path: Path, recipe: Mapping[str, Any]) -> nn.Module:
    if "name" not in recipe:
        raise LimbeckError(explain_build(str(path), recipe))
    if recipe["name"] not in reference_names() or not isinstance(recipe.get("arguments"), dict):
        raise DataError(
            f"{path / CONFIG} names the network {recipe['name']!r}, which this version of limbeck cannot build."
        )
    try:
        return build_on_meta(ModelSpec(recipe["name"], recipe["arguments"]))
    # For sizes that are too large, PyTorch raises errors of many types.
    except (LimbeckError, RuntimeError, TypeError, ValueError, OverflowError) as error:
        reason = str(error).strip().partition("\n")[0]
        raise DataError(f"{path / CONFIG} is damaged: {reason}") from error


def _build_whole(path: Path, recipe: Mapping[str, Any]) -> nn.Module:
    """A reference network with weights, which transforms may read."""
    _build_outline(path, recipe)
    return build_reference(recipe["name"], seed=0, **recipe["arguments"])


def _config(path: Path) -> dict[str, Any]:
    file = path / CONFIG
    if not file.is_file():
        raise DataError(f"{path} is not a student folder: there is no {CONFIG} in it.")
    try:
        config = json.loads(file.read_text(encoding="utf-8"))
    except (ValueError, RecursionError) as error:
        raise DataError(f"{file} is damaged: it is not JSON ({error}).") from error
    if not isinstance(config, dict) or "limbeck" not in config or not isinstance(config.get("model"), dict):
        raise DataError(f"{file} was not written by limbeck.save.")
    if config.get("format") != FORMAT:
        raise DataError(f"{file} has the format {config.get('format')!r}; this version of limbeck reads {FORMAT}.")
    return config


def _check_whole(path: Path, config: Mapping[str, Any]) -> None:
    """Check the checksum of a configuration. It comes last, as the other checks have better messages."""
    checksum = config.get(_CHECKSUM)
    if checksum is not None and checksum != digest({key: value for key, value in config.items() if key != _CHECKSUM}):
        raise DataError(f"{path / CONFIG} was edited or is damaged: its checksum does not match.")


def _check_same_model(folder: Path, recipe: Mapping[str, Any]) -> None:
    if not (folder / CONFIG).exists() and not (folder / WEIGHTS).exists():
        return
    saved, recipe = without_indices(_config(folder)["model"]), without_indices(json.loads(json.dumps(recipe)))
    if saved != recipe:
        raise OtherModelError(f"{folder} holds another model, {saved}; this one is {recipe}. Name another folder.")


def _json_text(metadata: dict[str, Any]) -> str:
    try:
        return json.dumps(metadata)
    except (TypeError, ValueError) as error:
        raise LimbeckError(f"metadata must be JSON values (numbers, texts, lists, mappings): {error}.") from error


def _class_name(model: nn.Module) -> str:
    return plain_name(f"{type(model).__module__}.{type(model).__qualname__}")


@cache  # it takes as long as to save a small model
def _version() -> str:
    try:
        return importlib.metadata.version("limbeck")
    except importlib.metadata.PackageNotFoundError:
        return "unknown"


_NAMELESS = re.compile(r"(?i)label[_ ]?\d+|class[_ ]?\d+|\d+")


def get_class_names(model: nn.Module) -> tuple[str, ...] | None:
    """A model's class names, in the order of its outputs; None where it has none, or they are only numbers.

    They come from ``config.id2label`` of a model of transformers, and from the folder's metadata after `limbeck.load`.

    Example:
        >>> get_class_names(nn.Linear(2, 2)) is None
        True
    """
    plain = unwrap_compiled(model)
    names = get_description(plain).get("class_names") or _labels(find_hf_config(plain))
    return _drop_numbers(names)


def read_class_names(folder: str | Path) -> tuple[str, ...] | None:
    """The class names of the model in a folder, without loading it; None for a folder without a model."""
    path = Path(folder)
    try:
        if is_student_folder(path):
            return _drop_numbers(read_config(path)["metadata"].get("class_names") or ())
        config = json.loads((path / "config.json").read_text(encoding="utf-8"))
        return _drop_numbers(_labels(config))
    except (OSError, ValueError, RecursionError):
        return None


def match_order(ours: Sequence[str], theirs: Sequence[str]) -> tuple[str, ...] | None:
    """Our names in the order of another model's names; None where they cannot be matched one to one.

    Case, ``_``, ``-`` and spaces are ignored.

    Example:
        >>> match_order(["Refund", "block_card"], ["block card", "refund"])
        ('block_card', 'Refund')
    """
    mine, its = {_normalize(name): name for name in ours}, [_normalize(name) for name in theirs]
    if len(mine) != len(ours) or len(set(its)) != len(its) or set(mine) != set(its):
        return None
    return tuple(mine[name] for name in its)


def find_first_moved(ours: Sequence[str], theirs: Sequence[str]) -> tuple[int, str, str] | None:
    """The first class with different names that also occurs elsewhere in the other list: its index and both names.

    Example:
        >>> find_first_moved(["negative", "positive"], ["positive", "negative"])
        (0, 'negative', 'positive')
    """
    mine, its = [_normalize(name) for name in ours], [_normalize(name) for name in theirs]
    for index, (a, b) in enumerate(zip(mine, its, strict=False)):
        if a != b and (a in its or b in mine):
            return index, ours[index], theirs[index]
    return None


def _labels(config: Any) -> Iterable[Any]:
    """The names in ``id2label`` of a configuration, in the order of their numbers."""
    labels = config.get("id2label") if isinstance(config, Mapping) else config and config.id2label
    if not isinstance(labels, Mapping):
        return ()
    try:
        numbered = {int(number): name for number, name in labels.items()}
    except (TypeError, ValueError):
        return ()
    return [numbered[i] for i in range(len(numbered))] if set(numbered) == set(range(len(numbered))) else ()


def _drop_numbers(names: Iterable[Any]) -> tuple[str, ...] | None:
    """The names; None where they only repeat the numbers of the classes."""
    texts = tuple(str(name) for name in names)
    numbers = all(_NAMELESS.fullmatch(name) and int(re.sub(r"\D", "", name)) == i for i, name in enumerate(texts))
    return None if len(texts) < 2 or numbers or len(set(texts)) != len(texts) else texts


def _normalize(name: str) -> str:
    return " ".join(re.sub(r"[_-]+", " ", name.casefold()).split())
