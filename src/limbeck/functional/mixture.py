"""Divergences from a mixture of student and teacher: Jensen-Shannon and skew divergences."""

from __future__ import annotations

import math
from functools import lru_cache
from typing import final

import torch
from jaxtyping import Float
from torch import Tensor

from limbeck.functional.blockwise import Quick, Rows, softmax_into, through_softmax_into
from limbeck.functional.closed_form import (
    Divergence,
    Form,
    Pair,
    divergence,
    through_softmax,
)
from limbeck.functional.divergence import KULLBACK_LEIBLER
from limbeck.functional.kernel import kernel, validates_pair
from limbeck.functional.series import SeriesTerms, cumulants, near, powers, powers_into

_NEAR = 0.05

"""The value below which quotients near 1 lose too much precision."""

_LOGARITHM = tuple((-1) ** n / n for n in range(2, 8))

"""Series coefficients of ``w - log(1 + w)``."""

_FEW_OF_ONE = 0.05

"""A share of a mixture below which quotients with it are so near 1 that their logarithm loses too much precision."""

_SHIFT = 64.0
"""The largest offset between the logits of both sides; a larger one costs the differences too much precision."""

_TINY = 1.2e-38  # just above the smallest float32 number that is not denormal: logarithms of those are slow

_NEARLY_ALL = 0.9

"""A weight above which the other share is lost in rounding."""


@final
class JensenShannon(Form, SeriesTerms, Quick):
    """``weight_p KL(p || m) + weight_q KL(q || m)`` with ``m = b p + (1 - b) q``.

    The weights are in proportion b to 1 - b, so the terms in dm cancel and the gradients are short. Weights are applied
    last, because they can be huge while the values are small.
    """

    def __init__(self, mixture: float, weight_p: float, weight_q: float) -> None:
        self.mixture, self.weight_p, self.weight_q = mixture, weight_p, weight_q
        self.series = tuple(weight_p * (1 - mixture) * factor for factor in _jensen_shannon_series(mixture))
        self.small = 0.2 * self.series[0]

    def __call__(self, pair: Pair, student: bool, teacher: bool) -> Divergence:
        """Compute the divergence and the needed gradients."""
        log_q, log_p, q, p, _ = pair
        over_p = -_log_mix(self.mixture, 1 - self.mixture, log_q - log_p)  # log(p / m)
        over_q = -_log_mix(1 - self.mixture, self.mixture, log_p - log_q)  # log(q / m)
        return Divergence(
            self.weight_p * (p * over_p).sum(-1) + self.weight_q * (q * over_q).sum(-1),
            self.weight_q * through_softmax(q, over_q) if student else None,
            self.weight_p * through_softmax(p, over_p) if teacher else None,
        )

    def term(self, d: Tensor) -> Tensor:
        """Compute ``f(d)``."""
        over_p = -_log_mix(self.mixture, 1 - self.mixture, d)
        over_q = -_log_mix(1 - self.mixture, self.mixture, -d)
        return self.weight_p * over_p + self.weight_q * d.exp() * over_q

    def fill(self, rows: Rows) -> None:
        """Compute the formula directly, with two logarithms for value and gradients.

        An error in the normalizer of q or p has no effect of first order on the value, so none is corrected.
        """
        if not _FEW_OF_ONE <= self.mixture <= 1 - _FEW_OF_ONE:
            rows.value.fill_(torch.nan)
            return
        q = softmax_into(rows.student, rows.scale, rows.buffers[0])
        p = softmax_into(rows.teacher, rows.scale, rows.buffers[1])
        # Where p or q is 0 its logarithm is multiplied by 0, so any finite number serves.
        m = torch.lerp(q, p, self.mixture, out=rows.buffers[2]).clamp_min_(_TINY)
        over_q = torch.div(q, m, out=rows.buffers[3] if rows.by_student is None else rows.by_student)
        over_p = torch.div(p, m, out=m if rows.by_teacher is None else rows.by_teacher)
        over_q.clamp_min_(_TINY).log_()
        over_p.clamp_min_(_TINY).log_()
        of_q, of_p = torch.linalg.vecdot(q, over_q), torch.linalg.vecdot(p, over_p)
        torch.add(of_p.mul_(self.weight_p), of_q, alpha=self.weight_q, out=rows.value)
        if rows.by_student is not None:
            through_softmax_into(q, over_q, out=over_q).mul_(self.weight_q)
        if rows.by_teacher is not None:
            through_softmax_into(p, over_p, out=over_p).mul_(self.weight_p)
        small = rows.value <= self.small
        count = int(small.sum())
        if 4 * count >= len(small):
            rows.value.copy_(torch.where(small, self._sum_terms(rows, p), rows.value))
        elif count:  # so few that the general formula costs less, which computes these alone
            rows.value.masked_fill_(small, torch.nan)

    def _sum_terms(self, rows: Rows, p: Tensor) -> Tensor:
        """Compute the values as `sum_of_terms` does, in place: as a sum of terms that are never negative.

        With ``d = log(q / p)`` and ``L = log(b + (1 - b) exp(d))`` a term is
        ``p [w_q exp(d) d - (w_p + w_q exp(d)) L]``, or its series where d is small. The value is NaN for rows that need
        the general formula.
        """
        d = torch.sub(rows.student, rows.teacher, out=rows.buffers[2])
        if rows.scale != 1:
            d.mul_(rows.scale)
        mean = torch.linalg.vecdot(p, d).div_(p.sum(-1))
        d.sub_(mean.unsqueeze(-1))
        if not float(d.amax()) < self.highest:  # or NaN
            return torch.full_like(rows.value, torch.nan)
        exponential = torch.expm1(d, out=rows.buffers[0])
        # The mean of d is 0 now, so that this is its normalizer; an error in it has no effect of first order.
        d.sub_(torch.linalg.vecdot(p, exponential).log1p_().unsqueeze(-1))
        low, high = (float(end) for end in torch.aminmax(d))
        terms = rows.buffers[3]
        if max(-low, high) < near(d.dtype):
            powers_into(d, self.series, terms)
        else:
            torch.expm1(d, out=exponential)
            logarithm = torch.mul(exponential, 1 - self.mixture, out=terms).log1p_()
            exponential.add_(1.0)
            logarithm.mul_(torch.mul(exponential, self.weight_q, out=rows.buffers[4]).add_(self.weight_p))
            direct = exponential.mul_(d).mul_(self.weight_q).sub_(logarithm)
            series = powers_into(d, self.series, rows.buffers[4])
            torch.where(torch.abs(d, out=terms) < near(d.dtype), series, direct, out=terms)
        value = torch.linalg.vecdot(p, terms.clamp_min_(0.0))
        return value.masked_fill_(mean.abs_() > _SHIFT, torch.nan)


@final
class Skew(Form, SeriesTerms, Quick):
    """``KL(p || a p + (1 - a) q)``."""

    def __init__(self, skew: float) -> None:
        self.skew = skew
        # The series of (1 - a) (exp(d) - 1) - log(a + (1 - a) exp(d)), from cumulants.
        factors = enumerate(cumulants(1 - skew), start=2)
        self.series = tuple((1 - skew) * (1 - skew * factor) / math.factorial(n) for n, factor in factors)
        self.small = 0.1 * (1 - skew)  # the terms of both signs are as large as the share that is left

    def __call__(self, pair: Pair, student: bool, teacher: bool) -> Divergence:
        """Compute the divergence and the needed gradients."""
        log_q, log_p, q, p, _ = pair
        over = -_log_mix(self.skew, 1 - self.skew, log_q - log_p)  # log(p / m)
        # By q the slope is -(1 - a) p / m; less the same constant in each class, it is exactly 0 where p = q.
        return Divergence(
            (p * over).sum(-1),
            through_softmax(q, (self.skew - 1) * over.expm1()) if student else None,
            through_softmax(p, over - self.skew * over.expm1()) if teacher else None,
        )

    def term(self, d: Tensor) -> Tensor:
        """Compute ``f(d)``: w - log(1 + w) for ``w = (1 - a) (exp(d) - 1)``, which is small where a is nearly 1."""
        w = (1 - self.skew) * torch.expm1(d)
        return torch.where(
            w.abs() < 0.4 * near(w.dtype), powers(w, _LOGARITHM), w - _log_mix(self.skew, 1 - self.skew, d)
        )

    def fill(self, rows: Rows) -> None:
        """Compute the formula directly, with one logarithm and one quotient for value and gradients."""
        a = self.skew
        if a > _NEARLY_ALL:
            rows.value.fill_(torch.nan)
            return
        q = softmax_into(rows.student, rows.scale, rows.buffers[0])
        p = softmax_into(rows.teacher, rows.scale, rows.buffers[1])
        # Both sum to 1 up to rounding; the excess corrects the value for it.
        excess = (q.sum(-1) - p.sum(-1)).mul_(1 - a)
        over = torch.div(p, torch.lerp(q, p, a, out=rows.buffers[2]), out=rows.buffers[2])  # p / m
        value = torch.log(over, out=rows.buffers[3])
        if rows.by_teacher is not None:
            slope = torch.sub(value, over, alpha=a, out=rows.by_teacher)
            through_softmax_into(p, slope, out=slope)
        torch.add(value.mul_(p).sum(-1), excess, out=rows.value)
        rows.value.masked_fill_(rows.value <= _NEAR * self.series[0], torch.nan)
        if rows.by_student is not None:
            through_softmax_into(q, over.mul_(a - 1), out=rows.by_student)


@lru_cache
def _jensen_shannon_series(b: float) -> tuple[float, ...]:
    """Return the series of a term over ``weight_p (1 - b)``, with slope ``exp(d) (d - (1 - b) (k_2 d^2 / 2! + ...))``.

    The k are the cumulants of a variable that is 1 with probability 1 - b, else 0, divided by its variance.
    """
    inner = [1.0, *((b - 1) * k / math.factorial(n) for n, k in enumerate(cumulants(1 - b)[:5], start=2))]
    slope = (sum(inner[j] / math.factorial(n - j) for j in range(n + 1)) for n in range(6))
    return tuple(factor / n for n, factor in enumerate(slope, start=2))


def _log_mix(keep: float, take: float, d: Tensor) -> Tensor:
    """``log(keep + take * exp(d))`` for keep + take = 1: exactly 0 at d = 0, and accurate relative to itself.

    The first form is precise for a small `take`, but fails where exp(d) overflows or the sum is near 0.
    """
    if take == 0:
        return torch.zeros_like(d)
    if keep == 0:
        return d
    near = torch.log1p(take * torch.expm1(d.clamp(-1.0, 80.0)))
    # The logarithm of each share comes from the smaller one, which is exact.
    log_keep = math.log(keep) if keep < take else math.log1p(-take)
    log_take = math.log(take) if take < keep else math.log1p(-keep)
    far = torch.logaddexp(torch.full_like(d, log_keep), log_take + d)
    return torch.where((d > -1) & (d < 80), near, far)


_END = 1e-30

"""A share below this counts as 0, because its reciprocal is not representable in float32."""


@kernel(per="position", divergence=True)
@validates_pair
def jensen_shannon(
    student: Float[Tensor, "*batch classes"],
    teacher: Float[Tensor, "*batch classes"],
    *,
    mixture: float = 0.5,
    temperature: float = 1.0,
) -> Float[Tensor, "*batch"]:
    """Compute the skewed Jensen-Shannon divergence, scaled so that both ends are KL, times T^2.

    ``T^2 [b KL(p || m) + (1 - b) KL(q || m)] / (b (1 - b))`` with ``m = b p + (1 - b) q`` and b the `mixture`, p of the
    teacher and q of the student, in nats.

    It is `kl_divergence` at b = 0 and `reverse_kl` at b = 1, and continuous in b, so its scale does not change with b.
    At b = 0.5 it is symmetric: 4 times the Jensen-Shannon divergence. Between the ends it is finite even if only one
    side is -inf in a column.

    Args:
        student: Logits of the student.
        teacher: Logits of the teacher.
        mixture: b, the weight of the teacher in the mixture, from 0 to 1.
        temperature: T, above 0.

    Raises:
        LimbeckError: If the shapes differ, `mixture` is not in [0, 1], or `temperature` is not a finite number above 0.

    Example:
        >>> import torch
        >>> s, t = torch.tensor([[0.0, 0.0]]), torch.tensor([[3.0, 1.0]]).log()
        >>> torch.cat([jensen_shannon(s, t, mixture=b) for b in (0.0, 0.5, 1.0)])
        tensor([0.1308, 0.1353, 0.1438])

    Source: Agarwal et al., On-Policy Distillation of Language Models (GKD), 2023, arXiv:2306.13649, there without the
        scale: `gkd_jensen_shannon`.
    """
    if mixture < _END:
        return divergence(student, teacher, temperature, KULLBACK_LEIBLER)
    if mixture == 1:
        return divergence(teacher, student, temperature, KULLBACK_LEIBLER)
    return divergence(student, teacher, temperature, JensenShannon(mixture, 1 / (1 - mixture), 1 / mixture))


@kernel(per="position", divergence=True)
@validates_pair
def gkd_jensen_shannon(
    student: Float[Tensor, "*batch classes"],
    teacher: Float[Tensor, "*batch classes"],
    *,
    mixture: float = 0.5,
    temperature: float = 1.0,
) -> Float[Tensor, "*batch"]:
    """Compute the generalized Jensen-Shannon divergence of the GKD paper, times T^2; it is 0 at both ends.

    ``T^2 [b KL(p || m) + (1 - b) KL(q || m)]`` with ``m = b p + (1 - b) q`` and b the `mixture`, in nats. It is
    `jensen_shannon` times ``b (1 - b)``: exactly 0 at b = 0 and at b = 1, where nothing is learned, and at 0.01 a
    hundredth of `kl_divergence`. At b = 0.5 it is the Jensen-Shannon divergence, at most log 2.

    Args:
        student: Logits of the student.
        teacher: Logits of the teacher.
        mixture: b, the weight of the teacher in the mixture, from 0 to 1.
        temperature: T, above 0.

    Raises:
        LimbeckError: If the shapes differ, `mixture` is not in [0, 1], or `temperature` is not a finite number above 0.

    Example:
        >>> import torch
        >>> gkd_jensen_shannon(torch.tensor([[0.0, 0.0]]), torch.tensor([[3.0, 1.0]]).log())
        tensor([0.0338])

    Source: Agarwal et al., On-Policy Distillation of Language Models (GKD), 2023, arXiv:2306.13649, equation 1.
    """
    return divergence(student, teacher, temperature, JensenShannon(mixture, mixture, 1 - mixture))


@kernel(per="position", divergence=True)
@validates_pair
def skew_kl(
    student: Float[Tensor, "*batch classes"],
    teacher: Float[Tensor, "*batch classes"],
    *,
    skew: float = 0.1,
    temperature: float = 1.0,
) -> Float[Tensor, "*batch"]:
    """Compute the KL divergence of a mixture from the teacher, times T^2. It is bounded for every student.

    ``T^2 KL(p || a p + (1 - a) q)`` with a the `skew`, p of the teacher and q of the student, in nats. It is
    `kl_divergence` at a = 0, at most ``T^2 log(1 / a)`` between, and 0 at a = 1. For a above 0 it is finite even if
    only the student is -inf in a column.

    Args:
        student: Logits of the student.
        teacher: Logits of the teacher.
        skew: a, the weight of the teacher in the mixture, from 0 to 1.
        temperature: T, above 0.

    Raises:
        LimbeckError: If the shapes differ, `skew` is not in [0, 1], or `temperature` is not a finite number above 0.

    Example:
        >>> import torch
        >>> skew_kl(torch.tensor([[0.0, 0.0]]), torch.tensor([[3.0, 1.0]]).log(), skew=0.1)
        tensor([0.1070])

    Source: Ko, Kim, Chen and Yun, DistiLLM, 2024, arXiv:2402.03898.
    """
    return divergence(student, teacher, temperature, KULLBACK_LEIBLER if skew < _END else Skew(skew))


@kernel(per="position", divergence=True)
@validates_pair
def skew_reverse_kl(
    student: Float[Tensor, "*batch classes"],
    teacher: Float[Tensor, "*batch classes"],
    *,
    skew: float = 0.1,
    temperature: float = 1.0,
) -> Float[Tensor, "*batch"]:
    """Compute the KL divergence of a mixture from the student, times T^2.

    ``T^2 KL(q || (1 - a) p + a q)`` with a the `skew`, p of the teacher and q of the student, in nats: `skew_kl` with
    exchanged arguments. It is `reverse_kl` at a = 0, at most ``T^2 log(1 / a)`` between, and 0 at a = 1.

    Args:
        student: Logits of the student.
        teacher: Logits of the teacher.
        skew: a, the weight of the student in the mixture, from 0 to 1.
        temperature: T, above 0.

    Raises:
        LimbeckError: If the shapes differ, `skew` is not in [0, 1], or `temperature` is not a finite number above 0.

    Example:
        >>> import torch
        >>> skew_reverse_kl(torch.tensor([[0.0, 0.0]]), torch.tensor([[3.0, 1.0]]).log(), skew=0.1)
        tensor([0.1131])

    Source: Ko, Kim, Chen and Yun, DistiLLM, 2024, arXiv:2402.03898.
    """
    return divergence(teacher, student, temperature, KULLBACK_LEIBLER if skew < _END else Skew(skew))
