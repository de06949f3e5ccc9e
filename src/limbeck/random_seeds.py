"""Random seeds: `derive_seed` makes seeds that do not collide."""

from __future__ import annotations

import hashlib


def derive_seed(seed: int, name: str) -> int:
    """A seed of its own for whatever `name` says, from a run's seed.

    Two names, or two seeds, give unrelated numbers: sums and products of a seed and a number would meet the seeds of
    other repetitions, whose networks and orders then are the same.

    Args:
        seed: The run's.
        name: What it is for, such as ``head 0`` or ``branch 1-0``.

    Returns:
        A whole number from 0 to 2**32 - 1, which PyTorch, numpy and Python take.

    Example:
        >>> derive_seed(0, "branch 0-1") == derive_seed(0, "branch 0-1") != derive_seed(1, "branch 0-1")
        True
    """
    return int.from_bytes(hashlib.sha256(f"{seed} {name}".encode()).digest()[:4], "big")
