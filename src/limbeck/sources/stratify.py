"""Which examples make up a part that has the classes in the same shares as the whole?"""

from __future__ import annotations

import torch
from jaxtyping import Int
from torch import Tensor

from limbeck.sources.counter import counter_order


def stratified(labels: Int[Tensor, " n"], count: int, *, seed: int) -> Int[Tensor, " count"]:
    """`count` positions, ascending, with each class in its share: a pure function of the labels and the seed.

    A class with ``m`` of the ``n`` examples gets ``count m / n``, rounded down; what is left goes one by one to the
    classes with the largest remainders. Examples without a label (-100) are a class of their own.

    Example:
        >>> stratified(torch.tensor([0] * 6 + [1] * 3), 3, seed=0).div(6, rounding_mode="floor").tolist()
        [0, 0, 1]
    """
    _, which, sizes = labels.unique(return_inverse=True, return_counts=True)
    share = sizes * count
    quota = share // len(labels)
    left = int(count - quota.sum())
    largest = (share % len(labels)).argsort(descending=True, stable=True)[:left]
    quota[largest] += 1
    shuffled = counter_order(len(labels), seed=seed, epoch=0, stream="stratified")
    grouped = shuffled[which[shuffled].argsort(stable=True)]
    place = torch.arange(len(labels)) - (sizes.cumsum(0) - sizes).repeat_interleave(sizes)
    return grouped[place < quota.repeat_interleave(sizes)].sort().values
