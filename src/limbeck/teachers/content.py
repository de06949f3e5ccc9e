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
from limbeck.teachers.teacher import name_of, told


def layers_of(model: nn.Module) -> str:
    """SHA-256 of what a network's layers are: their names, their kinds, and what they print of themselves.

    Two networks with the same weights may answer differently: a ``ReLU`` and a ``Tanh`` have none.
    """
    whole = getattr(model, "_orig_mod", model)  # of a compiled one, what was compiled
    lines = (f"{name} {type(part).__name__} {part.extra_repr()}" for name, part in whole.named_modules())
    return hashlib.sha256("\n".join(lines).encode()).hexdigest()


def content_of(function: Any) -> str | None:
    """A function by its values where it tells them, else by its name and a hash of what it is made of and holds.

    That is: the numbers, words and names in its code, its defaults, what it closes over, a partial's arguments, an
    object's public attributes. So two lambdas of the same name are told apart.

    Example:
        >>> content_of(lambda batch: batch.inputs / 2) == content_of(lambda batch: batch.inputs / 3)
        False
    """
    if function is None or told(function) is None or hasattr(function, "to_dict"):
        return told(function)
    held = hashlib.sha256(_held(function, {}).encode()).hexdigest()
    return f"{name_of(function)} {held[:16]}"


def _held(value: Any, met: dict[int, Any]) -> str:
    if value is None or isinstance(value, (bool, int, float, complex, str, bytes)):
        return repr(value)
    if id(value) in met:
        return f"number {list(met).index(id(value))}"
    met[id(value)] = value  # and it is held, so that nothing else gets its id
    if isinstance(value, (tuple, list)):
        return f"[{', '.join(_held(one, met) for one in value)}]"
    if isinstance(value, Mapping):
        return f"{{{', '.join(f'{key}: {_held(one, met)}' for key, one in value.items())}}}"
    if isinstance(value, np.ndarray):
        return f"array {value.dtype} {_held(value.tolist(), met)}"
    if isinstance(value, (Tensor, nn.Module)):
        return _numbers(value)
    if isinstance(value, functools.partial):
        return f"partial {_held(value.func, met)} {_held(value.args, met)} {_held(value.keywords, met)}"
    code: CodeType | None = getattr(value, "__code__", None)
    if code is not None:
        inside = (value.__defaults__, value.__kwdefaults__, *(_cell(one) for one in value.__closure__ or ()))
        own = getattr(value, "__self__", None)
        return f"code {_code(code, value.__doc__)} {_held(inside, met)} {_held(own, met)}"
    public = {name: one for name, one in getattr(value, "__dict__", {}).items() if not name.startswith("_")}
    return f"{type(value).__name__} {'' if isinstance(value, type) else _held(public, met)}"


def _numbers(value: Tensor | nn.Module) -> str:
    if isinstance(value, Tensor):
        return state_fingerprint({"value": value})
    return f"{fingerprint(value)} {layers_of(value)}"


def _code(code: CodeType, said: str | None) -> str:
    """The names and constants of a function, without what is said of it, in no order: compilers have their own."""
    found = {repr(name) for name in code.co_names}
    for constant in code.co_consts:
        if isinstance(constant, CodeType):
            found.add(_code(constant, None))
        elif constant is not None and constant != said and not (isinstance(constant, str) and "<" in constant):
            found.add(repr(constant))
    return " ".join(sorted(found))


def _cell(cell: Any) -> Any:
    try:
        return cell.cell_contents
    except ValueError:  # not filled yet
        return None
