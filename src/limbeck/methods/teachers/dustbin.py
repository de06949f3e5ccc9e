"""Losses of specialists, for which all other classes are one class, the dustbin."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from jaxtyping import Float, Int
from torch import Tensor

from limbeck.batch import IGNORED
from limbeck.errors import LimbeckError
from limbeck.functional import cross_entropy, kernel, kl_divergence
from limbeck.functional.closed_form import log_softmax, nonzero_mask
from limbeck.functional.kernel import validates_pair, validates_student


@kernel(per="position")
@validates_student
def dustbin_cross_entropy(
    student: Float[Tensor, "*batch classes"], *, labels: Int[Tensor, "*batch"], special: Sequence[int]
) -> Float[Tensor, "*batch"]:
    """Compute the cross-entropy with all classes that are not special merged into one, the dustbin.

    ``-log q_y`` in nats where y is special, else ``-log sum_{c not special} q_c``, with ``q = softmax(student)``: the
    softmax over the special classes and a dustbin whose logit is the logsumexp of the other logits. One value per row;
    0 where the label is -100.

    Args:
        student: Logits of all classes.
        labels: Class indices, or -100.
        special: The special classes; not all classes.

    Raises:
        LimbeckError: As `limbeck.functional.cross_entropy` does.

    Example:
        >>> dustbin_cross_entropy(torch.zeros(2, 4), labels=torch.tensor([0, 3]), special=(0, 1))
        tensor([1.3863, 0.6931])

    Source: Hinton, Vinyals and Dean, 2015, arXiv:1503.02531, section 5.3.
    """
    own = _mask(student, special)
    outside = (labels >= 0) & (labels < len(own)) & ~own[labels.clamp(0, len(own) - 1)]
    dustbin = log_softmax(nonzero_mask(student)).masked_fill(own, -torch.inf).logsumexp(-1)
    return torch.where(outside, -dustbin, cross_entropy(student, labels=labels.masked_fill(outside, IGNORED)))


@kernel(per="position")
@validates_pair
def rest_kl(
    student: Float[Tensor, "*batch classes"], teacher: Float[Tensor, "*batch classes"], *, special: Sequence[int]
) -> Float[Tensor, "*batch"]:
    """Compute the KL divergence within the classes that are not special, in nats, one value per row.

    ``P KL(p(. | rest) || q(. | rest))`` with P the teacher's probability of all classes that are not special. The
    divergence over special classes and dustbin plus this term is ``KL(p || q)``.

    Args:
        student: Logits of all classes.
        teacher: Logits of all classes.
        special: The special classes.

    Raises:
        LimbeckError: If the shapes differ.

    Example:
        >>> rest_kl(torch.zeros(1, 3), torch.tensor([[5.0, 1.0, 1.0]]), special=(0,))
        tensor([0.])
    """
    rest = (~_mask(student, special)).nonzero()[:, 0]
    share = log_softmax(nonzero_mask(teacher))[..., rest].exp().sum(-1)
    # If the teacher gives the rest probability 0, its distribution there is undefined, and 0 * inf would be NaN.
    silent = (share == 0).unsqueeze(-1)
    own = student[..., rest].masked_fill(silent, 0.0)
    return share * kl_divergence(own, teacher[..., rest].masked_fill(silent, 0.0))


def _mask(logits: Tensor, special: Sequence[int]) -> Tensor:
    for number in special:
        if not 0 <= number < logits.shape[-1]:
            raise LimbeckError(
                f"Special class {number} is not one of the student's {logits.shape[-1]} classes, from 0."
            )
    own = torch.zeros(logits.shape[-1], dtype=torch.bool, device=logits.device)
    own[list(special)] = True
    return own
