"""Tiny networks and data on which methods are checked."""

from __future__ import annotations

import copy
from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from limbeck.data import ArrayDataset
from limbeck.errors import callable_name, unknown_name_error
from limbeck.models import build

Trial = Callable[[], tuple[Any, Any, Any]]
"""Makes a student, a teacher, and data for `distill`; equal ones in every call."""

_CLASSES, _EXAMPLES, _SIDE = 3, 48, 8


def get_trial(trial: str | Trial) -> tuple[str, Trial]:
    """Find a trial by name: ``mlp``, ``cnn`` or ``resnet``; a function is a trial of its own.

    Raises:
        UnknownNameError: If there is no such trial.
    """
    if not isinstance(trial, str):
        return callable_name(trial), trial
    if trial not in TRIALS:
        raise unknown_name_error("trial", trial, TRIALS, then="Or a function that makes student, teacher and data.")
    return trial, TRIALS[trial]


def without_noise(model: Any) -> Any:
    """Copy a model, or several by name, without dropout and BatchNorm.

    Dropout depends on the random state, and BatchNorm on the other examples of a micro-batch, so with either no run
    with accumulated halves could equal one with whole batches.
    """
    if isinstance(model, dict):
        return {name: without_noise(one) for name, one in model.items()}
    if not isinstance(model, nn.Module):
        return model
    plain = copy.deepcopy(model)
    for module in list(plain.modules()):
        if isinstance(module, nn.modules.dropout._DropoutNd):
            module.p = 0.0
        for name, child in module.named_children():
            if isinstance(child, nn.modules.batchnorm._BatchNorm):
                module.add_module(name, nn.Identity())
    return plain


def _make(kind: str) -> tuple[nn.Module, nn.Module, ArrayDataset]:
    return _network(kind, width=4), _network(kind, width=8).eval(), _data(kind)


def _network(kind: str, *, width: int) -> nn.Module:
    if kind == "mlp":
        return build("mlp", inputs=6, classes=_CLASSES, hidden=[width, width], dropout=0.1, seed=1)
    if kind == "cnn":
        return build("cnn", channels=1, classes=_CLASSES, widths=[width, width], size=_SIDE, dropout=0.1, seed=1)
    return build("resnet8", channels=1, classes=_CLASSES, width=width // 2, seed=1)


def _data(kind: str) -> ArrayDataset:
    draw = torch.Generator().manual_seed(0)
    shape = (6,) if kind == "mlp" else (1, _SIDE, _SIDE)
    inputs: Tensor = torch.randn(_EXAMPLES, *shape, generator=draw)
    labels = torch.randint(_CLASSES, (_EXAMPLES,), generator=draw)
    return ArrayDataset(inputs, labels, extra={"privileged": inputs + 0.1})


TRIALS: dict[str, Trial] = {kind: partial(_make, kind) for kind in ("mlp", "cnn", "resnet")}
"""Networks and data by name. All have the layers ``layer1``, ``layer2``, ``features`` and ``classifier``."""
