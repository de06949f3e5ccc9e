"""`find_divergence_tokens`: the tokens of texts at which two models would write something else."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import torch
from jaxtyping import Int
from torch import Tensor

from limbeck.batch import IGNORED, Batch, Inputs
from limbeck.errors import DataError
from limbeck.metrics.language import CHUNK
from limbeck.metrics.predictions import as_batches, find_loader, open_token_logits


class DivergenceToken(NamedTuple):
    """A position at which two models have different most likely next tokens.

    Attributes:
        row: The number of the row in the data.
        position: The position in the row; the tokens are those behind it.
        given: The token of the text.
        first: The most likely token of the first model.
        second: The most likely token of the second model.
    """

    row: int
    position: int
    given: int
    first: int
    second: int


class DivergenceTokens(NamedTuple):
    """The positions of texts at which two models disagree.

    Attributes:
        tokens: They, in the order of the data.
        counted: The number of positions that were compared.
    """

    tokens: tuple[DivergenceToken, ...]
    counted: int

    @property
    def share(self) -> float:
        """The share of positions with different tokens; NaN if none was compared."""
        return len(self.tokens) / self.counted if self.counted else float("nan")

    def most_common(self, number: int = 10) -> list[tuple[tuple[int, int], int]]:
        """The most frequent pairs of tokens, (first, second), with how often they occur."""
        return Counter((token.first, token.second) for token in self.tokens).most_common(number)

    def describe(self, tokenizer: Any, number: int = 10) -> list[str]:
        """Lines for a person: the most frequent pairs as text, such as ``'owl' / 'cat': 12 times``.

        Args:
            tokenizer: The tokenizer of the texts.
            number: The largest number of lines.
        """
        pairs = self.most_common(number)
        return [
            f"{tokenizer.decode([first])!r} / {tokenizer.decode([second])!r}: {count} time{'s' if count > 1 else ''}"
            for (first, second), count in pairs
        ]


def find_divergence_tokens(
    first: Any, second: Any, data: Any, *, preprocess: Callable[[Batch], Inputs] | None = None
) -> DivergenceTokens:
    """Find the positions at which two models would write different tokens, with greedy decoding.

    Between a teacher and one that differs by a bias, such as a system prompt
    (`limbeck.teachers.PrivilegedContextTeacher`), these few tokens carry the bias to a student, even if the texts say
    nothing about it. Between a student and its teacher they are where the student has something to learn.

    Args:
        first: A module from ids to logits, or a teacher.
        second: Another one with the same vocabulary.
        data: Texts: a dataset, a loader or batches. Positions count where there is a label and ``Batch.mask`` is true.
        preprocess: The function from a batch to the inputs of both.

    Raises:
        DataError: If the batches have no labels at the positions of the logits.

    Example:
        >>> from torch import nn
        >>> same, other = (nn.Embedding.from_pretrained(torch.eye(3).roll(shift, 1)) for shift in (0, 1))
        >>> batch = Batch(torch.tensor([[0, 1]]), labels=torch.tensor([[1, 2]]))
        >>> found = find_divergence_tokens(same, other, [batch])
        >>> found.share, found.tokens[0]
        (1.0, DivergenceToken(row=0, position=0, given=1, first=0, second=1))

    Source: Schrodi, Kempf, Barez and Brox, Towards Understanding Subliminal Learning: When and How Hidden Biases
    Transfer, 2025, arXiv:2509.23886.
    """
    loader = find_loader(data)
    found: list[DivergenceToken] = []
    counted = row = 0
    with (
        open_token_logits(first, preprocess=preprocess, loader=loader) as ours,
        open_token_logits(second, preprocess=preprocess, loader=loader) as theirs,
    ):
        for batch in as_batches(data):
            where = count_positions(batch)
            counted += int(where.sum())
            found += _compare(ours(batch), theirs(batch), batch, where, row)
            row += batch.size
    return DivergenceTokens(tuple(found), counted)


def count_positions(batch: Batch) -> Tensor:
    """Where a position has a label and the mask is true.

    Raises:
        DataError: If the batch has no labels for positions.
    """
    if batch.labels is None or batch.labels.ndim != 2:
        raise DataError("Tokens are compared at the labels of texts, [batch, length], and these batches have none.")
    labeled = batch.labels != IGNORED
    return labeled if batch.mask is None else labeled & batch.mask.bool()


def _compare(ours: Any, theirs: Any, batch: Batch, where: Tensor, row: int) -> Iterator[DivergenceToken]:
    """The positions of a batch at which the two differ."""
    width = where.shape[1]
    places = where.flatten().nonzero().flatten().cpu()
    first, second = (_choices(logits, places) for logits in (ours, theirs))
    given = batch.labels.flatten().cpu()[places] if batch.labels is not None else places
    for i in (first != second).nonzero().flatten().tolist():
        place = int(places[i])
        yield DivergenceToken(row + place // width, place % width, int(given[i]), int(first[i]), int(second[i]))


def _choices(logits: Any, places: Int[Tensor, " places"]) -> Int[Tensor, " places"]:
    """The most likely token at some positions, a few at a time: the logits may be those of hidden states."""
    rows = logits.flatten(0, -2) if isinstance(logits, Tensor) else logits.reshape(-1)
    chosen = [places.new_empty(0)]
    for part in places.split(CHUNK):
        dense = rows[part.to(rows.device)]
        dense = dense if isinstance(dense, Tensor) else dense.to_dense()
        chosen.append(dense.argmax(-1).cpu())
    return torch.cat(chosen)
