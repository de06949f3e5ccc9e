"""Metadata of a model besides its weights: class names, encoding, preprocessing."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any
from weakref import WeakKeyDictionary

from torch import nn

_DESCRIPTIONS: WeakKeyDictionary[nn.Module, dict[str, Any]] = WeakKeyDictionary()


def describe_model(model: nn.Module, metadata: Mapping[str, Any]) -> nn.Module:
    """Attach a student folder's metadata to a model, so that an export of it has the same metadata.

    Example:
        >>> get_description(describe_model(nn.Linear(2, 2), {"class_names": ["no", "yes"]}))
        {'class_names': ['no', 'yes']}
    """
    _DESCRIPTIONS[model] = dict(metadata)
    return model


def get_description(model: nn.Module) -> dict[str, Any]:
    """The metadata that `describe_model` attached; empty where there are none."""
    return dict(_DESCRIPTIONS.get(model, {}))
