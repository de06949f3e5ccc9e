"""The likelihood of a text under a teacher with another tokenizer, by the student's tokens."""

from __future__ import annotations

import math

import torch
from jaxtyping import Bool, Float, Int, Shaped
from torch import Tensor

from limbeck.group_likelihoods import CrossTokenizerLogits, GroupLikelihoods, expand_ranges

OTHER_TOKENIZER = (CrossTokenizerLogits, GroupLikelihoods)
"""What a teacher with another tokenizer gives."""


def likelihood_rows(
    teacher: CrossTokenizerLogits | GroupLikelihoods,
    positions: Int[Tensor, " tokens"],
    sizes: Shaped[Tensor, " tokens"],
    *,
    columns: int,
) -> Float[Tensor, "tokens columns"]:
    """The rows of `limbeck.metrics.TextSumsState` for some positions: 1, the bytes, the nats, NaN, whether known."""
    values, known = (part[positions] for part in share_likelihoods(teacher))
    counts = torch.stack([torch.ones_like(values), sizes.double(), torch.where(known, values, 0.0)], 1)
    unknown = values.new_full((len(values), columns - 4), math.nan)
    return torch.cat([counts, unknown, known[:, None].double()], 1)


def share_likelihoods(
    teacher: CrossTokenizerLogits | GroupLikelihoods,
) -> tuple[Float[Tensor, " positions"], Bool[Tensor, " positions"]]:
    """Share the nats of each group evenly among its tokens of the student.

    Args:
        teacher: The likelihoods of groups.

    Returns:
        The negative log-likelihood at each position, in float64 on the CPU, and whether it is known.

    Example:
        >>> labels, lengths = torch.tensor([[5, 6, 7]]), torch.tensor([[2, 0, 0]])
        >>> share_likelihoods(GroupLikelihoods(labels, lengths, torch.tensor([[-3.0, 0.0, 0.0]]), classes=9))
        (tensor([1.5000, 1.5000, 0.0000], dtype=torch.float64), tensor([ True,  True, False]))
    """
    own = teacher.likelihoods if isinstance(teacher, CrossTokenizerLogits) else teacher
    lengths = own.lengths.cpu().flatten()
    starts = (lengths > 0).nonzero()[:, 0]
    places, groups = expand_ranges(starts, lengths[starts])
    values = torch.zeros(lengths.shape, dtype=torch.float64)
    values[places] = -(own.log_likelihood.cpu().double().flatten()[starts] / lengths[starts])[groups]
    known = torch.zeros(lengths.shape, dtype=torch.bool)
    known[places] = True
    return values, known


def complete_sums(
    sums: Float[Tensor, " texts"], tokens: Float[Tensor, " texts"], known: Float[Tensor, " texts"]
) -> Float[Tensor, " texts"]:
    """Extend sums over the known tokens of each text to all of its tokens, at the mean of the known ones.

    A text without known tokens gets the mean of all texts. Sums over all tokens stay as they are.

    Example:
        >>> complete_sums(torch.tensor([6.0, 0.0]), torch.tensor([4.0, 2.0]), torch.tensor([3.0, 0.0]))
        tensor([8., 4.])
    """
    mean = torch.where(known > 0, sums / known.clamp_min(1), sums.sum() / known.sum())
    return torch.where(known == tokens, sums, mean * tokens)
