"""`Tapped`: reads the inside of any module without changing it."""

from __future__ import annotations

import inspect
import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager
from functools import lru_cache
from types import TracebackType
from typing import Any, Literal, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel
from torch.nn.parameter import is_lazy
from torch.utils.hooks import RemovableHandle

from limbeck.batch import LOGITS, Inputs, Outputs, input_rows, missing_output_error
from limbeck.errors import LimbeckError, MissingOutputError

Adaptor = Callable[[Any], Any]
"""A model's raw output -> its logits, or a dict with ``logits``: the way in for outputs `logits_of` cannot read."""


class Address(NamedTuple):
    """Where to listen: a module, its input or output, and which element of that.

    Written ``path``, ``path:in``, ``path:0``, ``path:in:1`` or ``path:key``.
    """

    path: str
    side: Literal["in", "out"]
    element: str | int | None

    @classmethod
    def parse(cls, text: str) -> Address:
        """Read an address as a person writes it.

        Example:
            >>> Address.parse("encoder.layer.11:0")
            Address(path='encoder.layer.11', side='out', element=0)
        """
        path, *parts = text.split(":")
        side: Literal["in", "out"] = "in" if parts[:1] == ["in"] else "out"
        rest = parts[1:] if parts and parts[0] in ("in", "out") else parts
        if len(rest) > 1:
            raise MissingOutputError(f"Address {text!r} has too many parts; write path, path:in, path:0 or path:in:0.")
        element = rest[0] if rest else None
        return cls(path, side, int(element) if element is not None and re.fullmatch(r"\d+", element) else element)


class Tapped(nn.Module):
    """A module whose inside can be read while a ``with`` block lasts.

    Called with a model's inputs it gives a `Outputs`: ``logits`` and every address asked for. The module itself is not
    edited: its hooks leave with the block, its state-dict keys never change, its classes are untouched.

    A module that is called several times in one forward pass shows its last call. A value that is changed in place
    after it was read (``ReLU(inplace=True)``) is read again from a copy, so what is shown is what the address held.

    Args:
        model: Any module.
        addresses: What to read besides ``logits``.
        adaptor: Raw output -> logits, for strange outputs.

    Raises:
        MissingOutputError: If an address is not a module of the model; the nearest is named.

    Example:
        >>> import torch
        >>> with Tapped(nn.Sequential(nn.Linear(2, 3), nn.Linear(3, 4)), ["0"]) as tapped:
        ...     outputs = tapped(torch.zeros(5, 2))
        >>> {address: tuple(tensor.shape) for address, tensor in outputs.items()}
        {'0': (5, 3), 'logits': (5, 4)}
    """

    def __init__(self, model: nn.Module, addresses: Iterable[str] = (), *, adaptor: Adaptor | None = None) -> None:
        super().__init__()
        self.model = model
        self.adaptor = adaptor
        self._looked_at = False
        self.changes_inputs: bool | None = None
        """Whether the model's forward changes its inputs in place; None before it was called."""
        self._read = {text: Address.parse(text) for text in sorted(set(addresses) - {LOGITS})}
        self._copied: set[str] = set()
        self._values: dict[str, tuple[Tensor, int]] = {}
        self._handles: list[RemovableHandle] = []
        modules = dict(_inside(model))
        for text, address in self._read.items():
            if address.path not in modules or not address.path:
                raise missing_output_error(text, [LOGITS, *filter(None, modules)], who=type(model).__name__)

    def of(self, model: nn.Module) -> Tapped:
        """The same taps, closed, in another module."""
        return Tapped(model, self._read, adaptor=self.adaptor)

    def __enter__(self) -> Tapped:
        modules = dict(_inside(self.model))
        for text, address in self._read.items():
            module = modules[address.path]
            # An input is read before the module has had a chance to change it in place.
            listen = module.register_forward_pre_hook if address.side == "in" else module.register_forward_hook
            self._handles.append(listen(self._listen(text, address)))
        return self

    def __exit__(self, *_: object) -> None:
        for handle in self._handles:
            handle.remove()
        self._handles.clear()
        self._values.clear()

    def forward(self, inputs: Inputs) -> Outputs:
        """Call the model and show what was asked for."""
        if self._read and not self._handles:
            raise LimbeckError("Tapped reads inside a model only within `with Tapped(model, addresses) as tapped:`.")
        output = self._call(inputs)
        if not self._looked_at and self.adaptor is None:
            self._looked_at = True
            check_first_of_several(self.model, inputs, output)
        changed = {text for text, (tensor, before) in self._values.items() if _version(tensor) != before}
        if changed:
            self._copied |= changed
            output = self._call(inputs)
        outputs = Outputs({text: self._values[text][0] for text in self._read if self._was_called(text)})
        outputs[LOGITS] = logits_of(output, self.adaptor)
        self._values.clear()
        return outputs

    def _call(self, inputs: Inputs) -> Any:
        """Call the model, which may change its inputs in place (``x.sub_(mean)``): the other side reads them too."""
        self._values.clear()
        if self.changes_inputs is False:
            return call(self.model, inputs)
        copies = _copied(inputs)
        before = [_version(tensor) for tensor in _tensors(copies)]
        output = call(self.model, copies)
        if self.changes_inputs is None:
            self.changes_inputs = before != [_version(tensor) for tensor in _tensors(copies)]
        return output

    def _was_called(self, text: str) -> bool:
        if text not in self._values:
            raise MissingOutputError(
                f"The module at {text!r} was not called in this forward pass, so it shows nothing; tap one that is."
            )
        return True

    def _listen(self, text: str, address: Address) -> Callable[..., None]:
        def hook(_: nn.Module, *seen: Any) -> None:
            # The last is the arguments before the module ran, its output after it.
            tensor = _pick_element(text, address, seen[-1])
            tensor = tensor.clone() if text in self._copied or _of_inference(tensor) else tensor
            self._values[text] = (tensor, _version(tensor))

        return hook


def _tensors(inputs: Inputs) -> list[Tensor]:
    if isinstance(inputs, Tensor):
        return [inputs]
    values = inputs.values() if isinstance(inputs, Mapping) else inputs if isinstance(inputs, (tuple, list)) else ()
    return [value for value in values if isinstance(value, Tensor)]


def _copied(inputs: Inputs) -> Any:
    """The same inputs in memory of their own, on the same graph."""
    if isinstance(inputs, Mapping):
        return {name: value.clone() if isinstance(value, Tensor) else value for name, value in inputs.items()}
    if isinstance(inputs, (tuple, list)):
        return tuple(value.clone() if isinstance(value, Tensor) else value for value in inputs)
    return inputs.clone() if isinstance(inputs, Tensor) else inputs


def _version(tensor: Tensor) -> int:
    """How often a tensor was changed in place; one of inference mode does not say, so it is copied when it is read."""
    return -1 if _of_inference(tensor) else tensor._version


def _of_inference(tensor: Tensor) -> bool:
    return not torch.compiler.is_compiling() and tensor.is_inference()


def _inside(model: nn.Module) -> Iterator[tuple[str, nn.Module]]:
    """The named modules of a model; of one that was compiled or distributed, those of the module that was given."""
    inner: nn.Module = getattr(model, "_orig_mod", model)
    return (inner.module if isinstance(inner, DistributedDataParallel) else inner).named_modules()


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
    inner = getattr(model, "_orig_mod", model)
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


class FrozenParameters(AbstractContextManager["FrozenParameters"]):
    """A module in eval (or train) mode for the length of a block; every submodule's own flag comes back after it."""

    def __init__(self, model: nn.Module, *, mode: Literal["eval", "train"] = "eval") -> None:
        self._model = model
        self._mode = mode
        self._flags: list[tuple[nn.Module, bool]] = []

    def __enter__(self) -> FrozenParameters:
        self._flags = [(module, module.training) for module in self._model.modules()]
        self._model.train(self._mode == "train")
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for module, training in self._flags:
            module.training = training


@contextmanager
def preserved_buffers(modules: Iterable[nn.Module]) -> Iterator[None]:
    """A block after which every buffer (running statistics) is as before: looking must not change what is looked at."""
    copies = [(b, b.detach().clone()) for module in modules for b in module.buffers() if not is_lazy(b)]
    try:
        yield
    finally:
        with torch.no_grad():
            for buffer, before in copies:
                buffer.copy_(before)


def _pick_element(text: str, address: Address, value: Any) -> Tensor:
    if address.element is None:
        if isinstance(value, (tuple, list)) and value and isinstance(value[0], Tensor):
            return value[0]
        if isinstance(value, Tensor):
            return value
        raise MissingOutputError(
            f"{text!r} gives a {type(value).__name__}, not a tensor; pick an element: {text}:0 or {text}:name."
        )
    if isinstance(value, Tensor):
        raise MissingOutputError(f"{text!r}: {address.path!r} gives one tensor, not several; leave out the last part.")
    try:
        named = isinstance(address.element, str) and not isinstance(value, Mapping)
        element = getattr(value, str(address.element)) if named else value[address.element]
    except (KeyError, IndexError, TypeError, AttributeError) as error:
        raise MissingOutputError(f"{text!r}: no element {address.element!r} in a {type(value).__name__}.") from error
    if not isinstance(element, Tensor):
        raise MissingOutputError(f"{text!r} gives a {type(element).__name__}, not a tensor.")
    return element
