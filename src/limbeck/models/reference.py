"""Builds reference networks by name, and new ones of the same architecture."""

from __future__ import annotations

import copy
import math
import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any, NamedTuple, Protocol, runtime_checkable

import torch
from torch import nn

from limbeck.errors import LimbeckError, unknown_name_error
from limbeck.models.arguments import accepted_arguments, check_arguments
from limbeck.models.networks import DEPTHS, Cnn, Fcn, Mlp, ModelSpec, ResNet


class _Reference(NamedTuple):
    network: type[nn.Module]
    fixed: Mapping[str, Any]


_REFERENCES: dict[str, _Reference] = {
    "mlp": _Reference(Mlp, {}),
    "cnn": _Reference(Cnn, {}),
    "fcn": _Reference(Fcn, {}),
    **{f"resnet{depth}": _Reference(ResNet, {"depth": depth}) for depth in DEPTHS},
}


def reference_names() -> list[str]:
    """The names of the networks that `build` makes.

    Example:
        >>> reference_names()[:3]
        ['mlp', 'cnn', 'fcn']
    """
    return list(_REFERENCES)


def build(name: str, /, *, seed: int | None = None, **arguments: Any) -> nn.Module:
    """A newly initialized reference network.

    Args:
        name: One of `reference_names()`.
        seed: The seed of the initial weights; the global generator is not changed. None uses the global generator.
        **arguments: The network's arguments, all of them JSON values.

    Returns:
        The network; `get_model_spec` returns its name and arguments.

    Raises:
        UnknownNameError: If there is no such network; the nearest name is given.
        LimbeckError: If an argument is unknown, missing or out of range.

    Example:
        >>> build("mlp", inputs=4, classes=3, hidden=[8], seed=0).classifier
        Linear(in_features=8, out_features=3, bias=True)
    """
    reference = _reference(name)
    arguments = check_arguments(name, reference.network, arguments, without=reference.fixed)
    with seeded(seed):
        return reference.network(**reference.fixed, **arguments)


def argument_names(name: str) -> list[str] | None:
    """The names of the arguments of a reference network; None for other models.

    Example:
        >>> argument_names("mlp")
        ['inputs', 'classes', 'hidden', 'dropout', 'input_dropout']
    """
    reference = _REFERENCES.get(name)
    return None if reference is None else list(accepted_arguments(reference.network, without=reference.fixed))


def get_model_spec(model: nn.Module) -> ModelSpec | None:
    """The name and arguments of a reference network; None for other modules, and for one whose layers were changed.

    Copies of the network have them too.

    Example:
        >>> get_model_spec(build("resnet8", channels=1, classes=10)).name
        'resnet8'
    """
    if type(model) not in {reference.network for reference in _REFERENCES.values()}:
        return None
    spec: ModelSpec = model.spec  # type: ignore[assignment]
    original = build_on_meta(spec)
    same = repr(original) == repr(model) and _shapes(original) == _shapes(model)
    return ModelSpec(spec.name, dict(spec.arguments)) if same else None


def build_on_meta(spec: ModelSpec) -> nn.Module:
    """The network of a specification on the meta device: names and shapes, without memory or random numbers."""
    with torch.device("meta"):
        return build(spec.name, **spec.arguments)


def fit_arguments(name: str, input_shape: tuple[int, ...], classes: int) -> dict[str, int]:
    """The arguments of a reference network that follow from the data.

    Args:
        name: One of `reference_names()`.
        input_shape: The shape of one example, without the batch.
        classes: The number of classes of the labels.

    Returns:
        ``inputs`` or ``channels`` (and ``size``), with ``classes``.

    Raises:
        UnknownNameError: If there is no such network.
        LimbeckError: If the network cannot read examples of this shape.

    Example:
        >>> fit_arguments("cnn", (1, 28, 28), 10)
        {'channels': 1, 'size': 28, 'classes': 10}
    """
    network = _reference(name).network
    if network is Mlp:
        return {"inputs": math.prod(input_shape), "classes": classes}
    if len(input_shape) != 3:
        raise LimbeckError(
            f"{name} reads images of shape (channels, height, width); one example has the shape {tuple(input_shape)}. "
            "'mlp' reads any shape."
        )
    channels, height, width = input_shape
    if channels == height != width and width in (1, 3, 4):
        raise LimbeckError(
            f"One example has the shape {tuple(input_shape)}, which looks like height, width, channels, and {name} "
            "reads channels, height, width. Store the images as x.transpose(0, 3, 1, 2), or read them with "
            "lb.NormalizeImages(mean, std, channels_last=True)."
        )
    if network in (ResNet, Fcn):
        return {"channels": channels, "classes": classes}
    if height != width:
        raise LimbeckError(f"{name} reads square images; got {height}x{width}. 'resnet8' and 'mlp' read any.")
    return {"channels": channels, "size": height, "classes": classes}


@contextmanager
def seeded(seed: int | None) -> Iterator[None]:
    """Draw random numbers on the CPU from `seed` inside the context, and leave the global generator unchanged."""
    if seed is None:
        yield
        return
    with torch.random.fork_rng(devices=[]):
        torch.random.default_generator.manual_seed(seed)
        yield


def _reference(name: str) -> _Reference:
    if name not in _REFERENCES:
        raise unknown_name_error("reference network", name, _REFERENCES)
    return _REFERENCES[name]


def _shapes(model: nn.Module) -> dict[str, torch.Size]:
    return {name: tensor.shape for name, tensor in model.state_dict().items()}


def reinitialize(model: nn.Module, *, seed: int | None = None) -> nn.Module:
    """A newly initialized model of the same architecture; the original is not changed.

    A reference network is built again, and a model of transformers from its configuration. Any other module is copied,
    and every submodule with ``reset_parameters``, as PyTorch's own layers have it, calls it, the inner ones first, as
    in their constructors. Device, dtypes, ``requires_grad`` and training flags are those of the original.

    Args:
        model: The module.
        seed: The seed of the new weights; the global generator is not changed. None uses the global generator.

    Returns:
        A module that shares nothing with `model`.

    Raises:
        LimbeckError: If a parameter belongs to a module without ``reset_parameters``; it is named.

    Example:
        >>> model = nn.Linear(3, 2)
        >>> torch.equal(reinitialize(model, seed=0).weight, model.weight)
        False
    """
    check_fresh(model)
    spec = get_model_spec(model)
    twin = copy.deepcopy(model)
    if spec is not None:
        twin.load_state_dict(build(spec.name, seed=seed, **spec.arguments).state_dict())
        return twin
    if _is_of_transformers(model):
        hf_model: Any = model
        with seeded(seed):
            twin.load_state_dict(type(hf_model)(copy.deepcopy(hf_model.config)).state_dict())
        return twin
    with seeded(seed), torch.no_grad():
        for module in reversed(list(twin.modules())):
            if reset := _reset(module):
                reset()
    return twin


def check_fresh(model: nn.Module) -> None:
    """Refuse a model that `reinitialize` cannot handle.

    Raises:
        LimbeckError: If a parameter belongs to a module without ``reset_parameters``; it is named.
    """
    if get_model_spec(model) is not None or _is_of_transformers(model):
        return
    for path, module in model.named_modules():
        own = next((name for name, _ in module.named_parameters(recurse=False)), None)
        if own is not None and _reset(module) is None:
            address = f"{path}.{own}" if path else own
            raise LimbeckError(
                f"The parameter {address!r} belongs to a {type(module).__name__}, which cannot initialize itself "
                "(it has no reset_parameters()); pass a function that builds the model instead, or add that method."
            )


def _is_of_transformers(model: nn.Module) -> bool:
    """Whether a model can be built from its configuration. Some of its layers, such as Conv1D, cannot be reset."""
    modeling = sys.modules.get("transformers.modeling_utils")  # without it, there can be no such model
    return modeling is not None and isinstance(model, modeling.PreTrainedModel)


@runtime_checkable
class _Resettable(Protocol):
    def reset_parameters(self) -> None: ...


def _reset(module: nn.Module) -> Callable[[], None] | None:
    if isinstance(module, (nn.MultiheadAttention, nn.Transformer)):  # their method is named `_reset_parameters`
        return module._reset_parameters
    return module.reset_parameters if isinstance(module, _Resettable) else None
