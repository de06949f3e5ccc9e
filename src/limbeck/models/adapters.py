"""Adapters of peft (LoRA and others): merges them into the plain model, and saves them beside it."""

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
"""The subfolder for the adapter alone. If ``adapter_config.json`` were beside ``config.json``, ``from_pretrained``
would add the adapter to weights that already include it."""

_CONFIG, _WEIGHTS = "adapter_config.json", "adapter_model.safetensors"
_HOOKS = (
    "_forward_hooks", "_forward_hooks_with_kwargs", "_forward_hooks_always_called", "_forward_pre_hooks",
    "_forward_pre_hooks_with_kwargs", "_backward_hooks", "_backward_pre_hooks",
)  # fmt: skip


def has_adapter(model: nn.Module) -> bool:
    """Whether a model is one of peft's (``get_peft_model``), or one of transformers with ``add_adapter``."""
    peft = sys.modules.get("peft")  # without it, there can be no model of peft
    if peft is None:
        return False
    if isinstance(model, (peft.PeftModel, peft.PeftMixedModel)):
        return True
    mixin = sys.modules.get("transformers.integrations.peft")  # its add_adapter sets the flag
    return mixin is not None and isinstance(model, mixin.PeftAdapterMixin) and model._hf_peft_config_loaded


def without_adapter(model: nn.Module) -> nn.Module:
    """The model inside an adapter of peft, or the model itself; nothing is copied."""
    if has_adapter(model) and hasattr(model, "get_base_model"):
        base: nn.Module = model.get_base_model()  # type: ignore[operator]
        return base
    return model


def merge_adapters(model: nn.Module) -> nn.Module:
    """A plain model with the active adapters merged into its weights; a model without adapters is returned itself.

    The model, its hooks and the random generators are not changed: the merge happens in a copy on the CPU.

    Raises:
        LimbeckError: If the adapter cannot be merged, as a learned prompt cannot.
    """
    if not has_adapter(model):
        return model
    kind = type(model).__name__
    peft = sys.modules["peft"]
    if isinstance(model, peft.PeftModel) and model.active_peft_config.is_prompt_learning:
        raise _unmerged(kind, "a learned prompt is no change of weights")
    try:
        with seeded(0):
            copied: Any = _copied(model)
            return copied.merge_and_unload() if hasattr(copied, "merge_and_unload") else _merged_in_place(copied)
    # Each kind of adapter, and each kind of layer below it, raises errors of its own types.
    except Exception as error:
        raise _unmerged(kind, str(error).strip().partition("\n")[0] or type(error).__name__) from error


def write_adapter(model: nn.Module, folder: Path) -> None:
    """Write the active adapter into ``adapter/`` of a student's folder, in peft's own format; each file atomically.

    For a model without an adapter, or with several active ones, the files are removed.
    """
    target, names = folder / ADAPTER, _active_adapters(model)
    if len(names) != 1:
        _remove_adapter(target)
        return
    if target.is_symlink():
        remove(target)  # never write through a link
    peft_model: Any = model
    with TemporaryDirectory() as partial:
        selection = {"selected_adapters": names} if hasattr(peft_model, "merge_and_unload") else {}
        # The default "auto" would contact the hub to compare the vocabulary with the base's.
        peft_model.save_pretrained(partial, save_embedding_layers=False, **selection)
        written = next(Path(partial).rglob(_CONFIG)).parent
        config = _sort_sets(json.loads((written / _CONFIG).read_text(encoding="utf-8")))
        target.mkdir(exist_ok=True)
        with atomic_write(target / _WEIGHTS) as new:
            new.write_bytes((written / _WEIGHTS).read_bytes())
            sort_header(new)
    write_text(json.dumps(config, indent=2, sort_keys=True) + "\n", target / _CONFIG)


def _remove_adapter(folder: Path) -> None:
    """Remove the two files of an adapter, and their folder where nothing else is in it."""
    if folder.is_symlink() or not folder.is_dir():
        return
    for name in (_CONFIG, _WEIGHTS):
        remove(folder / name)
    if not any(folder.iterdir()):
        folder.rmdir()


def _active_adapters(model: nn.Module) -> list[str]:
    """The names of the adapters in use; none of a mixed model, which peft itself cannot write."""
    if not has_adapter(model) or not hasattr(model, "save_pretrained"):
        return []
    named: Any = model.active_adapters
    named = named() if callable(named) else named
    return [named] if isinstance(named, str) else list(named)


def _sort_sets(config: dict[str, Any]) -> dict[str, Any]:
    """A configuration with sorted sets: peft writes them in an order that differs between processes."""
    sets = ("target_modules", "modules_to_save", "exclude_modules")
    return {key: sorted(value) if key in sets and isinstance(value, list) else value for key, value in config.items()}


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
