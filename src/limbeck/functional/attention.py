"""Losses of transformers: attention maps, scores, relations between tokens, and the class token."""

from __future__ import annotations

import math

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from limbeck.errors import LimbeckError
from limbeck.functional.directions import compare_directions, find_directions
from limbeck.functional.divergence import kl_divergence
from limbeck.functional.kernel import kernel, validates_pair
from limbeck.functional.row_blocks import compute_by_examples

SMALLEST_ATTENTION = 1e-8
"""Attention below this counts as this: a softmax in half precision rounds it to 0, whose logarithm is infinite."""


def find_token_mask(mask: Bool[Tensor, "*tokens"] | None, batch: int, tokens: int, device: torch.device) -> Tensor:
    """The tokens that count, ``bool [batch, tokens]``.

    Args:
        mask: True where a token counts, ``[batch, tokens]``; ``[batch]`` if whole examples count; None if all do.
        batch: The number of examples.
        tokens: The number of tokens of an example.
        device: The device of the features.

    Raises:
        LimbeckError: If the mask is that of other tokens.

    Example:
        >>> find_token_mask(torch.tensor([True, False]), 2, 3, torch.device("cpu")).sum()
        tensor(3)
    """
    if mask is None:
        return torch.ones(batch, tokens, dtype=torch.bool, device=device)
    if mask.ndim == 1 and len(mask) == batch:
        return mask.bool().unsqueeze(1).expand(batch, tokens)
    if tuple(mask.shape) != (batch, tokens):
        raise LimbeckError(
            f"The mask has the shape {tuple(mask.shape)}, and the layer has {tokens} tokens in each of {batch} "
            "examples. Use the mask of the tokens that the layer reads (attention_mask), or none."
        )
    return mask.bool()


def mean_over_tokens(values: Float[Tensor, "batch tokens"], counts: Bool[Tensor, "batch tokens"]) -> Tensor:
    """The mean over the tokens that count; 0 for an example without any."""
    return values.masked_fill(~counts, 0.0).sum(1) / counts.sum(1).clamp_min(1)


def unit_rows(rows: Float[Tensor, "*batch features"]) -> Float[Tensor, "*batch features"]:
    """Rows of length 1 in the same directions; a row of zeros stays zero. Finite for all finite rows.

    Example:
        >>> unit_rows(torch.tensor([[3e30, 4e30], [0.0, 0.0]]))
        tensor([[0.6000, 0.8000],
                [0.0000, 0.0000]])
    """
    directions = find_directions(rows)
    if directions is not None:
        return directions
    largest = rows.detach().abs().amax(-1, keepdim=True)
    scaled = rows / largest.where(largest > 0, 1.0)  # the direction does not depend on the scale
    squares = scaled.square().sum(-1, keepdim=True)
    return scaled * squares.where(squares > 0, 1.0).rsqrt()


@kernel(per="example")
def attention_kl(
    student: Float[Tensor, "batch heads queries keys"],
    teacher: Float[Tensor, "batch teacher_heads queries keys"],
    mask: Bool[Tensor, "*tokens"] | None = None,
) -> Float[Tensor, " batch"]:
    r"""Compute the mean over heads and tokens of :math:`KL(A^T_{hq} \| A^S_{hq})`, in nats.

    :math:`A_{hq}` is a row of an attention map: how much token q reads every token. Tokens that do not count are
    neither rows nor columns of a map: the rest of a row is divided by its sum. Attention below 1e-8 counts as 1e-8. If
    the two have different numbers of heads, the mean maps over the heads are compared.

    Args:
        student: Attention maps of the student: not negative, each row with the sum 1.
        teacher: Attention maps of the teacher.
        mask: The tokens that count, ``[batch, tokens]`` or ``[batch]``; all by default.

    Raises:
        LimbeckError: If the two have different tokens.

    Example:
        >>> maps = torch.tensor([[0.5, 0.5], [0.5, 0.5]]), torch.tensor([[1.0, 0.0], [0.5, 0.5]])
        >>> attention_kl(*(map[None, None] for map in maps))
        tensor([0.3466])

    Source: Aguilar et al., 2019, arXiv:1910.03723, equation 2; Kim et al., 2022, arXiv:2211.11014, equation 6.
    """
    if student.ndim != 4 or teacher.ndim != 4 or student.shape[2:] != teacher.shape[2:]:
        raise LimbeckError(
            f"Attention maps are [batch, heads, tokens, tokens]; the student has {tuple(student.shape)} and the "
            f"teacher {tuple(teacher.shape)}. Feed both the same tokens."
        )
    if student.shape[1] != teacher.shape[1]:
        student, teacher = student.mean(1, keepdim=True), teacher.mean(1, keepdim=True)
    counts = _check_tokens(student, teacher, mask)

    def compute(student: Tensor, teacher: Tensor, *counts: Tensor) -> Tensor:
        ours, theirs = (maps.clamp_min(SMALLEST_ATTENTION).log() for maps in (student, teacher))
        return _divergence_of_rows(ours, theirs, *counts)

    return compute_by_examples(compute, student, teacher, *(() if mask is None else (counts,)))


@kernel(per="example")
def relation_kl(
    query: Float[Tensor, "batch tokens width"],
    key: Float[Tensor, "batch tokens width"],
    teacher_query: Float[Tensor, "batch tokens teacher_width"],
    teacher_key: Float[Tensor, "batch tokens teacher_width"],
    mask: Bool[Tensor, "*tokens"] | None = None,
    *,
    heads: int,
) -> Float[Tensor, " batch"]:
    r"""Compute the mean over heads and tokens of :math:`KL(R^T_{at} \| R^S_{at})`, in nats.

    :math:`R_a = softmax(Q_a K_a^\top / \sqrt{d / A})` is the relation of all tokens in head a: Q and K of width d are
    cut into A heads. With queries and keys of a transformer it is its attention map (without a mask or position bias
    of the model's own). With values in both places it is the value relation of MiniLM. The widths of student and
    teacher may differ, and A need not be the number of attention heads. Tokens that do not count are left out. In
    float32 its gradient overflows for values above 1e12.

    Args:
        query: Queries of the student; or its keys or values, in both places.
        key: Keys of the student.
        teacher_query: Queries of the teacher, or what the student has there.
        teacher_key: Keys of the teacher.
        mask: The tokens that count, ``[batch, tokens]`` or ``[batch]``; all by default.
        heads: A, the number of heads. It divides both widths.

    Raises:
        LimbeckError: If A does not divide a width.

    Example:
        >>> same = torch.eye(2)[None]
        >>> relation_kl(same, same, same, same, heads=1)
        tensor([0.])

    Source: Wang et al., MiniLM, 2020, arXiv:2002.10957, equations 4 to 8; MiniLMv2, 2020, arXiv:2012.15828, section 3.
    """
    return _divergence_of_rows(_scores(query, key, heads), _scores(teacher_query, teacher_key, heads), mask)


@kernel(per="example")
def attention_score_error(
    query: Float[Tensor, "batch tokens width"],
    key: Float[Tensor, "batch tokens width"],
    teacher_query: Float[Tensor, "batch tokens teacher_width"],
    teacher_key: Float[Tensor, "batch tokens teacher_width"],
    mask: Bool[Tensor, "*tokens"] | None = None,
    *,
    heads: int,
) -> Float[Tensor, " batch"]:
    r"""Compute the mean over heads and pairs of tokens of :math:`(S^S_{aqk} - S^T_{aqk})^2`.

    :math:`S_a = Q_a K_a^\top / \sqrt{d / A}` are the scores of attention before the softmax. Pairs with a token that
    does not count are left out. A constant that is added to a row of scores changes this, but not the attention. In
    float32 it overflows for values above 1e9.

    Args:
        query: Queries of the student.
        key: Keys of the student.
        teacher_query: Queries of the teacher.
        teacher_key: Keys of the teacher.
        mask: The tokens that count, ``[batch, tokens]`` or ``[batch]``; all by default.
        heads: A, the number of heads of both.

    Raises:
        LimbeckError: If A does not divide a width.

    Example:
        >>> q = torch.ones(1, 1, 4)
        >>> attention_score_error(q, q, 2 * q, q, heads=1)
        tensor([4.])

    Source: Jiao et al., TinyBERT, 2019, arXiv:1909.10351, equation 7.
    """
    ours, theirs = _scores(query, key, heads), _scores(teacher_query, teacher_key, heads)
    counts = _check_tokens(ours, theirs, mask)
    errors = (ours - theirs).square().mean(1).masked_fill(~counts.unsqueeze(1), 0.0)
    return mean_over_tokens(errors.sum(2) / counts.sum(1, keepdim=True).clamp_min(1), counts)


@kernel(per="example")
def class_token_distance(
    student: Float[Tensor, "batch ... width"], teacher: Float[Tensor, "rows ... teacher_width"], *, token: int = 0
) -> Float[Tensor, " batch"]:
    r"""Compute :math:`1 - \cos(h^S, h^T)` of one token's features: from 0 to 2.

    It is half the squared distance of the two features of length 1. A row of zeros has the distance 1/2 to all others.

    Args:
        student: Features of the student's tokens ``[batch, tokens, features]``, or of one token ``[batch, features]``.
        teacher: Features of the teacher's tokens, or of one token.
        token: The position of the token: 0 is [CLS] of BERT, and the class token of ViT.

    Raises:
        LimbeckError: If the widths differ.

    Example:
        >>> class_token_distance(torch.tensor([[3.0, 4.0]]), torch.tensor([[5.0, 0.0]]))
        tensor([0.4000])

    Source: Aguilar et al., 2019, arXiv:1910.03723, equation 3.
    """
    return _distance_of_directions(*(x if x.ndim == 2 else x[:, token] for x in (student, teacher)))


@validates_pair
def _distance_of_directions(student: Tensor, teacher: Tensor) -> Tensor:
    value = compare_directions(student, teacher)
    if value is not None:
        return value
    # A teacher may say NaN of padding alone. Such a row is NaN, but a mask makes the student's gradient there 0.
    finite = teacher.isfinite().all(-1)
    difference = unit_rows(student) - unit_rows(teacher.where(finite.unsqueeze(-1), 0.0))
    return (difference.square().sum(-1) / 2).where(finite, torch.nan)


def _scores(query: Tensor, key: Tensor, heads: int) -> Float[Tensor, "batch heads tokens tokens"]:
    """The scaled products of all pairs of tokens in each head."""
    width = query.shape[-1]
    if query.ndim != 3 or query.shape != key.shape:
        raise LimbeckError(
            f"Relations need [batch, tokens, width] on both sides; got {tuple(query.shape)} and {tuple(key.shape)}."
        )
    if width % heads:
        raise LimbeckError(f"heads={heads} does not divide the width {width}; give a number that divides both widths.")
    # A reshape of an empty batch needs all sizes.
    query, key = (x.reshape(*x.shape[:2], heads, width // heads).transpose(1, 2) for x in (query, key))
    return query @ key.transpose(2, 3) / math.sqrt(width // heads)


def _check_tokens(student: Tensor, teacher: Tensor, mask: Tensor | None) -> Bool[Tensor, "batch tokens"]:
    """The tokens that count.

    Raises:
        LimbeckError: If student and teacher have different tokens.
    """
    if student.shape != teacher.shape:
        raise LimbeckError(
            f"The student has {student.shape[2]} tokens and the teacher {teacher.shape[2]}: feed both the same tokens."
        )
    return find_token_mask(mask, len(student), student.shape[2], student.device)


def _divergence_of_rows(student: Tensor, teacher: Tensor, mask: Tensor | None = None) -> Float[Tensor, " batch"]:
    """The mean KL divergence of the rows that count; a column that does not is -inf in both, which is no column."""
    counts = _check_tokens(student, teacher, mask)
    if mask is None:
        return kl_divergence(student, teacher).flatten(1).mean(1)
    if student.shape[3] == student.shape[2]:
        away = ~counts[:, None, None, :]
        student, teacher = student.masked_fill(away, -torch.inf), teacher.masked_fill(away, -torch.inf)
    return mean_over_tokens(kl_divergence(student, teacher).mean(1), counts)
