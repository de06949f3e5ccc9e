"""Comparison of a student with a teacher of whom only some classes are known."""

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
    r"""Some classes and all others as one more: logits of k + 1 buckets whose tempered softmax has exactly their mass.

    The logits at `ids`, and behind them ``T logsumexp_{c not in ids}(logits_c / T)``. So ``softmax(. / T)`` of the
    result is that of the logits with the other classes merged into one bucket, the rest.

    An f-divergence between two distributions never grows when classes are merged (the data-processing inequality): of
    both sides made coarse by the same `ids` it is at most the whole one, and 0 exactly where the buckets agree. With
    all classes in `ids` it is the whole one.

    Args:
        logits: Logits, or log-probabilities.
        ids: Which classes stay, each once in a row.
        temperature: T, at which the others are merged; another one needs another result.

    Returns:
        ``[*batch, k + 1]``, the rest last: -inf where no other class is above -inf. Gradients are finite there too.

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
    """The buckets, and beside them each class's share of the rest, which is the gradient of its logit.

    Automatic differentiation would take the exponential twice, and walk through all classes ten times.
    """

    @staticmethod
    def forward(ctx: Any, logits: Tensor, ids: Tensor, temperature: float) -> Tensor:
        low = clamp_neg_inf(logits.dtype)
        # A class at the floor weighs nothing beside any other, and where there is no other the floor stays finite.
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
        if torch.is_grad_enabled():  # a gradient of this gradient is wanted, so it must be a function of the logits
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
    r"""The Kullback-Leibler divergence of the student from the teacher, times T^2, from classes drawn at random.

    ``T^2 (- sum_i w_i log q_{c_i} - H(p))`` in nats, one value for each row, with ``q = softmax(student / T)``. Where
    the expected weight of class c is ``p_c`` of ``p = softmax(teacher / T)``, its expected value is
    `limbeck.functional.kl_divergence` and its expected gradient is that one's, ``T (q - p)``. A single value may be
    below 0.

    Args:
        student: Logits of the student.
        ids: The classes that were drawn; one may come more than once.
        weights: w, one for each draw: ``p_c / (N r_c)`` for each of N draws from r.
        entropy: H of the teacher at T.
        temperature: T, above 0.

    Returns:
        One value for each row; infinite where the student is -inf in a class that was drawn.

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
    # Times 8, the floor that stands for -inf overflows to inf; what has no weight is left out before it can be 0 * inf.
    cross = -0.125 * (8.0 * log_q * weights).masked_fill(weights == 0, 0.0).sum(-1)
    return (cross - entropy.to(cross.dtype)) * temperature * temperature


def _levelled(logits: Tensor, temperature: float) -> Tensor:
    """The same distribution, so that dividing by a temperature below 1 cannot overflow upwards."""
    if temperature >= 1:
        return logits
    return logits - logits.detach().amax(-1, keepdim=True).clamp_min(torch.finfo(logits.dtype).min)
