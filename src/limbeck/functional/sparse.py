"""Divergences from a teacher of which only some classes are known, and the sums over the others."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor

from limbeck.functional.blockwise import inside_transform, keeps_graph
from limbeck.functional.closed_form import clamp_neg_inf, is_well_scaled, log_softmax, nonzero_mask, scaled
from limbeck.functional.kernel import check_hyper, in_float32


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
def merged_values(
    kernel: Callable[..., Tensor],
    student: Float[Tensor, "*batch classes"],
    buckets: Float[Tensor, "*batch buckets"],
    ids: Int[Tensor, "*batch k"],
    *,
    temperature: float = 1.0,
    **hyper: Any,
) -> Float[Tensor, "*batch"]:
    """Compute ``kernel(coarse_logits(student, ids), buckets)`` in few passes over the classes.

    Args:
        kernel: A kernel of student and teacher whose value does not change if a constant is added to a row of logits.
        student: Logits of the student.
        buckets: The teacher's logits of the classes `ids` and of the rest.
        ids: The classes that are not merged.
        temperature: T of the rest, and of the kernel if `hyper` has it.
        **hyper: The hyper-parameters of the kernel.
    """
    compare = partial(kernel, teacher=buckets, **hyper)
    if _is_simple(student, temperature):
        values: Tensor = _MergedValues.apply(student, ids, compare, temperature)
        return values
    return compare(coarse_logits(student, ids, temperature=temperature))


class _MergedValues(torch.autograd.Function):
    """The values, and their gradient from that of the few buckets, computed together: one exponential per class."""

    @staticmethod
    def forward(ctx: Any, student: Tensor, ids: Tensor, compare: Callable[[Tensor], Tensor], temperature: float) -> Any:
        learns = ctx.needs_input_grad[0]
        others, log_z = _softmax_and_log_z(student, temperature)
        rest = others.scatter_(-1, ids, 0.0).sum(-1, keepdim=True)
        if bool((rest > _RAREST).all()):
            # Not from the probabilities of these classes, which may underflow to 0.
            buckets = torch.cat([student.gather(-1, ids) / temperature - log_z, rest.log()], -1).mul_(temperature)
            values, by_bucket = _value_and_gradient(compare, buckets, learns)
            if by_bucket is not None:
                others.mul_(by_bucket[..., -1:] / rest).scatter_(-1, ids, by_bucket[..., :-1])
            slope = None if by_bucket is None else others
        else:
            merged = partial(coarse_logits, ids=ids, temperature=temperature)
            values, slope = _value_and_gradient(lambda logits: compare(merged(logits)), student.detach(), learns)
        ctx.compare, ctx.temperature = compare, temperature
        ctx.save_for_backward(student, ids, slope)
        return values

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, None, None, None]:
        student, ids, slope = ctx.saved_tensors
        if slope is None or torch.is_grad_enabled():  # for second derivatives the gradient must be a function
            with torch.enable_grad():
                values = ctx.compare(coarse_logits(student, ids, temperature=ctx.temperature))
            return torch.autograd.grad(values, student, grad, create_graph=True)[0], None, None, None
        last = not keeps_graph(grad)
        return scaled(slope, grad.unsqueeze(-1), into=slope if last else None), None, None, None


def _value_and_gradient(
    function: Callable[[Tensor], Tensor], logits: Tensor, learns: bool
) -> tuple[Tensor, Tensor | None]:
    with torch.set_grad_enabled(learns):
        values = function(logits.requires_grad_(learns))
        slope = torch.autograd.grad(values.sum(), logits)[0] if values.requires_grad else None
    return values.detach(), slope


_RAREST = 1e-30
"""A probability of the rest below which it comes from logits, because its logarithm may be imprecise."""


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
    entropy = entropy.to(student.dtype)
    if _is_simple(student, temperature):
        values: Tensor = _SampledKL.apply(student, ids, weights, entropy, temperature)
        return values
    return _sampled_kl(student, ids, weights, entropy, temperature)


def _sampled_kl(student: Tensor, ids: Tensor, weights: Tensor, entropy: Tensor, temperature: float) -> Tensor:
    log_q = log_softmax(nonzero_mask(_levelled(student, temperature), temperature)).gather(-1, ids)
    # The floor of -inf times 8 overflows to inf; terms without weight are masked first to avoid 0 * inf.
    cross = -0.125 * (8.0 * log_q * weights).masked_fill(weights == 0, 0.0).sum(-1)
    return (cross - entropy) * temperature * temperature


class _SampledKL(torch.autograd.Function):
    """The values and their gradient, computed together: one exponential per class."""

    @staticmethod
    def forward(ctx: Any, student: Tensor, ids: Tensor, weights: Tensor, entropy: Tensor, temperature: float) -> Tensor:
        q, log_z = _softmax_and_log_z(student, temperature)
        weights = weights.to(q.dtype)
        cross = (weights * (log_z - student.gather(-1, ids) / temperature)).sum(-1)
        ctx.temperature = temperature
        if ctx.needs_input_grad[0]:
            q.mul_(weights.sum(-1, keepdim=True)).scatter_add_(-1, ids, -weights).mul_(temperature)
            ctx.save_for_backward(student, ids, weights, entropy, q)
        return (cross - entropy) * temperature * temperature

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, None, None, None, None]:
        student, ids, weights, entropy, slope = ctx.saved_tensors
        if torch.is_grad_enabled():  # for second derivatives the gradient must be a function
            values = _sampled_kl(student, ids, weights, entropy, ctx.temperature)
            return *torch.autograd.grad(values, student, grad, create_graph=True), None, None, None, None
        into = None if keeps_graph(grad) else slope
        return scaled(slope, grad.unsqueeze(-1), into=into), None, None, None, None


def _is_simple(student: Tensor, temperature: float) -> bool:
    """Whether the logits are finite and moderate, on a CPU, and no transform of torch.func is active."""
    return not inside_transform(student) and is_well_scaled(student, temperature=temperature)


def _softmax_and_log_z(logits: Tensor, temperature: float) -> tuple[Tensor, Tensor]:
    """Compute softmax(logits / T), and the logarithm of its normalizer from the most probable class."""
    tempered = logits if temperature == 1 else logits / temperature
    q = torch.softmax(tempered, -1)
    return q, tempered.amax(-1, keepdim=True) - q.amax(-1, keepdim=True).log()


def _levelled(logits: Tensor, temperature: float) -> Tensor:
    """Shift logits, without a change of the distribution, so that dividing by a temperature below 1 cannot overflow."""
    if temperature >= 1:
        return logits
    return logits - logits.detach().amax(-1, keepdim=True).clamp_min(torch.finfo(logits.dtype).min)


DEEPEST = 16384.0
"""Largest stored distance from the largest logit, in nats (float16 range); lower finite logits are raised to it."""

COARSE = (0.0, 1 / 16, 1 / 4, 1.0)
"""The 1/T at which the sum over the other classes is stored; each is four times the last, that is, two squarings."""

FINE = (0.0, 1 / 32, 1 / 16, 1 / 8, 1 / 4, 1 / 2, 1.0, 2.0)
"""The 1/T at which the sum over all classes is stored: for T of 0.5, 1, 2, 4, 8, 16, 32, and infinity."""

_STEPS = (1.0, 1.25, 1.5, 1.75)
DENSE = (0.0, *sorted(step * 2.0**-power for step in _STEPS for power in range(7)), 2.0)
"""The 1/T from which the sum over the other classes is interpolated to 5e-5 at every T of 0.5 and above."""

_BEND = 0.3
_NOTHING = -4 * DEEPEST  # its exponential is 0 in float32, also divided by 32


def log_partition_and_grad(
    depths: Float[Tensor, "rows classes"], grid: Sequence[float]
) -> Float[Tensor, "rows 2 nodes"]:
    r"""Compute :math:`g(\beta) = \log \sum_c e^{\beta v_c}` and :math:`g'(\beta)` at each :math:`\beta` of `grid`.

    g' is the mean of v under :math:`softmax(\beta v)`. One exponential is computed, at the smallest beta above 0. The
    others are squares of it, since each beta of the grid is two or four times the one before.

    Args:
        depths: v, 0 or below: logits minus the largest; finite ones at least -16,384; -inf for no class.
        grid: The betas, starting with 0.

    Returns:
        The values, then the derivatives; -inf and 0 for a row without a class.
    """
    top = depths.amax(-1, keepdim=True)
    none = top == -torch.inf
    top = top.masked_fill(none, 0.0)
    below = (depths - top).clamp_min_(_NOTHING)
    # 1 for a class, 0 for none. Numbers, because a comparison costs ten times as much as a subtraction.
    here = (below - _NOTHING).sign_()
    count = here.sum(-1).clamp_min(1.0)
    sums = [(count.log(), torch.linalg.vecdot(below, here) / count)]
    weight = (below * grid[1]).exp_()
    for last, beta in zip(grid[1:], (*grid[2:], None), strict=True):
        total = weight.sum(-1)
        slope = torch.linalg.vecdot(weight, below) / total.clamp_min(torch.finfo(total.dtype).tiny)
        sums.append((total.log(), slope))
        for _ in range(0 if beta is None else round(math.log2(beta / last))):
            # Weights below 1e-18 do not matter, and their squares would be slow denormal numbers.
            weight.clamp_min_(1e-18).square_()
    values, slopes = (torch.stack(part, -1) for part in zip(*sums, strict=True))
    values = (values + top * values.new_tensor(grid)).masked_fill(none, -torch.inf)
    return torch.stack([values, (slopes + top).masked_fill(none, 0.0)], 1)


def dense_sums(depths: Float[Tensor, "rows classes"]) -> Float[Tensor, "rows 2 nodes"]:
    """Compute `log_partition_and_grad` at `DENSE`, in float64: seven squarings in a row would cost two digits."""
    wide = depths.double()
    chains = [(0.0, *(step * 2.0**-power for power in reversed(range(7)))) for step in _STEPS]
    chains[0] = (*chains[0], 2.0)
    sums = [log_partition_and_grad(wide, chain) for chain in chains]
    betas = [0.0, *(beta for chain in chains for beta in chain[1:])]
    whole = torch.cat([sums[0][..., :1], *(part[..., 1:] for part in sums)], -1)
    return whole[..., [betas.index(beta) for beta in DENSE]].float()


def interpolated(
    nodes: Float[Tensor, "*batch 2 nodes"], beta: float, grid: Sequence[float]
) -> tuple[Float[Tensor, "*batch"], Float[Tensor, "*batch"]]:
    r"""Interpolate :math:`g(\beta)` and :math:`g'(\beta)` at any :math:`\beta` from their values on a grid.

    It is exact on the grid. Between two nodes it is the cubic in :math:`\log(\beta + 0.3)` with the values and
    derivatives of both, limited by the tangents and the chord, since g is convex. Above the last node it is the
    tangent, which is below g. A row without a class gives -inf, with derivative 0.
    """
    values, slopes = nodes[..., 0, :], nodes[..., 1, :]
    index = sum(beta >= node for node in grid) - 1
    if index == len(grid) - 1 or beta == grid[index]:
        return values[..., index] + slopes[..., index] * (beta - grid[index]), slopes[..., index]
    none = values[..., 0] == -torch.inf
    start, end = (values[..., end_node].masked_fill(none, 0.0) for end_node in (index, index + 1))
    value, slope = _between((start, end), (slopes[..., index], slopes[..., index + 1]), beta, grid[index : index + 2])
    return value.masked_fill(none, -torch.inf), slope


def _between(
    ends: tuple[Tensor, Tensor], slopes: tuple[Tensor, Tensor], beta: float, nodes: Sequence[float]
) -> tuple[Tensor, Tensor]:
    (low, high), (rise, run), (start, end) = ends, slopes, nodes
    width = math.log((end + _BEND) / (start + _BEND))
    u = math.log((beta + _BEND) / (start + _BEND)) / width
    m, n = rise * (start + _BEND) * width, run * (end + _BEND) * width
    step = high - low
    value = low + u * (m + u * (3 * step - 2 * m - n + u * (m + n - 2 * step)))
    by_u = m + u * (2 * (3 * step - 2 * m - n) + 3 * u * (m + n - 2 * step))
    lowest = torch.maximum(low + rise * (beta - start), high + run * (beta - end))
    chord = low + step * ((beta - start) / (end - start))
    value = torch.minimum(torch.maximum(value, lowest), torch.maximum(chord, lowest))
    return value, torch.minimum(torch.maximum(by_u / ((beta + _BEND) * width), rise), torch.maximum(rise, run))
