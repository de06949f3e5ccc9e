"""`SpecialistLoader`: batches with equal numbers of a specialist's classes and of all other classes."""

from __future__ import annotations

import operator
from collections.abc import Sequence
from typing import Any, final

import torch
from jaxtyping import Int
from torch import Tensor

from limbeck.batch import IGNORED, Batch
from limbeck.data.dataset import Dataset, hash_columns
from limbeck.data.loader import DatasetLoader
from limbeck.data.transform import Transform
from limbeck.errors import DataError, LimbeckError
from limbeck.random_seeds import counter_order


@final
class SpecialistLoader(DatasetLoader):
    """Alternates examples of the special classes with examples of all other classes.

    In each epoch, every example of the smaller group is used once, and the same number is drawn from the larger group.
    The draw and the order are a pure function of (seed, epoch).

    Args:
        examples: The dataset.
        special: The special classes.
        batch_size: Examples per batch; the last batch of an epoch may be smaller.
        seed: Seed of the draw and the order.
        augment: A transform, applied to every example.
        views: Number of views: epoch e uses view e mod `views`; None means a new view in every epoch.
        classes: The class of each example, used as its label; by default the labels of the dataset. Examples without a
            class (-100) are left out.

    Attributes:
        oversampling: The factor by which special examples are oversampled: their odds in a batch (1, as they are one
            half) divided by their odds in the data. By Bayes' rule, a model trained on these batches overestimates the
            odds of a special class against the rest by this factor. Adding its logarithm to the logit of the rest
            corrects this. It is below 1 if most of the data are special.

    Raises:
        DataError: If the examples have no classes, or none or all of them are special.
        LimbeckError: If `batch_size` or `views` is not positive, `augment` is not a transform, or `special` contains
            anything but whole numbers.

    Example:
        >>> from limbeck.data import ArrayDataset
        >>> loader = SpecialistLoader(ArrayDataset(torch.zeros(8, 2), torch.arange(8) % 4), [3], batch_size=2)
        >>> [sorted(batch.labels.tolist())[-1] for batch in loader], loader.oversampling
        ([3, 3], 3.0)

    Source: Hinton, Vinyals and Dean, 2015, arXiv:1503.02531, section 5.3.
    """

    def __init__(
        self,
        examples: Dataset,
        special: Sequence[int],
        *,
        batch_size: int,
        seed: int = 0,
        augment: Transform | None = None,
        views: int | None = None,
        classes: Int[Tensor, " n"] | None = None,
    ) -> None:
        super().__init__(examples, batch_size=batch_size, seed=seed, augment=augment, views=views)
        self.special = _special(special)
        self.classes = _classes(examples, classes)
        own = torch.isin(self.classes, torch.tensor(self.special, dtype=torch.int64))
        rest = ~own & (self.classes != IGNORED)
        self._own, self._rest = own.nonzero()[:, 0], rest.nonzero()[:, 0]
        if not len(self._own) or not len(self._rest):
            which = "No example is" if not len(self._own) else "All examples are"
            raise DataError(
                f"{which} of the special classes {list(self.special)}. A specialist needs examples of both groups."
            )
        self._side = min(len(self._own), len(self._rest))
        self.oversampling = len(self._rest) / len(self._own)

    @property
    def labels(self) -> Tensor:
        """The class of each example."""
        return self.classes

    @property
    def fingerprint(self) -> str:
        """SHA-256 of the fingerprints of dataset and transform, the classes and the special classes."""
        view = None if self.augment is None else self.augment.fingerprint
        whole = ("half special", self.examples.fingerprint)
        return hash_columns(whole, ("special", sorted(self.special)), ("classes", self.classes), ("view", view))

    @property
    def examples_per_epoch(self) -> int:
        """Twice the size of the smaller group."""
        return 2 * self._side

    def order(self, epoch: int) -> Int[Tensor, " n"]:
        """The positions of the examples in the order of `epoch`."""
        sides = [
            side[counter_order(len(side), seed=self.seed, epoch=epoch, stream=stream)[: self._side]]
            for stream, side in (("special", self._own), ("rest", self._rest))
        ]
        return torch.stack(sides, 1).flatten()

    def _take(self, order: Int[Tensor, " n"], view: int, number: int) -> Batch:
        batch = super()._take(order, view, number)
        return batch._replace(labels=self.classes[order[number * self.batch_size :][: batch.size]])


def _classes(examples: Dataset, classes: Tensor | None) -> Tensor:
    labels = examples.labels if classes is None else classes
    if labels is None or not bool((labels != IGNORED).any()):
        raise DataError("The examples have no labels; pass classes=, with one class per example.")
    if labels.shape != (len(examples),):
        raise DataError(f"There are {len(examples)} examples, but classes has the shape {list(labels.shape)}.")
    return labels.to("cpu", torch.int64)


def _special(classes: Any) -> tuple[int, ...]:
    try:
        if not any(isinstance(number, bool) for number in classes):
            return tuple(operator.index(number) for number in classes)
    except TypeError:
        pass
    raise LimbeckError(f"special must be a list of class indices, such as [3, 5, 8]; got {classes!r}.")
