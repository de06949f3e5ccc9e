"""Random seeds: `derive_seed` makes seeds that do not collide."""

from __future__ import annotations

import hashlib


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
