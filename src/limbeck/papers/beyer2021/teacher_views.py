"""What the teacher sees when the student sees a view."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from limbeck.batch import Batch, Inputs
from limbeck.data import Chain, Crop, Dataset, Flip, Mixup, NormalizeImages, ShuffledLoader, Transform
from limbeck.errors import DataError
from limbeck.teachers import Preprocess

BATCH = 64
PIXELS = NormalizeImages((0.286,), (0.353,))
"""Mean and deviation of Fashion-MNIST's training images."""
WAYS = ("fixed targets", "independent noise", "consistent", "function matching")
"""Of asking a teacher, in the paper's order."""


def views(seed: int) -> Transform:
    """Crops of images with a border of four pixels, mirrored half of the time."""
    return Chain(Crop(padding=4, seed=seed), Flip(seed=seed))


def stream(examples: Dataset, way: str, seed: int) -> ShuffledLoader:
    """What the student sees: crops, and for function matching mixtures of them."""
    mix = Mixup(alpha=1.0, seed=seed) if way == "function matching" else None
    return ShuffledLoader(examples, batch_size=BATCH, seed=seed, augment=views(seed), mix=mix)


def teacher_preprocess(examples: Dataset, way: str, seed: int) -> Preprocess:
    """What the teacher sees of it."""
    if way == "fixed targets":
        return Original(examples)
    if way == "independent noise":
        return Another(examples, views(seed + 1000))
    return PIXELS


@dataclass(frozen=True)
class Original:
    """The example itself, whatever view of it the student has.

    Attributes:
        examples: The set; ids are places in it.
    """

    examples: Dataset

    def __call__(self, batch: Batch) -> Inputs:
        """The examples of the batch."""
        return PIXELS(batch._replace(inputs=self.examples.take(_ids_and_views(batch)[0]).inputs))


@dataclass(frozen=True)
class Another:
    """A view of the example that is not the student's.

    Attributes:
        examples: The set; ids are places in it.
        views: What makes it.
    """

    examples: Dataset
    views: Transform

    def __call__(self, batch: Batch) -> Inputs:
        """Views of the examples of the batch, of the same numbers."""
        id, view = _ids_and_views(batch)
        return PIXELS(batch._replace(inputs=self.views(self.examples.take(id).inputs, id, view)))


def _ids_and_views(batch: Batch) -> tuple[Tensor, Tensor]:
    if batch.id is None or batch.view is None:
        raise DataError("A batch of views says which example each row is of, and which view; this one does not.")
    return batch.id.cpu(), batch.view.cpu()
