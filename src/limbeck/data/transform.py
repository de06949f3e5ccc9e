"""`Transform` and `BatchMix`: augmentations by example id and view number, and how a batch gets them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Protocol, runtime_checkable

import torch
from jaxtyping import Int
from torch import Tensor

from limbeck.batch import Batch, Inputs
from limbeck.data.dataset import Dataset
from limbeck.errors import DataError, LimbeckError
from limbeck.random_seeds import counter_uniform


@runtime_checkable
class Transform(Protocol):
    """An augmentation: a pure function of the inputs, the example ids and the view numbers.

    The same (id, view) always gives the same result, in any batch, process or run. So teacher outputs can be cached for
    each view, and a resumed run continues with the same inputs.
    """

    @property
    def fingerprint(self) -> str:
        """Name, version and parameters: transforms with the same fingerprint give the same results."""
        ...

    def __call__(self, inputs: Inputs, id: Tensor, view: Tensor) -> Inputs:
        """Return view number ``view[i]`` of example ``id[i]`` for each row ``i``."""
        ...


def check_transform(transform: Any, *, who: str) -> None:
    """Check that an object is a transform.

    Raises:
        LimbeckError: If it is a class, a mix, or neither a transform nor a mix.
    """
    if isinstance(transform, type):
        name = transform.__name__
        raise LimbeckError(f"{who}: {name} is a class; create an instance: {name}().")
    if hasattr(transform, "blend"):
        raise LimbeckError(f"{who}: {transform!r} mixes two examples; pass it as mix={transform!r}.")
    if not isinstance(transform, Transform):
        raise LimbeckError(
            f"{who}: a transform has a fingerprint and is called with (inputs, id, view); got {transform!r}."
        )


_COLUMNS = ("partner", "ratio", "labels", "partner_labels")


@runtime_checkable
class BatchMix(Protocol):
    """Mixes two examples; partner and ratio are a pure function of example id and view number.

    The partner comes from the whole dataset, not from the batch, so the same (id, view) always gives the same mixture.
    """

    @property
    def fingerprint(self) -> str:
        """Name, version and parameters: the same fingerprint means the same mixtures."""
        ...

    def partners(self, id: Tensor, view: Tensor, *, size: int) -> Tensor:
        """Position of each example's partner in a dataset of `size` examples, ``int64 [batch]``."""
        ...

    def blend(self, inputs: Inputs, others: Inputs, id: Tensor, view: Tensor) -> tuple[Inputs, Tensor]:
        """Mix inputs with their partners' inputs; returns the mixtures and each example's own ratio, ``[batch]``."""
        ...


def mix_partners(
    id: Int[Tensor, " batch"], view: Int[Tensor, " batch"], *, size: int, seed: int, stream: str
) -> Int[Tensor, " batch"]:
    """A random position in ``0..size-1`` for each example, uniform up to a relative error of size / 2⁴⁸."""
    high, low = (counter_uniform(id, view, seed=seed, draws=2, stream=stream).double() * (1 << 24)).long().unbind(1)
    return ((high << 24) + low) % size


def apply_mix(batch: Batch, partner: Batch, mix: BatchMix) -> Batch:
    """Mix a batch with the batch of its partners, both at the same view number.

    A mixture has no single label, so ``Batch.labels`` is None. ``extra`` contains the partner's id (``partner``), the
    example's own ratio (``ratio``), and, if the dataset has labels, ``labels`` and ``partner_labels``: the
    cross-entropy of the mixed label is ``ratio * CE(labels) + (1 - ratio) * CE(partner_labels)``. The mask of a
    mixture is true where the masks of both examples are.

    Raises:
        DataError: If the mask is not one value per example, or an extra column has one of these names.
    """
    for column in batch.extra:
        if column in _COLUMNS:
            raise DataError(
                f"Mixing stores {column!r} in Batch.extra, but the examples have an extra column of this name."
            )
    if batch.mask is not None and batch.mask.ndim > 1:
        raise DataError(f"Mixing needs a mask of one value per example; this mask has the shape {_shape(batch.mask)}.")
    inputs, ratio = mix.blend(batch.inputs, partner.inputs, batch.id, batch.view)  # type: ignore[arg-type]
    extra: Mapping[str, Any] = {**batch.extra, "partner": partner.id, "ratio": ratio}
    if batch.labels is not None:
        extra = {**extra, "labels": batch.labels, "partner_labels": partner.labels}
    mask = None if batch.mask is None or partner.mask is None else batch.mask & partner.mask
    return batch._replace(inputs=inputs, labels=None, mask=mask, extra=extra)


def check_mix(mix: Any, examples: Dataset) -> None:
    """Check that `mix` is a mix and that each example has one label.

    Raises:
        LimbeckError: If `mix` is not a `BatchMix`.
        DataError: If labels have more than one dimension.
    """
    if isinstance(mix, type):
        raise LimbeckError(f"mix={mix.__name__} is a class; create an instance: mix={mix.__name__}().")
    if not isinstance(mix, BatchMix):
        raise LimbeckError(f"mix= must have the methods partners() and blend(), like Mixup(alpha=1.0); got {mix!r}.")
    labels = examples.labels
    if labels is not None and labels.ndim > 1:
        raise DataError(
            f"Mixing needs one label per example; these labels have the shape {_shape(labels)}. Leave mix= out."
        )


def _shape(tensor: Tensor) -> str:
    return str(list(tensor.shape))


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
