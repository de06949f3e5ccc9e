"""Checks that a language model does not mix up the texts of a batch: packed rows, and padding in front."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any
from weakref import WeakSet

import torch
from jaxtyping import Int
from torch import Tensor, nn

from limbeck.errors import MissingOutputError

_SEPARATES: WeakSet[nn.Module] = WeakSet()
"""Models that were seen to keep packed texts apart."""
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
    if not isinstance(ids, Tensor) or not isinstance(places, Tensor) or not ids.any():
        return
    length = max(1, min(_LENGTH, ids.shape[-1] // 2))
    last = ids.max()
    positions = torch.arange(length, device=ids.device).repeat(2)[None]
    with torch.no_grad(), _in_eval_mode(model):
        before, after = (
            answer({**inputs, "position_ids": positions, "input_ids": _make_row(first, last, length)})
            for first in (last, last - 1)
        )
    if before is None or after is None or before.shape[:2] != positions.shape:
        return
    if not _are_close(before[:, length:], after[:, length:]):
        raise MissingOutputError(
            f"{type(model).__name__} does not keep the texts apart that are packed into one row: what it answers to "
            "a text changes with the one in front of it. Leave packing out."
        )
    _SEPARATES.add(model)


def _are_close(one: Tensor, other: Tensor) -> bool:
    # Not the same bits: experts get other groups of tokens.
    return torch.allclose(one, other, rtol=0.0, atol=32 * torch.finfo(one.dtype).eps * float(one.abs().max()))


def _make_row(first: Tensor, second: Tensor, length: int) -> Int[Tensor, "1 tokens"]:
    """Two texts of one token each, repeated."""
    return torch.stack([first, second]).repeat_interleave(length)[None]


@contextmanager
def _in_eval_mode(model: nn.Module) -> Iterator[None]:
    training = [module for module in model.modules() if module.training]
    model.eval()
    try:
        yield
    finally:
        for module in training:
            module.training = True
