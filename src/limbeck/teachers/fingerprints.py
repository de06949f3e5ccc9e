"""Fingerprints of a teacher's code, and of the inputs for which outputs were stored."""

from __future__ import annotations

import functools
import hashlib
import zlib
from collections.abc import Iterator, Mapping
from types import BuiltinFunctionType, CodeType, FunctionType, MethodType
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from limbeck.batch import Batch
from limbeck.models import fingerprint
from limbeck.models.size_and_hash import state_fingerprint, unwrap_compiled
from limbeck.random_seeds import mix
from limbeck.teachers.teacher import HasValues, SharedInputs, Teacher, describe_preprocess, get_function_name

_PLAIN = (bool, int, float, str)


def hash_layers(model: nn.Module) -> str:
    """SHA-256 of a network's layers: their names, their classes, and their `extra_repr`.

    Two networks with the same weights may differ in layers without weights, such as a ``ReLU`` and a ``Tanh``.
    """
    modules = unwrap_compiled(model).named_modules()
    lines = (f"{name} {type(part).__name__} {part.extra_repr()}" for name, part in modules)
    return hashlib.sha256("\n".join(lines).encode()).hexdigest()


def code_fingerprint(function: Any, *, weights: bool = True) -> str | None:
    """The name of a function and a hash of its code and of the values that it holds; its own values if it has any.

    The hash covers the constants and names in its code, its defaults, its closure, the arguments of a partial and the
    public attributes of an object. So two lambdas of the same name are told apart.

    Args:
        function: Any callable; None gives None.
        weights: Whether the weights of networks that it holds count, or only their layers. The weights of a network
            that learns are different when a run is resumed.

    Example:
        >>> code_fingerprint(lambda batch: batch.inputs / 2) == code_fingerprint(lambda batch: batch.inputs / 3)
        False
    """
    if isinstance(function, SharedInputs):
        function = function.function
    if function is None or describe_preprocess(function) is None or isinstance(function, HasValues):
        return describe_preprocess(function)
    digest = hashlib.sha256(_ContentText(weights).describe(function).encode()).hexdigest()
    return f"{get_function_name(function)} {digest[:16]}"


class _ContentText:
    """Describes values by their content, as a text to hash."""

    def __init__(self, weights: bool) -> None:
        self._weights = weights
        self._visited: dict[int, Any] = {}  # keeps the objects alive, so that no other object gets the same id

    def describe(self, value: Any) -> str:
        if value is None or isinstance(value, (bool, int, float, complex, str, bytes)):
            return repr(value)
        if id(value) in self._visited:
            return f"number {list(self._visited).index(id(value))}"
        self._visited[id(value)] = value
        if isinstance(value, (tuple, list)):
            return f"[{', '.join(self.describe(item) for item in value)}]"
        if isinstance(value, Mapping):
            return f"{{{', '.join(f'{key}: {self.describe(item)}' for key, item in value.items())}}}"
        if isinstance(value, np.ndarray):
            plain = self._weights or value.dtype == object
            return f"array {value.dtype} {self.describe(value.tolist()) if plain else _hash_array(value)}"
        if isinstance(value, (Tensor, nn.Module)):
            return self._describe_tensors(value)
        if isinstance(value, functools.partial):
            parts = (value.func, value.args, value.keywords)
            return f"partial {' '.join(self.describe(part) for part in parts)}"
        if isinstance(value, (FunctionType, MethodType)):
            return self._describe_function(value)
        return self._describe_object(value)

    def _describe_tensors(self, value: Tensor | nn.Module) -> str:
        if isinstance(value, Tensor):
            learns = value.requires_grad and not self._weights
            return f"{list(value.shape)}" if learns else state_fingerprint({"value": value})
        return f"{fingerprint(value) if self._weights else type(value).__qualname__} {hash_layers(value)}"

    def _describe_function(self, function: Any) -> str:
        cells = (_read_cell(cell) for cell in function.__closure__ or ())
        inside = (function.__defaults__, function.__kwdefaults__, *cells)
        own = function.__self__ if isinstance(function, MethodType) else None
        # A run may be resumed with another version of limbeck, whose code differs.
        library = not self._weights and str(function.__module__).startswith("limbeck.")
        if library and "<locals>" not in function.__qualname__:
            # Its closure belongs to the version too: a decorator, such as one that checks types.
            return f"code {function.__module__}.{function.__qualname__}"
        code = "" if library else _describe_code(function.__code__, function.__doc__)
        if not self._weights and not library:
            code += f" {self.describe(_global_settings(function))}"
        return f"code {code} {self.describe(inside)} {self.describe(own)}"

    def _describe_object(self, value: Any) -> str:
        if not self._weights and isinstance(value, Teacher):
            return f"{type(value).__name__} {self.describe(value.describe())}"
        try:
            attributes = vars(value)
        except TypeError:  # an object with __slots__
            attributes = {}
        public = {name: item for name, item in attributes.items() if not name.startswith("_")}
        if not self._weights:  # a class may keep its settings in private attributes
            public |= {name: item for name, item in attributes.items() if isinstance(item, _PLAIN)}
        return f"{type(value).__name__} {'' if isinstance(value, type) else self.describe(public)}"


def _describe_code(code: CodeType, docstring: str | None) -> str:
    """The names and constants of a function without its docstring, sorted, as their order depends on the compiler."""
    parts = {repr(name) for name in code.co_names}
    for constant in code.co_consts:
        if isinstance(constant, CodeType):
            parts.add(_describe_code(constant, None))
        elif constant is not None and constant != docstring and not (isinstance(constant, str) and "<" in constant):
            parts.add(repr(constant))
    return " ".join(sorted(parts))


def _global_settings(function: Any) -> dict[str, Any]:
    """The numbers and texts among the globals that a function uses."""
    values = {name: function.__globals__.get(name) for name in sorted(function.__code__.co_names)}
    return {name: item for name, item in values.items() if isinstance(item, _PLAIN) and not name.startswith("__")}


def _hash_array(array: np.ndarray) -> str:
    return f"{array.shape} {hashlib.sha256(np.ascontiguousarray(array).tobytes()).hexdigest()}"


def _read_cell(cell: Any) -> Any:
    try:
        return cell.cell_contents
    except ValueError:  # not filled yet
        return None


def hash_object(value: Any) -> str:
    """SHA-256 of an object's class and state, equal for equal content.

    A pickle is not: it depends on which strings and arrays are the same object, and on the unused bytes in records.
    """
    digest = hashlib.sha256()
    for part in _object_parts(value, ()):
        digest.update(part)
        digest.update(b"\0")
    return digest.hexdigest()


def _object_parts(value: Any, outer: tuple[int, ...]) -> Iterator[bytes]:
    if isinstance(value, (*_PLAIN, complex, bytes, type(None), np.generic)):
        yield f"{type(value).__name__} {value!r}".encode()
    elif id(value) in outer:  # an object that contains itself
        yield f"outer {outer.index(id(value))}".encode()
    elif isinstance(value, np.ndarray) and value.dtype.names is not None:
        for name in value.dtype.names:
            yield name.encode()
            yield from _object_parts(value[name], outer)
    elif isinstance(value, np.ndarray) and value.dtype != object:
        yield f"{value.dtype} {value.shape}".encode() + np.ascontiguousarray(value).tobytes()
    elif isinstance(value, (type, FunctionType, BuiltinFunctionType)):
        yield f"{value.__module__}.{value.__qualname__}".encode()
    else:
        inner = (*outer, id(value))
        for part in _content_of(value):
            yield from _object_parts(part, inner)
        yield b"end"


def _content_of(value: Any) -> Iterator[Any]:
    """The parts that an object is made of, its class first."""
    yield type(value).__qualname__
    if isinstance(value, np.ndarray):
        yield from (value.shape, *value.ravel().tolist())
    elif isinstance(value, Mapping):
        yield from (part for key in sorted(value, key=repr) for part in (key, value[key]))
    elif isinstance(value, (set, frozenset)):
        yield from sorted(value, key=repr)
    elif isinstance(value, (list, tuple)):
        yield from value
    elif isinstance(reduced := value.__reduce_ex__(4), str):
        yield reduced
    else:
        function, arguments, state, items, entries = (*reduced, None, None, None)[:5]
        yield from (function, arguments, state)
        yield from items or ()
        yield from sorted(entries or (), key=repr)


Marks = NDArray[np.int64]

_MOST = 4096  # numbers of an example that are used, evenly spaced over all of them

_NEAR = 1e-5  # relative tolerance: the last bits of inputs may depend on the batch in which they were made


def input_marks(batch: Batch) -> Marks:
    """Two checksums of each example's inputs, ``[n, 2]``: one of its integers, one of its floating-point numbers.

    Padding is left out, so that a text has the same checksums beside a longer one.
    """
    whole = torch.zeros(batch.size, dtype=torch.int64)
    fractions = torch.zeros(batch.size, dtype=torch.float64)
    counted = _attention_mask(batch)
    for number, part in enumerate(_input_tensors(batch.inputs)):
        tensor = part.detach().cpu()
        if len(tensor) != batch.size:
            continue
        rows, here = _rows(tensor, counted)
        if rows.is_floating_point():
            fractions += (rows.double().nan_to_num() * here * _position_weights(here, number)).sum(1)
        else:
            keyed = mix(mix(rows.long() + 1) ^ mix(here.cumsum(1) + (number << 32)))
            whole = mix(whole + torch.where(here, keyed, 0).sum(1))
    return np.stack([whole.numpy(), fractions.numpy().view(np.int64)], 1)


def marks_differ(marks: Marks, before: Marks) -> NDArray[np.bool_]:
    """Which examples have other inputs than before; False where no checksum was stored (both are 0)."""
    now, then = (np.ascontiguousarray(column[:, 1]).view(np.float64) for column in (marks, before))
    far = np.abs(now - then) > _NEAR * np.maximum(np.abs(now), np.abs(then)) + _NEAR
    return ((marks[:, 0] != before[:, 0]) | far) & before.any(1)


def _input_tensors(inputs: Any) -> Iterator[Tensor]:
    """The tensors that a model is called with; texts as checksums."""
    if isinstance(inputs, Tensor):
        yield inputs
    elif isinstance(inputs, Mapping):
        for name in sorted(inputs, key=str):
            yield from _input_tensors(inputs[name])
    elif isinstance(inputs, (tuple, list)) and inputs and isinstance(inputs[0], str):
        yield torch.tensor([zlib.crc32(text.encode()) for text in inputs])
    elif isinstance(inputs, (tuple, list)):
        for part in inputs:
            yield from _input_tensors(part)


def _attention_mask(batch: Batch) -> Tensor | None:
    """Which tokens of each text are not padding."""
    mask = batch.inputs.get("attention_mask") if isinstance(batch.inputs, Mapping) else None
    # Packed texts have no attention mask, and batch.mask leaves out their prompts, on which the outputs depend.
    mask = batch.extra.get("masks", {}).get("text") if mask is None else mask
    mask = batch.mask if mask is None else mask
    return mask.cpu().bool() if isinstance(mask, Tensor) and mask.ndim == 2 else None


def _rows(tensor: Tensor, counted: Tensor | None) -> tuple[Tensor, Tensor]:
    """Each example's numbers in one row, and which of them count."""
    if counted is not None and tensor.shape[:2] == counted.shape:
        here = counted.reshape(*counted.shape, *[1] * (tensor.ndim - 2)).expand(tensor.shape)
        return tensor.flatten(1), here.flatten(1)
    rows = tensor.reshape(len(tensor), -1)
    if rows.shape[1] > _MOST:
        rows = rows[:, torch.linspace(0, rows.shape[1] - 1, _MOST).long()]
    return rows, torch.ones_like(rows, dtype=torch.bool)


def _position_weights(here: Tensor, number: int) -> Tensor:
    """A pseudorandom weight from 0.5 to 1.5 for each position, so that the sum changes when two numbers are swapped."""
    return (mix(here.cumsum(1) + (number << 32)) & 0xFFFF).double() / 2**16 + 0.5
