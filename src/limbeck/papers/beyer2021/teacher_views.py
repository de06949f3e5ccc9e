"""The inputs of the teacher for a view of the student."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from limbeck.batch import Batch, Inputs
from limbeck.data import Chain, Crop, Dataset, Flip, Mixup, NormalizeImages, ShuffledLoader, Transform
from limbeck.errors import DataError
from limbeck.teachers import Preprocess

BATCH = 64
PIXELS = NormalizeImages((0.286,), (0.353,))
"""Mean and standard deviation of the training images of Fashion-MNIST."""
WAYS = ("fixed targets", "independent noise", "consistent", "function matching")
"""The ways to compute the teacher's inputs, in the order of the paper."""


def views(seed: int) -> Transform:
    """Crops of images with a border of four pixels, flipped with probability one half."""
    return Chain(Crop(padding=4, seed=seed), Flip(seed=seed))


def stream(examples: Dataset, way: str, seed: int) -> ShuffledLoader:
    """Make the views of the student: crops, and for function matching mixtures of them."""
    mix = Mixup(alpha=1.0, seed=seed) if way == "function matching" else None
    return ShuffledLoader(examples, batch_size=BATCH, seed=seed, augment=views(seed), mix=mix)


def teacher_preprocess(examples: Dataset, way: str, seed: int) -> Preprocess:
    """Make the preprocessing of the teacher."""
    if way == "fixed targets":
        return Original(examples)
    if way == "independent noise":
        return Another(examples, views(seed + 1000))
    return PIXELS


@dataclass(frozen=True)
class Original:
    """Preprocessing that takes the original example instead of the student's view.

    Attributes:
        examples: The dataset; ids are indices.
    """

    examples: Dataset

    def __call__(self, batch: Batch) -> Inputs:
        """Take the examples of the batch."""
        return PIXELS(batch._replace(inputs=self.examples.take(_ids_and_views(batch)[0]).inputs))


@dataclass(frozen=True)
class Another:
    """Preprocessing that makes a view different from the student's.

    Attributes:
        examples: The dataset; ids are indices.
        views: The transform.
    """

    examples: Dataset
    views: Transform

    def __call__(self, batch: Batch) -> Inputs:
        """Make views of the examples of the batch, with the same view numbers."""
        id, view = _ids_and_views(batch)
        return PIXELS(batch._replace(inputs=self.views(self.examples.take(id).inputs, id, view)))


def _ids_and_views(batch: Batch) -> tuple[Tensor, Tensor]:
    if batch.id is None or batch.view is None:
        raise DataError("A batch of views needs ids and view numbers; this batch has none.")
    return batch.id.cpu(), batch.view.cpu()
