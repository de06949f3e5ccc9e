"""Figures of single rows of logits (entropy, agreement, mass, overlap), and the rows with the largest ones."""

from __future__ import annotations

import math

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from limbeck.errors import ArgumentError
from limbeck.functional.divergence import probabilities
from limbeck.functional.kernel import in_float32


@in_float32
def compute_entropy(logits: Float[Tensor, "*batch classes"], *, temperature: float = 1.0) -> Float[Tensor, "*batch"]:
    """Compute ``-sum_c q_c log q_c`` of each row in nats, with ``q = softmax(logits / T)``; 0 for a row of -inf.

    Like the others here it is a row function of `limbeck.functional.fused_linear_losses`, with the weight 0.

    Example:
        >>> compute_entropy(torch.zeros(1, 4))
        tensor([1.3863])
    """
    return torch.special.entr(probabilities(logits, temperature=temperature)).sum(-1)


def compute_agreement(
    student: Float[Tensor, "*batch classes"], teacher: Float[Tensor, "*batch classes"]
) -> Float[Tensor, "*batch"]:
    """Compute 1 where both have the same most likely class, else 0.

    Example:
        >>> compute_agreement(torch.tensor([[0.0, 1.0]]), torch.tensor([[2.0, 3.0]]))
        tensor([1.])
    """
    same: Tensor = student.argmax(-1) == teacher.argmax(-1)
    return same.to(student.dtype)


@in_float32
def compute_mass(
    logits: Float[Tensor, "*batch classes"], ids: Int[Tensor, "*batch k"], *, temperature: float = 1.0
) -> Float[Tensor, "*batch"]:
    """Compute the probability of some classes together, such as the most likely ones of the teacher.

    Args:
        logits: Logits.
        ids: The classes, each at most once per row: ``teacher.topk(k).indices``, or those of stored top-k logits.
        temperature: T.

    Example:
        >>> compute_mass(torch.zeros(1, 4), torch.tensor([[0, 2]]))
        tensor([0.5000])
    """
    return probabilities(logits, temperature=temperature).gather(-1, ids).sum(-1)


def compute_overlap(logits: Float[Tensor, "*batch classes"], ids: Int[Tensor, "*batch k"]) -> Float[Tensor, "*batch"]:
    """Compute the share of k classes that are among the k most likely ones of each row.

    Args:
        logits: Logits.
        ids: The classes, each once per row: the k most likely ones of the teacher.

    Example:
        >>> compute_overlap(torch.tensor([[3.0, 2.0, 1.0]]), torch.tensor([[0, 2]]))
        tensor([0.5000])
    """
    own = logits.topk(ids.shape[-1], -1).indices
    shared: Tensor = (own.unsqueeze(-1) == ids.unsqueeze(-2)).any(-1)
    return shared.to(logits.dtype).mean(-1)


def select_largest(
    scores: Float[Tensor, " rows"], groups: Int[Tensor, " rows"], *, share: float
) -> Bool[Tensor, " rows"]:
    """Select the rows with the largest scores: the same share of each group, rounded up, so at least one.

    How many are selected does not depend on the scores. Of equal scores the first are selected; NaN counts as the
    largest.

    Args:
        scores: The score of each row.
        groups: The number of the group of each row, such as its text.
        share: The share of each group.

    Example:
        >>> select_largest(torch.tensor([1.0, 3.0, 2.0, 0.0]), torch.tensor([0, 0, 0, 1]), share=0.5)
        tensor([False,  True,  True,  True])
    """
    group = groups.unique(return_inverse=True)[1]
    # Sorted by group, and within it by score; equal scores in the order of the rows.
    order = scores.argsort(descending=True, stable=True)
    order = order[group[order].argsort(stable=True)]
    sizes = group.bincount()
    rank = torch.arange(len(group), device=group.device) - (sizes.cumsum(0) - sizes)[group[order]]
    chosen = torch.zeros(len(group), dtype=torch.bool, device=group.device)
    chosen[order] = rank < count_share(sizes, share)[group[order]]
    return chosen


def count_share(sizes: Int[Tensor, " groups"], share: float) -> Int[Tensor, " groups"]:
    """Count the rows that `select_largest` selects of groups of these sizes.

    Example:
        >>> count_share(torch.tensor([1, 5, 10]), 0.2)
        tensor([1, 1, 2])
    """
    # 0.2 * 15 is a little above 3 in binary.
    counts = [math.ceil(round(share * size, 9)) for size in sizes.tolist()]
    return torch.tensor(counts, dtype=torch.int64, device=sizes.device)


def check_positive_share(share: float) -> None:
    """Check that a share is above 0 and at most 1.

    Raises:
        ArgumentError: If it is not.
    """
    if isinstance(share, bool) or not isinstance(share, (int, float)) or not 0 < share <= 1:
        raise ArgumentError(f"share is a number above 0 and at most 1, such as 0.2; got {share!r}.", argument="share")
