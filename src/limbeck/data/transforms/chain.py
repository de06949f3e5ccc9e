"""`Chain`: several transforms in turn."""

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
    """Several augmentations, each of what the one before made.

    Kinds of views draw independent numbers. Of two of one kind with one seed, the second would draw what the first
    drew, so it gets a seed of its own, made of that seed and of how many came before it. A chain in a chain is one
    chain.

    Args:
        *views: At least one.

    Raises:
        LimbeckError: If there is none, or one is no view.

    Example:
        >>> from limbeck.data import Flip, RandomShift
        >>> Chain(RandomShift(4), Flip()).fingerprint
        'shift/1 pixels=4 seed=0 > flip/1 probability=0.5 vertical=False seed=0'
    """

    views: tuple[Transform, ...]
    given: tuple[Transform, ...] = field(compare=False, repr=False)

    def __init__(self, *views: Any) -> None:
        for one in views:
            check_transform(one, who="Chain")
        if not views:
            raise LimbeckError("A chain needs at least one view: Chain(Shift(4), Flip()).")
        flat = [inner for one in views for inner in (one.given if isinstance(one, Chain) else (one,))]
        object.__setattr__(self, "given", tuple(flat))
        object.__setattr__(self, "views", tuple(_separate_seeds(flat)))

    @property
    def fingerprint(self) -> str:
        """Those of all, in order."""
        return " > ".join(one.fingerprint for one in self.views)

    def __call__(self, inputs: Inputs, id: Tensor, view: Tensor) -> Inputs:
        """The inputs after the last."""
        for one in self.views:
            inputs = one(inputs, id, view)
        return inputs


def _separate_seeds(views: list[Any]) -> list[Any]:
    seen: dict[tuple[type, int], int] = {}
    found = []
    for one in views:
        seed = getattr(one, "seed", None)
        if not is_dataclass(one) or isinstance(one, type) or not isinstance(seed, int):
            found.append(one)
            continue
        before = seen.get((type(one), seed), 0)
        seen[type(one), seed] = before + 1
        found.append(replace(one, seed=_seed(seed, before)) if before else one)
    return found


def _seed(seed: int, place: int) -> int:
    return int.from_bytes(hashlib.sha256(f"chain {seed}/{place}".encode()).digest()[:4], "little")
