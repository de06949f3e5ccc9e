"""Loads Hugging Face models from a folder, without running its code and with limits on their size."""

from __future__ import annotations

import json
import math
import re
import sys
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, NamedTuple, cast

import torch
from torch import nn

from limbeck.atomic_io import write_bytes, write_text
from limbeck.errors import DataError, LimbeckError
from limbeck.models.adapters import without_adapter
from limbeck.models.hub import import_library, without_loading_bar
from limbeck.models.reference import seeded
from limbeck.models.weights import read_header, read_shapes

_COUNTED = re.compile(r"(layer|block|depth|expert|stage|repeat|branch|codebook)s?$")

"""Keys with the number of layers or other parts; each part has a tensor of its own."""

_ALWAYS = 256

"""A number of parts that is always allowed: some networks share the tensors of all their layers."""

_LARGEST = 2**31

_ROOM = 50_000_000

"""Maximum number of values of a network beyond those in the file: position tables, masks, a new head."""


class TensorBudget(NamedTuple):
    """The size of the weights in a folder, as a limit for its configuration.

    Attributes:
        tensors: The number of tensors.
        numbers: The number of elements of all tensors.
        longest: The largest dimension of any tensor.
    """

    tensors: int
    numbers: int
    longest: int

    @classmethod
    def of(cls, folder: Path) -> TensorBudget:
        """The sizes of all safetensors files in a folder; only their headers are read.

        Raises:
            DataError: If one is damaged.
        """
        shapes = [shape for file in sorted(folder.glob("*.safetensors")) for shape in read_shapes(file).values()]
        return cls(len(shapes), sum(map(math.prod, shapes)), max((max(s, default=1) for s in shapes), default=0))


def check_config(file: Path, config: Mapping[str, Any], weights: TensorBudget) -> None:
    """Refuse numbers in a configuration that no network with these weights can have, before a network is built.

    Raises:
        DataError: If there is one; it names the key.
    """
    for name, value in _numbers(config):
        if abs(value) > _LARGEST:
            raise DataError(f"{file} is damaged: {name}={_digits(value)}; no network is so large.")
        most = max(weights.tensors, _ALWAYS)
        if _COUNTED.search(name) and value > most:
            raise DataError(f"{file} is damaged: {name}={value}; its weights are {weights.tensors} tensors.")
        # transformers makes a name for each label.
        if name == "num_labels" and value > max(weights.longest, 1000):
            raise DataError(f"{file} is damaged: {name}={value}; no tensor of its weights is so long.")


def check_size(file: Path, kind: Any, config: Any, weights: TensorBudget, *, pruned: bool = False) -> None:
    """Refuse a network that is larger than its weights; it is built on the meta device, without memory.

    A network that was made smaller after it was built may be a hundred times larger at first.

    Raises:
        DataError: If it is; it names both sizes.
    """
    with torch.device("meta"):
        model: nn.Module = kind(config)
    size = sum(tensor.numel() for tensor in (*model.parameters(), *model.buffers()))
    if size > (100 if pruned else 4) * weights.numbers + _ROOM:
        raise DataError(
            f"{file} is damaged: it describes a network of {size / 1e6:,.0f} million numbers, and the weights beside "
            f"it are {weights.numbers / 1e6:,.1f} million."
        )


def _numbers(value: Any, name: str = "") -> Iterator[tuple[str, int]]:
    if isinstance(value, Mapping):
        for key, inner in value.items():
            yield from _numbers(inner, str(key))
    elif isinstance(value, list):
        integers = [item for item in value if isinstance(item, int)]
        if integers:
            yield name, sum(integers) if all(item >= 0 for item in integers) else max(integers)
        for inner in value:
            if not isinstance(inner, int):
                yield from _numbers(inner, name)
    elif isinstance(value, int) and not isinstance(value, bool):
        yield name, value


def _digits(number: int) -> str:
    # Python refuses to print an integer of very many digits, and it takes long.
    return str(number) if abs(number) < 2**63 else "a number of more than 18 digits"


_CODE = frozenset({"auto_map", "attn_implementation", "experts_implementation", "custom_pipelines", "checkpoint_path"})

"""Keys of a configuration that may load code from outside of transformers: timm unpickles `checkpoint_path`."""


def is_transformers(model: nn.Module) -> bool:
    """Whether a model's class is part of transformers."""
    bases = type(model).__mro__
    own = type(model).__module__.startswith("transformers.")
    return own and any(base.__module__ == "transformers.modeling_utils" for base in bases)


def find_hf_config(model: nn.Module) -> Any:
    """The configuration of a model of transformers, also inside an adapter of peft; None for any other module."""
    modeling = sys.modules.get("transformers.modeling_utils")  # without it, there can be no such model
    plain = without_adapter(model)
    return plain.config if modeling is not None and isinstance(plain, modeling.PreTrainedModel) else None


def hf_description(model: nn.Module) -> dict[str, Any]:
    """The ``config.json`` that ``from_pretrained`` needs; empty for a model whose class is not part of transformers."""
    if not is_transformers(model):
        return {}
    hf_model: Any = model
    config: dict[str, Any] = json.loads(hf_model.config.to_json_string())
    return {**config, "architectures": [type(model).__name__], "dtype": str(hf_model.dtype).removeprefix("torch.")}


GENERATION = "generation_config.json"


def write_hf_files(model: nn.Module, folder: Path, tokenizer: Any = None) -> None:
    """Write what ``from_pretrained`` and ``generate`` of transformers read beside weights and ``config.json``.

    Args:
        model: A model that generates has a ``generation_config``: its end tokens, and the defaults of sampling.
        folder: The folder, complete otherwise.
        tokenizer: The tokenizer that is saved too.
    """
    generator: Any = model
    if is_transformers(model) and generator.can_generate() and generator.generation_config is not None:
        write_text(generator.generation_config.to_json_string(), folder / GENERATION)
    if tokenizer is not None:
        with TemporaryDirectory() as partial:
            tokenizer.save_pretrained(partial)
            for file in sorted(Path(partial).iterdir()):
                write_bytes(file.read_bytes(), folder / file.name)


def read_generation_config(model: nn.Module, folder: Path) -> nn.Module:
    """Give a model the ``generation_config`` of its folder, if there is one.

    Raises:
        DataError: If the file is damaged.
    """
    generator: Any = model
    if (folder / GENERATION).is_file() and is_transformers(model) and generator.can_generate():
        try:
            values = _plain(json.loads((folder / GENERATION).read_text(encoding="utf-8")))
            generator.generation_config = type(generator.generation_config).from_dict(values)
        except Exception as error:  # transformers checks values with errors of many types
            raise DataError(f"{folder / GENERATION} is damaged: {_first_line(error)}") from error
    return model


def name_classes(model: nn.Module, names: Sequence[str] | None) -> nn.Module:
    """Write class names into a Hugging Face classifier's configuration, if it has as many outputs.

    Args:
        model: Changed in place; any other module is left unchanged.
        names: The class names in the order of the labels; None changes nothing.

    Returns:
        The same model.
    """
    config = find_hf_config(model)
    if names and config is not None and is_transformers(without_adapter(model)) and config.num_labels == len(names):
        config.id2label = dict(enumerate(names))
        config.label2id = {name: number for number, name in enumerate(names)}
    return model


def set_token_ids(model: nn.Module, tokenizer: Any) -> nn.Module:
    """Write the end, padding and start tokens of a tokenizer into a model that generates text, so that it stops.

    The tokenizer's end token takes the place of another one; a list of end tokens gets it in addition. A token that
    the tokenizer lacks, or that is outside of the model's vocabulary, changes nothing.

    Args:
        model: Changed in place: its ``config`` and ``generation_config``; any other module is left unchanged.
        tokenizer: The tokenizer of its texts; None, or an object without tokens (an image processor), changes nothing.

    Returns:
        The same model.

    Example:
        >>> set_token_ids(nn.Linear(2, 2), None)
        Linear(in_features=2, out_features=2, bias=True)
    """
    config, plain = find_hf_config(model), cast(Any, without_adapter(model))
    if not hasattr(tokenizer, "eos_token_id") or config is None or not plain.can_generate():
        return model
    settings = [one for one in (config, plain.generation_config) if one is not None]
    size = config.get_text_config().to_dict().get("vocab_size") or math.inf
    for name in ("eos_token_id", "pad_token_id", "bos_token_id"):
        token = getattr(tokenizer, name)
        for one in settings if isinstance(token, int) and token < size else ():
            before = one.to_dict().get(name)
            if not isinstance(before, list):
                setattr(one, name, token)
            elif token not in before:
                setattr(one, name, [*before, token])
    return model


def hf_outline(path: Path, config: Mapping[str, Any]) -> nn.Module:
    """The model that a ``config.json`` describes, with random weights; the random generators are not changed.

    Its class is looked up in transformers by the name in ``architectures``; nothing in the folder is imported.

    Raises:
        LimbeckError: If transformers is not installed (extra ``hf``).
        DataError: If transformers has no such class, or the configuration does not fit it.
    """
    weights = TensorBudget.of(path)
    kind, values = _class(path, config, weights), _plain(config)
    try:
        with seeded(0), without_loading_bar(str(path)):
            hf_config = kind.config_class.from_dict(values)
            check_size(
                path / "config.json", kind, hf_config, weights, pruned="transforms" in (config.get("model") or {})
            )
            model: nn.Module = kind(hf_config)
    except LimbeckError:
        raise
    # A wrong configuration may raise any error in transformers; the message names the file.
    except Exception as error:
        raise DataError(f"{path / 'config.json'} does not make a {kind.__name__}: {_first_line(error)}") from error
    return model


def holds_tokenizer(folder: str | Path) -> bool:
    """Whether a folder has files written by a tokenizer's ``save_pretrained``."""
    return any((Path(folder) / name).is_file() for name in ("tokenizer.json", "tokenizer_config.json", "vocab.txt"))


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
    """Load the model in a folder that ``save_pretrained`` wrote, in eval mode, from safetensors and without code.

    Raises:
        LimbeckError: If transformers is not installed (extra ``hf``).
        DataError: If it has no such class, there are no safetensors, or weights are missing.
    """
    config = json.loads((path / "config.json").read_text(encoding="utf-8"))
    weights = TensorBudget.of(path)
    kind = _class(path, config, weights)
    try:
        with seeded(0), without_loading_bar(str(path)):
            hf_config = kind.config_class.from_dict(_plain(config))
            check_size(path / "config.json", kind, hf_config, weights)
            model, loading = kind.from_pretrained(
                str(path), config=hf_config, use_safetensors=True, dtype="auto",
                local_files_only=True, trust_remote_code=False, output_loading_info=True,
            )  # fmt: skip
    except LimbeckError:
        raise
    except Exception as error:  # any error in transformers, as in `hf_outline`
        raise DataError(f"{path} cannot be opened as a {kind.__name__}: {_first_line(error)}") from error
    if lacking := sorted(loading["missing_keys"]):
        raise DataError(f"{path} lacks weights of a {kind.__name__}: {', '.join(map(str, lacking[:5]))}.")
    opened: nn.Module = model.eval()
    return opened


def _class(path: Path, config: Mapping[str, Any], weights: TensorBudget) -> Any:
    hf = import_library("transformers", extra="hf", purpose=f"limbeck.load({str(path)!r})")
    check_config(path / "config.json", config, weights)
    listed = config.get("architectures")
    name = listed[0] if isinstance(listed, list) and listed else listed
    kind: Any = getattr(hf, name, None) if isinstance(name, str) else None  # a damaged file may have any name
    is_model = isinstance(kind, type) and issubclass(kind, hf.PreTrainedModel)
    if not is_model or kind.config_class is None:
        raise DataError(f"{path / 'config.json'} names {name!r}, which is no model of transformers {hf.__version__}.")
    own = kind.config_class.model_type
    if config.get("model_type", own) != own:
        raise DataError(
            f"{path / 'config.json'} is damaged: a {name} is of the kind {own!r}, not {config['model_type']!r}."
        )
    return kind


def _plain(config: Mapping[str, Any]) -> dict[str, Any]:
    """A configuration without limbeck's own keys, and without keys that may load other code."""
    mine = {"format", "limbeck", "model", "metadata", "sha256", "checksum"} if "limbeck" in config else set[str]()
    plain: dict[str, Any] = {}
    for name, value in config.items():
        if name not in _CODE and name not in mine and not str(name).startswith("_"):
            plain[name] = _plain(value) if isinstance(value, Mapping) else value
    return plain


def _signed(path: Path) -> bool:
    """Whether `save` wrote the weights beside a configuration."""
    try:
        return "sha256" in read_header(path / "model.safetensors")
    except LimbeckError:
        return True  # damaged or missing: `load` reports it


def _first_line(error: Exception) -> str:
    return str(error).strip().partition("\n")[0] or type(error).__name__
