"""Helpers: small students, data and recipes for the tests of the engine."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import torch
from torch import nn

from limbeck.data import ArrayDataset, ShuffledLoader
from limbeck.functional import Projector, cross_entropy, kl_divergence, squared_error
from limbeck.losses import Loss
from limbeck.recipe import Optimizer, Stage
from limbeck.schedule import ramp

SGD = Optimizer("sgd", lr=0.1, decay="constant", options={"momentum": 0.9})


def network(*, hidden: int = 8, seed: int = 0, norm: bool = False, dropout: float = 0.0) -> nn.Sequential:
    """A student of 5 inputs and 3 classes."""
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        return nn.Sequential(
            nn.Linear(5, hidden),
            nn.BatchNorm1d(hidden) if norm else nn.Identity(),
            nn.ReLU(),
            nn.Dropout(dropout),
            nn.Linear(hidden, 3),
        )


def arrays(rows: int = 30, *, seed: int = 0, uneven: bool = False, dtype: torch.dtype = torch.float32) -> ArrayDataset:
    """Examples; `uneven` ones have labels and masks that are thick in some places and thin in others."""
    draw = torch.Generator().manual_seed(seed)
    inputs = torch.randn(rows, 5, generator=draw, dtype=torch.float64).to(dtype)
    labels = torch.randint(3, (rows,), generator=draw)
    mask = None
    if uneven:
        labels[torch.rand(rows, generator=draw) < torch.linspace(0, 0.9, rows)] = -100
        mask = torch.rand(rows, generator=draw) < torch.linspace(0.9, 0.2, rows)
    return ArrayDataset(inputs, labels, mask=mask)


def make_loader(rows: int = 30, *, batch_size: int = 8, shuffle: bool = True, **options: Any) -> ShuffledLoader:
    """A source of those examples."""
    return ShuffledLoader(arrays(rows, **options), batch_size=batch_size, shuffle=shuffle)


def hint() -> Loss:
    """The student's hidden layer, through a head, to the teacher's."""
    return Loss(squared_error, student="0", teacher="0", head=Projector())


def everything(teacher: nn.Module | None = None, **options: Any) -> Stage:
    """A stage with a label loss, a soft-target loss, a learned head and schedules."""
    objective = 0.3 * Loss(cross_entropy) + ramp(0.7, start=0.4) * Loss(kl_divergence, temperature=3.0) + 0.5 * hint()
    return Stage(objective, teacher=teacher if teacher is not None else network(hidden=6, seed=7), **options)


def weights(*modules: nn.Module) -> torch.Tensor:
    """All that modules learn and count, in one row."""
    return torch.cat([value.detach().double().flatten() for m in modules for value in m.state_dict().values()])


def hooks(models: Iterable[nn.Module]) -> int:
    """How many hooks hang in the models."""
    kinds = ("_forward_hooks", "_forward_pre_hooks", "_backward_hooks", "_backward_pre_hooks")
    return sum(len(getattr(module, kind)) for model in models for module in model.modules() for kind in kinds)
