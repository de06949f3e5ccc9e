"""How far is the student's distribution from the teacher's?"""

from __future__ import annotations

from typing import final

from jaxtyping import Float
from torch import Tensor

from limbeck.functional.check import paired
from limbeck.functional.closed_form import Form, Found, Pair, divergence, through_softmax
from limbeck.functional.kernel import kernel
from limbeck.functional.sparse import sampled_kl_divergence


@kernel(per="position", divergence=True, sampled=sampled_kl_divergence)
@paired
def kl_divergence(
    student: Float[Tensor, "*batch classes"], teacher: Float[Tensor, "*batch classes"], *, temperature: float = 1.0
) -> Float[Tensor, "*batch"]:
    """The Kullback-Leibler divergence of the student from the teacher, times T^2: the soft-target loss.

    ``T^2 KL(p || q) = T^2 sum_c p_c (log p_c - log q_c)`` with ``p = softmax(teacher / T)`` and
    ``q = softmax(student / T)``. Both arguments are logits or log-probabilities; the value is in nats (times T^2), one
    for each row.

    Its gradient in the student's logits is ``T (q - p)``: with T^2 inside, its size hardly depends on T. As T grows,
    the value goes to half the variance over classes of ``student - teacher``, `logit_squared_error`.

    It is exactly 0 where both are equal. A column that is -inf in both contributes 0; a column that is -inf in the
    student alone, where the teacher has mass, makes it infinite; a row of nothing but -inf gives 0 if it is so in both,
    else inf. In float32 the value is good to about 1e-6 T^2; the gradient is good to rounding at any value.

    Args:
        student: Logits of the student.
        teacher: Logits of the teacher.
        temperature: T, above 0; higher is softer.

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
@paired
def reverse_kl(
    student: Float[Tensor, "*batch classes"], teacher: Float[Tensor, "*batch classes"], *, temperature: float = 1.0
) -> Float[Tensor, "*batch"]:
    """The Kullback-Leibler divergence of the teacher from the student, times T^2: it seeks modes.

    ``T^2 KL(q || p) = T^2 sum_c q_c (log q_c - log p_c)`` with p of the teacher and q of the student, in nats.
    It is `kl_divergence` with the arguments exchanged, so it is infinite where the *teacher* alone is -inf in a column
    in which the student has mass.

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
@paired
def total_variation(
    student: Float[Tensor, "*batch classes"], teacher: Float[Tensor, "*batch classes"], *, temperature: float = 1.0
) -> Float[Tensor, "*batch"]:
    """The total variation distance between student and teacher, times T^2.

    ``T^2 / 2 sum_c |p_c - q_c|``, a difference of probabilities: from 0 to T^2, and infinite only where one row
    alone is nothing but -inf. Where p = q its slope is taken as 0.

    Unlike the divergences it falls as 1/T when T grows, not as 1/T^2, so with T^2 inside it grows with T.

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
class _KullbackLeibler(Form):
    def __call__(self, pair: Pair, student: bool, teacher: bool) -> Found:
        log_ratio = pair.log_p - pair.log_q
        value = (pair.p * log_ratio).sum(-1) if pair.tame else _guarded(pair.p, log_ratio)
        by_student = pair.q - pair.p if student else None
        return Found(value, by_student, through_softmax(pair.p, log_ratio) if teacher else None)


def _guarded(p: Tensor, log_ratio: Tensor) -> Tensor:
    """The sum of p * log_ratio, where 0 log 0 = 0 and -inf may have been raised to a floor."""
    # Times 8, the floor that stands for -inf in the student overflows to inf, and nothing else changes by a bit.
    # Then 0 * inf = 0; in rows with NaN no p is 0.
    return 0.125 * (8.0 * log_ratio * p).masked_fill(p == 0, 0.0).sum(-1)


@final
class _TotalVariation(Form):
    def __call__(self, pair: Pair, student: bool, teacher: bool) -> Found:
        difference = pair.q - pair.p
        sign = 0.5 * difference.sign()
        return Found(
            0.5 * difference.abs().sum(-1),
            through_softmax(pair.q, sign) if student else None,
            through_softmax(pair.p, -sign) if teacher else None,
        )


KULLBACK_LEIBLER = _KullbackLeibler()
"""KL(p || q)."""

TOTAL_VARIATION = _TotalVariation()
"""Half the sum of |p - q|."""
