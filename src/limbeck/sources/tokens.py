"""Batches of tokens: padding counts nowhere, and a language model's label at a token is the next token."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from limbeck.signal import IGNORED, Batch

_DO_NOT_SHIFT = ("XLNetLMHeadModel", "XLMWithLMHeadModel", "FlaubertWithLMHeadModel")


def shifts(model: Any) -> bool:
    """Whether a model compares its answer at a token with the label of the next, as causal language models do.

    Example:
        >>> shifts(torch.nn.Linear(2, 3))
        False
    """
    inner = getattr(model, "_orig_mod", model)
    inner = inner.get_base_model() if hasattr(inner, "get_base_model") else inner
    name = type(inner).__name__
    if name.endswith("ForConditionalGeneration"):
        return getattr(getattr(inner, "config", None), "is_encoder_decoder", True) is False
    return name.endswith(("ForCausalLM", "LMHeadModel", "LMHeadsModel", "DoubleHeadsModel")) and (
        name not in _DO_NOT_SHIFT
    )


def token_batch(batch: Batch, *, shifted: bool = False) -> Batch:
    """A batch out of a mapping of columns, with a mask and labels at the tokens where a model answers.

    An ``attention_mask`` is the mask, where there is no other. Labels as Hugging Face's models take them stand at the
    token that they name; a causal model says it one token earlier, so they are moved there, and the mask is where there
    is a label. Labels that stand there already are left.

    Args:
        batch: With inputs by name; any other is returned as it is.
        shifted: Whether the model is such a one; `shifts` says it.
    """
    if not isinstance(batch.inputs, dict) or batch.mask is not None:
        return batch
    batch = batch._replace(mask=_own_tokens(batch))
    labels = batch.labels
    if not shifted or labels is None or labels.ndim != 2:
        return batch
    if not _are_next(labels, batch.inputs.get("input_ids")):
        labels = torch.cat([labels[:, 1:], labels.new_full((len(labels), 1), IGNORED)], 1)
    return batch._replace(labels=labels, mask=labels != IGNORED)


def are_inputs(labels: Tensor | None, inputs: Any) -> bool:
    """Whether labels are nothing but the tokens that a model reads at the same places: it would learn to copy."""
    ids = inputs.get("input_ids") if isinstance(inputs, dict) else inputs
    if labels is None or labels.ndim != 2 or not isinstance(ids, Tensor) or ids.shape != labels.shape:
        return False
    if ids.is_floating_point() or ids.shape[1] < 2:
        return False
    known = labels != IGNORED
    moves = (ids[:, 1:] != ids[:, :-1])[known[:, :-1]]
    return bool(moves.any()) and bool((labels == ids.to(labels.device))[known].all())


def _own_tokens(batch: Batch) -> Tensor | None:
    """Where the model's answers stand at tokens that are no padding."""
    inputs = batch.inputs
    decodes = "decoder_input_ids" in inputs
    mask = inputs.get("decoder_attention_mask" if decodes else "attention_mask")
    if not isinstance(mask, Tensor) or mask.ndim != 2:
        return None
    if batch.labels is not None and batch.labels.ndim == 2 and batch.labels.shape != mask.shape:
        return None
    return mask.bool()


def _are_next(labels: Tensor, ids: Any) -> bool:
    """Whether each label is the token after its place, and not the one at it."""
    if not isinstance(ids, Tensor) or ids.shape != labels.shape:
        return False
    known = labels[:, :-1] != IGNORED
    follows, is_at = (labels[:, :-1] == ids[:, 1:])[known], (labels[:, :-1] == ids[:, :-1])[known]
    return bool(len(follows)) and bool(follows.all()) and not bool(is_at.all())
