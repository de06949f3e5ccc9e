"""Adapters of peft (LoRA and others): merged into the plain model, and saved beside it."""

from __future__ import annotations

import copy
import json
import sys
from collections import OrderedDict
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import torch
from torch import nn

from limbeck.atomic_io import atomic_write, remove, sort_header, write_text
from limbeck.errors import LimbeckError
from limbeck.models.reference import seeded

ADAPTER = "adapter"
"""The folder, inside a student's, of the adapter alone. Not beside ``config.json``: there stock ``from_pretrained``
would find ``adapter_config.json`` and add the adapter to weights that hold it already."""

_CONFIG, _WEIGHTS = "adapter_config.json", "adapter_model.safetensors"
_HOOKS = (
    "_forward_hooks", "_forward_hooks_with_kwargs", "_forward_hooks_always_called", "_forward_pre_hooks",
    "_forward_pre_hooks_with_kwargs", "_backward_hooks", "_backward_pre_hooks",
)  # fmt: skip


def has_adapter(model: nn.Module) -> bool:
    """Whether a model is one of peft's (``get_peft_model``), or one of transformers with ``add_adapter``."""
    peft = sys.modules.get("peft")  # who never imported peft has no model of it
    if peft is None:
        return False
    if isinstance(model, (peft.PeftModel, peft.PeftMixedModel)):
        return True
    return bool(getattr(model, "_hf_peft_config_loaded", False))


def without_adapter(model: nn.Module) -> nn.Module:
    """The model that an adapter of peft was put around, or else the model itself; nothing is copied."""
    if has_adapter(model) and hasattr(model, "get_base_model"):
        base: nn.Module = model.get_base_model()  # type: ignore[operator]
        return base
    return model


def merge_adapters(model: nn.Module) -> nn.Module:
    """A plain model with the active adapters merged into its weights; a model without any is returned itself.

    The model is left as it is, hooks, random numbers and all: what is merged is a copy on the CPU.

    Raises:
        LimbeckError: If the adapter cannot be merged, as a learned prompt cannot.
    """
    if not has_adapter(model):
        return model
    kind = type(model).__name__
    if getattr(getattr(model, "active_peft_config", None), "is_prompt_learning", False):
        raise _unmerged(kind, "a learned prompt is no change of weights")
    try:
        with seeded(0):
            copied: Any = _copied(model)
            return copied.merge_and_unload() if hasattr(copied, "merge_and_unload") else _merged_in_place(copied)
    # Each kind of adapter, and each kind of layer below it, refuses in a way of its own.
    except Exception as error:
        raise _unmerged(kind, str(error).strip().partition("\n")[0] or type(error).__name__) from error


def write_adapter(model: nn.Module, folder: Path) -> None:
    """Write the active adapter into ``adapter/`` of a student's folder, in peft's own format; each file appears whole.

    Nothing is left there of a model without an adapter, nor where several are active or of several kinds.
    """
    place, names = folder / ADAPTER, _active(model)
    if len(names) != 1:
        _remove_ours(place)
        return
    if place.is_symlink():
        remove(place)  # nothing is written through a link
    given: Any = model
    with TemporaryDirectory() as partial:
        place_of = {"selected_adapters": names} if hasattr(given, "merge_and_unload") else {}
        # "auto" would ask the hub whether the base has the same vocabulary.
        given.save_pretrained(partial, save_embedding_layers=False, **place_of)
        written = next(Path(partial).rglob(_CONFIG)).parent
        told = _ordered(json.loads((written / _CONFIG).read_text(encoding="utf-8")))
        place.mkdir(exist_ok=True)
        with atomic_write(place / _WEIGHTS) as new:
            new.write_bytes((written / _WEIGHTS).read_bytes())
            sort_header(new)
    write_text(json.dumps(told, indent=2, sort_keys=True) + "\n", place / _CONFIG)


def _remove_ours(place: Path) -> None:
    """Remove the two files of an adapter, and their folder where nothing else is in it."""
    if place.is_symlink() or not place.is_dir():
        return
    for name in (_CONFIG, _WEIGHTS):
        remove(place / name)
    if not any(place.iterdir()):
        place.rmdir()


def _active(model: nn.Module) -> list[str]:
    """The names of the adapters in use; none of a mixed model, which peft itself cannot write."""
    if not has_adapter(model) or not hasattr(model, "save_pretrained"):
        return []
    named: Any = model.active_adapters
    named = named() if callable(named) else named
    return [named] if isinstance(named, str) else list(named)


def _ordered(told: dict[str, Any]) -> dict[str, Any]:
    """A configuration whose sets, which peft writes in an order that differs from process to process, are sorted."""
    sets = ("target_modules", "modules_to_save", "exclude_modules")
    return {key: sorted(value) if key in sets and isinstance(value, list) else value for key, value in told.items()}


def _copied(model: nn.Module) -> nn.Module:
    """A deep copy on the CPU without gradients, and without hooks: a tap's would bring a whole graph along."""
    memo: dict[int, Any] = {}
    for tensor in [*model.parameters(), *model.buffers()]:
        if type(tensor) in (nn.Parameter, torch.Tensor):
            plain = tensor.detach().to("cpu", copy=True)
            is_parameter = isinstance(tensor, nn.Parameter)
            memo[id(tensor)] = nn.Parameter(plain, tensor.requires_grad) if is_parameter else plain
    for module in model.modules():
        memo |= {id(getattr(module, name)): OrderedDict() for name in _HOOKS if hasattr(module, name)}
    return copy.deepcopy(model, memo)


def _merged_in_place(model: nn.Module) -> nn.Module:
    """The same of a model of transformers that peft's layers were put into, without a model of peft around it."""
    replaced: list[str] = []
    for name, module in list(model.named_modules()):
        layer: Any = module
        if not name or name.startswith(tuple(f"{outer}." for outer in replaced)):
            continue
        if hasattr(layer, "unload_and_optionally_merge_module"):
            plain = layer.unload_and_optionally_merge_module(merge=True, safe_merge=False, adapter_names=None)
        elif hasattr(layer, "base_layer") and hasattr(layer, "merge"):
            layer.merge()
            plain = layer.get_base_layer()
        else:
            continue
        parent, _, last = name.rpartition(".")
        setattr(model.get_submodule(parent), last, plain)
        replaced.append(name)
    vars(model).pop("peft_config", None)
    model._hf_peft_config_loaded = False  # type: ignore[assignment]
    return model


def _unmerged(kind: str, why: str) -> LimbeckError:
    return LimbeckError(
        f"A {kind} is saved with its adapter merged into the weights, and this one cannot be merged: {why}. Train "
        "without out=, and save it with peft's own model.save_pretrained(folder); or use an adapter that merges, such "
        "as LoRA."
    )
