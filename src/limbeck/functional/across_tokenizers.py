"""Kernels for a teacher with another tokenizer: distances of sorted probabilities and of likelihoods of texts."""

from __future__ import annotations

import math
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from limbeck.errors import ArgumentError, LimbeckError
from limbeck.functional.divergence import probabilities
from limbeck.functional.kernel import check_hyper, kernel, validates_pair


@kernel(per="position", across_tokenizers="distributions")
def sorted_probability_distance(
    student: Float[Tensor, "*batch classes"], teacher: Float[Tensor, "*positions others"], *, temperature: float = 1.0
) -> Float[Tensor, "*batch"]:
    r"""Compute the L1 distance of sorted probabilities: :math:`\sum_i |q_{(i)} - p_{(i)}|`, from 0 to 2.

    :math:`p = softmax(teacher / T)`, :math:`q = softmax(student / T)`; (i) is the i-th largest. The smaller vocabulary
    is filled up with zeros. It is the Wasserstein-1 distance of two distributions over classes without names, where
    every move costs the same, so it is the same for any order of either's classes and 0 if both are equal up to
    their order. It does not say which class is likely. There is no factor of T.

    The gradient is that of the sorted values; where two of them are equal it is one of the subgradients, and 0 where
    student and teacher agree. A class that is -inf has the probability 0.

    Args:
        student: Logits of the student.
        teacher: Logits of the teacher, for the same positions and any number of classes.
        temperature: T, above 0.

    Raises:
        LimbeckError: If the positions differ, or `temperature` is not a finite number above 0.

    Example:
        >>> teacher = torch.tensor([[0.5, 0.3, 0.2]]).log()
        >>> sorted_probability_distance(torch.tensor([[0.0, 0.2, 0.3, 0.5]]).log(), teacher)
        tensor([0.])

    Source: Boizard, El Haddad, Hudelot and Colombo, Towards Cross-Tokenizer Distillation: the Universal Logit
        Distillation Loss for LLMs, 2024, arXiv:2402.12030, equations 4 and 5.
    """
    check_hyper(temperature=temperature)
    if student.shape[:-1] != teacher.shape[:-1]:
        raise LimbeckError(
            f"The student's logits have the positions {list(student.shape[:-1])}, and the teacher's "
            f"{list(teacher.shape[:-1])}: only the number of classes may differ."
        )
    wide = torch.promote_types(student.dtype, teacher.dtype)
    ours, theirs = (
        probabilities(logits.to(wide), temperature=temperature).sort(-1, descending=True).values
        for logits in (student, teacher)
    )
    missing = ours.shape[-1] - theirs.shape[-1]
    pad = torch.nn.functional.pad
    return (pad(ours, (0, max(-missing, 0))) - pad(theirs, (0, max(missing, 0)))).abs().sum(-1)


@kernel(per="position", across_tokenizers="likelihoods")
@validates_pair
def binary_likelihood_kl(
    student: Float[Tensor, "*batch"],
    teacher: Float[Tensor, "*batch"],
    *,
    likelihood_temperature: float = 100.0,
    boundary_threshold: float | None = None,
) -> Float[Tensor, "*batch"]:
    r"""Compare two likelihoods of the same bytes: :math:`\tau KL(Ber(p^{1/\tau}) \| Ber(q^{1/\tau}))`, in nats.

    p and q are the likelihoods of a group of tokens for teacher and student, given the text before it: products of the
    tokens' probabilities. The outcomes are "these bytes" and "anything else", all that two tokenizers agree on. A
    larger :math:`\tau` gives small likelihoods more weight. The limit for :math:`\tau` to infinity is
    :math:`a \log(a / b) - a + b` with :math:`a = -\log p` and :math:`b = -\log q`. The paper leaves out the factor
    :math:`\tau`, with which the size of the gradient hardly depends on it.

    It is never negative, 0 for equal likelihoods, and infinite if q is 0 and p is not. A likelihood above 1 - 1e-7 is
    taken for 1 - 1e-7. It is computed in float64.

    Args:
        student: :math:`\log q`, 0 or below.
        teacher: :math:`\log p`, likewise.
        likelihood_temperature: :math:`\tau`, above 0; 100 in the paper.
        boundary_threshold: How the outputs of a `limbeck.CrossTokenizerTeacher` are joined to chunks before they are
            compared (`limbeck.group_likelihoods.GroupLikelihoods.compare`); None for each group by itself. Likelihoods
            that are given as tensors are those of chunks already.

    Raises:
        LimbeckError: If the shapes differ, `likelihood_temperature` is not a finite number above 0, or
            `boundary_threshold` is no number from 0 to 1.

    Example:
        >>> both = torch.tensor([0.5, 0.25]).log(), torch.tensor([0.5, 0.5]).log()
        >>> binary_likelihood_kl(*both, likelihood_temperature=1.0)
        tensor([0.0000, 0.1438])

    Source: Minixhofer, Vulić and Ponti, Universal Cross-Tokenizer Distillation via Approximate Likelihood Matching,
        2025, arXiv:2503.20083, section 3.
    """
    check_likelihood_temperature(likelihood_temperature)
    check_boundary_threshold(boundary_threshold)
    # float32 would lose small differences of large likelihoods; there is one number for each group. MPS has no float64.
    dtype = student.dtype if student.device.type == "mps" else torch.float64
    certain = -torch.finfo(torch.float32).eps
    log_p, log_q = (side.to(dtype).clamp_max(certain) / likelihood_temperature for side in (teacher, student))
    p = log_p.exp()
    same = p * (log_p - log_q).masked_fill(p == 0, 0.0)
    other = -torch.expm1(log_p)
    values = same + other * (torch.log(other) - torch.log(-torch.expm1(log_q)))
    return (likelihood_temperature * values.clamp_min(0.0)).to(student.dtype)


def check_likelihood_temperature(value: Any) -> None:
    """Check that it is a finite number above 0.

    Raises:
        ArgumentError: If it is not.
    """
    is_number = isinstance(value, (int, float)) and not isinstance(value, bool)
    if not is_number or not math.isfinite(value) or value <= 0:
        raise ArgumentError(
            f"likelihood_temperature is a finite number above 0; got {value!r}. The paper has 100.",
            argument="likelihood_temperature",
        )


def check_boundary_threshold(value: Any) -> None:
    """Check that it is a probability, or None.

    Raises:
        ArgumentError: If it is not.
    """
    is_number = isinstance(value, (int, float)) and not isinstance(value, bool)
    if value is not None and not (is_number and 0 <= value <= 1):
        raise ArgumentError(
            f"boundary_threshold is a probability from 0 to 1, or None for no debiasing; got {value!r}. The paper has "
            "0.1.",
            argument="boundary_threshold",
        )
