"""Data, networks and budgets of the MNIST experiments."""

from __future__ import annotations

from collections.abc import Iterable
from functools import cache
from typing import Any, cast

import torch
from torch import Tensor, nn

from limbeck.data import Dataset, DataSplits, NormalizeImages, ShuffledLoader, load_data
from limbeck.metrics import predict
from limbeck.models import Mlp, seeded
from limbeck.papers.experiment import fewer
from limbeck.recipe import Optimizer

CLASSES = 10
READS = NormalizeImages((0.0,), (1.0,))
"""Pixels from 0 (paper) to 1 (ink), so that dropout at the input sets pixels to paper."""
BATCH = 128
PRECISION = "bf16-mixed"
_MAX_NORM = 3.0
_QUICK = (6000, 2000)


@cache
def digits(quick: bool) -> DataSplits:
    """Load MNIST; at quick scale a fixed subset of a few thousand images."""
    whole = load_data("mnist")
    return fewer(whole, train=_QUICK[0], test=_QUICK[1]) if quick else whole


def network(units: int, *, seed: int, dropout: float = 0.0, input_dropout: float = 0.0) -> Mlp:
    """Make a network with two hidden layers of this many units."""
    with seeded(seed):
        return Mlp(inputs=784, classes=CLASSES, hidden=[units, units], dropout=dropout, input_dropout=input_dropout)


def constrained_sgd(parameters: Iterable[nn.Parameter]) -> torch.optim.Optimizer:
    """SGD with Nesterov momentum that limits the norm of each unit's incoming weights to 3.

    The paper says "weight-constraints" and points to Hinton et al., 2012, arXiv:1207.0580, which bounds the norm of
    each unit's incoming weights and starts with a high learning rate.
    """
    moved = list(parameters)
    optimizer = torch.optim.SGD(moved, lr=0.1, momentum=0.9, nesterov=True, fused=True)
    optimizer.register_step_post_hook(lambda *_: _constrain([p for p in moved if p.ndim == 2]))
    return optimizer


@torch.no_grad()
def _constrain(weights: list[nn.Parameter]) -> None:
    for weight in weights:
        norm = torch.linalg.vector_norm(weight, dim=1, keepdim=True)
        weight.mul_((_MAX_NORM / norm).clamp_max_(1.0))


TEACHER = Optimizer(name=constrained_sgd, warmup=0.01)
STUDENT = Optimizer(name="adam", lr=1e-3, warmup=0.01)


def logits(model: nn.Module, examples: Dataset) -> Tensor:
    """Compute the logits of the examples in order, in float32."""
    loader = ShuffledLoader(examples, batch_size=2000, shuffle=False)
    return predict(model, loader, preprocess=READS).student


def labels_of(examples: Dataset) -> Tensor:
    """Return the labels of the examples."""
    labels: Any = examples.labels
    return cast(Tensor, labels)


def errors(logits: Tensor, labels: Tensor) -> int:
    """Count the wrong rows."""
    return int((logits.argmax(-1) != labels).sum())
