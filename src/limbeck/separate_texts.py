"""Checks that a language model does not mix up the texts of a batch: packed rows, and padding in front."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from contextvars import ContextVar
from typing import Any
from weakref import WeakSet

import torch
from jaxtyping import Int
from torch import Tensor, nn

from limbeck.errors import MissingOutputError

_SEPARATES: WeakSet[nn.Module] = WeakSet()
"""Models that were seen to keep packed texts apart."""
_SKIPS_PADDING: WeakSet[nn.Module] = WeakSet()
"""Models that were seen to give a text the same answers with padding in front."""
_TRYING: ContextVar[bool] = ContextVar("trying", default=False)
_LENGTH = 4  # tokens of each of the two texts that are tried


def check_left_out(model: nn.Module, inputs: Mapping[str, Any], left_out: set[str]) -> None:
    """Refuse texts that a model would mix up without these inputs.

    Raises:
        MissingOutputError: If texts are packed into rows, or padded on the left.
    """
    who, mask, places = type(model).__name__, inputs.get("attention_mask"), inputs.get("position_ids")
    # Without a mask, padding cannot be told from texts of one token, so padded rows are refused too.
    packed = mask is None and isinstance(places, Tensor) and bool((places[..., 1:] == 0).any())
    if "position_ids" in left_out and packed:
        raise MissingOutputError(
            f"{who} takes no position_ids, so the texts that are packed into one row would read each other: leave "
            "packing out."
        )
    if "attention_mask" in left_out and isinstance(mask, Tensor) and mask.numel() and not bool(mask[:, 0].all()):
        raise MissingOutputError(
            f"{who} takes no attention_mask, so it would read the padding in front of a text: pad on the right."
        )


def check_separates(
    model: nn.Module, inputs: Mapping[str, Any], answer: Callable[[Mapping[str, Any]], Tensor | None]
) -> None:
    """Refuse packed rows for a model whose answers to a text change with the text in front of it in its row.

    Many models take ``position_ids`` and attend to all earlier texts, or have a state that runs on. So two short texts
    in one row are tried, once for each model, in eval mode and without gradients.

    Args:
        model: The model.
        inputs: The inputs of a batch. Rows are packed if there are positions and no mask, as in
            `limbeck.data.TokenDataset`.
        answer: The logits for other inputs of the same names; None if they are unknown, and nothing is checked.

    Raises:
        MissingOutputError: If the texts read each other.
    """
    ids, places = inputs.get("input_ids"), inputs.get("position_ids")
    if model in _SEPARATES or "attention_mask" in inputs or inputs.get("use_cache") is not False:
        return
    if not isinstance(ids, Tensor) or ids.is_floating_point() or not isinstance(places, Tensor) or not ids.any():
        return
    length = max(1, min(_LENGTH, ids.shape[-1] // 2))
    last = ids.max()
    positions = torch.arange(length, device=ids.device).repeat(2)[None]
    with torch.no_grad(), _trial_of(model):
        before, after = (
            answer({**inputs, "position_ids": positions, "input_ids": _make_row(first, last, length)})
            for first in (last, last - 1)
        )
    if before is None or after is None or before.shape[:2] != positions.shape:
        _SEPARATES.add(model)  # so that it is not tried again
        return
    if not _are_close(before[:, length:], after[:, length:]):
        raise MissingOutputError(
            f"{type(model).__name__} does not keep the texts apart that are packed into one row: what it answers to "
            "a text changes with the one in front of it. Leave packing out."
        )
    _SEPARATES.add(model)


def check_padding_in_front(
    model: nn.Module, inputs: Mapping[str, Any], answer: Callable[[Mapping[str, Any]], Tensor | None]
) -> None:
    """Refuse padding on the left for a model whose answers to a text change with the padding in front of it.

    Some models take an ``attention_mask`` and do not use it, as RWKV, or count positions from the padding. So a short
    text is tried with and without padding, once for each model, in eval mode and without gradients.

    Args:
        model: The model.
        inputs: The inputs of a batch.
        answer: As for `check_separates`.

    Raises:
        MissingOutputError: If the answers differ.
    """
    ids, mask = inputs.get("input_ids"), inputs.get("attention_mask")
    if model in _SKIPS_PADDING or not isinstance(ids, Tensor) or not isinstance(mask, Tensor) or ids.ndim != 2:
        return
    if ids.is_floating_point() or mask.shape != ids.shape or not mask.numel():
        return
    if bool(mask[:, 0].all()) or not bool(mask.any()):
        return
    if _is_sharded(model):  # its calls wait for other ranks, which may have no padding
        return
    length = max(1, min(_LENGTH, ids.shape[1] // 2))
    padding = ids[:, 0][mask[:, 0] == 0][0]
    row = _make_row(padding, ids[mask.bool()].max(), length)
    text, ones = row[:, length:], torch.ones_like(row[:, length:])
    others = {name: inputs[name] for name in ("use_cache",) if name in inputs}
    if "labels" in inputs or "decoder_input_ids" in inputs:  # the decoder reads the same text both times
        others["decoder_input_ids"] = text
    mask = torch.cat([torch.zeros_like(ones), ones], 1)
    alone = padded = None
    # A model may refuse a short text; what it says of its own texts is said by their call.
    with torch.no_grad(), _trial_of(model), suppress(RuntimeError, ValueError, TypeError, LookupError):
        alone = answer({**others, "input_ids": text, "attention_mask": ones})
        padded = answer({**others, "input_ids": row, "attention_mask": mask})
    if alone is None or padded is None or alone.shape[:2] != text.shape:  # an adaptor, or one answer for a whole text
        _SKIPS_PADDING.add(model)
        return
    if not _are_close(padded[:, -length:], alone):
        raise MissingOutputError(
            f"{type(model).__name__} does not leave out the padding in front of a text: what it answers to the text "
            "changes with it. Pad on the right: data.padding_side=right."
        )
    _SKIPS_PADDING.add(model)


def _is_sharded(model: nn.Module) -> bool:
    """Whether PyTorch shards a module: it is wrapped, or `fully_shard` has renamed its class."""
    return any(type(module).__name__.startswith(("FullySharded", "FSDP")) for module in model.modules())


def _are_close(one: Tensor, other: Tensor) -> bool:
    # Not the same bits: experts get other groups of tokens.
    return torch.allclose(one, other, rtol=0.0, atol=32 * torch.finfo(one.dtype).eps * float(one.abs().max()))


def _make_row(first: Tensor, second: Tensor, length: int) -> Int[Tensor, "1 tokens"]:
    """Two texts of one token each, repeated."""
    return torch.stack([first, second]).repeat_interleave(length)[None]


@contextmanager
def without_mask_advice() -> Iterator[None]:
    """A block without the advice of transformers to pass an attention mask.

    Packed rows have none, because only without it their texts are kept apart, and other rows without it have no
    padding: `check_separates` and `check_left_out` see to both.
    """
    logger = logging.getLogger("transformers.modeling_utils")
    logger.addFilter(_is_no_mask_advice)
    try:
        yield
    finally:
        logger.removeFilter(_is_no_mask_advice)


def _is_no_mask_advice(record: logging.LogRecord) -> bool:
    return "recommend passing in an `attention_mask`" not in record.getMessage()


def is_trial() -> bool:
    """Whether a model is being called to try texts, so that what reads inside of it does not read this call."""
    return _TRYING.get()


@contextmanager
def _trial_of(model: nn.Module) -> Iterator[None]:
    """A block in which a model is tried, in eval mode."""
    before = _TRYING.set(True)
    training = [module for module in model.modules() if module.training]
    model.eval()
    try:
        yield
    finally:
        _TRYING.reset(before)
        for module in training:
            module.training = True
