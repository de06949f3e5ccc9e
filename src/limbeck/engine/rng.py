"""Random number generators, saved and restored around a run."""

from __future__ import annotations

import random
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
from torch import Tensor

from limbeck.batch import sequence_like


def capture() -> dict[str, Any]:
    """The state of every generator that a step may draw from: PyTorch's (CPU and CUDA), numpy's, Python's."""
    version, numbers, gauss = random.getstate()
    name, keys, position, has_gauss, cached = np.random.get_state(legacy=True)
    cuda = torch.cuda.get_rng_state_all() if torch.cuda.is_available() and torch.cuda.is_initialized() else []
    return {
        "torch": torch.get_rng_state(),
        "cuda": list(cuda),
        "python": [version, torch.tensor(numbers, dtype=torch.int64), gauss],
        "numpy": [str(name), torch.from_numpy(np.asarray(keys, dtype=np.int64)), int(position), int(has_gauss), cached],
    }


def restore(state: Mapping[str, Any]) -> None:
    """Put every generator back to where `capture` found it."""
    torch.set_rng_state(state["torch"])
    if state["cuda"] and torch.cuda.is_available():
        torch.cuda.set_rng_state_all(state["cuda"])
    version, numbers, gauss = state["python"]
    random.setstate((version, tuple(numbers.tolist()), gauss))
    name, keys, position, has_gauss, cached = state["numpy"]
    np.random.set_state((name, keys.numpy().astype(np.uint32), position, has_gauss, cached))


def seed_all(seed: int) -> dict[str, Any]:
    """The state that every generator has right after being seeded; the present state is left alone."""
    with fork_rng():
        torch.manual_seed(seed)
        random.seed(seed)
        np.random.seed(seed % 2**32)
        return capture()


@contextmanager
def fork_rng(state: Mapping[str, Any] | None = None) -> Iterator[None]:
    """A block that draws from `state` (or from where things stand), after which every generator is as it was before."""
    before = capture()
    if state is not None:
        restore(state)
    try:
        yield
    finally:
        restore(before)


def clone_rng_state(value: Any) -> Any:
    """A copy of a nested state that later steps cannot change."""
    if isinstance(value, Tensor):
        return value.detach().clone()
    if isinstance(value, Mapping):
        return {key: clone_rng_state(inner) for key, inner in value.items()}
    if isinstance(value, (list, tuple)):
        return sequence_like(value, (clone_rng_state(inner) for inner in value))
    return value
