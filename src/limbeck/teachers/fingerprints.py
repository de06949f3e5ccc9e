"""Fingerprints of a teacher's code and of the inputs that were answered."""

from __future__ import annotations

import functools
import hashlib
import zlib
from collections.abc import Iterator, Mapping
from types import CodeType
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from limbeck.batch import Batch
from limbeck.functional.counter_rng import mix
from limbeck.models import fingerprint
from limbeck.models.size_and_hash import state_fingerprint
from limbeck.teachers.teacher import Teacher, describe_preprocess, get_function_name

_PLAIN = (bool, int, float, str)


def hash_layers(model: nn.Module) -> str:
    """SHA-256 of what a network's layers are: their names, their kinds, and what they print of themselves.

    Two networks with the same weights may answer differently: a ``ReLU`` and a ``Tanh`` have none.
    """
    whole = getattr(model, "_orig_mod", model)  # of a compiled one, what was compiled
    lines = (f"{name} {type(part).__name__} {part.extra_repr()}" for name, part in whole.named_modules())
    return hashlib.sha256("\n".join(lines).encode()).hexdigest()


def code_fingerprint(function: Any, *, weights: bool = True) -> str | None:
    """A function by its values where it tells them, else by its name and a hash of what it is made of and holds.

    That is: the numbers, words and names in its code, its defaults, what it closes over, a partial's arguments, an
    object's public attributes. So two lambdas of the same name are told apart.

    Args:
        function: Any callable; None has no content.
        weights: Whether the weights of networks that it holds count, or what their layers are alone: those of a network
            that learns are others when a run is taken up.

    Example:
        >>> code_fingerprint(lambda batch: batch.inputs / 2) == code_fingerprint(lambda batch: batch.inputs / 3)
        False
    """
    if function is None or describe_preprocess(function) is None or hasattr(function, "to_dict"):
        return describe_preprocess(function)
    held = hashlib.sha256(_Content(weights).of(function).encode()).hexdigest()
    return f"{get_function_name(function)} {held[:16]}"


class _Content:
    """What values are made of, as a text."""

    def __init__(self, weights: bool) -> None:
        self._weights = weights
        self._met: dict[int, Any] = {}  # held, so that nothing else gets its id

    def of(self, value: Any) -> str:
        if value is None or isinstance(value, (bool, int, float, complex, str, bytes)):
            return repr(value)
        if id(value) in self._met:
            return f"number {list(self._met).index(id(value))}"
        self._met[id(value)] = value
        if isinstance(value, (tuple, list)):
            return f"[{', '.join(self.of(one) for one in value)}]"
        if isinstance(value, Mapping):
            return f"{{{', '.join(f'{key}: {self.of(one)}' for key, one in value.items())}}}"
        if isinstance(value, np.ndarray):
            plain = self._weights or value.dtype == object
            return f"array {value.dtype} {self.of(value.tolist()) if plain else _bytes(value)}"
        if isinstance(value, (Tensor, nn.Module)):
            return self._numbers(value)
        if isinstance(value, functools.partial):
            return f"partial {self.of(value.func)} {self.of(value.args)} {self.of(value.keywords)}"
        if getattr(value, "__code__", None) is not None:
            return self._function(value)
        return self._object(value)

    def _numbers(self, value: Tensor | nn.Module) -> str:
        if isinstance(value, Tensor):
            learns = value.requires_grad and not self._weights
            return f"{list(value.shape)}" if learns else state_fingerprint({"value": value})
        return f"{fingerprint(value) if self._weights else type(value).__qualname__} {hash_layers(value)}"

    def _function(self, function: Any) -> str:
        inside = (function.__defaults__, function.__kwdefaults__, *(_cell(one) for one in function.__closure__ or ()))
        own = getattr(function, "__self__", None)
        # Of limbeck's own functions the code is the version's, which may be another one when a run is taken up.
        library = not self._weights and str(getattr(function, "__module__", "")).startswith("limbeck.")
        if library and "<locals>" not in function.__qualname__:
            # Also what it closes over is the version's: a decorator, such as one that checks types.
            return f"code {function.__module__}.{function.__qualname__}"
        code = "" if library else _code(function.__code__, function.__doc__)
        if not self._weights and not library:
            code += f" {self.of(_settings(function))}"
        return f"code {code} {self.of(inside)} {self.of(own)}"

    def _object(self, value: Any) -> str:
        if not self._weights and isinstance(value, Teacher):
            return f"{type(value).__name__} {self.of(value.describe())}"
        public = {name: one for name, one in getattr(value, "__dict__", {}).items() if not name.startswith("_")}
        if not self._weights:  # where a class keeps its settings is its own affair
            public |= {name: one for name, one in getattr(value, "__dict__", {}).items() if isinstance(one, _PLAIN)}
        return f"{type(value).__name__} {'' if isinstance(value, type) else self.of(public)}"


def _code(code: CodeType, said: str | None) -> str:
    """The names and constants of a function, without what is said of it, in no order: compilers have their own."""
    found = {repr(name) for name in code.co_names}
    for constant in code.co_consts:
        if isinstance(constant, CodeType):
            found.add(_code(constant, None))
        elif constant is not None and constant != said and not (isinstance(constant, str) and "<" in constant):
            found.add(repr(constant))
    return " ".join(sorted(found))


def _settings(function: Any) -> dict[str, Any]:
    """The numbers and words of its module that a function names."""
    named = {name: function.__globals__.get(name) for name in sorted(function.__code__.co_names)}
    return {name: one for name, one in named.items() if isinstance(one, _PLAIN) and not name.startswith("__")}


def _bytes(array: np.ndarray) -> str:
    return f"{array.shape} {hashlib.sha256(np.ascontiguousarray(array).tobytes()).hexdigest()}"


def _cell(cell: Any) -> Any:
    try:
        return cell.cell_contents
    except ValueError:  # not filled yet
        return None


Marks = NDArray[np.int64]

_MOST = 4096  # numbers of an example that are looked at, evenly over all of them

_NEAR = 1e-5  # of the sum of magnitudes: last bits may depend on the batch in which inputs were made


def input_marks(batch: Batch) -> Marks:
    """Two numbers for each example's inputs, ``[n, 2]``: one of its whole numbers, one of its fractions.

    Padding is left out, so that the same text has the same marks beside a longer one.
    """
    whole = torch.zeros(batch.size, dtype=torch.int64)
    fractions = torch.zeros(batch.size, dtype=torch.float64)
    counted = _counted(batch)
    for number, part in enumerate(_parts(batch.inputs)):
        tensor = part.detach().cpu()
        if len(tensor) != batch.size:
            continue
        rows, here = _rows(tensor, counted)
        if rows.is_floating_point():
            fractions += (rows.double().nan_to_num() * here * _weights(here, number)).sum(1)
        else:
            keyed = mix(mix(rows.long() + 1) ^ mix(here.cumsum(1) + (number << 32)))
            whole = mix(whole + torch.where(here, keyed, 0).sum(1))
    return np.stack([whole.numpy(), fractions.numpy().view(np.int64)], 1)


def marks_differ(marks: Marks, before: Marks) -> NDArray[np.bool_]:
    """Which examples have other inputs than before; those of which nothing was written down have not."""
    now, then = (np.ascontiguousarray(one[:, 1]).view(np.float64) for one in (marks, before))
    far = np.abs(now - then) > _NEAR * np.maximum(np.abs(now), np.abs(then)) + _NEAR
    return ((marks[:, 0] != before[:, 0]) | far) & before.any(1)


def _parts(inputs: Any) -> Iterator[Tensor]:
    """The tensors that a model is called with; texts as numbers."""
    if isinstance(inputs, Tensor):
        yield inputs
    elif isinstance(inputs, Mapping):
        for name in sorted(inputs, key=str):
            yield from _parts(inputs[name])
    elif isinstance(inputs, (tuple, list)) and inputs and isinstance(inputs[0], str):
        yield torch.tensor([zlib.crc32(text.encode()) for text in inputs])
    elif isinstance(inputs, (tuple, list)):
        for part in inputs:
            yield from _parts(part)


def _counted(batch: Batch) -> Tensor | None:
    """Which tokens of each text are its own."""
    mask = batch.inputs.get("attention_mask") if isinstance(batch.inputs, Mapping) else None
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


def _weights(here: Tensor, number: int) -> Tensor:
    """A number from 0.5 to 1.5 for each place among those that count, so that what is exchanged is seen."""
    return (mix(here.cumsum(1) + (number << 32)) & 0xFFFF).double() / 2**16 + 0.5
