"""How do people who keep their own loop distil? Each bridge is resolved when it is first used."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

from limbeck.bridges.rows import Rows, batch_of, collate
from limbeck.bridges.tutor import Tutor, TutorOutput
from limbeck.errors import LimbeckError, nearest

if TYPE_CHECKING:
    from limbeck.bridges.classifier import DistilledClassifier as DistilledClassifier
    from limbeck.bridges.module import DistillModule as DistillModule
    from limbeck.bridges.trainer import DistillTrainer as DistillTrainer

# The file, the library that it needs, and the extra that brings it.
_LAZY = {
    "DistillTrainer": ("trainer", "transformers", "hf"),
    "DistillModule": ("module", "lightning", "lightning"),
    "DistilledClassifier": ("classifier", "sklearn", ""),
}

__all__ = [
    "DistillModule",
    "DistillTrainer",
    "DistilledClassifier",
    "Rows",
    "Tutor",
    "TutorOutput",
    "batch_of",
    "collate",
]


def __getattr__(name: str) -> Any:
    if name not in _LAZY:
        near = nearest(name, __all__)
        raise AttributeError(f"limbeck.bridges has no {name!r}." + (f" Did you mean {near!r}?" if near else ""))
    file, library, extra = _LAZY[name]
    try:
        return getattr(import_module(f"limbeck.bridges.{file}"), name)
    except ModuleNotFoundError as error:
        if error.name != library:
            raise
        raise LimbeckError(f"{name} needs {library}; type: pip install 'limbeck[{extra}]'") from error
