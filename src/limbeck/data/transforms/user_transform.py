"""`UserTransform`: a transform from a user's function, with seeded random numbers."""

from __future__ import annotations

import hashlib
import inspect
import random
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from functools import partial
from typing import Any

import numpy as np
import torch
from jaxtyping import Int, Shaped
from torch import Tensor

from limbeck.errors import DataError, LimbeckError
from limbeck.models import UserFile
from limbeck.models.arguments import check_arguments
from limbeck.random_seeds import counter_uniform


class UserTransform:
    """Transform that applies a function or transform object from a user's file, such as ``my.py:noise``.

    The name in the file may be

    * a function of one example, ``noise(image, *, std=0.1)``, which takes the inputs of one example (a ``uint8`` image
      ``[c, h, w]``, a row of numbers) and returns inputs of the same shape and dtype;
    * a class or factory function that returns such a function, for example a transform of torchvision or
      albumentations;
    * a class or factory function that returns a `Transform`, which is then used directly (see `open_transform`).

    It may use random numbers of ``torch``, ``numpy`` and ``random``. Each generator is seeded from (seed, id, view)
    before every call and restored afterwards, so a view is identical in every process and after a resume.

    Args:
        name: ``my.py:noise``.
        transform: The function of one example.
        options: The options of the function or class.
        seed: Seed of the random numbers.
        source: Hash of the code, for the fingerprint.
    """

    def __init__(
        self, name: str, transform: Callable[[Any], Any], *, options: Mapping[str, Any], seed: int, source: str
    ) -> None:
        self._name, self._transform, self._options = name, transform, dict(options)
        self._seed, self._source = seed, source

    @property
    def fingerprint(self) -> str:
        """The function's name, a hash of its file, its options and the seed."""
        options = "".join(f" {key}={value}" for key, value in sorted(self._options.items()))
        return f"own/1 {self._name.rpartition('/')[2]} {self._source[:16]}{options} seed={self._seed}"

    def __repr__(self) -> str:
        return f"OwnTransform({self._name})"

    def __reduce__(self) -> tuple[Any, ...]:
        # The file's module has a name that is unknown in other processes, so they open the file again.
        return open_transform, (self._name, self._options, self._seed)

    def __call__(
        self, inputs: Shaped[Tensor, " batch *example"], id: Int[Tensor, " batch"], view: Int[Tensor, " batch"]
    ) -> Shaped[Tensor, " batch *example"]:
        """Return the transformed examples.

        Raises:
            LimbeckError: If the function fails, or returns another shape or dtype.
        """
        if not isinstance(inputs, Tensor):
            raise DataError(f"{self._name} needs inputs that are one tensor, not a {type(inputs).__name__}.")
        if not len(inputs):
            return inputs
        draws = counter_uniform(id, view, seed=self._seed, draws=2, stream="own transform").double()
        high, low = (draws * (1 << 24)).long().unbind(1)
        seeds = ((high << 24) + low).tolist()
        with _separate_generators():
            return torch.stack([self._transformed(example, seed) for example, seed in zip(inputs, seeds, strict=True)])

    def _transformed(self, example: Tensor, seed: int) -> Tensor:
        torch.default_generator.manual_seed(seed)
        np.random.seed(seed % (1 << 32))
        random.seed(seed)
        try:
            output = self._transform(example.clone())
        except LimbeckError:
            raise
        except Exception as error:  # any exception of the user's function
            raise LimbeckError(
                f"The transform {self._name} failed on inputs {list(example.shape)} {example.dtype}: "
                f"{type(error).__name__}: {error}"
            ) from error
        try:
            changed = torch.as_tensor(output)
        except (TypeError, ValueError, RuntimeError) as error:
            raise LimbeckError(
                f"The transform {self._name} returned a {type(output).__name__}; it must return inputs like "
                f"{list(example.shape)} {example.dtype}."
            ) from error
        if changed.shape != example.shape or changed.dtype != example.dtype:
            raise LimbeckError(
                f"The transform {self._name} got inputs {list(example.shape)} {example.dtype} but returned "
                f"{list(changed.shape)} {changed.dtype}. Shape and dtype must stay the same."
            )
        return changed


def open_transform(name: str, options: Mapping[str, Any] | None = None, seed: int = 0) -> Any:
    """Create the transform ``my.py:function`` with its options.

    Raises:
        LimbeckError: If the file or function is missing, an option is unknown, or the result is not a transform.
    """
    own = UserFile.parse(name)
    if own is None or own.weights is not None:
        raise LimbeckError(f"{name!r} is not a function in a Python file; use my.py:function.")
    function, arguments = own.load(), dict(options or {})
    code = hashlib.sha256(own.file.read_bytes()).hexdigest()
    if _takes_example(function, arguments):
        check_arguments(name, partial(function, None), arguments)
        return UserTransform(name, partial(function, **arguments), options=arguments, seed=seed, source=code)
    check_arguments(name, function, arguments)
    transform = function(**arguments)
    if hasattr(transform, "fingerprint"):
        return transform
    if not callable(transform):
        raise LimbeckError(f"{name} returned a {type(transform).__name__}; it must return a function of one example.")
    return UserTransform(name, transform, options=arguments, seed=seed, source=code)


def _takes_example(function: Callable[..., Any], arguments: Mapping[str, Any]) -> bool:
    """Whether a function is the transform itself, not a factory: it has a required argument not in the options."""
    if inspect.isclass(function):
        return False
    parameters = inspect.signature(function).parameters.values()
    return any(
        p.default is p.empty and p.name not in arguments and p.kind in (p.POSITIONAL_ONLY, p.POSITIONAL_OR_KEYWORD)
        for p in parameters
    )


@contextmanager
def _separate_generators() -> Iterator[None]:
    """Restore the three global random generators afterwards."""
    numpy_state, python_state = np.random.get_state(), random.getstate()
    with torch.random.fork_rng(devices=[]):
        try:
            yield
        finally:
            np.random.set_state(numpy_state)
            random.setstate(python_state)
