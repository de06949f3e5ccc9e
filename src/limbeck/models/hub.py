"""How are models of timm and of Hugging Face opened by name?"""

from __future__ import annotations

import importlib
from collections.abc import Iterable, Mapping
from pathlib import Path
from types import ModuleType
from typing import Any

from torch import nn

from limbeck.errors import LimbeckError, nearest, unknown

_HEADS = {
    "sequence_classification": "AutoModelForSequenceClassification",
    "image_classification": "AutoModelForImageClassification",
    "causal_lm": "AutoModelForCausalLM",
}
_CODE = frozenset({
    "trust_remote_code", "code_revision", "custom_generate", "use_kernels", "kernel_config", "auto_map",
    "checkpoint_path", "pretrained_cfg", "pretrained_cfg_overlay", "from_tf", "from_flax",
})  # fmt: skip
"""Arguments of the two libraries that lead to code from elsewhere, or to a pickle: timm unpickles `checkpoint_path`."""
_ENDINGS = {
    "ForSequenceClassification": "sequence_classification",
    "ForImageClassification": "image_classification",
    "ForCausalLM": "causal_lm",
    "LMHeadModel": "causal_lm",
}


def open_timm(
    name: str,
    *,
    input_shape: tuple[int, ...] | None = None,
    classes: int | None = None,
    pretrained: bool = False,
    **arguments: Any,
) -> nn.Module:
    """A model of timm: ``timm.create_model``, with ``num_classes`` and ``in_chans`` from the data.

    Args:
        name: timm's name, such as ``resnet18`` or ``hf-hub:...``.
        input_shape: Shape of one example; its first number is the channels.
        classes: How many classes the labels have; None leaves timm's own.
        pretrained: Whether timm loads its weights (it may download them).
        **arguments: Passed on.

    Raises:
        LimbeckError: If timm is not installed (extra ``vision``) or has no such model; the nearest is named.
    """
    timm = needed("timm", extra="vision", wanted=f"timm:{name}")
    _check_no_code(f"timm:{name}", arguments)
    if ":" not in name and not timm.is_model(name):
        raise unknown("timm model", name, timm.list_models())
    if classes is not None:
        arguments.setdefault("num_classes", classes)
    if input_shape is not None and len(input_shape) == 3:
        arguments.setdefault("in_chans", input_shape[0])
    model: nn.Module = timm.create_model(name, pretrained=pretrained, **arguments)
    return model


def open_hf(
    name: str,
    *,
    classes: int | None = None,
    head: str | None = None,
    pretrained: bool = True,
    **arguments: Any,
) -> nn.Module:
    """A Hugging Face classifier or causal language model, by the ``architectures`` in its configuration.

    Args:
        name: A name on the hub, or a folder; if not `pretrained`, also a kind of model, such as ``bert``, which then
            begins from its library's default configuration and is a sequence classifier unless `head` says otherwise.
        classes: How many classes the labels have; a language model has none.
        head: ``sequence_classification``, ``image_classification`` or ``causal_lm``, where the configuration names
            another.
        pretrained: Whether the weights are loaded, from safetensors; if not, `arguments` change the configuration,
            such as ``num_hidden_layers=2``.
        **arguments: Passed to ``from_pretrained``; none that would run code which comes with the model.

    Raises:
        LimbeckError: If transformers is not installed (extra ``hf``), there is no such model, the head is unknown, or a
            trained classifier has another number of classes.
    """
    hf = needed("transformers", extra="hf", wanted=f"hf:{name}")
    _check_no_code(f"hf:{name}", arguments)
    try:
        config = _config(hf, name, pretrained=pretrained)
        own = _head_of(config)
        chosen = head or own
        if chosen not in _HEADS:
            raise _no_head(name, chosen, config)
        auto = getattr(hf, _HEADS[chosen])
        if classes is not None and chosen != "causal_lm":
            trained = pretrained and chosen == own and not arguments.get("ignore_mismatched_sizes")
            _set_classes(name, config, classes, trained=trained)
        if not pretrained:
            _override(name, config, arguments)
            return _module(name, auto.from_config(config, trust_remote_code=False))
        arguments = {"use_safetensors": True, **arguments}
        return _module(name, auto.from_pretrained(name, config=config, trust_remote_code=False, **arguments))
    # A name that an option gives twice, or does not know, is a TypeError.
    except (OSError, ValueError, TypeError) as error:
        reason = str(error).strip().partition("\n")[0]
        raise LimbeckError(f"hf:{name} cannot be opened: {reason}") from error


def needed(module: str, *, extra: str, wanted: str) -> ModuleType:
    """A library, or the line that installs it.

    Raises:
        LimbeckError: If it is not installed.
    """
    try:
        return importlib.import_module(module)
    except ModuleNotFoundError as error:
        if error.name != module:
            raise
        raise LimbeckError(f"{wanted} needs {module}; type: pip install 'limbeck[{extra}]'") from error


def _config(hf: Any, name: str, *, pretrained: bool) -> Any:
    if not pretrained and name in getattr(hf, "CONFIG_MAPPING", ()) and not Path(name).exists():
        config = hf.AutoConfig.for_model(name)
        config.architectures = ["ForSequenceClassification"]
        return config
    config = hf.AutoConfig.from_pretrained(name, trust_remote_code=False)
    told = {key: getattr(config, key, None) for key in ("_attn_implementation", "_experts_implementation")}
    _check_no_code(f"The configuration of hf:{name}", told)
    return config


def _check_no_code(who: str, arguments: Mapping[str, Any]) -> None:
    """Refuse what would run code, or open a pickle, that comes with a model.

    Raises:
        LimbeckError: Naming the argument, and what to do instead.
    """
    for name, value in arguments.items():
        # Kernels of the hub are code: REPOSITORY/NAME.
        kernel = name.endswith("_implementation") and any("/" in str(v) for v in _values(value))
        if (name in _CODE and value) or kernel or (name == "use_safetensors" and value is False):
            raise LimbeckError(
                f"{who} has {name}={value!r}, which would run code that comes with a model, or open a pickle; limbeck "
                "does neither. Where you trust it, open it in a function of your own and name that: my.py:build."
            )


def _values(value: Any) -> Iterable[Any]:
    return value.values() if isinstance(value, Mapping) else (value,)


def _head_of(config: Any) -> str | None:
    for architecture in getattr(config, "architectures", None) or []:
        for ending, head in _ENDINGS.items():
            if architecture.endswith(ending):
                return head
    return None


def _no_head(name: str, chosen: str | None, config: Any) -> LimbeckError:
    if chosen is not None:
        return unknown("head", chosen, _HEADS)
    named = ", ".join(getattr(config, "architectures", None) or []) or "no architecture"
    return LimbeckError(
        f"hf:{name} names {named}, which gives no class or token logits; pass head={' | '.join(_HEADS)}."
    )


def _set_classes(name: str, config: Any, classes: int, *, trained: bool) -> None:
    if trained and config.num_labels != classes:
        raise LimbeckError(
            f"hf:{name} was trained for {config.num_labels} classes; the data have {classes}. "
            "Pass ignore_mismatched_sizes=True for a new, untrained classifier."
        )
    config.num_labels = classes


def _override(name: str, config: Any, arguments: dict[str, Any]) -> None:
    for key, value in arguments.items():
        if not hasattr(config, key):
            near = nearest(key, config.to_dict())
            meant = f" Did you mean {near!r}?" if near else ""
            raise LimbeckError(f"The configuration of hf:{name} has no {key!r}.{meant}")
        setattr(config, key, value)


def _module(name: str, model: Any) -> nn.Module:
    if not isinstance(model, nn.Module):
        raise LimbeckError(f"hf:{name} opened as a {type(model).__name__}, which is not a torch.nn.Module.")
    return model
