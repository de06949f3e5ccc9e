"""Calls a model with a batch's inputs, and finds the logits in its output."""

from __future__ import annotations

import inspect
import math
from collections.abc import Callable, Mapping
from contextlib import nullcontext
from functools import lru_cache, partial
from typing import Any, Protocol, runtime_checkable

import torch
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from limbeck.batch import LOGITS, Inputs, input_rows
from limbeck.errors import MissingOutputError
from limbeck.functional.output_layer import OutputLayer
from limbeck.separate_texts import check_left_out, check_padding_in_front, check_separates, without_mask_advice

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
    layer; `check_output_layer` checks that the logits come from that one.
    """
    inner = unwrap(model)
    names = {id(module): name for name, module in inner.named_modules()}
    declaring = _without_adapter(inner)
    if isinstance(declaring, _HasOutputLayer):
        layer = declaring.get_output_embeddings()
        if id(layer) in names:
            return names[id(layer)], layer
    layers = [(name, module) for name, module in inner.named_modules() if isinstance(module, nn.Linear)]
    own = [(name, module) for name, module in inner.named_modules() if name == LOGITS]
    return next(iter(own), layers[-1] if layers else None)


def _without_adapter(model: Any) -> Any:
    """The module inside an adapter of peft."""
    return model.get_base_model() if hasattr(model, "get_base_model") else model


_SOFTCAPS = ("final_logit_softcapping", "logits_soft_cap", "output_logit_soft_cap")
_FACTORS = ("logit_scale", "lm_head_multiplier", "output_multiplier")
_DIVISORS = ("logits_scaling",)
"""What follows the output layer in transformers: Gemma, RecurrentGemma; Cohere, Falcon-H1; Granite."""


def get_output_layer(model: nn.Module) -> OutputLayer | None:
    """The output layer of a model, with its parameters themselves, so that gradients reach them.

    The bound and the factor of the logits are those in the configuration of a model of transformers. Call
    `check_output_layer` once before you rely on them.

    Returns:
        None if there is no such layer, or if it is no linear layer, such as one with an adapter of its own.

    Example:
        >>> layer = get_output_layer(nn.Sequential(nn.Embedding(5, 2), nn.Linear(2, 5)))
        >>> layer.weight.shape, layer.softcap, layer.scale
        (torch.Size([5, 2]), None, 1.0)
    """
    named = find_output_layer(model)
    linear = None if named is None else _find_linear(named[1])
    if linear is None:
        return None
    settings = _output_settings(unwrap(model))
    cap = next((settings[name] for name in _SOFTCAPS if settings.get(name)), None)
    scale = math.prod(settings[name] for name in _FACTORS if settings.get(name))
    scale /= math.prod(settings[name] for name in _DIVISORS if settings.get(name))
    return OutputLayer(linear.weight, linear.bias, None if cap is None else float(cap), float(scale))


def _find_linear(module: nn.Module) -> nn.Linear | None:
    """The linear layer whose weight gives the output; None if another weight takes part, as with LoRA."""
    layer: Any = module
    while hasattr(layer, "modules_to_save"):  # peft trains a whole copy of this layer
        layer = layer.modules_to_save[layer.active_adapters[0]]
    # A layer with parameters of its own beside these may add to the product what is zero at first, as LoRA does.
    is_plain = isinstance(layer, nn.Linear) and {name for name, _ in layer.named_parameters()} <= {"weight", "bias"}
    return layer if is_plain and layer.weight.is_floating_point() and layer.weight.ndim == 2 else None


def _output_settings(model: Any) -> dict[str, Any]:
    """The configuration of a model of transformers, or of its language part; empty for other models."""
    inner = _without_adapter(model)
    if not hasattr(inner, "config") or not hasattr(inner.config, "get_text_config"):
        return {}
    settings: dict[str, Any] = inner.config.get_text_config(decoder=True).to_dict()
    # MPT's logit_scale may be a word, which stands for a function of its width.
    return {key: value for key, value in settings.items() if isinstance(value, (int, float))}


def check_output_layer(model: nn.Module, inputs: Inputs, *, adaptor: Adaptor | None = None) -> OutputLayer:
    """Compare a model's logits with those of its `get_output_layer`, on a few positions of the first example.

    The model is called once without gradients, in the mode that it is in.

    Raises:
        MissingOutputError: If there is no linear output layer, it is not called exactly once, or another operation
            follows it.
    """
    layer, named = get_output_layer(model), find_output_layer(model)
    who = type(_without_adapter(unwrap(model))).__name__
    if layer is None or named is None:
        what = "no linear layer" if named is None else f"{named[0]!r}, which is no plain linear layer"
        raise MissingOutputError(f"The logits of {who} come from {what}, so they cannot be computed apart from it.")
    first = input_rows(inputs, torch.zeros(1, dtype=torch.int64))
    if isinstance(inputs, Mapping):  # now, because its calls would be counted
        _check_texts_apart(model, inputs, place_tokens(model, inputs)[1])
    seen: list[Tensor] = []

    def shorten(_: nn.Module, given: tuple[Any, ...]) -> tuple[Any, ...]:
        # A few positions are enough; the logits of a whole text may not fit in memory.
        seen.append(given[0][:, :8] if given[0].ndim == 3 else given[0])
        return (seen[-1], *given[1:])

    handle = named[1].register_forward_pre_hook(shorten)
    try:
        with torch.no_grad():
            logits = logits_of(call(unwrap(model), first), adaptor)
            expected = layer.logits(seen[0]) if len(seen) == 1 else logits.new_empty(0)
    finally:
        handle.remove()
    if expected.shape != logits.shape or not _are_close(expected, logits, layer.weight.dtype):
        raise MissingOutputError(
            f"The logits of {who} are not the output of its layer {named[0]!r}: another operation follows it, or it is "
            f"called {len(seen)} times."
        )
    return layer


def _are_close(expected: Tensor, logits: Tensor, dtype: torch.dtype) -> bool:
    """Whether logits are equal up to rounding, at other places in half precision; infinite ones must be the same."""
    finite = logits.isfinite()
    if not torch.equal(expected[~finite].nan_to_num(), logits[~finite].to(expected.dtype).nan_to_num()):
        return False
    coarse = max(torch.finfo(kind).eps for kind in (dtype, expected.dtype, logits.dtype))
    difference = (expected[finite].double() - logits[finite].double()).abs()
    return not logits[finite].numel() or bool(difference.max() <= 32 * coarse * logits[finite].abs().max())


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

    Inputs with ``input_ids`` are those of a language model: `with_positions`, `with_decoder_inputs`, and a model of
    your own whose forward pass has no such argument gets the ids as its first one.

    Floating-point inputs are cast to the dtype of the parameters, if all have the same one, so that float32 examples
    can be passed to a model in bfloat16 or float64.
    """
    if isinstance(inputs, Tensor):  # the most frequent case, and the next check is slow
        return model(_cast(inputs, model))
    if isinstance(inputs, Mapping):
        first, named = place_tokens(model, inputs)
        _check_texts_apart(model, inputs, named)
        without_mask = "input_ids" in named and "attention_mask" not in named
        with without_mask_advice() if without_mask else nullcontext():
            return model(*first, **{name: _cast(value, model) for name, value in named.items()})
    if isinstance(inputs, (tuple, list)):
        return model(*(_cast(value, model) for value in inputs))
    return model(inputs)


def _check_texts_apart(model: Any, inputs: Mapping[str, Any], named: Mapping[str, Any]) -> None:
    """`check_separates` for a model that takes positions, and `check_padding_in_front`."""
    if not isinstance(model, nn.Module) or "input_ids" not in inputs:
        return
    answer = partial(_find_logits, unwrap(model))
    if "position_ids" in named:
        check_separates(unwrap(model), inputs, answer)
    if "attention_mask" in named:
        check_padding_in_front(unwrap(model), inputs, answer)


def _find_logits(model: nn.Module, inputs: Mapping[str, Any]) -> Tensor | None:
    """The logits of a model for tokens; None if an adaptor is needed."""
    first, named = place_tokens(model, inputs)
    try:
        return logits_of(model(*first, **named))
    except MissingOutputError:
        return None


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
    # The last check looks at all modules.
    if not mask.numel() or bool(mask[:, 0].all()) or not takes_positions(model):
        return inputs
    places = (mask.long().cumsum(-1) - 1).clamp_min(0)
    return {**inputs, "position_ids": places}


def with_decoder_inputs(model: Callable[..., Any], inputs: Mapping[str, Any]) -> Mapping[str, Any]:
    """Inputs of an encoder-decoder with what its decoder reads: the labels, shifted right by the model's own rule.

    ``labels`` are replaced by ``decoder_input_ids``, which begin with the model's start token. This is done here and
    nowhere else. The model does not get the labels, because it would compute a loss of its own.

    Raises:
        MissingOutputError: If the model has no rule.
    """
    if "labels" not in inputs or "input_ids" not in inputs:
        return inputs
    rest = {name: value for name, value in inputs.items() if name != "labels"}
    if "decoder_input_ids" in inputs:
        return rest
    inner = _without_adapter(unwrap(model))
    if not hasattr(inner, "prepare_decoder_input_ids_from_labels"):
        raise MissingOutputError(
            f"{type(inner).__name__} is no encoder-decoder of transformers, so what its decoder reads is not known. "
            "Give decoder_input_ids, such as by TokenPairDataset(..., decoder_start_token_id=...)."
        )
    return {**rest, "decoder_input_ids": inner.prepare_decoder_input_ids_from_labels(inputs["labels"])}


def place_tokens(model: Callable[..., Any], inputs: Mapping[str, Any]) -> tuple[tuple[Any, ...], Mapping[str, Any]]:
    """Inputs of a language model for the arguments of a model: those without a name, and those with one.

    Other inputs by name are returned as they are.
    """
    if "input_ids" not in inputs:
        return (), inputs
    inputs = with_positions(model, with_decoder_inputs(model, inputs))
    inner = _without_adapter(unwrap(model))
    if not isinstance(inner, nn.Module):
        return (), inputs
    known, takes_any = _parameters(type(inner).forward)
    left_out = {name for name in _OPTIONAL if name in inputs and name not in known and not takes_any}
    if "position_ids" in inputs and (type(inner).__module__.startswith("transformers.") or "position_ids" in left_out):
        left_out |= set() if takes_positions(model) else {"position_ids"}
    check_left_out(inner, inputs, left_out)
    named = {name: value for name, value in inputs.items() if name not in left_out}
    if "input_ids" in known or takes_any:
        return (), named
    return (named.pop("input_ids"),), named


_OPTIONAL = ("attention_mask", "position_ids", "token_type_ids", "use_cache")
"""Inputs beside the ids that a model may do without."""


def takes_positions(model: Any) -> bool:
    """Whether a model takes the position of each token, and does not compute it from the padding."""
    inner = _without_adapter(unwrap(model))
    if not isinstance(inner, nn.Module) or "position_ids" not in _parameters(inner.__class__.forward)[0]:
        return False
    own = "create_position_ids_from_input_ids"
    return not any(hasattr(type(module), own) for module in inner.modules())


def known_arguments(model: Any) -> frozenset[str]:
    """The names of the arguments of a model's forward pass; those of the model inside an adapter."""
    return _parameters(type(_without_adapter(unwrap(model))).forward)[0]


@lru_cache(maxsize=64)
def _parameters(function: Callable[..., Any]) -> tuple[frozenset[str], bool]:
    """The names of a function's parameters, and whether it takes any others."""
    parameters = inspect.signature(function).parameters
    return frozenset(parameters), any(one.kind is one.VAR_KEYWORD for one in parameters.values())


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
