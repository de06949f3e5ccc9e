"""Applies transforms and mixes to the examples of a dataset, by view number."""

from __future__ import annotations

from typing import Any

import torch
from jaxtyping import Int
from torch import Tensor

from limbeck.batch import Batch
from limbeck.data.batch_mix import BatchMix, apply_mix, check_mix
from limbeck.data.dataset import Dataset
from limbeck.data.transform import Transform, check_transform
from limbeck.errors import DataError, LimbeckError


def check_augmentation(examples: Dataset, *, augment: Any, mix: Any = None, views: Any = None) -> None:
    """Check `augment`, `mix` and `views` for these examples.

    Raises:
        LimbeckError: If one of them is not valid.
    """
    if augment is not None:
        check_transform(augment, who="augment=")
    if mix is not None:
        check_mix(mix, examples)
    if views is not None and (isinstance(views, bool) or not isinstance(views, int) or views < 1):
        raise LimbeckError(
            f"views={views!r} is not a positive whole number. Use views=50, or None for one view per epoch."
        )


def is_repeatable(examples: Dataset, augment: Transform | None) -> bool:
    """Whether examples and views never change; true for limbeck's own datasets and transforms."""
    return examples.fixed and (augment is None or type(augment).__module__.startswith("limbeck."))


def view_number(epoch: int, views: int | None) -> int:
    """The view number of an epoch: the epoch modulo `views`, or the epoch itself if `views` is None.

    Example:
        >>> [view_number(epoch, 3) for epoch in range(5)], view_number(4, None)
        ([0, 1, 2, 0, 1], 4)
    """
    return epoch if views is None else epoch % views


def apply_transforms(
    examples: Dataset, index: Int[Tensor, " n"], augment: Transform | None, number: int, *, mix: BatchMix | None = None
) -> Batch:
    """Return the examples at `index`, transformed and mixed by view number if `augment` or `mix` is set.

    Raises:
        DataError: If the examples have no ids, which transforms need.
    """
    batch = examples.take(index)
    if augment is None and mix is None:
        return batch
    batch = _transform_batch(examples, batch, augment, number)
    if mix is None:
        return batch
    partners = mix.partners(batch.id, batch.view, size=len(examples))  # type: ignore[arg-type]
    return apply_mix(batch, _transform_batch(examples, examples.take(partners.cpu()), augment, number), mix)


def _transform_batch(examples: Dataset, batch: Batch, augment: Transform | None, number: int) -> Batch:
    if batch.id is None:
        raise DataError(f"{type(examples).__name__}.take() returned no ids. Transforms need the id of each example.")
    view = torch.full_like(batch.id, number)
    inputs = batch.inputs if augment is None else augment(batch.inputs, batch.id, view)
    return batch._replace(inputs=inputs, view=view)
