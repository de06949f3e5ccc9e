"""`Chain`: applies several transforms in order."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, field, is_dataclass, replace
from typing import Any

from torch import Tensor

from limbeck.batch import Inputs
from limbeck.data.transform import Transform, check_transform
from limbeck.errors import LimbeckError


@dataclass(frozen=True, init=False)
class Chain:
    """Applies several transforms in order.

    Transforms of different types draw independent random numbers. Of two transforms with the same type and seed, the
    second would repeat the draws of the first, so it gets a new seed, derived from the old one and its position. Nested
    chains are flattened.

    Args:
        *transforms: At least one.

    Raises:
        LimbeckError: If there is none, or an argument is not a transform.

    Example:
        >>> from limbeck.data import Flip, RandomShift
        >>> Chain(RandomShift(4), Flip()).fingerprint
        'shift/1 pixels=4 seed=0 > flip/1 probability=0.5 vertical=False seed=0'
    """

    transforms: tuple[Transform, ...]
    members: tuple[Transform, ...] = field(compare=False, repr=False)

    def __init__(self, *transforms: Any) -> None:
        for transform in transforms:
            check_transform(transform, who="Chain")
        if not transforms:
            raise LimbeckError("Chain needs at least one transform: Chain(RandomShift(4), Flip()).")
        flat = list[Any]()
        for transform in transforms:
            flat += transform.members if isinstance(transform, Chain) else [transform]
        object.__setattr__(self, "members", tuple(flat))
        object.__setattr__(self, "transforms", tuple(_separate_seeds(flat)))

    @property
    def fingerprint(self) -> str:
        """The fingerprints of all transforms, in order."""
        return " > ".join(transform.fingerprint for transform in self.transforms)

    def __call__(self, inputs: Inputs, id: Tensor, view: Tensor) -> Inputs:
        """Apply all transforms."""
        for transform in self.transforms:
            inputs = transform(inputs, id, view)
        return inputs


def _separate_seeds(transforms: list[Any]) -> list[Any]:
    seen: dict[tuple[type, int], int] = {}
    seeded = []
    for transform in transforms:
        seed = getattr(transform, "seed", None)  # optional: not part of the Transform protocol
        if not is_dataclass(transform) or isinstance(transform, type) or not isinstance(seed, int):
            seeded.append(transform)
            continue
        before = seen.get((type(transform), seed), 0)
        seen[type(transform), seed] = before + 1
        seeded.append(replace(transform, seed=_seed(seed, before)) if before else transform)
    return seeded


def _seed(seed: int, index: int) -> int:
    return int.from_bytes(hashlib.sha256(f"chain {seed}/{index}".encode()).digest()[:4], "little")
