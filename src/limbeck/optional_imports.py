"""Imports of libraries that only some features need."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from importlib import import_module
from importlib.metadata import PackageNotFoundError, version
from importlib.util import find_spec
from types import ModuleType

from limbeck.errors import LimbeckError

# Names on the package index, where they differ from the name that is imported.
_PACKAGES = {
    "sklearn": "scikit-learn", "PIL": "Pillow", "kaldi_native_fbank": "kaldi-native-fbank",
    "torch_pruning": "torch-pruning",
}  # fmt: skip


class MissingPackageError(LimbeckError, ImportError):
    """A feature needs a package that is not installed.

    Attributes:
        package: The name of the package, as pip knows it.
        extra: The extra of limbeck that brings it.
    """

    def __init__(self, sentence: str, *, package: str, extra: str) -> None:
        super().__init__(sentence)
        self.package = package
        self.extra = extra


def import_optional(module: str, *, extra: str, purpose: str = "This") -> ModuleType:
    """Import a library that is not among the requirements of limbeck.

    Args:
        module: The module, such as ``sklearn.metrics``.
        extra: The extra in ``pyproject.toml`` that brings its package.
        purpose: What needs it; the first words of the error message.

    Raises:
        MissingPackageError: If the package is not installed. The message has the command that installs it.

    Example:
        >>> import_optional("json", extra="table").__name__
        'json'
        >>> import_optional("no_such_library.io", extra="table")
        Traceback (most recent call last):
        limbeck.optional_imports.MissingPackageError: This needs no_such_library; type: pip install 'limbeck[table]'
    """
    library = module.partition(".")[0]
    try:
        return import_module(module)
    except ModuleNotFoundError as error:
        # The library may be there, and fail because one of its own requirements is missing: that is another problem.
        if (error.name or "").partition(".")[0] != library:
            raise
        raise missing_package_error(library, extra=extra, purpose=purpose) from error


def missing_package_error(library: str, *, extra: str, purpose: str = "This") -> MissingPackageError:
    """Error for a library that is not installed, with the command that installs it."""
    package = _PACKAGES.get(library, library)
    sentence = f"{purpose} needs {package}; type: {install_command(extra)}"
    return MissingPackageError(sentence, package=package, extra=extra)


def install_command(extra: str) -> str:
    """The command that installs an extra of limbeck.

    Example:
        >>> install_command("table")
        "pip install 'limbeck[table]'"
    """
    return f"pip install 'limbeck[{extra}]'"


def is_installed(library: str) -> bool:
    """Whether a library can be found. It is not imported.

    Example:
        >>> is_installed("json"), is_installed("no_such_library")
        (True, False)
    """
    if library in sys.modules:  # find_spec fails for modules that were made by hand
        return sys.modules[library] is not None
    return find_spec(library) is not None


@contextmanager
def stand_in_for(library: str) -> Iterator[None]:
    """A block in which a library is not imported: code that imports it gets a module with its version and nothing else.

    For libraries that import another one only to compare its version. A library that is imported already, or is not
    installed, stays as it is.

    Args:
        library: The library, whose name on the package index is the same.

    Example:
        >>> with stand_in_for("no_such_library"):
        ...     is_installed("no_such_library")
        False
    """
    try:
        number = None if library in sys.modules else version(library)
    except PackageNotFoundError:
        number = None
    if number is None:
        yield
        return
    module = ModuleType(library)
    module.__dict__["__version__"] = number
    sys.modules[library] = module
    try:
        yield
    finally:
        if sys.modules.get(library) is module:
            del sys.modules[library]
