"""A warning for texts whose padding is counted, because the loader does not say which tokens are real."""

from __future__ import annotations

import warnings
from collections.abc import Iterator, Mapping

import torch
from torch import Tensor

from limbeck.batch import LOGITS, Batch, Inputs, Outputs
from limbeck.errors import LimbeckWarning
from limbeck.losses import Loss
from limbeck.losses.objective import LossTerm
from limbeck.recipe import Stage

_NO_MASKS = {"token_type_ids", "position_ids"}
"""Inputs that have one number for each token too, and may consist of 0 and 1."""


def warn_without_mask(stage: Stage, outputs: Outputs, batch: Batch, inputs: Inputs) -> None:
    """Warn if losses compare features of tokens, an input looks like a mask, and the batch has none.

    Args:
        stage: The stage.
        outputs: The student's outputs for the batch.
        batch: The batch.
        inputs: The student's inputs for the batch.
    """
    if batch.mask is not None:
        return
    for leaf, _ in stage.objective.leaves():
        if leaf.where is not None or not _counts_tokens(leaf):
            continue
        for address in sorted(leaf.requires.student - {LOGITS}):
            tokens = _count_tokens(outputs[address], batch.size) if address in outputs else None
            name = None if tokens is None else next(_find_masks(inputs, batch.size, tokens), None)
            if name is not None:
                warnings.warn(
                    f"{leaf.name} compares all {tokens} tokens of {address!r}, padding too: the batches have no mask. "
                    f"The input {name} looks like one, but limbeck knows only a column attention_mask, which is 1 for "
                    "real tokens. Rename the column, or return Batch(inputs, labels=labels, mask=is_real_token) from "
                    "TorchLoader(loader, to_batch=...); for tensors, ArrayDataset(..., mask=is_real_token).",
                    LimbeckWarning,
                    stacklevel=2,
                )
                return


def _counts_tokens(leaf: LossTerm) -> bool:
    """Whether a mask of tokens changes the loss."""
    if isinstance(leaf, Loss):
        return "mask" in leaf.kernel.inputs or leaf.per in ("position", "output")
    return leaf.reads_token_mask


def _count_tokens(features: Tensor, batch: int) -> int | None:
    """The number of tokens in hidden states ``[batch, tokens, width]`` or attention maps; None for other features."""
    if features.ndim == 3 and len(features) == batch:
        return features.shape[1]
    is_attention = features.ndim == 4 and len(features) == batch and features.shape[2] == features.shape[3]
    return features.shape[3] if is_attention else None


def _find_masks(inputs: Inputs, batch: int, tokens: int) -> Iterator[str]:
    """The inputs beside the tokens that look like masks: one number for each token, of two kinds."""
    if isinstance(inputs, Mapping):
        named = {repr(name): value for name, value in inputs.items() if name not in _NO_MASKS}
    elif isinstance(inputs, (tuple, list)):
        named = {f"number {number}": value for number, value in enumerate(inputs)}
    else:
        return
    if len(named) < 2:
        return
    for name, value in named.items():
        fits = isinstance(value, Tensor) and value.shape[:1] == (batch,) and value.shape[-1:] == (tokens,)
        if fits and value.numel() == batch * tokens and _is_mask(value):
            yield name


def _is_mask(values: Tensor) -> bool:
    """Whether all values are 0 or 1, or 0 or very negative, as masks that are added to scores."""
    if values.dtype == torch.bool:
        return True
    return bool(((values == 0) | (values == 1)).all() or ((values == 0) | (values <= -1e4)).all())
