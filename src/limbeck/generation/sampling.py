"""Draws tokens from logits: the inverse of the cumulative sum at a given number."""

from __future__ import annotations

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from limbeck.generation.config import GenerationConfig

_BLOCK = 256
"""Tokens whose probabilities are added first. Only one block of each row is then added up token by token."""
_TOP = 512
"""The most likely tokens that are sorted first for `top_p`."""


def draw_tokens(
    logits: Float[Tensor, "rows vocabulary"],
    uniform: Float[Tensor, " rows"],
    config: GenerationConfig,
) -> tuple[Int[Tensor, " rows"], Float[Tensor, " rows"]]:
    r"""Draw one token for each row: the first whose cumulative probability exceeds the uniform number u.

    :math:`\min \{ c : \sum_{j \le c} w_j > u \sum_j w_j \}` with :math:`w_j = e^{(z_j - \max z) / T}`, and 0 for tokens
    that `top_k` and `top_p` leave out. A token of probability 0 is never drawn. So a row's token is a function of its
    logits and its number. Sums over blocks of 256 tokens are in the dtype of the logits, at least float32; all sums
    over blocks, and those in the block of the token, are in float64.

    Args:
        logits: The logits. A row of NaN, or with a positive infinity, gets some token, and NaN as log-probability.
        uniform: A number from 0 to below 1 for each row; not used at temperature 0.
        config: Temperature, `top_k` and `top_p`. Temperature 0 takes the most likely token, the first of equal ones.

    Returns:
        The tokens, and their log-probabilities (`Generation.logprobs`).

    Example:
        >>> logits = torch.tensor([[0.25, 0.5, 0.0, 0.25]]).log().expand(3, 4)
        >>> tokens, logprobs = draw_tokens(logits, torch.tensor([0.2, 0.25, 0.9]), GenerationConfig())
        >>> tokens.tolist(), logprobs.exp().tolist()
        ([0, 1, 3], [0.25, 0.5, 0.25])
    """
    logits = logits if logits.dtype in (torch.float32, torch.float64) else logits.float()
    if config.temperature == 0:
        tokens = logits.argmax(1)
        return tokens, logits.gather(1, tokens[:, None])[:, 0] - logits.logsumexp(1)
    scaled = logits if config.temperature == 1 else logits / config.temperature
    weights = (scaled - scaled.amax(1, keepdim=True)).exp_()
    if config.top_k is not None or config.top_p < 1:
        weights = weights.masked_fill_(~_find_allowed(weights, config), 0.0)
    tokens, total = _invert(weights, uniform)
    return tokens, weights.gather(1, tokens[:, None])[:, 0].log() - total.log().to(weights.dtype)


def _invert(weights: Float[Tensor, "rows vocabulary"], uniform: Float[Tensor, " rows"]) -> tuple[Tensor, Tensor]:
    """The tokens, and the sum of all weights of each row in float64."""
    if weights.shape[1] <= _BLOCK:  # one block, which needs a third of the operations
        edges = weights.cumsum(1, dtype=torch.float64)
        total = edges[:, -1]
        tokens = torch.searchsorted(edges, uniform.to(edges)[:, None] * edges[:, -1:], right=True)
        return tokens[:, 0].clamp_max_(weights.shape[1] - 1), total  # beyond the last one for NaN alone
    count = weights.shape[1] // _BLOCK
    sums = weights[:, : count * _BLOCK].unflatten(1, (count, _BLOCK)).sum(2) if count else weights[:, :0]
    sums = torch.cat([sums, weights[:, count * _BLOCK :].sum(1, keepdim=True)], 1)
    edges = sums.double().cumsum(1)
    total = edges[:, -1]
    # u is at most 1 - 2^-24, so in float64 the product is below the total, and the chosen block has a weight above 0.
    target = uniform.to(edges)[:, None] * total[:, None]
    block = torch.searchsorted(edges, target, right=True).clamp_max_(count)  # beyond the last one for NaN alone
    place = block * _BLOCK + torch.arange(_BLOCK, device=weights.device)
    inside = weights.gather(1, place.clamp_max(weights.shape[1] - 1)).double()
    inside = inside.masked_fill_(place >= weights.shape[1], 0.0).cumsum_(1)
    # The block's share of the draw, of its own sum in float64: rounding cannot move it beyond the last token.
    share = (target - (edges - sums).gather(1, block)) / sums.double().gather(1, block)
    within = torch.searchsorted(inside, share.clamp_(0.0, 1.0 - 2.0**-40) * inside[:, -1:], right=True)
    return (block * _BLOCK + within.clamp_max_(_BLOCK - 1)).clamp_max_(weights.shape[1] - 1)[:, 0], total


def _find_allowed(
    weights: Float[Tensor, "rows vocabulary"], config: GenerationConfig
) -> Bool[Tensor, "rows vocabulary"]:
    """The tokens that `top_k`, and then `top_p`, leave. Tokens as likely as the last one of them stay, too."""
    size = weights.shape[1]
    least = weights.new_zeros(len(weights), 1)
    if config.top_k is not None and config.top_k < size:
        least = weights.topk(config.top_k, dim=1).values[:, -1:]
    if config.top_p == 1:
        return weights >= least
    total = weights.masked_fill(weights < least, 0.0).double().sum(1, keepdim=True)
    count = min(_TOP, size)
    while True:
        best = weights.topk(count, dim=1).values
        best = best.masked_fill(best < least, 0.0)
        reached = best.double().cumsum(1) >= config.top_p * total
        if count == size or bool(reached[:, -1].all()):
            break
        count = min(8 * count, size)
    # Without a place that reaches it, because of rounding, all tokens stay.
    last = torch.where(reached.any(1), reached.long().argmax(1), count - 1)
    return weights >= torch.maximum(least, best.gather(1, last[:, None]))
