"""limbeck's losses in other training loops: own loops, Lightning, transformers, scikit-learn."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

from limbeck.errors import nearest
from limbeck.integrations.distillation_loss import DistillationLoss, DistillationOutput
from limbeck.integrations.id_dataset import IdDataset, collate, to_batch
from limbeck.optional_imports import import_optional

if TYPE_CHECKING:
    from limbeck.integrations.lightning_module import DistillModule as DistillModule
    from limbeck.integrations.sklearn_classifier import DistilledClassifier as DistilledClassifier
    from limbeck.integrations.trainer import DistillTrainer as DistillTrainer

# The file, the library that it needs, and the extra that brings it.
_LAZY = {
    "DistillTrainer": ("trainer", "transformers", "hf"),
    "DistillModule": ("lightning_module", "lightning", "lightning"),
    "DistilledClassifier": ("sklearn_classifier", "sklearn", "sklearn"),
}

__all__ = [
    "DistillModule",
    "DistillTrainer",
    "DistillationLoss",
    "DistillationOutput",
    "DistilledClassifier",
    "IdDataset",
    "collate",
    "to_batch",
]


def __getattr__(name: str) -> Any:
    if name not in _LAZY:
        near = nearest(name, __all__)
        raise AttributeError(f"limbeck.integrations has no {name!r}." + (f" Did you mean {near!r}?" if near else ""))
    file, library, extra = _LAZY[name]
    import_optional(library, extra=extra, purpose=name)
    return getattr(import_module(f"limbeck.integrations.{file}"), name)
