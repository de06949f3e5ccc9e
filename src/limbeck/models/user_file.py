"""Builds a model with a function in a user's Python file."""

from __future__ import annotations

import hashlib
import importlib.util
import os
import re
import sys
import traceback
from collections.abc import Callable, Mapping
from pathlib import Path
from types import FunctionType, ModuleType
from typing import Any, NamedTuple

from torch import nn

from limbeck.consent import check_consent
from limbeck.errors import LimbeckError, unknown_name_error
from limbeck.models.arguments import accepted_arguments, check_arguments
from limbeck.models.weights import load_weights


def module_name(file: Path) -> str:
    """The module name of a user's file in ``sys.modules``; no other file or installed module has it."""
    return f"limbeck_file_{hashlib.sha256(str(file.resolve()).encode()).hexdigest()[:12]}_{file.stem}"


def plain_name(name: str) -> str:
    """A dotted name for messages; a user's file has its own name, independent of its folder.

    Example:
        >>> plain_name(module_name(Path("folder/my.py")) + ".Net")
        'my.Net'
    """
    return re.sub(r"^limbeck_file_[0-9a-f]{12}_", "", name)


_NAMED = re.compile(r"(?P<file>.+\.py):(?P<function>\w+)(?:@(?P<weights>.+))?")


class NoModuleError(LimbeckError):
    """A user's function did not return a module.

    Attributes:
        result: The returned value.
    """

    def __init__(self, message: str, *, result: Any) -> None:
        super().__init__(message)
        self.result = result


class UserFile(NamedTuple):
    """A name of the form ``my.py:build`` or ``my.py:build@weights.safetensors``."""

    file: Path
    function: str
    weights: Path | None

    @classmethod
    def parse(cls, name: str) -> UserFile | None:
        """Parse a name; None if it has another form.

        Raises:
            LimbeckError: If it names a Python file and no function.

        Example:
            >>> UserFile.parse("my.py:build@best.safetensors").function
            'build'
        """
        if match := _NAMED.fullmatch(name):
            weights = match["weights"]
            return cls(Path(match["file"]), match["function"], Path(weights) if weights else None)
        if re.search(r"\.py(:|@|$)", name):
            raise LimbeckError(f"{name!r} names a Python file, but not the function in it; type my.py:build.")
        return None

    def open(
        self,
        *,
        input_shape: tuple[int, ...] | None,
        classes: int | None,
        arguments: dict[str, Any],
        tokens: Mapping[str, Any] | None = None,
    ) -> nn.Module:
        """Run the file, call the function, and load the weights if the name has some.

        Args:
            input_shape: Shape of one example; passed to the function if known and if it has an argument of that name.
            classes: Number of classes; passed in the same way.
            arguments: Further arguments of the function.
            tokens: The tokenizer of a language model and the number of its tokens; passed in the same way.

        Raises:
            LimbeckError: If the file or function is missing, the file fails, an argument does not fit, or the function
                returns something else than a module.
        """
        who = f"{self.file}:{self.function}"
        function = self.load()
        from_data = {"input_shape": input_shape, "classes": classes, **(tokens or {})}
        accepted = accepted_arguments(function)
        values = {**{n: v for n, v in from_data.items() if n in accepted and v is not None}, **arguments}
        values = check_arguments(who, function, values)
        try:
            model = call_builder(function, who, **values)
        except LimbeckError:
            raise
        # A user's function may raise any error; the message names the line.
        except Exception as error:
            raise LimbeckError(_failure(self.file, error)) from error
        return load_weights(model, self.weights) if self.weights else model

    def load(self) -> Callable[..., Any]:
        """Run the file and return the function; its module is available as ``__globals__``.

        Raises:
            LimbeckError: If the file or function is missing, the file fails, or the user did not agree to run it.
        """
        if not self.file.is_file():
            raise LimbeckError(f"There is no file {self.file} (looked in {Path.cwd()}).")
        check_consent(self.file, self.function)
        module = _run_file(self.file)
        mine = {n: v for n, v in vars(module).items() if callable(v) and not n.startswith("_")}
        if self.function not in mine:
            definitions = {n: v for n, v in mine.items() if isinstance(v, (FunctionType, type))}
            own = [n for n, v in definitions.items() if v.__module__ == module.__name__]
            raise unknown_name_error(f"function in {self.file}", self.function, own)
        function: Callable[..., Any] = mine[self.function]
        return function


def call_builder(build: Any, who: str, **arguments: Any) -> nn.Module:
    """Call a user's function, and check that it returns a module.

    Raises:
        LimbeckError: If it returns something else, or is no function.
    """
    if not callable(build):
        raise LimbeckError(f"{who} is no function; pass one that makes the module, such as its class.")
    model = build(**arguments)
    if not isinstance(model, nn.Module):
        estimator = ""
        if hasattr(model, "predict_proba"):
            estimator = " An estimator can be a teacher, in a job or as limbeck.SklearnTeacher(it), but no student."
        message = f"{who} returned a {type(model).__name__}; it has to return a torch.nn.Module.{estimator}"
        raise NoModuleError(message, result=model)
    return model


def _run_file(file: Path) -> ModuleType:
    name = module_name(file)
    spec = importlib.util.spec_from_file_location(name, file)
    if spec is None or spec.loader is None:
        raise LimbeckError(f"{file} cannot be read as a Python file.")
    module = importlib.util.module_from_spec(spec)
    # Dataclasses and pickle look up a class's module here.
    sys.modules[name] = module
    _let_import_neighbors(file)
    try:
        spec.loader.exec_module(module)
    # A user's file may raise any error; the message names the line.
    except Exception as error:
        del sys.modules[name]
        raise LimbeckError(_failure(file, error)) from error
    return module


_FOLDERS: list[str] = []
"""The folders of the files that were run, the latest first; they were added to ``sys.path``."""


def _let_import_neighbors(file: Path) -> None:
    """Let a file import the modules in its folder, as when Python runs it directly.

    The folder comes last in ``sys.path``, so that no file in it hides an installed module, and it stays there, because
    a function may import a module when it is called. A module of the same name from another such folder is removed from
    ``sys.modules``; the file that imported it keeps its reference.
    """
    folder = str(file.resolve().parent)
    others = [path for path in _FOLDERS if path != folder]
    for name, module in list(sys.modules.items()) if others else ():
        path = vars(module).get("__file__")  # builtin modules have none
        # `os.path` and no `Path`: there are thousands of modules.
        if path and os.path.dirname(path) in others and (Path(folder) / f"{name}.py").is_file():
            del sys.modules[name]
    sys.path[:] = [path for path in sys.path if path not in _FOLDERS]
    _FOLDERS[:] = others if folder in sys.path else [folder, *others]
    sys.path.extend(_FOLDERS)


def _failure(file: Path, error: Exception) -> str:
    if isinstance(error, ModuleNotFoundError):
        return f"{file} imports {error.name!r}, which is not found; install it, or add its folder to PYTHONPATH."
    frames = traceback.extract_tb(error.__traceback__)
    lines = [frame.lineno for frame in frames if Path(frame.filename).resolve() == file.resolve()]
    line = error.lineno if isinstance(error, SyntaxError) else (lines[-1] if lines else None)
    return f"{file} failed at line {line}: {type(error).__name__}: {error}."
