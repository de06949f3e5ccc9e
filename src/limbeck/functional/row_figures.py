"""Figures of single rows of logits, for metrics: entropy, agreement, mass and overlap of the most likely classes."""

from __future__ import annotations

import torch
from jaxtyping import Float, Int
from torch import Tensor

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
