"""Calls a model with a batch's inputs, and finds the logits in what it returns."""

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
"""A model's raw output -> its logits, or a dict with ``logits``: the way in for outputs `logits_of` cannot read."""


@runtime_checkable
class _HasOutputLayer(Protocol):
    def get_output_embeddings(self) -> Any: ...


@runtime_checkable
class _HasVocabulary(Protocol):
    def get_input_embeddings(self) -> Any: ...


def unwrap(model: Any) -> Any:
    """The module that was compiled or distributed; the model itself if it was neither."""
    inner = vars(model).get("_modules", {}).get("_orig_mod", model) if isinstance(model, nn.Module) else model
    return inner.module if isinstance(inner, DistributedDataParallel) else inner


def find_output_layer(model: nn.Module) -> tuple[str, nn.Module] | None:
    """The name and the module of the layer that computes a model's logits; None if it cannot be told.

    A model of transformers says which one it is. Of any other model it is the module named ``logits``, or the last
    linear layer; `Tapped` checks that the logits are the output of that one.
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
    except NotImplementedError:  # a model of images
        return None
    return embedding.num_embeddings if isinstance(embedding, nn.Embedding) else None


def call(model: Callable[..., Any], inputs: Inputs) -> Any:
    """Call a model the way its inputs ask for: ``m(x)``, ``m(*x)`` for a tuple, ``m(**x)`` for a mapping.

    Floating-point inputs come in the model's own dtype, where all of its parameters have one: a model that was trained
    in bfloat16 or float64 is asked about float32 examples, too.
    """
    if isinstance(inputs, Tensor):  # by far the most frequent, and the next question is a slow one
        return model(_cast(inputs, model))
    if isinstance(inputs, Mapping):
        placed = with_positions(model, inputs)
        return model(**{name: _cast(value, model) for name, value in placed.items()})
    if isinstance(inputs, (tuple, list)):
        return model(*(_cast(value, model) for value in inputs))
    return model(inputs)


def _cast(value: Any, model: Callable[..., Any]) -> Any:
    """A floating-point tensor in the one dtype of the model's parameters; anything else as it is."""
    if not isinstance(value, Tensor) or not value.is_floating_point() or not isinstance(model, nn.Module):
        return value
    first = next(model.parameters(), None)
    if first is None or first.dtype == value.dtype:
        return value
    dtypes = {parameter.dtype for parameter in model.parameters() if parameter.is_floating_point()}
    return value.to(dtypes.pop()) if len(dtypes) == 1 else value


def with_positions(model: Callable[..., Any], inputs: Mapping[str, Any]) -> Mapping[str, Any]:
    """Inputs of texts that are padded on the left, with the place of each token in its own text.

    A model that counts places itself counts the padding too, so that a text would be read otherwise beside a longer
    one. Added are ``position_ids``, to a model that takes them; what is padded on the right needs none.
    """
    mask = inputs.get("attention_mask")
    if not isinstance(mask, Tensor) or mask.ndim != 2 or "position_ids" in inputs or "input_ids" not in inputs:
        return inputs
    if not mask.numel() or not _takes_positions(model) or bool(mask[:, 0].all()):
        return inputs
    places = (mask.long().cumsum(-1) - 1).clamp_min(0)
    return {**inputs, "position_ids": places}


def _takes_positions(model: Any) -> bool:
    """Whether a model may be told the place of each token, and does not find it by the padding itself."""
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
        MissingOutputError: If there are none (give an `adaptor` then), or the adaptor fails.
    """
    if adaptor is not None:
        output = _adapted(output, adaptor)
    if isinstance(output, Tensor):
        return output
    # A model may return an object of any class, which has logits or not.
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
    """Refuse an output of several tensors whose first is no logits: another one of them is computed from it.

    Raises:
        MissingOutputError: Saying which is likely meant.
    """
    if not isinstance(output, (tuple, list)) or hasattr(output, LOGITS):
        return
    tensors = {index: tensor for index, tensor in enumerate(output) if isinstance(tensor, Tensor) and tensor.ndim > 1}
    if len(tensors) < 2 or 0 not in tensors:
        return
    if not tensors[0].requires_grad:  # a teacher: a few examples are enough to see what comes from what
        tensors = _with_graph(model, inputs, tensors)
    later = [index for index, tensor in tensors.items() if index and _comes_from(tensor, tensors[0])]
    if later:
        shapes = ", ".join(str(tuple(tensor.shape)) for tensor in tensors.values())
        raise MissingOutputError(
            f"The model {type(model).__name__} returned a {type(output).__name__} of several tensors {shapes}, and the "
            f"first is no logits: the one at {later[-1]} is computed from it. Say which they are: "
            f"adaptor=lambda output: output[{later[-1]}], to distill() for the run's models, to "
            f"ModelTeacher(model, ...) for a "
            "teacher."
        )


def _with_graph(model: Callable[..., Any], inputs: Inputs, tensors: dict[int, Tensor]) -> dict[int, Tensor]:
    """The same of two examples, with a graph; also of a model whose weights are all frozen."""
    few = input_rows(inputs, torch.arange(min(2, len(tensors[0]))))
    if isinstance(few, Tensor) and few.is_floating_point():
        few = few.detach().clone().requires_grad_()
    with torch.enable_grad():
        again = call(model, few)
    return {index: again[index] for index in tensors}


def _comes_from(later: Tensor, first: Tensor) -> bool:
    """Whether a tensor is computed from another one, and is not its softmax, as probabilities beside logits are."""
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
    # It is a person's own function, and whatever it raises means the same here.
    except Exception as error:
        raise MissingOutputError(
            f"The adaptor failed with {type(error).__name__}: {error}; the model returned a {_describe_output(output)}."
        ) from error


def _describe_output(output: Any) -> str:
    return type(output).__name__ + (f" with {sorted(map(str, output))}" if isinstance(output, Mapping) else "")
