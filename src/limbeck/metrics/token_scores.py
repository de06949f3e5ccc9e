"""`score_tokens`: a number for each token that counts, such as the entropy of a student."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from limbeck.batch import Batch, Inputs
from limbeck.data import Dataset
from limbeck.errors import DataError, unknown_name_error
from limbeck.metrics.language import CHUNK
from limbeck.metrics.predictions import open_token_logits

_SCORES: dict[str, Callable[[Tensor, Tensor], Tensor]] = {
    "entropy": lambda log_q, labels: torch.special.entr(log_q.exp()).sum(-1),
    "nll": lambda log_q, labels: -log_q.gather(-1, labels.unsqueeze(-1)).squeeze(-1),
}


def score_tokens(
    model: Any,
    data: Dataset,
    *,
    score: str = "entropy",
    batch_size: int = 8,
    preprocess: Callable[[Batch], Inputs] | None = None,
) -> Float[Tensor, " tokens"]:
    """Compute a number for each position that counts, row by row: where the model is unsure, or wrong.

    Args:
        model: A module, or any teacher with all logits.
        data: A dataset of texts, such as a `TokenDataset`.
        score: ``entropy`` of the model's prediction, in nats, or ``nll`` of the next token.
        batch_size: Rows for each call of the model.
        preprocess: The function from a batch to the model's inputs.

    Returns:
        One value for each position where ``Batch.mask`` is true, in float32 on the CPU.

    Raises:
        UnknownNameError: If `score` is none of these.
        DataError: If the batches have no mask of positions.

    Example:
        >>> from limbeck.data import TokenDataset, train_tokenizer
        >>> tokenizer = train_tokenizer(["a b"], vocabulary=30)
        >>> data = TokenDataset(["a b", "b"], tokenizer=tokenizer, add_eos_token=False)
        >>> class Uniform(torch.nn.Module):
        ...     def forward(self, input_ids, **_):
        ...         return torch.zeros(*input_ids.shape, 4)
        >>> score_tokens(Uniform(), data)
        tensor([1.3863, 1.3863, 1.3863, 1.3863, 1.3863])

    Source: Tavor et al., Rethinking Selective Knowledge Distillation, 2026, arXiv:2602.01395 (entropy of the student).
    """
    if score not in _SCORES:
        raise unknown_name_error("score of tokens", score, _SCORES, argument="score")
    values: list[Tensor] = []
    with open_token_logits(model, preprocess=preprocess) as logits_of:
        for index in torch.arange(len(data)).split(batch_size):
            batch = data.take(index)
            if batch.mask is None or batch.mask.ndim != 2 or batch.labels is None:
                raise DataError("Tokens are scored in a dataset of texts, whose batches have a mask of positions.")
            values += _score(logits_of(batch), batch.mask.bool(), batch.labels, _SCORES[score])
    return torch.cat(values)


def _score(logits: Any, mask: Tensor, labels: Tensor, function: Callable[[Tensor, Tensor], Tensor]) -> list[Tensor]:
    """The values of a batch, a few rows at a time: the logits may be those of hidden states."""
    rows = logits.flatten(0, -2) if isinstance(logits, Tensor) else logits.reshape(-1)
    values = []
    for part in mask.flatten().nonzero().flatten().split(CHUNK):
        dense = rows[part.to(rows.device)]
        dense = dense if isinstance(dense, Tensor) else dense.to_dense()
        chosen = labels.flatten()[part].clamp_min(0).to(dense.device)
        values.append(function(dense.float().log_softmax(-1), chosen).cpu())
    return values
