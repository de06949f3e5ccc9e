"""Helper: a loop in place of `pytest.mark.parametrize`, for values that take the same way through the code."""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable, Iterable
from typing import Any


def loop(name: str, values: Iterable[Any]) -> Callable[[Callable[..., None]], Callable[..., None]]:
    """A test that is called with each of these values; a failure names the one that it had.

    A test by itself costs milliseconds, more than a small computation.
    """
    several = list(values)

    def decorate(test: Callable[..., None]) -> Callable[..., None]:
        @functools.wraps(test)
        def run(*args: Any, **kwargs: Any) -> None:
            for value in several:
                try:
                    test(*args, **kwargs, **{name: value})
                except Exception as error:
                    error.add_note(f"{name}={value!r}")
                    raise

        arguments = inspect.signature(test).parameters
        run.__signature__ = inspect.Signature([one for key, one in arguments.items() if key != name])  # type: ignore[attr-defined]
        return run

    return decorate
