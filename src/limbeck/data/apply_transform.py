"""Views of the examples of a data set, each made by its number."""

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
    """Refuse what makes no views of these examples, and what is no number of views.

    Raises:
        LimbeckError: Saying what was given, and what to give.
    """
    if augment is not None:
        check_transform(augment, who="augment=")
    if mix is not None:
        check_mix(mix, examples)
    if views is not None and (isinstance(views, bool) or not isinstance(views, int) or views < 1):
        raise LimbeckError(f"views={views!r} is no positive number of views; give views=50, or None for one an epoch.")


def is_repeatable(examples: Dataset, augment: Transform | None) -> bool:
    """Whether an example, and a view of it, is known to be the same at any time: of those that limbeck makes itself."""
    return examples.fixed and (augment is None or type(augment).__module__.startswith("limbeck."))


def view_number(epoch: int, views: int | None) -> int:
    """Which view of each example an epoch hands out, where there are so many; None means one for each epoch.

    Example:
        >>> [view_number(epoch, 3) for epoch in range(5)], view_number(4, None)
        ([0, 1, 2, 0, 1], 4)
    """
    return epoch if views is None else epoch % views


def apply_transforms(
    examples: Dataset, index: Int[Tensor, " n"], augment: Transform | None, number: int, *, mix: BatchMix | None = None
) -> Batch:
    """The examples at the positions `index`; with `augment` or `mix`, the view of each that has this number.

    Raises:
        DataError: If views are to be made of examples without ids.
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
        raise DataError(f"{type(examples).__name__}.take() gave no ids; a view of an example needs its id.")
    view = torch.full_like(batch.id, number)
    inputs = batch.inputs if augment is None else augment(batch.inputs, batch.id, view)
    return batch._replace(inputs=inputs, view=view)
