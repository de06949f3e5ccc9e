"""Calls a model with a batch's inputs, and finds the logits in its output."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from functools import lru_cache
from typing import Any, Protocol, runtime_checkable

import torch
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from limbeck.batch import LOGITS, Inputs, input_rows
from limbeck.errors import MissingOutputError

Adaptor = Callable[[Any], Any]
"""Function from a model's raw output to logits or a dict with ``logits``, if `logits_of` cannot read the output."""


@runtime_checkable
class _HasOutputLayer(Protocol):
    def get_output_embeddings(self) -> Any: ...


@runtime_checkable
class _HasVocabulary(Protocol):
    def get_input_embeddings(self) -> Any: ...


def unwrap(model: Any) -> Any:
    """The module inside a compiled or distributed one; the model itself if it is neither."""
    inner = vars(model).get("_modules", {}).get("_orig_mod", model) if isinstance(model, nn.Module) else model
    return inner.module if isinstance(inner, DistributedDataParallel) else inner


def find_output_layer(model: nn.Module) -> tuple[str, nn.Module] | None:
    """The name and the module of the layer that computes a model's logits; None if unknown.

    A model of transformers declares it. For any other model it is the module named ``logits``, or the last linear
    layer; `Tapped` checks that the logits are the output of that one.
    """
    inner = unwrap(model)
    names = {id(module): name for name, module in inner.named_modules()}
    if isinstance(inner, _HasOutputLayer):
        layer = inner.get_output_embeddings()
        if id(layer) in names:
            return names[id(layer)], layer
    layers = [(name, module) for name, module in inner.named_modules() if isinstance(module, nn.Linear)]
    own = [(name, module) for name, module in inner.named_modules() if name == LOGITS]
    return next(iter(own), layers[-1] if layers else None)


def vocabulary_size(model: nn.Module) -> int | None:
    """The number of tokens that a model of transformers embeds; None for other models."""
    inner = unwrap(model)
    if not isinstance(inner, _HasVocabulary):
        return None
    try:
        embedding = inner.get_input_embeddings()
    except NotImplementedError:  # an image model
        return None
    return embedding.num_embeddings if isinstance(embedding, nn.Embedding) else None


def call(model: Callable[..., Any], inputs: Inputs) -> Any:
    """Call a model with its inputs: ``m(x)`` for a tensor, ``m(*x)`` for a tuple, ``m(**x)`` for a mapping.

    Floating-point inputs are cast to the dtype of the parameters, if all have the same one, so that float32 examples
    can be passed to a model in bfloat16 or float64.
    """
    if isinstance(inputs, Tensor):  # the most frequent case, and the next check is slow
        return model(_cast(inputs, model))
    if isinstance(inputs, Mapping):
        placed = with_positions(model, inputs)
        return model(**{name: _cast(value, model) for name, value in placed.items()})
    if isinstance(inputs, (tuple, list)):
        return model(*(_cast(value, model) for value in inputs))
    return model(inputs)


def _cast(value: Any, model: Callable[..., Any]) -> Any:
    """A floating-point tensor in the dtype of the model's parameters; anything else unchanged."""
    if not isinstance(value, Tensor) or not value.is_floating_point() or not isinstance(model, nn.Module):
        return value
    first = next(model.parameters(), None)
    if first is None or first.dtype == value.dtype:
        return value
    dtypes = {parameter.dtype for parameter in model.parameters() if parameter.is_floating_point()}
    return value.to(dtypes.pop()) if len(dtypes) == 1 else value


def with_positions(model: Callable[..., Any], inputs: Mapping[str, Any]) -> Mapping[str, Any]:
    """Inputs of left-padded texts with the position of each token in its text.

    A model that numbers positions itself counts the padding too, so the output for a text would depend on the length of
    the other texts. ``position_ids`` are added for a model that takes them; right-padded texts do not need them.
    """
    mask = inputs.get("attention_mask")
    if not isinstance(mask, Tensor) or mask.ndim != 2 or "position_ids" in inputs or "input_ids" not in inputs:
        return inputs
    if not mask.numel() or not _takes_positions(model) or bool(mask[:, 0].all()):
        return inputs
    places = (mask.long().cumsum(-1) - 1).clamp_min(0)
    return {**inputs, "position_ids": places}


def _takes_positions(model: Any) -> bool:
    """Whether a model takes the position of each token, and does not compute it from the padding."""
    inner = unwrap(model)
    inner = inner.get_base_model() if hasattr(inner, "get_base_model") else inner
    if not isinstance(inner, nn.Module) or "position_ids" not in _parameters(inner.__class__.forward):
        return False
    own = "create_position_ids_from_input_ids"
    return not any(hasattr(type(module), own) for module in inner.modules())


@lru_cache(maxsize=64)
def _parameters(function: Callable[..., Any]) -> frozenset[str]:
    return frozenset(inspect.signature(function).parameters)


def logits_of(output: Any, adaptor: Adaptor | None = None) -> Tensor:
    """The logits in a model's raw output: a tensor, the first of a tuple, ``logits`` of a dict or an output object.

    Raises:
        MissingOutputError: If there are none (pass an `adaptor` then), or the adaptor fails.
    """
    if adaptor is not None:
        output = _adapted(output, adaptor)
    if isinstance(output, Tensor):
        return output
    # A model may return an object of any class, with or without logits.
    logits = output.get(LOGITS) if isinstance(output, Mapping) else getattr(output, LOGITS, None)
    if logits is None and isinstance(output, (tuple, list)) and output and isinstance(output[0], Tensor):
        logits = output[0]
    if not isinstance(logits, Tensor):
        who = "The model" if adaptor is None else "The model's adaptor"
        raise MissingOutputError(
            f"{who} returned a {_describe_output(output)}, which has no logits. Give a function that returns them: "
            "distill(..., adaptor=lambda output: ...) for the run's models, ModelTeacher(model, adaptor=...) "
            "for a teacher."
        )
    return logits


def check_first_of_several(model: Callable[..., Any], inputs: Inputs, output: Any) -> None:
    """Refuse an output of several tensors if the first is not the logits, because another one is computed from it.

    Raises:
        MissingOutputError: If so; the message names the tensor that is likely meant.
    """
    if not isinstance(output, (tuple, list)) or hasattr(output, LOGITS):
        return
    tensors = {index: tensor for index, tensor in enumerate(output) if isinstance(tensor, Tensor) and tensor.ndim > 1}
    if len(tensors) < 2 or 0 not in tensors:
        return
    if not tensors[0].requires_grad:  # a teacher: two examples are enough to find the graph between its outputs
        tensors = _with_graph(model, inputs, tensors)
    later = [index for index, tensor in tensors.items() if index and _comes_from(tensor, tensors[0])]
    if later:
        shapes = ", ".join(str(tuple(tensor.shape)) for tensor in tensors.values())
        raise MissingOutputError(
            f"The model {type(model).__name__} returned a {type(output).__name__} of several tensors {shapes}, and the "
            f"first is not the logits: the one at {later[-1]} is computed from it. Name the logits: "
            f"adaptor=lambda output: output[{later[-1]}], to distill() for the run's models, to "
            f"ModelTeacher(model, ...) for a "
            "teacher."
        )


def _with_graph(model: Callable[..., Any], inputs: Inputs, tensors: dict[int, Tensor]) -> dict[int, Tensor]:
    """The output for two examples with a graph, also for a model with only frozen weights."""
    few = input_rows(inputs, torch.arange(min(2, len(tensors[0]))))
    if isinstance(few, Tensor) and few.is_floating_point():
        few = few.detach().clone().requires_grad_()
    with torch.enable_grad():
        again = call(model, few)
    return {index: again[index] for index in tensors}


def _comes_from(later: Tensor, first: Tensor) -> bool:
    """Whether a tensor is computed from another one and is not its softmax, because models return probabilities too."""
    if not (later.requires_grad and first.requires_grad):
        return False
    with torch.enable_grad():
        softened = (first.softmax(-1), first.log_softmax(-1)) if later.shape == first.shape else ()
        if any(torch.allclose(later, probabilities, atol=1e-4) for probabilities in softened):
            return False
        return torch.autograd.grad(later.sum(), first, retain_graph=True, allow_unused=True)[0] is not None


def _adapted(output: Any, adaptor: Adaptor) -> Any:
    try:
        return adaptor(output)
    # A user's function may raise any error; all mean the same here.
    except Exception as error:
        raise MissingOutputError(
            f"The adaptor failed with {type(error).__name__}: {error}; the model returned a {_describe_output(output)}."
        ) from error


def _describe_output(output: Any) -> str:
    return type(output).__name__ + (f" with {sorted(map(str, output))}" if isinstance(output, Mapping) else "")
