"""`BatchMix`: each example mixed with another one of the data set."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Protocol, runtime_checkable

from jaxtyping import Int
from torch import Tensor

from limbeck.batch import Batch, Inputs
from limbeck.data.dataset import Dataset
from limbeck.errors import DataError, LimbeckError
from limbeck.functional.counter_rng import counter_uniform

_COLUMNS = ("partner", "ratio", "labels", "partner_labels")


@runtime_checkable
class BatchMix(Protocol):
    """Two examples made one: partner and share are a pure function of the example's id and the number of the view.

    The partner is found in the whole set, never in the batch: the same (id, view) always gives the same mixture.
    """

    @property
    def fingerprint(self) -> str:
        """Name, version and parameters: two with the same fingerprint give the same mixtures."""
        ...

    def partners(self, id: Tensor, view: Tensor, *, size: int) -> Tensor:
        """The position, in a set of `size` examples, of the partner of each: ``int64 [batch]``."""
        ...

    def blend(self, inputs: Inputs, others: Inputs, id: Tensor, view: Tensor) -> tuple[Inputs, Tensor]:
        """The mixtures of the examples' inputs and their partners', and each example's own share, ``[batch]``."""
        ...


def mix_partners(
    id: Int[Tensor, " batch"], view: Int[Tensor, " batch"], *, size: int, seed: int, stream: str
) -> Int[Tensor, " batch"]:
    """A position in ``0..size-1`` for each example, each with equal chance (to one part in 2⁴⁸ / size)."""
    high, low = (counter_uniform(id, view, seed=seed, draws=2, stream=stream).double() * (1 << 24)).long().unbind(1)
    return ((high << 24) + low) % size


def apply_mix(batch: Batch, partner: Batch, mix: BatchMix) -> Batch:
    """Views of examples, mixed with the same views of their partners.

    No single label is right for a mixture, so it has none. ``extra`` holds the partner's id (``partner``), the
    example's own share (``ratio``), and, where the set has labels, ``labels`` and ``partner_labels``: the cross-entropy
    of the mixed label is ``ratio * CE(labels) + (1 - ratio) * CE(partner_labels)``. A mixture counts where both of its
    parts do.

    Raises:
        DataError: If a mask is not one of whole examples, or the examples have a further column of one of these names.
    """
    for column in batch.extra:
        if column in _COLUMNS:
            raise DataError(f"A mixture keeps {column!r} in Batch.extra, and the examples have a column of that name.")
    if batch.mask is not None and batch.mask.ndim > 1:
        raise DataError(
            f"Whole examples are mixed, and the mask says which of their parts count: {_shape(batch.mask)}."
        )
    inputs, ratio = mix.blend(batch.inputs, partner.inputs, batch.id, batch.view)  # type: ignore[arg-type]
    extra: Mapping[str, Any] = {**batch.extra, "partner": partner.id, "ratio": ratio}
    if batch.labels is not None:
        extra = {**extra, "labels": batch.labels, "partner_labels": partner.labels}
    mask = None if batch.mask is None or partner.mask is None else batch.mask & partner.mask
    return batch._replace(inputs=inputs, labels=None, mask=mask, extra=extra)


def check_mix(mix: Any, examples: Dataset) -> None:
    """Refuse what mixes nothing, and examples whose labels are not one for each.

    Raises:
        LimbeckError: If `mix` is no `BatchMix`.
        DataError: If labels have several dimensions.
    """
    if isinstance(mix, type):
        raise LimbeckError(f"mix={mix.__name__} is a class, not a mix; type mix={mix.__name__}().")
    if not isinstance(mix, BatchMix):
        raise LimbeckError(f"mix= takes what has partners() and blend(), such as Mixup(alpha=1.0); got {mix!r}.")
    labels = examples.labels
    if labels is not None and labels.ndim > 1:
        raise DataError(
            f"Whole examples are mixed, each of one label, and these labels are {_shape(labels)}: a label for every "
            "part of an example. Leave mix= out."
        )


def _shape(tensor: Tensor) -> str:
    return str(list(tensor.shape))
