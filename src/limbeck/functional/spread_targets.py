"""Targets that keep some of a teacher's probabilities and spread the rest evenly."""

from __future__ import annotations

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from limbeck.functional.closed_form import clamp_neg_inf, guarded_log_softmax
from limbeck.functional.kernel import in_float32


@in_float32
def spread_rest(
    teacher: Float[Tensor, "*batch classes"],
    keep: Bool[Tensor, "*batch classes"],
    *,
    exists: Bool[Tensor, "*batch classes"] | None = None,
    temperature: float = 1.0,
) -> Float[Tensor, "*batch classes"]:
    r"""Keep the probabilities of some classes of each row, and spread the rest evenly over the others.

    With :math:`p = softmax(v / T)` and S the kept classes, the result is the logarithm of
    :math:`\tilde p_c = p_c` for c in S, and :math:`\tilde p_c = (1 - \sum_{S} p) / (K - |S|)` for the K - |S| others.
    It sums to 1. With all classes in S it is ``log p``; with none it is uniform. Gradients flow to the teacher.

    Args:
        teacher: Logits v, classes last.
        keep: The classes in S.
        exists: The classes that exist, which K counts; by default those that are not -inf in `teacher`. Others are
            -inf in the result.
        temperature: T, above 0.

    Example:
        >>> teacher = torch.tensor([[0.5, 0.3, 0.2]]).log()
        >>> spread_rest(teacher, torch.tensor([[True, False, False]])).exp()
        tensor([[0.5000, 0.2500, 0.2500]])

    Source: Tang et al., Understanding and Improving Knowledge Distillation, 2020, arXiv:2002.03532.
    """
    exists = teacher != -torch.inf if exists is None else exists
    log_p, others = guarded_log_softmax(teacher, temperature), exists & ~keep
    # A sum of the others, and not 1 minus the kept ones: that difference has no precision near 0.
    rest = log_p.masked_fill(~others, clamp_neg_inf(log_p.dtype)).logsumexp(-1, keepdim=True)
    even = rest - others.sum(-1, keepdim=True).clamp_min(1).to(log_p.dtype).log()
    return torch.where(keep, log_p, even).masked_fill(~exists, -torch.inf)
