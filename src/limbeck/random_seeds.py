"""Random seeds that do not collide, states of random generators, and random numbers as a pure function of counters."""

from __future__ import annotations

import hashlib
import random
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor


def derive_seed(seed: int, name: str) -> int:
    """Derive a seed for a purpose from a run's seed.

    Different names or seeds give unrelated numbers. Sums and products such as ``seed + 1`` would collide with the seeds
    of other repetitions, whose initial weights and data order would then be the same.

    Args:
        seed: The run's seed.
        name: The purpose, such as ``head 0`` or ``branch 1-0``.

    Returns:
        An integer from 0 to 2**32 - 1, which PyTorch, NumPy and Python accept.

    Example:
        >>> derive_seed(0, "branch 0-1") == derive_seed(0, "branch 0-1") != derive_seed(1, "branch 0-1")
        True
    """
    return int.from_bytes(hashlib.sha256(f"{seed} {name}".encode()).digest()[:4], "big")


def get_rng_state() -> dict[str, Any]:
    """Return the state of all random generators that a step may draw from: those of PyTorch, NumPy and Python."""
    version, numbers, gauss = random.getstate()
    name, keys, position, has_gauss, cached = np.random.get_state(legacy=True)
    cuda = torch.cuda.get_rng_state_all() if torch.cuda.is_available() and torch.cuda.is_initialized() else []
    return {
        "torch": torch.get_rng_state(),
        "cuda": list(cuda),
        "python": [version, torch.tensor(numbers, dtype=torch.int64), gauss],
        "numpy": [str(name), torch.from_numpy(np.asarray(keys, dtype=np.int64)), int(position), int(has_gauss), cached],
    }


def set_rng_state(state: Mapping[str, Any]) -> None:
    """Set all random generators to a state from `get_rng_state`."""
    torch.set_rng_state(state["torch"])
    if state["cuda"] and torch.cuda.is_available():
        torch.cuda.set_rng_state_all(state["cuda"])
    version, numbers, gauss = state["python"]
    random.setstate((version, tuple(numbers.tolist()), gauss))
    name, keys, position, has_gauss, cached = state["numpy"]
    np.random.set_state((name, keys.numpy().astype(np.uint32), position, has_gauss, cached))


def make_rng_state(seed: int) -> dict[str, Any]:
    """Return the state that all random generators have after they are seeded; the present state does not change."""
    with fork_rng():
        _seed_torch(seed)
        random.seed(seed)
        np.random.seed(seed % 2**32)
        return get_rng_state()


def _seed_torch(seed: int) -> None:
    """As `torch.manual_seed`, which formats the stack for each kind of GPU that is not there: milliseconds a call."""
    if torch.accelerator.is_available():
        torch.manual_seed(seed)
    else:
        torch.default_generator.manual_seed(seed)


@contextmanager
def fork_rng(state: Mapping[str, Any] | None = None) -> Iterator[None]:
    """Draw from another state, or a copy of the present one, within a block; the state is restored afterwards."""
    before = get_rng_state()
    if state is not None:
        set_rng_state(state)
    try:
        yield
    finally:
        set_rng_state(before)


def draw_seed() -> Int[Tensor, ""]:
    """Draw a seed from PyTorch's generator, for the `counter_uniform` of a loss.

    Call it in `LossTerm.setup` and keep it as a buffer: it then depends on the run's seed, is equal on all ranks, and a
    resumed run has it again.

    Example:
        >>> draw_seed().shape
        torch.Size([])
    """
    return torch.randint(2**31, ())


def _signed(value: int) -> int:
    """Convert an unsigned 64-bit value to the int64 with the same bits."""
    value &= (1 << 64) - 1
    return value - (1 << 64) if value >> 63 else value


# Steele, Lea and Flood's constants, as int64 bit patterns.
_STEP = _signed(0x9E3779B97F4A7C15)

_FIRST = _signed(0xBF58476D1CE4E5B9)

_SECOND = _signed(0x94D049BB133111EB)

_BITS = 24  # the number of bits of a float32 below 1


def counter_uniform(
    id: Int[Tensor, " batch"], view: Int[Tensor, " batch"], *, seed: int, draws: int, stream: str = ""
) -> Float[Tensor, "batch draws"]:
    """Draw uniform numbers in [0, 1), a pure function of (id, view, seed, stream) and the number of the draw.

    ``h = mix(mix(id + k) + view)``, and draw ``d`` is the top 24 bits of ``mix(h + (d + 1) g)``, where ``mix`` is the
    finalizer of splitmix64, ``g`` its increment, and ``k`` the first 64 bits of SHA-256 of the seed and the stream.
    It uses 64-bit integer arithmetic, so the bits are the same on every device, and the numbers of an example do not
    depend on batch, order or process.

    Args:
        id: Ids of the examples, ``int64 [batch]``.
        view: View numbers, ``int64 [batch]``.
        seed: The seed.
        draws: The number of draws per example. The first ones do not depend on this number.
        stream: A name, so that two users of one seed (a shift, a mixup) draw different numbers.

    Returns:
        ``float32 [batch, draws]``: multiples of 2⁻²⁴, never 1.

    Example:
        >>> one = counter_uniform(torch.tensor([7, 8]), torch.tensor([0, 0]), seed=0, draws=2)
        >>> two = counter_uniform(torch.tensor([8]), torch.tensor([0]), seed=0, draws=3)
        >>> bool((one[1] == two[0, :2]).all())
        True

    Source: G. L. Steele, D. Lea and C. H. Flood, Fast Splittable Pseudorandom Number Generators, OOPSLA 2014.
    """
    row = mix(mix(id.long() + key(seed, stream)) + view.long())
    step = _STEP * torch.arange(1, draws + 1, device=row.device)
    return _shifted(mix(row[:, None] + step), 64 - _BITS).float() * 2.0**-_BITS


def counter_order(size: int, *, seed: int, epoch: int, stream: str = "order") -> Int[Tensor, " size"]:
    """Make a permutation of ``0..size-1``, a pure function of (seed, epoch): positions sorted by their mixed counters.

    It does not use a generator of PyTorch or NumPy, so it is the same for all versions.

    Example:
        >>> counter_order(5, seed=0, epoch=0).sort().values.tolist()
        [0, 1, 2, 3, 4]
    """
    start = mix(torch.tensor(epoch) + key(seed, stream))
    return mix(mix(torch.arange(size)) + start).argsort(stable=True)


def key(seed: int, stream: str) -> int:
    """Compute an int64 key of `seed` and `stream`: the first 64 bits of their SHA-256."""
    return int.from_bytes(hashlib.sha256(f"{seed}/{stream}".encode()).digest()[:8], "little", signed=True)


def mix(value: Int[Tensor, "*shape"]) -> Int[Tensor, "*shape"]:
    """Apply the finalizer of splitmix64, a bijection of 64-bit integers."""
    value = (value ^ _shifted(value, 30)) * _FIRST
    value = (value ^ _shifted(value, 27)) * _SECOND
    return value ^ _shifted(value, 31)


def _shifted(value: Tensor, by: int) -> Tensor:
    # PyTorch shifts int64 arithmetically; masking the copies of the sign makes the shift logical.
    return (value >> by) & ((1 << (64 - by)) - 1)


__all__ = ["counter_order", "counter_uniform", "key", "mix"]
