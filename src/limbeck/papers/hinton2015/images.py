"""Images, network and optimizers of the experiment with specialists."""

from __future__ import annotations

from functools import cache
from typing import Any

import torch
from torch import nn

from limbeck.data import Chain, Dataset, DataSplits, Flip, RandomShift, ShuffledLoader, load_data
from limbeck.models import Cnn, seeded
from limbeck.papers.experiment import fewer
from limbeck.recipe import Optimizer

CLASSES = 100
BATCH = 64
QUICK = (3000, 1000)
"""The number of training and test examples at quick scale."""
_MOMENTUM = {"momentum": 0.9, "nesterov": True, "weight_decay": 5e-4}
GENERALIST = Optimizer(name="sgd", lr=0.05, warmup=0.05, options=_MOMENTUM)
FURTHER = Optimizer(name="sgd", lr=0.05, options=_MOMENTUM)
"""The optimizer for training that starts from trained weights: specialists, and the control."""


@cache
def pictures(quick: bool) -> DataSplits:
    """Load CIFAR-100, or a part of it; at quick scale a few thousand images."""
    whole = load_data("cifar100")
    return fewer(whole, train=QUICK[0], test=QUICK[1]) if quick else whole


def network(seed: int) -> nn.Module:
    """Make a small network of three convolutions, in channels-last format for bfloat16 on a CPU."""
    with seeded(seed):
        net: Any = Cnn(channels=3, classes=CLASSES, widths=[16, 32, 64], size=32)
    laid_out: nn.Module = net.to(memory_format=torch.channels_last)
    return laid_out


def make_loader(examples: Dataset, seed: int) -> ShuffledLoader:
    """Shifts by up to four pixels, and flips with probability one half."""
    view = Chain(RandomShift(4, seed=seed), Flip(seed=seed))
    return ShuffledLoader(examples, batch_size=BATCH, seed=seed, augment=view)
