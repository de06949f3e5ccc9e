"""What does a function, or a network, depend on besides its name and its weights?"""

from __future__ import annotations

import functools
import hashlib
from collections.abc import Mapping
from types import CodeType
from typing import Any

import numpy as np
from torch import Tensor, nn

from limbeck.models import fingerprint
from limbeck.models.size import state_fingerprint
from limbeck.teachers.teacher import Teacher, name_of, told

_PLAIN = (bool, int, float, str)


def layers_of(model: nn.Module) -> str:
    """SHA-256 of what a network's layers are: their names, their kinds, and what they print of themselves.

    Two networks with the same weights may answer differently: a ``ReLU`` and a ``Tanh`` have none.
    """
    whole = getattr(model, "_orig_mod", model)  # of a compiled one, what was compiled
    lines = (f"{name} {type(part).__name__} {part.extra_repr()}" for name, part in whole.named_modules())
    return hashlib.sha256("\n".join(lines).encode()).hexdigest()


def content_of(function: Any, *, weights: bool = True) -> str | None:
    """A function by its values where it tells them, else by its name and a hash of what it is made of and holds.

    That is: the numbers, words and names in its code, its defaults, what it closes over, a partial's arguments, an
    object's public attributes. So two lambdas of the same name are told apart.

    Args:
        function: Any callable; None has no content.
        weights: Whether the weights of networks that it holds count, or what their layers are alone: those of a network
            that learns are others when a run is taken up.

    Example:
        >>> content_of(lambda batch: batch.inputs / 2) == content_of(lambda batch: batch.inputs / 3)
        False
    """
    if function is None or told(function) is None or hasattr(function, "to_dict"):
        return told(function)
    held = hashlib.sha256(_Content(weights).of(function).encode()).hexdigest()
    return f"{name_of(function)} {held[:16]}"


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
        return f"{fingerprint(value) if self._weights else type(value).__qualname__} {layers_of(value)}"

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
