"""Names of models of other libraries, and the errors of a library that is not there or does not work."""

from __future__ import annotations

import importlib
import importlib.util
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from types import ModuleType
from typing import NamedTuple

import torch

from limbeck.errors import LimbeckError

LIBRARIES = ("timm", "hf")


class LibraryModel(NamedTuple):
    """A name of the form ``timm:NAME``, ``hf:NAME``, or one of these with ``@weights.safetensors`` or ``@folder``.

    Attributes:
        library: ``timm`` or ``hf``.
        name: What the library calls the model.
        weights: A file or folder of weights of one's own; None for those of the library.
    """

    library: str
    name: str
    weights: Path | None

    @classmethod
    def parse(cls, name: str) -> LibraryModel | None:
        """Read a name as a person writes it; None if it is of another form.

        Example:
            >>> LibraryModel.parse("timm:resnet10t@mine.safetensors").name
            'resnet10t'
        """
        library, _, rest = name.partition(":")
        if library not in LIBRARIES or not rest:
            return None
        splits = [(rest[:at], rest[at + 1 :]) for at, sign in enumerate(rest) if sign == "@"]
        splits = [(own, weights) for own, weights in splits if own and weights]
        there = [(own, weights) for own, weights in splits if Path(weights).exists()]
        # timm writes a revision on the hub like that, and a folder of transformers may have any name.
        if not splits or Path(rest).exists() or ("hf-hub:" in rest and not there):
            return cls(library, rest, None)
        own, weights = (there or splits)[0]
        return cls(library, own, Path(weights))

    def __str__(self) -> str:
        return f"{self.library}:{self.name}" + (f"@{self.weights}" if self.weights else "")


def needed(module: str, *, extra: str, wanted: str) -> ModuleType:
    """A library, or the line that installs it.

    Raises:
        LimbeckError: If it is not installed, or cannot be imported because of the torchvision beside it.
    """
    try:
        with torchvision_checked(wanted):
            return importlib.import_module(module)
    except ModuleNotFoundError as error:
        if error.name != module:
            raise
        raise LimbeckError(f"{wanted} needs {module}; type: pip install 'limbeck[{extra}]'") from error


@contextmanager
def torchvision_checked(wanted: str) -> Iterator[None]:
    """A block in which an error is said in one sentence, if it comes from a torchvision that does not fit torch.

    Such a one is what pip takes from another index than torch: transformers and timm import it, whatever the model.

    Raises:
        LimbeckError: With what to type.
    """
    try:
        yield
    except LimbeckError:
        raise
    except Exception as error:
        wrong = _wrong_with_torchvision()
        if wrong is None:
            raise
        major, minor = torch.__version__.split(".")[:2]
        fits = f"'torchvision=={'.'.join(('0', str(int(minor) + 15), '*'))}'" if major == "2" else "torchvision"
        without = "" if wanted.startswith("timm:") else "pip uninstall torchvision, which is not needed here, or "
        raise LimbeckError(
            f"{wanted} cannot be opened, because torchvision {_version()} does not fit torch {torch.__version__} "
            f"({wrong}); type {without}pip install --force-reinstall --no-deps {fits} with the --index-url that torch "
            "came from."
        ) from error


def _wrong_with_torchvision() -> str | None:
    """What torchvision raises when it is imported, in one line; None if nothing, or if it is not there."""
    try:
        if importlib.util.find_spec("torchvision") is None:
            return None
        importlib.import_module("torchvision")
    except Exception as error:
        return str(error).strip().partition("\n")[0] or type(error).__name__
    return None


def _version() -> str:
    try:
        return version("torchvision")
    except PackageNotFoundError:
        return "of unknown version"
