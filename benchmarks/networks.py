"""Benchmark of the reference networks with their channels last in memory, beside PyTorch's default order."""

from __future__ import annotations

import statistics
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import torch
from torch import nn

from benchmarks.interleave import interleave, paired_ratio
from limbeck.models import build

_NETWORKS: Mapping[str, tuple[str, dict[str, Any], tuple[int, ...]]] = {
    "cnn, 28x28": ("cnn", {"channels": 1, "classes": 10, "widths": [8, 16], "size": 28}, (128, 1, 28, 28)),
    "cnn, 32x32": ("cnn", {"channels": 3, "classes": 100, "widths": [16, 32, 64], "size": 32}, (128, 3, 32, 32)),
    "fcn, 32x32": ("fcn", {"channels": 3, "classes": 5, "widths": [8, 16]}, (32, 3, 32, 32)),
    "resnet8, 32x32": ("resnet8", {"channels": 3, "classes": 100}, (128, 3, 32, 32)),
    "resnet20, 32x32": ("resnet20", {"channels": 3, "classes": 100}, (128, 3, 32, 32)),
}


def bench_networks(
    *, rounds: int = 12, names: tuple[str, ...] = (), say: Callable[[str], None] = lambda _: None
) -> dict[str, Any]:
    """Compare the time of the reference networks in the order in which they store weights and in PyTorch's default one.

    Both copies have the same weights and take turns in one process.

    Args:
        rounds: How often each is timed.
        names: The networks, such as ``cnn, 28x28``; all by default.
        say: Gets messages about the progress.

    Returns:
        ``ratio_step`` and ``ratio_forward``: network -> the time with the channels last over that in the default order,
        of a forward and backward pass, and of a forward pass without gradients. ``milliseconds``: network -> the median
        time of a step with the channels last. And ``threads``, ``torch``.
    """
    result: dict[str, Any] = {"ratio_step": {}, "ratio_forward": {}, "milliseconds": {}}
    for title in names or _NETWORKS:
        say(title)
        name, arguments, shape = _NETWORKS[title]
        last = build(name, seed=0, **arguments)
        default = build(name, seed=0, **arguments).to(memory_format=torch.contiguous_format)  # type: ignore[call-overload]
        images = torch.randn(shape)
        for kind, run in (("step", _take_steps), ("forward", _pass_forward)):
            times = interleave({"last": run(last, images), "default": run(default, images)}, rounds=rounds)
            result[f"ratio_{kind}"][title] = round(paired_ratio(times["last"].wall, times["default"].wall), 3)
            if kind == "step":
                result["milliseconds"][title] = round(1000 * statistics.median(times["last"].wall), 2)
    return result | {"threads": torch.get_num_threads(), "torch": torch.__version__}


def _take_steps(network: nn.Module, images: torch.Tensor) -> Iterator[float]:
    network.train()
    while True:
        network.zero_grad(set_to_none=True)
        network(images).sum().backward()
        yield 0.0


def _pass_forward(network: nn.Module, images: torch.Tensor) -> Iterator[float]:
    network.eval()
    while True:
        with torch.no_grad():
            network(images)
        yield 0.0
