"""Selection of positions and rows of a token data set by a score of each token, as in SE-KD."""

from __future__ import annotations

from collections.abc import Iterator
from functools import cached_property
from typing import Any, final

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from limbeck.batch import Batch
from limbeck.data.dataset import POSITIONS_FILE, Dataset, Subset, hash_columns
from limbeck.errors import DataError
from limbeck.functional.row_figures import check_positive_share, count_share, select_largest

_ROWS = 256


@final
class PositionSubset(Dataset):
    """Dataset of which only some positions count: ``Batch.mask`` is true at these.

    The inputs and ids are unchanged, so a token that is not selected is still context. No loss reads its position, and
    no cache stores it.

    Args:
        whole: The dataset, with a mask of positions.
        chosen: Which of its positions with a mask count, row by row.

    Raises:
        DataError: If `chosen` has another length, or no position is chosen.
    """

    def __init__(self, whole: Dataset, chosen: Bool[Tensor, " tokens"]) -> None:
        counts = torch.cat([mask.sum(1) for mask in _masks(whole)])
        self._bounds = torch.cat([torch.zeros(1, dtype=torch.int64), counts.cumsum(0)])
        if len(chosen) != int(self._bounds[-1]) or not bool(chosen.any()):
            raise DataError(
                f"{int(chosen.sum())} of {len(chosen)} positions are chosen, and {int(self._bounds[-1])} positions "
                "count: give one value for each of these, and choose at least one."
            )
        self.whole, self.chosen = whole, chosen.cpu()
        self.class_names, self.encoding, self.tokenizer = whole.class_names, whole.encoding, whole.tokenizer
        self.ragged, self.reads_files, self.num_workers = whole.ragged, whole.reads_files, whole.num_workers

    def __len__(self) -> int:
        return len(self.whole)

    @property
    def ids(self) -> Int[Tensor, " n"]:
        """The ids of the original dataset."""
        return self.whole.ids

    @property
    def fixed(self) -> bool:
        """Same as for the original dataset."""
        return self.whole.fixed

    @property
    def labeled_tokens(self) -> int:
        """The number of positions that count."""
        return int(self.chosen.sum())

    @property
    def tokenizer_fingerprint(self) -> str | None:
        """Same as for the original dataset."""
        return self.whole.tokenizer_fingerprint

    def to_files(self) -> dict[str, bytes]:
        """Return the files of the original dataset, and the selected positions."""
        return {**self.whole.to_files(), POSITIONS_FILE: self.chosen.numpy().tobytes()}

    @cached_property
    def fingerprint(self) -> str:
        """SHA-256 of the original dataset's fingerprint and the selected positions."""
        return hash_columns(("positions", self.whole.fingerprint), ("chosen", self.chosen))

    def take(self, index: Int[Tensor, " n"]) -> Batch:
        """Return the examples at `index`, whose mask has the selected positions."""
        batch = self.whole.take(index)
        mask = _mask(batch).clone()
        bounds = zip(self._bounds[index].tolist(), self._bounds[index + 1].tolist(), strict=True)
        mask[_mask(batch)] = torch.cat([self.chosen[first:last] for first, last in bounds])
        return batch._replace(mask=mask)


def select_positions(data: Dataset, scores: Float[Tensor, " tokens"], *, share: float) -> PositionSubset:
    r"""Select the positions with the largest scores: of each row (or packed text) the same share, at least one.

    With the entropy of the student before training as the score, and a share of 0.2, this is the position selection of
    SE-KD, made once, so that a cache has the outputs of these positions alone. `limbeck.losses.SelectiveLoss` and the
    method ``se_kd`` select them again at each step. Other scores are possible; random ones are a control.

    Args:
        data: A dataset with a mask of positions, such as a `TokenDataset`.
        scores: One for each position with a mask, row by row: `limbeck.metrics.score_tokens`.
        share: The share of the positions of each row, above 0 and at most 1; rounded up.

    Raises:
        ArgumentError: If `share` is out of range.
        DataError: If there is another number of scores, or one is NaN.

    Example:
        >>> from limbeck.data import TokenDataset, train_tokenizer
        >>> tokenizer = train_tokenizer(["a b c d"], vocabulary=30)
        >>> data = TokenDataset(["a b c d", "d c"], tokenizer=tokenizer, add_eos_token=False)
        >>> chosen = select_positions(data, torch.arange(8.0), share=0.4)
        >>> chosen.take(torch.arange(2)).mask.int().tolist()
        [[0, 0, 0, 1, 1], [0, 1, 1, 0, 0]]

    Source: Tavor et al., Rethinking Selective Knowledge Distillation, 2026, arXiv:2602.01395.
    """
    check_positive_share(share)
    group, scores = _groups(data), scores.detach().cpu()
    _check_scores(scores, len(group))
    return PositionSubset(data, select_largest(scores, group, share=share))


def select_rows(data: Dataset, scores: Float[Tensor, " tokens"], *, share: float) -> Subset:
    """Select the rows with the largest mean score: the sample selection of SE-KD.

    Rows are selected first, and positions within them then: the scores of the rest are
    ``scores[...]`` of `limbeck.metrics.score_tokens` for the result.

    Args:
        data: A dataset with a mask of positions.
        scores: One for each position with a mask, row by row.
        share: The share of the rows, above 0 and at most 1; rounded up.

    Raises:
        ArgumentError: If `share` is out of range.
        DataError: If there is another number of scores, or one is NaN.

    Example:
        >>> from limbeck.data import TokenDataset, train_tokenizer
        >>> tokenizer = train_tokenizer(["a b c d"], vocabulary=30)
        >>> data = TokenDataset(["a b", "d c"], tokenizer=tokenizer, add_eos_token=False)
        >>> select_rows(data, torch.arange(6.0), share=0.5).ids.tolist()
        [1]

    Source: Tavor et al., Rethinking Selective Knowledge Distillation, 2026, arXiv:2602.01395.
    """
    check_positive_share(share)
    counts = torch.cat([mask.sum(1) for mask in _masks(data)])
    scores = scores.detach().cpu().double()
    _check_scores(scores, int(counts.sum()))
    row = torch.repeat_interleave(counts)
    means = torch.zeros(len(counts), dtype=torch.float64).index_add_(0, row, scores) / counts.clamp_min(1)
    means = means.masked_fill(counts == 0, -torch.inf)
    best = means.argsort(descending=True, stable=True)[: int(count_share(torch.tensor([len(data)]), share))]
    return data.select(best.sort().values)


def _groups(data: Dataset) -> Int[Tensor, " tokens"]:
    """The number of the row, or of the packed text, of each position with a mask."""
    numbers, first = [], 0
    for batch in _batches(data):
        mask = _mask(batch)
        row = torch.arange(first, first + len(mask)).unsqueeze(1).expand_as(mask)
        text: Any = batch.extra.get("text_number", row)
        numbers.append(torch.stack([row[mask], text[mask]], 1))
        first += len(mask)
    return torch.cat(numbers).unique(dim=0, return_inverse=True)[1]


def _batches(data: Dataset) -> Iterator[Batch]:
    for index in torch.arange(len(data)).split(_ROWS):
        yield data.take(index)


def _masks(data: Dataset) -> Iterator[Bool[Tensor, "rows positions"]]:
    for batch in _batches(data):
        yield _mask(batch)


def _mask(batch: Batch) -> Bool[Tensor, "rows positions"]:
    if batch.mask is None or batch.mask.ndim != 2:
        raise DataError("Positions are selected from a dataset of texts, whose batches have a mask of positions.")
    return batch.mask.bool()


def _check_scores(scores: Tensor, count: int) -> None:
    if scores.shape != (count,) or bool(scores.isnan().any()):
        raise DataError(
            f"There are {len(scores)} scores, {int(scores.isnan().sum())} of them NaN, for {count} positions that "
            "count: give one number for each, row by row."
        )
