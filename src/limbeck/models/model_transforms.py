"""Changes of a model's structure between two stages, recorded so that a saved model can be built again."""

from __future__ import annotations

import copy
import json
from collections.abc import Callable, Mapping, Sequence
from typing import Any, cast
from weakref import WeakKeyDictionary

import torch
from torch import Tensor, nn

from limbeck.errors import ArgumentError, LimbeckError, unknown_name_error
from limbeck.models.channel_pruning import prune_channels
from limbeck.models.gaussian_head import add_variance
from limbeck.models.low_rank import factorize_layers
from limbeck.models.projected_embedding import add_projection
from limbeck.models.quantization import fake_quantize
from limbeck.models.reused_classifier import reuse_classifier
from limbeck.models.subclass_head import add_subclasses
from limbeck.models.user_file import plain_name
from limbeck.optional_imports import import_optional

ModelTransform = Callable[..., nn.Module | None]
"""A function of a model and keyword arguments. It returns the new model, or None if it has changed the model itself."""

_RECORDS: WeakKeyDictionary[nn.Module, tuple[dict[str, Any], list[dict[str, Any]]]] = WeakKeyDictionary()


def keep_layers(model: nn.Module, *, at: str, layers: Sequence[int]) -> nn.Module | None:
    """Keep some modules of an `torch.nn.Sequential` or `torch.nn.ModuleList`, in this order.

    Args:
        model: The model; it is changed.
        at: The name of the list of layers; empty if the model itself is an `torch.nn.Sequential`.
        layers: The numbers of the layers that stay, from 0.

    Returns:
        The new model if it is the list itself; else None.

    Raises:
        LimbeckError: If there is no list with that name, or no layer with that number.
    """
    lists = (nn.Sequential, nn.ModuleList)
    named = {name: part for name, part in model.named_modules() if isinstance(part, lists)}
    if at not in named:
        raise unknown_name_error("list of layers", at, named, argument="at")
    whole = named[at]
    if wrong := [number for number in layers if not 0 <= number < len(whole)]:
        raise ArgumentError(f"{at!r} has {len(whole)} layers, numbered from 0; got {wrong[0]}.", argument="layers")
    shorter = type(whole)(*_listed(whole, layers))
    shorter.training = whole.training  # not `train`, which would change the modes of the layers
    if not at:
        return shorter
    parent, _, name = at.rpartition(".")
    setattr(model.get_submodule(parent), name, shorter)
    return None


def _listed(whole: nn.Sequential | nn.ModuleList, layers: Sequence[int]) -> list[Any]:
    chosen = [whole[number] for number in layers]
    return [chosen] if isinstance(whole, nn.ModuleList) else chosen


def prune(model: nn.Module, *, amount: float, at: Sequence[str] | None = None) -> None:
    """Mask the weights of smallest absolute value, over all layers together; the masked ones stay 0 while it learns.

    Args:
        model: The model; its linear and convolutional layers get the buffers ``weight_mask``.
        amount: The share of weights that are masked, from 0 to 1.
        at: The names of the layers; by default all linear and convolutional ones. The last layer inside
            ``nn.MultiheadAttention`` cannot be pruned.

    Source: Han et al., Learning both Weights and Connections, 2015, arXiv:1506.02626, by `torch.nn.utils.prune`.
    """
    from torch.nn.utils import prune as torch_prune

    kinds = (nn.Linear, nn.Conv1d, nn.Conv2d, nn.Conv3d)
    # Attention reads the weight of its last layer without calling the layer, so that hooks have no effect there.
    uncalled = nn.modules.linear.NonDynamicallyQuantizableLinear
    named = {
        name: module
        for name, module in model.named_modules()
        if isinstance(module, kinds) and not isinstance(module, uncalled)
    }
    for name in at or ():
        if name not in named:
            raise unknown_name_error("layer to prune", name, named, argument="at")
    if not 0 <= amount <= 1:
        raise ArgumentError(f"amount is a share from 0 to 1; got {amount}.", argument="amount")
    layers = [(named[name], "weight") for name in at or named]
    # A layer that is pruned already has as `weight` what the last forward pass computed, from before the last step, or
    # before weights were loaded. Its hooks compute it anew.
    with torch.no_grad():
        for module, _ in layers:
            for hook in module._forward_pre_hooks.values():
                if isinstance(hook, torch_prune.BasePruningMethod):
                    hook(module, None)
            # `torch.nn.utils.prune` calls `view`, which fails for weights that are stored with the channels last.
            for weight in module.parameters(recurse=False):
                weight.data = weight.data.contiguous()
    torch_prune.global_unstructured(layers, pruning_method=torch_prune.L1Unstructured, amount=amount)
    for module, _ in layers:
        _detach_weight(module)
        if _detach_weight not in module._forward_hooks.values():
            module.register_forward_hook(_detach_weight)


def _detach_weight(module: nn.Module, *_: Any) -> None:
    """Detach the masked weight after use: copies of a model (averages, generations) fail for tensors with a graph."""
    module.weight = cast(Tensor, module.weight).detach()


def remove_pruning_masks(model: nn.Module) -> None:
    """Make the zeros of `prune` plain weights: the layers have no masks and no hooks any more.

    Args:
        model: The model; layers without a mask stay as they are.

    Example:
        >>> layer = nn.Linear(10, 10)
        >>> prune(layer, amount=0.3)
        >>> remove_pruning_masks(layer)
        >>> int((layer.weight == 0).sum()), len(list(layer.buffers()))
        (30, 0)
    """
    from torch.nn.utils import prune as torch_prune

    for module in model.modules():
        if "weight_mask" in dict(module.named_buffers(recurse=False)):
            torch_prune.remove(module, "weight")
            for number, hook in list(module._forward_hooks.items()):
                if hook is _detach_weight:
                    del module._forward_hooks[number]


def lora(model: nn.Module, **config: Any) -> nn.Module:
    """Freeze a model and add trainable low-rank adapters, with peft (extra ``peft``).

    The plain model with merged adapters is saved and exported.

    Args:
        model: The model.
        **config: Arguments of ``peft.LoraConfig``, such as ``r=8, target_modules=["query", "value"]``.

    Source: Hu et al., LoRA, 2021, arXiv:2106.09685.
    """
    peft = import_optional("peft", extra="hf", purpose="The transform 'lora'")
    adapted: nn.Module = peft.get_peft_model(model, peft.LoraConfig(**config))
    return adapted


MODEL_TRANSFORMS: Mapping[str, ModelTransform] = {
    function.__name__: function
    for function in (
        add_projection,
        add_subclasses,
        add_variance,
        factorize_layers,
        fake_quantize,
        keep_layers,
        lora,
        prune,
        prune_channels,
        remove_pruning_masks,
        reuse_classifier,
    )
}
"""The transforms by name."""


def find_transform(function: ModelTransform | str) -> tuple[str, ModelTransform]:
    """The recorded name and the function of a transform.

    Args:
        function: A function, or one of `MODEL_TRANSFORMS`.

    Raises:
        UnknownNameError: If there is no transform of that name.
    """
    if callable(function):
        named = next((name for name, own in MODEL_TRANSFORMS.items() if own is function), None)
        return named or plain_name(f"{function.__module__}.{function.__qualname__}"), function
    if function not in MODEL_TRANSFORMS:
        raise unknown_name_error("transform", function, MODEL_TRANSFORMS, then="Or give a function of the model.")
    return function, MODEL_TRANSFORMS[function]


def transform_model(
    model: nn.Module, function: ModelTransform | str, arguments: Mapping[str, Any], *, origin: Mapping[str, Any]
) -> nn.Module:
    """Change a model's structure, and record how.

    Args:
        model: The model; it may be changed.
        function: A function, or one of `MODEL_TRANSFORMS`.
        arguments: Its keyword arguments: JSON values, as they are saved with the model.
        origin: The description of the unchanged model, for its ``config.json``, from `describe_structure`.

    Raises:
        LimbeckError: If the function does not return a module, or an argument is no JSON value.
    """
    name, call = find_transform(function)
    try:
        values = json.loads(json.dumps(dict(arguments)))
    except TypeError as error:
        raise LimbeckError(
            f"The arguments of the transform {name} are saved with the model, so they must be JSON values: {error}."
        ) from error
    # A copy of a transformed model has no record of its own; its origin lists the changes before.
    before = {key: value for key, value in origin.items() if key != "transforms"}
    start, records = _RECORDS.get(model, (before, list(origin.get("transforms", ()))))
    result: object = call(model, **arguments)
    changed = model if result is None else result
    if not isinstance(changed, nn.Module):
        raise LimbeckError(f"The transform {name} returned a {type(changed).__name__}, not a module or None.")
    _RECORDS[changed] = (start, [*records, {"function": name, "arguments": values}])
    return changed


def transforms_of(model: nn.Module) -> tuple[dict[str, Any], list[dict[str, Any]]] | None:
    """The record of a model's origin and changes; None for a model without changes."""
    return _RECORDS.get(model)


def without_indices(recipe: Mapping[str, Any]) -> dict[str, Any]:
    """The entry ``model`` of a ``config.json`` with numbers of channels in place of their indices.

    Models whose other channels were pruned have the same structure, and each can have the weights of the other: a run
    saves an untrained student of its teacher before the teacher is trained.

    Example:
        >>> record = {"function": "prune_channels", "arguments": {"keep": {"weight": [[0, 3], None]}, "sizes": {}}}
        >>> without_indices({"class": "my.Net", "transforms": [record]})["transforms"][0]["arguments"]["keep"]
        {'weight': [2, None]}
    """
    changed = []
    for record in recipe.get("transforms", ()):
        if record["function"] == prune_channels.__name__:
            keep = {
                name: [None if dim is None else len(dim) for dim in dims]
                for name, dims in record["arguments"]["keep"].items()
            }
            record = {**record, "arguments": {**record["arguments"], "keep": keep}}
        changed.append(record)
    return {**recipe, "transforms": changed} if changed else dict(recipe)


def copy_transformed(model: nn.Module) -> nn.Module:
    """A deep copy of a model with its record of changes, which `copy.deepcopy` alone does not copy."""
    twin = copy.deepcopy(model)
    if model in _RECORDS:
        _RECORDS[twin] = _RECORDS[model]
    return twin


def replay_transforms(
    model: nn.Module, config: Mapping[str, Any], functions: Sequence[ModelTransform] = (), *, source: str = "The model"
) -> nn.Module:
    """Apply the changes of a saved model to a newly built one.

    Args:
        model: The model before the changes.
        config: The entry ``model`` of its ``config.json``.
        functions: Your own functions among the changes. Code that a file names is never imported.
        source: The model's name, for messages.

    Raises:
        LimbeckError: If a function of your own is needed and not given.
    """
    known = dict(find_transform(function) for function in functions)
    origin = {key: value for key, value in config.items() if key != "transforms"}
    for record in config.get("transforms", ()):
        name = record["function"]
        if name not in known and name not in MODEL_TRANSFORMS:
            raise LimbeckError(
                f"{source} was changed by {name}, a function of your own; limbeck imports no code that a folder names. "
                "Type: limbeck.load(folder, transforms=[function])."
            )
        with torch.random.fork_rng(devices=[]):
            model = transform_model(model, known.get(name, name), record["arguments"], origin=origin)
    return model


_FACTORIES = {
    "ProjectedEmbedding": "limbeck.models.add_projection(model, width=..., dimension=...)",
    "ReusedClassifier": "limbeck.models.reuse_classifier(model, width=..., teacher_width=..., classes=..., "
    "reduction=...)",
}
"""Calls that make limbeck's own modules around a model, by the name of the class."""


def explain_build(path: str, recipe: Mapping[str, Any]) -> str:
    """The message for a saved model whose class limbeck does not look up: whose class it is, and what to type.

    Args:
        path: The folder.
        recipe: The entry ``model`` of its ``config.json``.

    Example:
        >>> explain_build("s", {"class": "my.Net"}).rpartition("Type: ")[2]
        "limbeck.load('s', build=build), where build() makes that module."
    """
    kind, line = str(recipe.get("class")), f"Type: limbeck.load({path!r}, build=build), where build()"
    if kind.endswith(".EstimatorModule"):
        return f"{path} holds an estimator, which is no module: type joblib.load({path + '/estimator.joblib'!r})."
    if kind.startswith("limbeck."):
        call = _FACTORIES.get(kind.rpartition(".")[2], f"{kind}(...)")
        return f"{path} holds a {kind}, a class of limbeck around a model of yours. {line} returns {call}."
    own = "" if kind.startswith(("torch.", "transformers.")) else ", which is a class of your own"
    changes = [record["function"] for record in recipe.get("transforms", ())]
    changed = f", before the changes that limbeck makes again ({', '.join(changes)})" if changes else ""
    return (
        f"{path} holds a {kind}{own}; limbeck imports no code that a folder names. {line} makes that module{changed}."
    )
