"""How far are student and teacher from a mixture of both?"""

from __future__ import annotations

from jaxtyping import Float
from torch import Tensor

from limbeck.functional.check import paired
from limbeck.functional.closed_form import divergence
from limbeck.functional.divergence import KULLBACK_LEIBLER
from limbeck.functional.kernel import kernel
from limbeck.functional.mixture_form import JensenShannon, Skew

_END = 1e-30
"""A share below this is 0: its reciprocal would leave float32."""


@kernel(per="position", divergence=True)
@paired
def jensen_shannon(
    student: Float[Tensor, "*batch classes"],
    teacher: Float[Tensor, "*batch classes"],
    *,
    mixture: float = 0.5,
    temperature: float = 1.0,
) -> Float[Tensor, "*batch"]:
    """The skewed Jensen-Shannon divergence, scaled to have KL at both ends, times T^2.

    ``T^2 [b KL(p || m) + (1 - b) KL(q || m)] / (b (1 - b))`` with ``m = b p + (1 - b) q`` and b the `mixture`, p of the
    teacher and q of the student, in nats.

    It goes to `kl_divergence` as b goes to 0 and to `reverse_kl` as b goes to 1, and is these at 0 and 1, so its scale
    does not change with b. At b = 0.5 it is symmetric: 4 times the Jensen-Shannon divergence. Between the ends it is
    finite also where one side alone is -inf in a column.

    Args:
        student: Logits of the student.
        teacher: Logits of the teacher.
        mixture: b, the share of the teacher in the mixture, from 0 to 1.
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
@paired
def gkd_jensen_shannon(
    student: Float[Tensor, "*batch classes"],
    teacher: Float[Tensor, "*batch classes"],
    *,
    mixture: float = 0.5,
    temperature: float = 1.0,
) -> Float[Tensor, "*batch"]:
    """The generalised Jensen-Shannon divergence as the GKD paper writes it, times T^2; it vanishes at both ends.

    ``T^2 [b KL(p || m) + (1 - b) KL(q || m)]`` with ``m = b p + (1 - b) q`` and b the `mixture`, in nats. It is
    `jensen_shannon` times ``b (1 - b)``: exactly 0 at b = 0 and at b = 1, where nothing is learned, and at 0.01 a
    hundredth of `kl_divergence`. At b = 0.5 it is the Jensen-Shannon divergence, at most log 2.

    Args:
        student: Logits of the student.
        teacher: Logits of the teacher.
        mixture: b, the share of the teacher in the mixture, from 0 to 1.
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
@paired
def skew_kl(
    student: Float[Tensor, "*batch classes"],
    teacher: Float[Tensor, "*batch classes"],
    *,
    skew: float = 0.1,
    temperature: float = 1.0,
) -> Float[Tensor, "*batch"]:
    """The KL divergence of a mixture from the teacher, times T^2: bounded, so gentle on a poor student.

    ``T^2 KL(p || a p + (1 - a) q)`` with a the `skew`, p of the teacher and q of the student, in nats. It is
    `kl_divergence` at a = 0, at most ``T^2 log(1 / a)`` between, and 0 at a = 1. For a above 0 it is finite also where
    the student alone is -inf in a column.

    Args:
        student: Logits of the student.
        teacher: Logits of the teacher.
        skew: a, the share of the teacher in the mixture, from 0 to 1.
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
@paired
def skew_reverse_kl(
    student: Float[Tensor, "*batch classes"],
    teacher: Float[Tensor, "*batch classes"],
    *,
    skew: float = 0.1,
    temperature: float = 1.0,
) -> Float[Tensor, "*batch"]:
    """The KL divergence of a mixture from the student, times T^2.

    ``T^2 KL(q || (1 - a) p + a q)`` with a the `skew`, p of the teacher and q of the student, in nats: `skew_kl` with
    the arguments exchanged. It is `reverse_kl` at a = 0, at most ``T^2 log(1 / a)`` between, and 0 at a = 1.

    Args:
        student: Logits of the student.
        teacher: Logits of the teacher.
        skew: a, the share of the student in the mixture, from 0 to 1.
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
