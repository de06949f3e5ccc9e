"""How do many measures of the same logits share one softmax, and all else that they have in common?"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any, TypeVar

import torch
from jaxtyping import Float, Int
from torch import Tensor

T = TypeVar("T")
_Known = dict[tuple[Any, ...], tuple[tuple[Tensor, ...], Any]]
_KNOWN: ContextVar[_Known | None] = ContextVar("limbeck_measured", default=None)


@contextmanager
def shared() -> Iterator[None]:
    """A block within which what several measures need of the same tensors is computed once."""
    token = _KNOWN.set({})
    try:
        yield
    finally:
        _KNOWN.reset(token)


def probabilities(logits: Float[Tensor, "n classes"]) -> Float[Tensor, "n classes"]:
    """The softmax, in float64; within `shared` it is computed once for a tensor."""
    return once(_softmax, logits)


def confidence_of(logits: Float[Tensor, "n classes"]) -> Float[Tensor, " n"]:
    """The largest probability of each row, in float64."""
    return once(_largest, logits)


def chosen(logits: Float[Tensor, "n classes"]) -> Int[Tensor, " n"]:
    """The class with the largest logit, of equal ones the first; -1 for a row with a NaN, which says no class."""
    return once(_chosen, logits)


def log_odds(logits: Float[Tensor, "n classes"], classes: Tensor) -> Float[Tensor, " n"]:
    """``log(q_k / (1 - q_k))`` of one class k a row, in float64: k's logit less the logsumexp of the others.

    Example:
        >>> log_odds(torch.tensor([[3.0, 1.0]]), torch.tensor([0]))
        tensor([2.], dtype=torch.float64)
    """
    wide, own = logits.double(), classes[:, None]
    others = wide.scatter(1, own, -torch.inf).logsumexp(1)
    return wide.gather(1, own)[:, 0] - others


def once(function: Callable[..., T], *tensors: Tensor) -> T:
    """A function of these tensors; within `shared` it is called once for them."""
    known = _KNOWN.get()
    if known is None:
        return function(*tensors)
    key = (function, *map(id, tensors))
    if key not in known:
        # The tensors are kept too: while they live, no others have their ids.
        known[key] = (tensors, function(*tensors))
    found: T = known[key][1]
    return found


def _softmax(logits: Tensor) -> Tensor:
    return logits.double().softmax(1)


def _chosen(logits: Tensor) -> Tensor:
    # NaN counts as the largest: without this a student of nothing but NaN is right wherever the label is 0.
    return logits.argmax(1).masked_fill(logits.isnan().any(1), -1)


def _largest(logits: Tensor) -> Tensor:
    # Of no class at all there is no largest probability, and no row to have one.
    return probabilities(logits).amax(1)
