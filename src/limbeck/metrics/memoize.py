"""Intermediate results that several metrics share, computed once and block by block."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any, NamedTuple, TypeVar

import torch
from jaxtyping import Float, Int
from torch import Tensor

T = TypeVar("T")
_Known = dict[tuple[Any, ...], tuple[tuple[Tensor, ...], Any]]
_AT_ONCE = 1 << 19
"""The number of logits in a block: four megabytes in float64."""

_KNOWN: ContextVar[_Known | None] = ContextVar("limbeck_measured", default=None)


@contextmanager
def shared_cache() -> Iterator[None]:
    """Compute shared intermediate results of several metrics only once, within the block."""
    token = _KNOWN.set({})
    try:
        yield
    finally:
        _KNOWN.reset(token)


class RowSums(NamedTuple):
    """Values of each row's softmax that metrics need, in float64.

    Attributes:
        largest: The largest probability.
        entropy: ``-sum_c q_c log q_c``, in nats.
        squares: ``sum_c q_c^2``.
    """

    largest: Float[Tensor, " n"]
    entropy: Float[Tensor, " n"]
    squares: Float[Tensor, " n"]


def by_rows(function: Callable[..., Any], *tensors: Tensor) -> Any:
    """Apply a row-wise function block by block; it returns one tensor or several, with one row per row.

    So float64 temporaries never get as large as the logits of a large test set.
    """
    count = len(tensors[0])
    size = max(1, _AT_ONCE // max(tensors[0][:1].numel(), 1))
    first = function(*(tensor[:size] for tensor in tensors))
    if count <= size:
        return first
    # Written in place: small results between large temporaries would fragment the memory.
    whole = [part.new_empty(count) for part in _columns(first)]
    for start in range(0, count, size):
        block = first if start == 0 else function(*(tensor[start : start + size] for tensor in tensors))
        for into, part in zip(whole, _columns(block), strict=True):
            into[start : start + size] = part
    return whole[0] if isinstance(first, Tensor) else type(first)(*whole)


def _columns(result: Any) -> tuple[Tensor, ...]:
    return (result,) if isinstance(result, Tensor) else tuple(result)


def row_sums(logits: Float[Tensor, "n classes"]) -> RowSums:
    """Compute the sums of each row's softmax. Within `shared` they are computed once per tensor."""
    return cached(_row_sums, logits)


def probability_of(logits: Float[Tensor, "n classes"], classes: Int[Tensor, " n"]) -> Float[Tensor, " n"]:
    """Compute the probability of one class per row, in float64."""
    probabilities: Tensor = by_rows(lambda rows, at: _softmax(rows).gather(1, at[:, None])[:, 0], logits, classes)
    return probabilities


def confidence_of(logits: Float[Tensor, "n classes"]) -> Float[Tensor, " n"]:
    """Compute the largest probability of each row, in float64."""
    return row_sums(logits).largest


def predicted_class(logits: Float[Tensor, "n classes"]) -> Int[Tensor, " n"]:
    """Compute the class with the largest logit; the first of equal ones, and -1 for a row with a NaN."""
    return cached(_chosen, logits)


def log_odds(logits: Float[Tensor, "n classes"], classes: Tensor) -> Float[Tensor, " n"]:
    """Compute ``log(q_k / (1 - q_k))`` of one class k per row, in float64: k's logit minus the logsumexp of the others.

    Example:
        >>> log_odds(torch.tensor([[3.0, 1.0]]), torch.tensor([0]))
        tensor([2.], dtype=torch.float64)
    """
    odds: Tensor = by_rows(_log_odds, logits, classes)
    return odds


def cached(function: Callable[..., T], *tensors: Tensor) -> T:
    """Call a function of these tensors; within `shared` only once."""
    values = _KNOWN.get()
    if values is None:
        return function(*tensors)
    key = (function, *map(id, tensors))
    if key not in values:
        # The tensors are stored too, so that no other tensors can get their ids.
        values[key] = (tensors, function(*tensors))
    value: T = values[key][1]
    return value


def _log_odds(logits: Tensor, classes: Tensor) -> Tensor:
    wide, own = logits.double(), classes[:, None]
    others = wide.scatter(1, own, -torch.inf).logsumexp(1)
    return wide.gather(1, own)[:, 0] - others


def _softmax(logits: Tensor) -> Tensor:
    return logits.double().softmax(1)


def _row_sums(logits: Tensor) -> RowSums:
    sums: RowSums = by_rows(_sums_of_some, logits)
    return sums


def _sums_of_some(logits: Tensor) -> RowSums:
    q = _softmax(logits)
    # Without classes there is no largest probability.
    return RowSums(q.amax(1), torch.special.entr(q).sum(1), q.square().sum(1))


def _chosen(logits: Tensor) -> Tensor:
    # argmax takes NaN as the largest value. Without this, rows of NaN would be right wherever the label is 0.
    classes: Tensor = by_rows(lambda rows: rows.argmax(1).masked_fill(rows.isnan().any(1), -1), logits)
    return classes
