"""Kullback-Leibler divergences and the total variation between student and teacher."""

from __future__ import annotations

import math
from typing import final

import torch
from jaxtyping import Float
from torch import Tensor

from limbeck.functional.blockwise import Buffers, Quick, Rows, softmax_into, through_softmax_into
from limbeck.functional.closed_form import Divergence, Form, Pair, divergence, guarded_log_softmax, through_softmax
from limbeck.functional.kernel import check_hyper, in_float32, kernel, validates_pair
from limbeck.functional.series import EXPONENTIAL, HIGHEST, SeriesTerms, near, powers_into
from limbeck.functional.sparse import sampled_kl_divergence


@in_float32
def probabilities(
    logits: Float[Tensor, "*batch classes"], *, temperature: float = 1.0
) -> Float[Tensor, "*batch classes"]:
    """Compute ``softmax(logits / T)`` for kernels of your own: values and gradients are finite for all logits.

    A class that is -inf has the probability 0, also in a row that is entirely -inf, where `torch.softmax` gives NaN.
    Huge logits and small temperatures do not overflow.

    Args:
        logits: Logits, classes last.
        temperature: T, above 0.

    Raises:
        LimbeckError: If `temperature` is not a finite number above 0.

    Example:
        >>> import torch
        >>> probabilities(torch.tensor([[0.0, 0.0, -torch.inf], [-torch.inf] * 3]))
        tensor([[0.5000, 0.5000, 0.0000],
                [0.0000, 0.0000, 0.0000]])
    """
    check_hyper(temperature=temperature)
    return guarded_log_softmax(logits, temperature).exp().masked_fill(logits == -torch.inf, 0.0)


@kernel(per="position", divergence=True, sampled=sampled_kl_divergence)
@validates_pair
def kl_divergence(
    student: Float[Tensor, "*batch classes"], teacher: Float[Tensor, "*batch classes"], *, temperature: float = 1.0
) -> Float[Tensor, "*batch"]:
    """Compute the Kullback-Leibler divergence of the student from the teacher, times T^2: the soft-target loss.

    ``T^2 KL(p || q) = T^2 sum_c p_c (log p_c - log q_c)`` with ``p = softmax(teacher / T)`` and
    ``q = softmax(student / T)``. Both arguments are logits or log-probabilities; there is one value per row, in nats
    (times T^2).

    Its gradient in the student's logits is ``T (q - p)``; because of the factor T^2 its size hardly depends on T. For
    large T the value converges to half the variance over classes of ``student - teacher``, see `logit_squared_error`.

    It is exactly 0 for equal arguments. A column that is -inf in both contributes 0. If a column is -inf in the student
    alone, and the teacher's probability is above 0, the value is infinite. A row that is entirely -inf gives 0 if it is
    so in both, else inf. In float32 the error of the value is about 1e-6 T^2; the gradient is exact up to rounding.
    A large offset in the logits cancels, but not what it cost before: float32 logits near m have been rounded by up to
    6e-8 m. Where student and teacher differ by about d, the value moves by a fraction of up to 2.4e-7 m / d, also in
    float64, such as half of it for m = 1e7 and d = 1. Subtract the offset before the logits are stored in float32.

    Args:
        student: Logits of the student.
        teacher: Logits of the teacher.
        temperature: T, above 0. Higher values are softer.

    Raises:
        LimbeckError: If the shapes differ, or `temperature` is not a finite number above 0.

    Example:
        >>> import torch
        >>> kl_divergence(torch.tensor([[0.0, 0.0]]), torch.tensor([[3.0, 1.0]]).log())
        tensor([0.1308])

    Source: Hinton, Vinyals and Dean, Distilling the Knowledge in a Neural Network, 2015, arXiv:1503.02531.
    """
    return divergence(student, teacher, temperature, KULLBACK_LEIBLER)


@kernel(per="position", divergence=True)
@validates_pair
def reverse_kl(
    student: Float[Tensor, "*batch classes"], teacher: Float[Tensor, "*batch classes"], *, temperature: float = 1.0
) -> Float[Tensor, "*batch"]:
    """Compute the Kullback-Leibler divergence of the teacher from the student, times T^2, which is mode-seeking.

    ``T^2 KL(q || p) = T^2 sum_c q_c (log q_c - log p_c)`` with p of the teacher and q of the student, in nats.
    It is `kl_divergence` with exchanged arguments, so it is infinite if the *teacher* alone is -inf in a column in
    which the student's probability is above 0.

    Args:
        student: Logits of the student.
        teacher: Logits of the teacher.
        temperature: T, above 0.

    Raises:
        LimbeckError: If the shapes differ, or `temperature` is not a finite number above 0.

    Example:
        >>> import torch
        >>> reverse_kl(torch.tensor([[0.0, 0.0]]), torch.tensor([[3.0, 1.0]]).log())
        tensor([0.1438])

    Source: Gu, Dong, Wei and Huang, MiniLLM, 2023, arXiv:2306.08543.
    """
    return divergence(teacher, student, temperature, KULLBACK_LEIBLER)


@kernel(per="position", divergence=True)
@validates_pair
def symmetric_kl(
    student: Float[Tensor, "*batch classes"], teacher: Float[Tensor, "*batch classes"], *, temperature: float = 1.0
) -> Float[Tensor, "*batch"]:
    """Compute the mean of the two Kullback-Leibler divergences, times T^2: half the Jeffreys divergence.

    ``T^2 (KL(p || q) + KL(q || p)) / 2`` in nats, with p of the teacher and q of the student. It is infinite if one
    side alone is -inf in a column in which the other's probability is above 0; `jensen_shannon` is bounded.

    Args:
        student: Logits of the student.
        teacher: Logits of the teacher.
        temperature: T, above 0.

    Raises:
        LimbeckError: If the shapes differ, or `temperature` is not a finite number above 0.

    Example:
        >>> import torch
        >>> symmetric_kl(torch.tensor([[0.0, 0.0]]), torch.tensor([[3.0, 1.0]]).log())
        tensor([0.1373])

    Source: Stanton et al., Does Knowledge Distillation Really Work?, 2021, arXiv:2106.05945.
    """
    forward = divergence(student, teacher, temperature, KULLBACK_LEIBLER)
    return 0.5 * (forward + divergence(teacher, student, temperature, KULLBACK_LEIBLER))


@kernel(per="position", divergence=True)
@validates_pair
def total_variation(
    student: Float[Tensor, "*batch classes"], teacher: Float[Tensor, "*batch classes"], *, temperature: float = 1.0
) -> Float[Tensor, "*batch"]:
    """Compute the total variation distance between student and teacher, times T^2.

    ``T^2 / 2 sum_c |p_c - q_c|``, from 0 to T^2, and infinite only if one row alone is entirely -inf. The gradient is
    defined as 0 where p = q.

    For large T it decreases as 1/T, not as 1/T^2 like the divergences, so with the factor T^2 it grows with T.

    Args:
        student: Logits of the student.
        teacher: Logits of the teacher.
        temperature: T, above 0.

    Raises:
        LimbeckError: If the shapes differ, or `temperature` is not a finite number above 0.

    Example:
        >>> import torch
        >>> total_variation(torch.tensor([[0.0, 0.0]]), torch.tensor([[3.0, 1.0]]).log())
        tensor([0.2500])

    Source: Wen, Li, Du and Mou, f-Divergence Minimization for Sequence-Level Knowledge Distillation, 2023,
        arXiv:2307.15190.
    """
    return divergence(student, teacher, temperature, TOTAL_VARIATION)


@final
class _KullbackLeibler(Form, SeriesTerms, Quick):
    series = EXPONENTIAL
    few = 0.03

    def __call__(self, pair: Pair, student: bool, teacher: bool) -> Divergence:
        log_ratio = pair.log_p - pair.log_q
        by_student = pair.q - pair.p if student else None
        value = (pair.p * log_ratio).sum(-1) if pair.tame else _guarded(pair.p, log_ratio)
        return Divergence(value, by_student, through_softmax(pair.p, log_ratio) if teacher else None)

    def term(self, d: Tensor) -> Tensor:
        return torch.expm1(d) - d

    def fill(self, rows: Rows) -> None:
        """Choose between two formulas: two softmaxes are fast far from equality, one softmax is precise near it."""
        x = torch.sub(rows.student, rows.teacher, out=rows.buffers[0])
        some = x[:: 1 + len(x) // _SAMPLE]  # a wrong guess costs time only
        close = float(torch.linalg.vector_norm(some)) * rows.scale < _CLOSE * math.sqrt(some.numel())
        if close or x.numel() < _TINY:
            self._fill_near(rows, x)
            return
        self._fill_far(rows, x)
        small = rows.value < _NEAR
        if bool(small.any()):
            self._fill_again(rows, small)

    def _fill_again(self, rows: Rows, small: Tensor) -> None:
        """Compute some rows again that are nearer to equality than the others."""
        student, teacher = rows.student[small], rows.teacher[small]
        value = rows.value.new_empty(len(student))
        by_student, by_teacher = (
            None if slope is None else torch.empty_like(student) for slope in (rows.by_student, rows.by_teacher)
        )
        buffers = Buffers(student.dtype, *student.shape)
        again = Rows(rows.scale, value, student, teacher, by_student, by_teacher, buffers)
        self._fill_near(again, torch.sub(student, teacher, out=buffers[0]))
        for whole, part in ((rows.value, value), (rows.by_student, by_student), (rows.by_teacher, by_teacher)):
            if whole is not None and part is not None:
                whole[small] = part

    def _fill_far(self, rows: Rows, x: Tensor) -> None:
        """Compute from two softmaxes; the normalizer of each side comes from its most probable class."""
        # As few buffers as possible, because the speed depends on what fits into the CPU caches.
        q = softmax_into(rows.student, rows.scale, rows.buffers[2] if rows.by_student is None else rows.by_student)
        p = softmax_into(rows.teacher, rows.scale, rows.buffers[1])
        apart, likeliest = _likely(rows, q, p)
        mean = torch.mul(p, x, out=x if rows.by_teacher is None else rows.buffers[3]).sum(-1)
        torch.sub(apart, mean, out=rows.value).mul_(rows.scale).sub_(likeliest)
        rows.value.masked_fill_(apart.abs_() > _SHIFT, torch.nan)
        if rows.by_student is not None:
            q.sub_(p)
        if rows.by_teacher is not None:
            torch.sub(mean.unsqueeze(-1), x, out=rows.by_teacher).mul_(p.mul_(rows.scale))

    def _fill_near(self, rows: Rows, x: Tensor) -> None:
        """Compute from x = log(q / p) + c, with c such that the mean of x under p is 0.

        Then ``q / p = exp(x) / (1 + r)`` with ``r = sum p (exp(x) - 1 - x)``, and the divergence is ``log(1 + r)``.
        """
        if rows.scale != 1:
            x.mul_(rows.scale)
        p = softmax_into(rows.teacher, rows.scale, rows.buffers[1])
        mean = torch.mul(p, x, out=rows.buffers[2]).sum(-1, keepdim=True).div_(p.sum(-1, keepdim=True))
        x.sub_(mean)
        if rows.by_teacher is not None:
            torch.mul(p, x, out=rows.by_teacher).neg_()
        low, high = (float(end) for end in torch.aminmax(x))
        if not high < HIGHEST:  # or NaN
            rows.value.fill_(torch.nan)
            return
        series = powers_into(x, EXPONENTIAL, rows.buffers[2])
        if max(-low, high) < near(x.dtype):
            grown, rise = x.add_(series), series
        else:
            grown = torch.expm1(x, out=rows.buffers[3])
            rise = torch.where(x.abs() < near(x.dtype), series, torch.sub(grown, x, out=rows.buffers[4]), out=series)
        r = rise.mul_(p).sum(-1, keepdim=True)
        torch.log1p(r[:, 0], out=rows.value)
        rows.value.masked_fill_(mean[:, 0].abs() > _SHIFT, torch.nan)
        if rows.by_student is not None:
            torch.sub(grown, r, out=rows.by_student).mul_(p).mul_((1 + r).reciprocal_())


def _likely(rows: Rows, q: Tensor, p: Tensor) -> tuple[Tensor, Tensor]:
    """Compute the difference of logits, and of log-probabilities, between the most probable class of each side.

    Only the first classes are searched, unless one of them is so rare that its logarithm is imprecise.
    """
    classes = q.shape[-1]
    for count in (_FIRST, classes) if classes > 4 * _FIRST else (classes,):
        sides = rows.student, rows.teacher, q, p
        z, v, top_q, top_p = ((side if count == classes else side[:, :count]).amax(-1) for side in sides)
        if count == classes or float(torch.minimum(top_q, top_p).amin()) * classes > _RARE:
            break
    return z.sub_(v), top_q.div_(top_p).log_()


def _guarded(p: Tensor, log_ratio: Tensor) -> Tensor:
    """Compute the sum of p * log_ratio, where 0 log 0 = 0 and -inf may have been raised to a floor."""
    # Times 8 (a power of 2, so exact), the floor that stands for -inf in the student overflows to inf. Masking makes
    # 0 * inf 0; in rows with NaN no p is 0.
    return 0.125 * (8.0 * log_ratio * p).masked_fill(p == 0, 0.0).sum(-1)


@final
class _TotalVariation(Form, Quick):
    factor = 0.5

    def __call__(self, pair: Pair, student: bool, teacher: bool) -> Divergence:
        difference = pair.q - pair.p
        sign = difference.sign()
        return Divergence(
            difference.abs().sum(-1),
            through_softmax(pair.q, sign) if student else None,
            through_softmax(pair.p, -sign) if teacher else None,
        )

    def fill(self, rows: Rows) -> None:
        """Compute the formula directly. The value is NaN for a row that is entirely -inf."""
        q = softmax_into(rows.student, rows.scale, rows.buffers[0])
        p = softmax_into(rows.teacher, rows.scale, rows.buffers[1])
        if rows.by_teacher is not None:
            sign = torch.sub(p, q, out=rows.by_teacher).sign_()
            through_softmax_into(p, sign, out=sign)
        difference = torch.sub(q, p, out=p)
        if rows.by_student is not None:
            sign = torch.sign(difference, out=rows.by_student)
            through_softmax_into(q, sign, out=sign)
        torch.sum(difference.abs_(), -1, out=rows.value)


KULLBACK_LEIBLER = _KullbackLeibler()
"""KL(p || q)."""

TOTAL_VARIATION = _TotalVariation()
"""The sum of |p - q|; the factor 1/2 is applied at the end."""

_CLOSE = 0.2
"""Root mean square of log-ratios below which the difference of two softmaxes is imprecise."""

_NEAR = 1e-2
"""Divergence below which cancellation costs too much precision; log-ratios are about 0.1 there."""

_TINY = 1 << 13
"""Number of values below which operations cost more than arithmetic."""

_SHIFT = 64.0
"""Largest offset between the logits of the two sides; a larger one costs the differences too much precision."""

_SAMPLE = 16
"""Number of rows from which it is estimated whether a block is near equality."""

_FIRST = 32
"""Number of classes that are searched for a probable one first."""

_RARE = 0.1
"""Probability times the number of classes below which the rounding error of a logit may be ten times larger."""
