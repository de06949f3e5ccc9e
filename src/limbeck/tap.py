"""`Tapped`: reads intermediate outputs of any module without changing it."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager, nullcontext
from types import TracebackType
from typing import Any, Literal, NamedTuple, Protocol, cast, runtime_checkable

import torch
from torch import Tensor, nn
from torch.nn.parameter import is_lazy
from torch.utils.hooks import RemovableHandle

from limbeck.batch import LOGITS, LOGITS_INPUT, Inputs, Outputs, input_rows, missing_output_error
from limbeck.errors import LimbeckError, MissingOutputError
from limbeck.functional.output_layer import HiddenLogits, OutputLayer
from limbeck.model_call import (
    Adaptor,
    call,
    check_first_of_several,
    check_output_layer,
    find_output_layer,
    get_output_layer,
    logits_of,
    unwrap,
)
from limbeck.separate_texts import is_trial


class Address(NamedTuple):
    """The place of a tensor in a model: a module, its input or output, and an element of that.

    Written ``path``, ``path:in``, ``path:0``, ``path:in:1`` or ``path:key``.
    """

    path: str
    side: Literal["in", "out"]
    element: str | int | None

    @classmethod
    def parse(cls, text: str) -> Address:
        """Parse the text form of an address.

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


class _StopForward(BaseException):
    """Raised before the output layer. A BaseException, so that no model catches it."""


class Tapped(nn.Module):
    """A module with readable intermediate outputs inside a ``with`` block.

    Called with a model's inputs, it returns an `Outputs` with ``logits`` and every requested address. The model is not
    changed: the hooks are removed at the end of the block, and state-dict keys and classes stay the same.

    If the addresses contain ``logits:in``, the input of the output layer, and not ``logits``, then the forward pass
    ends before that layer: logits, the largest tensor of a language model, are never computed.

    If a module is called several times in one forward pass, the last call is returned. If a later operation changes a
    value in place (``ReLU(inplace=True)``), the model is called again and the value is copied before the change.

    Args:
        model: Any module.
        addresses: The addresses to read in addition to ``logits``.
        adaptor: Function from the model's raw output to logits, for unusual outputs.
        hidden_logits: Whether to return the logits as `HiddenLogits` where that is possible, in `Outputs.hidden`, with
            the hidden states at ``logits:in``. The first call checks that the model's own logits are the same; if they
            are not, `dense_reason` says why, and the logits are a tensor as usual.

    Raises:
        MissingOutputError: If an address is not a module of the model; the message names the nearest.

    Example:
        >>> import torch
        >>> with Tapped(nn.Sequential(nn.Linear(2, 3), nn.Linear(3, 4)), ["0"]) as tapped:
        ...     outputs = tapped(torch.zeros(5, 2))
        >>> {address: tuple(tensor.shape) for address, tensor in outputs.items()}
        {'0': (5, 3), 'logits': (5, 4)}
    """

    def __init__(
        self,
        model: nn.Module,
        addresses: Iterable[str] = (),
        *,
        adaptor: Adaptor | None = None,
        hidden_logits: bool = False,
    ) -> None:
        super().__init__()
        self.model = model
        self.adaptor = adaptor
        self.changes_inputs: bool | None = None
        """Whether the model's forward pass changes its inputs in place; None before the first call."""
        texts = set(addresses)
        self._of = frozenset(texts)
        self._wants_hidden = hidden_logits
        self.dense_reason: str | None = None
        """Why the logits are a tensor although `hidden_logits` was given; None if they are not, or it was not."""
        if hidden_logits and (unwrap(model) is not model or get_output_layer(model) is None):
            self.dense_reason = f"{type(model).__name__} has no plain linear output layer, or it is compiled."
        self.hidden_logits = hidden_logits and self.dense_reason is None
        """Whether the logits are returned as `HiddenLogits`."""
        if self.hidden_logits:
            texts |= {LOGITS_INPUT}
        self.skips_logits = self.hidden_logits or (LOGITS_INPUT in texts and LOGITS not in texts)
        """Whether the forward pass ends before the output layer."""
        self._checked = self._stops = self._listens = False
        self._layer: OutputLayer | None = None
        self._read = {text: Address.parse(text) for text in sorted(texts - {LOGITS})}
        self._copied: set[str] = set()
        self._values: dict[str, tuple[Tensor, int]] = {}
        self._handles: list[RemovableHandle] = []
        modules = dict(unwrap(model).named_modules())
        if LOGITS_INPUT in self._read:
            self._read[LOGITS_INPUT] = Address(self._output_layer(), "in", None)
        for text, address in self._read.items():
            if address.path not in modules or not address.path:
                raise missing_output_error(text, [LOGITS, *filter(None, modules)], who=type(model).__name__)

    def _output_layer(self) -> str:
        layer = find_output_layer(self.model)
        if layer is None:
            raise MissingOutputError(
                f"{LOGITS_INPUT!r} is the input of the layer that computes the logits, and {type(self.model).__name__} "
                "has no linear layer. Name the address itself: path:in."
            )
        return layer[0]

    def of(self, model: nn.Module) -> Tapped:
        """The same addresses for another module, outside a ``with`` block."""
        return Tapped(model, self._of, adaptor=self.adaptor, hidden_logits=self._wants_hidden)

    def __enter__(self) -> Tapped:
        modules = dict(unwrap(self.model).named_modules())
        for text, address in self._read.items():
            module = modules[address.path]
            # A pre-hook, because the module may change its input in place.
            listen = module.register_forward_pre_hook if address.side == "in" else module.register_forward_hook
            self._handles.append(listen(self._listen(text, address)))
        if self.skips_logits:  # registered last, so that all other hooks have read the input
            last = modules[self._read[LOGITS_INPUT].path]
            self._handles.append(last.register_forward_pre_hook(self._stop))
        return self

    def __exit__(self, *_: object) -> None:
        for handle in self._handles:
            handle.remove()
        self._handles.clear()
        self._values.clear()

    def forward(self, inputs: Inputs) -> Outputs:
        """Call the model and return its outputs at the addresses."""
        if self._read and not self._handles:
            raise LimbeckError("Tapped reads inside a model only within `with Tapped(model, addresses) as tapped:`.")
        if not self._checked and self.hidden_logits:
            self._check_hidden_logits(inputs)
        if not self._checked and LOGITS_INPUT in self._read:
            self._check_output_layer(inputs)
        output = self._call(inputs)
        if not self._checked and self.adaptor is None and not self.skips_logits:
            check_first_of_several(self.model, inputs, output)
        self._checked = True
        changed = {text for text, (tensor, before) in self._values.items() if _version(tensor) != before}
        if changed:
            self._copied |= changed
            output = self._call(inputs)
        outputs = Outputs({text: self._values[text][0] for text in self._read if self._was_called(text)})
        if not self.skips_logits:
            outputs[LOGITS] = logits_of(output, self.adaptor)
        elif self.hidden_logits:
            layer = cast(OutputLayer, self._layer)
            logits = HiddenLogits(outputs[LOGITS_INPUT], layer, requires_grad=torch.is_grad_enabled())
            outputs.hidden = {LOGITS: logits}
        self._values.clear()
        return outputs

    def _call(self, inputs: Inputs) -> Any:
        """Call the model; on copies if it changes its inputs in place (``x.sub_(mean)``): a teacher reads them too."""
        self._values.clear()
        # A graph of torch.compile cannot be stopped in the middle.
        model = unwrap(self.model) if self.skips_logits else self.model
        if self.changes_inputs is False:
            return self._until_stop(model, inputs)
        copies = _copied(inputs)
        before = [_version(tensor) for tensor in _tensors(copies)]
        output = self._until_stop(model, copies)
        if self.changes_inputs is None:
            self.changes_inputs = before != [_version(tensor) for tensor in _tensors(copies)]
        return output

    def _until_stop(self, model: nn.Module, inputs: Inputs) -> Any:
        if not self._read:  # there are no hooks, and setting attributes of a module is slow
            return call(model, inputs)
        # Others may call the model too: its user between two reports, or a teacher that is this model.
        self._stops, self._listens = self.skips_logits, True
        try:
            return call(model, inputs)
        except _StopForward:
            return None
        finally:
            self._stops = self._listens = False

    def _stop(self, module: nn.Module, _: Any) -> None:
        if self._stops and not is_trial():
            raise _StopForward

    def _check_output_layer(self, inputs: Inputs) -> None:
        """Call the whole model once on a few positions to check that the logits are the output of the output layer."""
        model = unwrap(self.model)
        layer = dict(model.named_modules())[self._read[LOGITS_INPUT].path]
        results: list[Any] = []
        # A few positions of a text are enough; the logits of all may not fit in memory.
        handles = [
            layer.register_forward_pre_hook(lambda _, seen: (seen[0][:, :8], *seen[1:]) if seen[0].ndim == 3 else None),
            layer.register_forward_hook(lambda _, __, output: results.append(output)),
        ]
        try:
            with torch.no_grad(), FrozenParameters(self.model), preserved_buffers([self.model]):
                logits = logits_of(call(model, input_rows(inputs, torch.zeros(1, dtype=torch.int64))), self.adaptor)
        finally:
            for handle in handles:
                handle.remove()
        self._checked = self.skips_logits
        if not results or not torch.equal(results[-1].to(logits.dtype), logits):
            raise MissingOutputError(
                f"The logits of {type(self.model).__name__} are not the output of its layer "
                f"{self._read[LOGITS_INPUT].path!r}: another operation follows it, so {LOGITS_INPUT!r} has no meaning."
            )

    def _check_hidden_logits(self, inputs: Inputs) -> None:
        """Compare the model's own logits with those of its output layer, in its present mode and in eval mode."""
        modes: list[AbstractContextManager[Any]] = [nullcontext(), FrozenParameters(self.model)]
        try:
            for mode in modes:
                with mode, preserved_buffers([self.model]):
                    self._layer = check_output_layer(self.model, inputs, adaptor=self.adaptor)
        # A model may refuse a single example, as BatchNorm does; what it says of the whole batch is said by that call.
        except (MissingOutputError, RuntimeError, ValueError, TypeError, IndexError) as error:
            self.dense_reason = str(error)
            self.hidden_logits = self.skips_logits = False
            if LOGITS_INPUT not in self._of:
                del self._read[LOGITS_INPUT]
        else:
            self._checked = True

    def _was_called(self, text: str) -> bool:
        if text not in self._values:
            raise MissingOutputError(
                f"The module at {text!r} was not called in this forward pass, so it has no output; choose another one."
            )
        return True

    def _listen(self, text: str, address: Address) -> Callable[..., None]:
        def hook(_: nn.Module, *seen: Any) -> None:
            if not self._listens or is_trial():
                return
            # The last argument is the inputs in a pre-hook and the output in a forward hook.
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
    """Copies of the inputs, on the same autograd graph."""
    if isinstance(inputs, Mapping):
        return {name: value.clone() if isinstance(value, Tensor) else value for name, value in inputs.items()}
    if isinstance(inputs, (tuple, list)):
        return tuple(value.clone() if isinstance(value, Tensor) else value for value in inputs)
    return inputs.clone() if isinstance(inputs, Tensor) else inputs


def _version(tensor: Tensor) -> int:
    """The number of in-place changes; inference tensors do not count them, so they are copied when they are read."""
    return -1 if _of_inference(tensor) else tensor._version


def _of_inference(tensor: Tensor) -> bool:
    return not torch.compiler.is_compiling() and tensor.is_inference()


class FrozenParameters(AbstractContextManager["FrozenParameters"]):
    """A block in which a module is in eval (or train) mode; afterwards every submodule has its previous mode."""

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
    """A block after which every buffer, such as running statistics, has its previous value."""
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


@runtime_checkable
class HasAdaptors(Protocol):
    """The models of a run, with the adaptor for each one's output."""

    def adaptor(self, name: str) -> Adaptor | None:
        """The adaptor of the model of this name."""
        ...


def get_adaptor(models: Mapping[str, nn.Module], name: str) -> Adaptor | None:
    """The adaptor that a run has for one of its models; None for a plain mapping of models."""
    return models.adaptor(name) if isinstance(models, HasAdaptors) else None
