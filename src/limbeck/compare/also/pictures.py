"""Which test examples are pictures that can go bad, and how do models read them then?"""

from __future__ import annotations

from dataclasses import replace
from typing import NamedTuple

import torch
from torch import Tensor

from limbeck.compare.also.seen import Seen
from limbeck.compare.also.students import own_reads
from limbeck.errors import LimbeckError
from limbeck.job import plain_name
from limbeck.signal import Batch
from limbeck.sources import Pixels, Shuffled, Unchanged, subsample
from limbeck.sources.augment.check import check_pixels
from limbeck.teachers.teacher import Reads

EXAMPLES = 500
"""Of the test data at most, the classes in their shares."""
_FEWEST = 100
_PIXELS = 25_000_000
"""Of all pictures together at most: large ones are fewer, so that it takes minutes."""
_BATCH = 100
_LEAVE = "Leave corruptions out of `also`."


class Pictures(NamedTuple):
    """Test examples, and how they are read.

    Attributes:
        batches: Bytes, or floats from 0 to 1, with the ids that the examples have in the test data.
        reads: The student's way to its inputs.
        teacher: The teacher's.
    """

    batches: list[Batch]
    reads: Reads
    teacher: Reads

    @property
    def examples(self) -> int:
        """How many there are."""
        return sum(batch.size for batch in self.batches)


def pictures_of(seen: Seen, most: int = EXAMPLES) -> Pictures:
    """Some test examples of a job, the same at every call.

    Raises:
        LimbeckError: If they are no pictures, or the teacher reads something else than what goes bad.
    """
    data, own = seen.material.data, own_reads(seen.teacher)
    first = data.test.take(torch.tensor([0])).inputs
    if not isinstance(first, Tensor) or first.ndim not in (3, 4):
        raise LimbeckError(
            f"corruptions are of pictures, and an example of {plain_name(data.name)} is {_told(first)}. {_LEAVE}"
        )
    if own is not None and not isinstance(own, (Pixels, Unchanged)):
        raise LimbeckError(f"corruptions change what the student reads, and the teacher reads other inputs. {_LEAVE}")
    count = min(most, EXAMPLES, max(_FEWEST, _PIXELS // first.numel()))
    batches = list(Shuffled(subsample(data.test, count, 0), batch_size=_BATCH, shuffle=False))
    found = _from_zero_to_one(Pictures(batches, data.reads, own or data.reads))
    for batch in found.batches:
        check_pixels(batch.inputs, who="corruptions")
    return found


def _from_zero_to_one(found: Pictures) -> Pictures:
    """The same, as floats where bytes do not mean 0 to 255: those of scikit-learn's digits end at 16."""
    scale = found.reads.scale if isinstance(found.reads, Pixels) else 1 / 255
    if found.batches[0].inputs.is_floating_point() or abs(255 * scale - 1) < 1e-6:
        return found
    batches = [batch._replace(inputs=(batch.inputs.float() * scale).clamp(0, 1)) for batch in found.batches]
    return Pictures(batches, _scaled(found.reads, scale), _scaled(found.teacher, scale))


def _scaled(reads: Reads, scale: float) -> Reads:
    return replace(reads, scale=reads.scale / scale) if isinstance(reads, Pixels) else reads


def _told(inputs: object) -> str:
    if not isinstance(inputs, Tensor):
        return "several tensors by name"
    return (
        f"a row of {inputs[0].numel()} numbers" if inputs.ndim == 2 else f"a tensor of shape {list(inputs.shape[1:])}"
    )
