"""Shape checks while tests run: the first calls of each function in each test, and some of the later ones.

A check costs more than a small step of training: checking all calls would take two thirds of the time of a job. The
checks of a function are compiled at its first call, because those of all functions take longer than to import PyTorch.
Functions without a tensor's shape in their types are left to mypy, for the same reason.
"""

from __future__ import annotations

import dataclasses
import functools
import inspect
import re
import weakref
from collections.abc import Callable
from types import FunctionType
from typing import Any

import jaxtyping
from beartype import beartype
from beartype.roar import BeartypeCallHintViolation

FIRST, EVERY = 2, 101  # a prime, so that no loop is always sampled at the same place
SHAPE = re.compile(
    r"\b(?:(?:Bool|Float(?:32|64)?|Int(?:64|eger)?|Shaped|UInt8)\["
    r"|(?:Answers|Draw|Images|Levels|Matrix|Offsets|Records|Results|Scores|Tokens)\b)"  # other names of shapes
)
_jaxtyped = jaxtyping.jaxtyped


class _Calls:
    """The number of calls of a function in the present test."""

    present = 0  # the number of the present test
    __slots__ = ("count", "test")

    def __init__(self) -> None:
        self.test, self.count = -1, 0


# Not in the closures of functions: a fingerprint of a function reads them, and it must not change with calls.
_CALLS: dict[int, _Calls] = {}


def begin_test() -> None:
    """The next calls are the first ones of a test."""
    _Calls.present += 1


def check_sometimes(function: FunctionType) -> Callable[..., Any]:
    """A function whose first calls in each test are checked, and then every 101st."""
    if not any(SHAPE.search(str(annotation)) for annotation in function.__annotations__.values()):
        return function
    _CALLS.setdefault(id(function.__code__), _Calls())

    @functools.wraps(function)
    def call(*args: Any, **kwargs: Any) -> Any:
        __tracebackhide__ = True
        calls = _CALLS[id(function.__code__)]
        if calls.test != _Calls.present:
            calls.test, calls.count = _Calls.present, 0
        calls.count += 1
        if calls.count > FIRST and calls.count % EVERY:
            return function(*args, **kwargs)
        checked = function.__dict__.get("_checked")
        if checked is None:
            checked = function.__dict__["_checked"] = _with_checks(function)
        return checked(*args, **kwargs)

    return call


def _with_checks(function: FunctionType) -> Callable[..., Any]:
    """The function with its checks. They are those of `jaxtyping.jaxtyped`, in half of its time.

    That one checks arguments twice and binds them to names before each call, for its messages.
    """
    if inspect.isgeneratorfunction(function):  # its code runs when the call is over
        return _jaxtyped(_copy(function, weakly=True), typechecker=beartype)
    plain = _copy(function)
    checked = beartype(_copy(function))

    def call(*args: Any, **kwargs: Any) -> Any:
        __tracebackhide__ = True
        if jaxtyping.config.jaxtyping_disable:
            return plain(*args, **kwargs)
        with _jaxtyped("context"):
            try:
                return checked(*args, **kwargs)
            except BeartypeCallHintViolation as error:
                raise jaxtyping.TypeCheckError(str(error)) from error

    return call


def _copy(function: FunctionType, *, weakly: bool = False) -> FunctionType:
    """A copy with annotations that are no strings; `weakly` one that does not keep alive what the function holds."""
    reference, names = weakref.ref(function), function.__globals__

    def call(*args: Any, **kwargs: Any) -> Any:
        return reference()(*args, **kwargs)

    code, closure = (call.__code__, call.__closure__) if weakly else (function.__code__, function.__closure__)
    copy = FunctionType(code, names, function.__name__, None if weakly else function.__defaults__, closure)
    functools.update_wrapper(copy, function)
    if weakly:
        copy.__signature__ = inspect.signature(function)
    else:
        copy.__kwdefaults__ = function.__kwdefaults__
        copy.__annotations__ = {key: _evaluate(value, names) for key, value in function.__annotations__.items()}
    del copy.__wrapped__
    return copy


def _evaluate(annotation: Any, names: dict[str, Any]) -> Any:
    """What a string means; anything for what only the function's surroundings or a type checker know."""
    try:
        return eval(annotation, names) if isinstance(annotation, str) else annotation
    except Exception:  # as jaxtyping has it
        return Any


def _decorate(item: Any = None, *, typechecker: Any) -> Any:
    """What the import hook of jaxtyping puts around every function and class."""
    if item is None:
        return functools.partial(_decorate, typechecker=typechecker)
    if inspect.isclass(item):
        init = vars(item).get("__init__")  # an inherited one is checked already
        if dataclasses.is_dataclass(item) and isinstance(init, FunctionType) and not hasattr(init, "__wrapped__"):
            item.__init__ = check_sometimes(init)
        return item
    return check_sometimes(item) if isinstance(item, FunctionType) else _jaxtyped(item, typechecker=typechecker)


def install_shape_checks(*packages: str) -> None:
    """Check the functions of packages that are imported from now on."""
    jaxtyping.jaxtyped = _decorate
    jaxtyping.install_import_hook(list(packages), "beartype.beartype").__enter__()
