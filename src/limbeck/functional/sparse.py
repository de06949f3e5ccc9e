"""Divergences from a teacher with only some known classes."""

from __future__ import annotations

from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor

from limbeck.functional.closed_form import clamp_neg_inf, log_softmax, nonzero_mask
from limbeck.functional.kernel import in_float32
from limbeck.functional.validation import check_hyper


@in_float32
def coarse_logits(
    logits: Float[Tensor, "*batch classes"], ids: Int[Tensor, "*batch k"], *, temperature: float = 1.0
) -> Float[Tensor, "*batch buckets"]:
    r"""Merge all classes except some into one: logits of k + 1 buckets with exactly their tempered probabilities.

    The result has the logits at `ids`, followed by ``T logsumexp_{c not in ids}(logits_c / T)``. So ``softmax(. / T)``
    of the result is that of the logits with the other classes merged into one bucket, the rest.

    Merging classes never increases an f-divergence (the data-processing inequality): for two distributions merged with
    the same `ids` it is at most the full divergence, and 0 only if the buckets agree. With all classes in `ids` it is
    the full divergence.

    Args:
        logits: Logits, or log-probabilities.
        ids: The classes to keep, each at most once per row.
        temperature: T. The result is valid for this temperature only.

    Returns:
        ``[*batch, k + 1]``, with the rest last: -inf if all other classes are -inf. Gradients are finite there too.

    Raises:
        LimbeckError: If `temperature` is not a finite number above 0.

    Example:
        >>> coarse_logits(torch.tensor([[3.0, 1.0, 1.0]]).log(), torch.tensor([[0]])).softmax(-1)
        tensor([[0.6000, 0.4000]])

    Source: Csiszár, Information-type measures of difference of probability distributions, 1967 (merging classes).
    """
    check_hyper(temperature=temperature)
    buckets: Tensor = _Merged.apply(_levelled(logits, temperature), ids, temperature)
    return buckets


class _Merged(torch.autograd.Function):
    """Computes the buckets, and the probability of each class within the rest, which is the gradient of its logit.

    Automatic differentiation would compute the exponential twice and pass over all classes ten times.
    """

    @staticmethod
    def forward(ctx: Any, logits: Tensor, ids: Tensor, temperature: float) -> Tensor:
        low = clamp_neg_inf(logits.dtype)
        # A class at the floor has no weight among others; without others the floor is finite.
        others = nonzero_mask(logits, temperature).scatter_(-1, ids, low)
        top = others.amax(-1, keepdim=True)
        share = others.sub_(top).exp_()
        total = share.sum(-1, keepdim=True)
        none = top <= low / 2
        rest = (temperature * (top + total.log())).masked_fill(none, -torch.inf)
        ctx.temperature = temperature
        ctx.save_for_backward(logits, ids, share.div_(total.masked_fill(none, torch.inf)))
        return torch.cat([logits.gather(-1, ids), rest], -1)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None, None]:
        logits, ids, share = ctx.saved_tensors
        if torch.is_grad_enabled():  # for second derivatives the gradient must be a function of the logits
            low = clamp_neg_inf(logits.dtype)
            others = nonzero_mask(logits, ctx.temperature).scatter(-1, ids, low)
            share = others.softmax(-1).masked_fill(others.amax(-1, keepdim=True) <= low / 2, 0.0)
        return (share * grad[..., -1:]).scatter(-1, ids, grad[..., :-1]), None, None


@in_float32
def sampled_kl_divergence(
    student: Float[Tensor, "*batch classes"],
    *,
    ids: Int[Tensor, "*batch draws"],
    weights: Float[Tensor, "*batch draws"],
    entropy: Float[Tensor, "*batch"],
    temperature: float = 1.0,
) -> Float[Tensor, "*batch"]:
    r"""Estimate the Kullback-Leibler divergence of the student from the teacher, times T^2, from random classes.

    ``T^2 (- sum_i w_i log q_{c_i} - H(p))`` in nats, one value per row, with ``q = softmax(student / T)``. If the
    expected weight of class c is ``p_c`` of ``p = softmax(teacher / T)``, the expected value is
    `limbeck.functional.kl_divergence`, and the expected gradient is its gradient ``T (q - p)``. A single value can be
    negative.

    Args:
        student: Logits of the student.
        ids: The drawn classes, possibly repeated.
        weights: w, one per draw: ``p_c / (N r_c)`` for each of N draws from r.
        entropy: The teacher's entropy H at T.
        temperature: T, above 0.

    Returns:
        One value per row; infinite if the student is -inf in a drawn class.

    Example:
        >>> student, p = torch.tensor([[0.0, 0.0]]), torch.tensor([[0.75, 0.25]])
        >>> every, entropy = torch.tensor([[0, 1]]), torch.special.entr(p).sum(-1)
        >>> sampled_kl_divergence(student, ids=every, weights=p, entropy=entropy)
        tensor([0.1308])

    Source: Anshumann et al., Sparse Logit Sampling: Accelerating Knowledge Distillation in LLMs, 2025,
        arXiv:2503.16870.
    """
    check_hyper(temperature=temperature)
    log_q = log_softmax(nonzero_mask(_levelled(student, temperature), temperature)).gather(-1, ids)
    # The floor of -inf times 8 overflows to inf; terms without weight are masked first to avoid 0 * inf.
    cross = -0.125 * (8.0 * log_q * weights).masked_fill(weights == 0, 0.0).sum(-1)
    return (cross - entropy.to(cross.dtype)) * temperature * temperature


def _levelled(logits: Tensor, temperature: float) -> Tensor:
    """Shift logits, without a change of the distribution, so that dividing by a temperature below 1 cannot overflow."""
    if temperature >= 1:
        return logits
    return logits - logits.detach().amax(-1, keepdim=True).clamp_min(torch.finfo(logits.dtype).min)
