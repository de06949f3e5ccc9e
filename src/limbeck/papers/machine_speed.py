"""Speed of this machine compared with the reference machine."""

from __future__ import annotations

import time

import torch
from torch import nn

REFERENCE = 0.014
"""Seconds of one step on one thread of the reference machine (AMD EPYC, torch 2.13.0)."""
_STEPS = 25


def slowness() -> float:
    """Measure how many times slower this machine is than the reference, by the median of a few training steps.

    A step is forward pass, backward pass and SGD of a network 784-800-800-10 on 256 examples in bfloat16, one thread.
    """
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        times = _times()
    finally:
        torch.set_num_threads(threads)
    return sorted(times)[len(times) // 2] / REFERENCE


def _times() -> list[float]:
    net = nn.Sequential(nn.Linear(784, 800), nn.ReLU(), nn.Linear(800, 800), nn.ReLU(), nn.Linear(800, 10))
    optimizer = torch.optim.SGD(net.parameters(), lr=1e-3, momentum=0.9, fused=True)
    inputs, labels = torch.zeros(256, 784), torch.zeros(256, dtype=torch.int64)
    times = []
    for _ in range(_STEPS):
        began = time.perf_counter()
        with torch.autocast("cpu", torch.bfloat16):
            logits = net(inputs)
        nn.functional.cross_entropy(logits.float(), labels).backward()
        optimizer.step()
        optimizer.zero_grad()
        times.append(time.perf_counter() - began)
    return times
