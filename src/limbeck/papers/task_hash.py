"""Hashes of tasks, so that results of changed tasks are not reused."""

from __future__ import annotations

import hashlib
import inspect
import sys
from collections.abc import Mapping
from pathlib import Path
from types import ModuleType

from limbeck.papers.experiment import Task


def task_hash(tasks: Mapping[str, Task]) -> dict[str, str]:
    """Compute a hash of each task's function, settings, code, and required tasks, in the order of `tasks`.

    The code is the file of the function and all files of the same package that it imports functions or classes from,
    directly or indirectly. The rest of limbeck and the data are not included.
    """
    stamps: dict[str, str] = {}
    for name, task in tasks.items():
        function, settings = getattr(task.work, "func", task.work), getattr(task.work, "keywords", {})
        first = getattr(task.work, "args", ()) or ""
        text = f"{function.__module__}.{function.__qualname__} {first}{settings} {[stamps[n] for n in task.requires]}"
        stamps[name] = hashlib.sha256(f"{text} {code(function.__module__)}".encode()).hexdigest()
    return stamps


def code(module: str) -> str:
    """Hash the file of a module and the files of its package that it imports functions or classes from."""
    package, seen, queue = module.rpartition(".")[0], set[str](), [module]
    while queue:
        name = queue.pop()
        if name not in seen and name in sys.modules:
            seen.add(name)
            queue += [other for other in _used(sys.modules[name]) if other.rpartition(".")[0] == package]
    return hashlib.sha256(b"".join(_text(sys.modules[name]) for name in sorted(seen))).hexdigest()


def _used(module: ModuleType) -> set[str]:
    values = vars(module).values()
    return {value.__module__ for value in values if inspect.isfunction(value) or inspect.isclass(value)}


def _text(module: ModuleType) -> bytes:
    file = getattr(module, "__file__", None)
    return Path(file).read_bytes() if file is not None and Path(file).is_file() else b""
