"""The alpha-beta divergence, which contains both Kullback-Leibler divergences and the Hellinger distance."""

from __future__ import annotations

import math
from numbers import Real
from typing import final

import torch
from jaxtyping import Float
from torch import Tensor

from limbeck.errors import ArgumentError
from limbeck.functional.closed_form import Divergence, Form, Pair, divergence
from limbeck.functional.divergence import KULLBACK_LEIBLER
from limbeck.functional.kernel import kernel, validates_pair
from limbeck.functional.series import HIGHEST, SeriesTerms

_FEW = 0.05
"""An exponent below which the difference of two powers loses too much precision."""

_FLAT = 80.0
"""A multiple of 1/s below which f hardly changes, and above which the exponential overflows."""

_LARGEST, _LEAST = 2.0, 0.01
"""Bounds of an exponent, and of the sum of both."""


def merges_classes(*, alpha: float = 0.2, beta: float = 0.7) -> bool:
    """Whether merging classes never increases the divergence of these exponents: where their sum is at most 1."""
    # The s-th root of a term is homogeneous of degree 1 and for s <= 1 convex, so it is subadditive, and the term too.
    return alpha + beta <= 1


@kernel(per="position", divergence=merges_classes)
@validates_pair
def alpha_beta_divergence(
    student: Float[Tensor, "*batch classes"],
    teacher: Float[Tensor, "*batch classes"],
    *,
    alpha: float = 0.2,
    beta: float = 0.7,
    temperature: float = 1.0,
) -> Float[Tensor, "*batch"]:
    r"""Compute the alpha-beta divergence of the student from the teacher, times T^2.

    :math:`\frac{T^2}{\alpha \beta} \sum_c (\frac{\alpha}{s} p_c^s + \frac{\beta}{s} q_c^s - p_c^\alpha q_c^\beta)` with
    :math:`s = \alpha + \beta`, p of the teacher and q of the student at temperature T, in nats.

    It is `kl_divergence` for alpha = 1 and beta = 0, `reverse_kl` for alpha = 0 and beta = 1, and
    :math:`2 T^2 \sum_c (\sqrt{p_c} - \sqrt{q_c})^2` (four times the squared Hellinger distance) for 1/2 and 1/2; for
    alpha + beta = 1 it is an alpha-divergence. It is continuous in both exponents. Near equality it is
    :math:`\frac{T^2}{2} \sum_c p_c^s (\log p_c - \log q_c)^2`. A larger alpha attends to classes with large errors
    less, a larger beta to those that the student is sure of more.

    With both exponents above 0 it is finite even if only one side is -inf in a column. For alpha + beta of 1 or less,
    merging classes never increases it, so it can be computed from top-k logits; for more it cannot.

    Args:
        student: Logits of the student.
        teacher: Logits of the teacher.
        alpha: The exponent of the teacher's probabilities, from 0 to 2.
        beta: The exponent of the student's probabilities, from 0 to 2. Their sum is at least 0.01.
        temperature: T, above 0.

    Raises:
        LimbeckError: If the shapes differ, an exponent or `temperature` is out of range.

    Example:
        >>> s, t = torch.tensor([[0.0, 0.0]]), torch.tensor([[3.0, 1.0]]).log()
        >>> torch.cat([alpha_beta_divergence(s, t, alpha=a, beta=1 - a) for a in (1.0, 0.5, 0.0)])
        tensor([0.1308, 0.1363, 0.1438])

    Source: Wang, Yang, Wang, Wang, Xu and Huang, ABKD, 2025, arXiv:2505.04560; after Cichocki, Cruces and Amari,
        Generalized Alpha-Beta Divergences, 2011, Entropy 13(1).
    """
    check_exponents(alpha, beta)
    if (alpha, beta) == (1.0, 0.0):
        return divergence(student, teacher, temperature, KULLBACK_LEIBLER)
    if (alpha, beta) == (0.0, 1.0):
        return divergence(teacher, student, temperature, KULLBACK_LEIBLER)
    return divergence(student, teacher, temperature, AlphaBeta(alpha, beta))


@final
class AlphaBeta(Form, SeriesTerms):
    """The divergence for given exponents, as ``sum_c p_c^s f(log(q_c / p_c))``."""

    def __init__(self, alpha: float, beta: float) -> None:
        self.alpha, self.beta = alpha, beta
        self.power = s = alpha + beta
        self.highest = HIGHEST / max(1.0, s)
        self.small = 0.1 / s**2
        # f(d) = (expm1(s d) / s - expm1(beta d) / beta) / alpha, without the quotients, which fail at 0.
        self.series = tuple(
            sum(s**j * beta ** (n - 2 - j) for j in range(n - 1)) / math.factorial(n) for n in range(2, 8)
        )

    def __call__(self, pair: Pair, student: bool, teacher: bool) -> Divergence:
        """Compute the divergence and the needed gradients."""
        rise_q = _rise(pair.log_q, pair.log_p, self.alpha)  # (q^alpha - p^alpha) / alpha
        rise_p = _rise(pair.log_p, pair.log_q, self.beta)  # (p^beta - q^beta) / beta
        by_log_q = (self.beta * pair.log_q).exp() * rise_q
        by_log_p = (self.alpha * pair.log_p).exp() * rise_p
        return Divergence(
            self._value(pair, by_log_q, by_log_p),
            by_log_q - pair.q * by_log_q.sum(-1, keepdim=True) if student else None,
            by_log_p - pair.p * by_log_p.sum(-1, keepdim=True) if teacher else None,
        )

    def _value(self, pair: Pair, by_log_q: Tensor, by_log_p: Tensor) -> Tensor:
        # By Euler's theorem s D is the sum of both derivatives: the function is homogeneous of degree s.
        if not pair.tame and self.alpha == 0:
            by_log_q = _guarded((self.beta * pair.log_q).exp(), pair.log_q - pair.log_p)
        if not pair.tame and self.beta == 0:
            by_log_p = _guarded((self.alpha * pair.log_p).exp(), pair.log_p - pair.log_q)
        return (by_log_q.sum(-1) + by_log_p.sum(-1)) / self.power

    def term(self, d: Tensor) -> Tensor:
        """Compute ``f(d)``, where the quotient by the larger exponent loses less."""
        s = self.power
        if self.alpha >= self.beta:
            return (torch.expm1(s * d) / s - _expm1_over(d, self.beta)) / self.alpha
        d = d.clamp_min(-_FLAT / s)
        return (s * d).exp() * (torch.expm1(-s * d) / s - _expm1_over(-d, self.alpha)) / self.beta


def check_exponents(alpha: float, beta: float) -> None:
    """Check both exponents of `alpha_beta_divergence`.

    Raises:
        ArgumentError: If one is not a number from 0 to 2, or both are 0.
    """
    for name, value in (("alpha", alpha), ("beta", beta)):
        if isinstance(value, bool) or not isinstance(value, Real) or not 0 <= value <= _LARGEST:
            raise ArgumentError(
                f"{name} is an exponent from 0 to {_LARGEST:g}; got {value!r}. Usual are alpha=0.2 and beta=0.7.",
                argument=name,
            )
    if alpha + beta < _LEAST:
        raise ArgumentError(
            f"alpha and beta are {alpha:g} and {beta:g}, and their sum must be at least {_LEAST:g}. For the forward KL "
            "divergence use alpha=1 and beta=0, for the reverse one alpha=0 and beta=1.",
            argument="alpha",
        )


def _rise(log_x: Tensor, log_y: Tensor, exponent: float) -> Tensor:
    """Compute ``(x^e - y^e) / e``, and log(x / y) for e = 0: exactly 0 for x = y."""
    if exponent == 0:
        return log_x - log_y
    plain = ((exponent * log_x).exp() - (exponent * log_y).exp()) / exponent
    if exponent > _FEW:
        return plain
    d = exponent * (log_x - log_y)
    small = torch.expm1(d.clamp(-1.0, 1.0)) * (exponent * log_y).exp() / exponent
    return torch.where(d.abs() < 1, small, plain)


def _guarded(power: Tensor, log_ratio: Tensor) -> Tensor:
    """Compute the product, with 0 times an infinite logarithm as 0; the floor of -inf times 8 overflows to inf."""
    return 0.125 * (8.0 * log_ratio * power).masked_fill(power == 0, 0.0)


def _expm1_over(d: Tensor, exponent: float) -> Tensor:
    return d if exponent == 0 else torch.expm1(exponent * d) / exponent
