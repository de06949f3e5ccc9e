"""Windows of frames."""

from __future__ import annotations

from functools import cached_property
from typing import final

import torch
from jaxtyping import Float, Int
from torch import Tensor

from limbeck.batch import Batch
from limbeck.data import Dataset
from limbeck.data.dataset import hash_columns
from limbeck.errors import DataError

BEFORE, AFTER = 20, 5
"""The frames of a window before and after the labeled one: 26 frames, of which the 21st is labeled."""


@final
class Windows(Dataset):
    """A dataset with one example per frame: the window around the frame, with the label of the frame.

    Example i is frame i, and its inputs are the frames i - 20, ..., i + 5. At the ends of a clip a window repeats the
    first or last frame. Only frames are in memory; windows are made on request.

    Args:
        frames: The frames of all clips, concatenated.
        labels: One class per frame.
        lengths: The number of frames of each clip.

    Raises:
        DataError: If there is no clip, a clip has no frame, or the lengths do not add up.

    Example:
        >>> clips = Windows(torch.arange(4.0)[:, None], torch.tensor([0, 1, 0, 1]), torch.tensor([2, 2]))
        >>> clips.take(torch.tensor([2])).inputs[0, -7:, 0]
        tensor([2., 2., 3., 3., 3., 3., 3.])

    Source: Hinton, Vinyals and Dean, 2015, arXiv:1503.02531, section 4.
    """

    def __init__(
        self,
        frames: Float[Tensor, "frames coefficients"],
        labels: Int[Tensor, " frames"],
        lengths: Int[Tensor, " clips"],
    ) -> None:
        if len(lengths) == 0 or int(lengths.min()) < 1 or int(lengths.sum()) != len(frames):
            raise DataError(
                f"{len(lengths)} clips have {int(lengths.sum())} frames by their lengths, and there are {len(frames)} "
                "frames; every clip needs at least one."
            )
        self.frames = frames
        self.lengths = lengths
        self._labels = labels.to(torch.int64)
        self.clip = torch.repeat_interleave(torch.arange(len(lengths)), lengths)
        ends = lengths.cumsum(0)
        self._first, self._last = (ends - lengths)[self.clip], (ends - 1)[self.clip]
        self._around = torch.arange(-BEFORE, AFTER + 1)

    def __len__(self) -> int:
        return len(self.frames)

    def take(self, index: Int[Tensor, " n"]) -> Batch:
        """Take the windows around the frames `index`, ``[n, 26, coefficients]``, with labels."""
        low, high = self._first[index, None], self._last[index, None]
        places = (index[:, None] + self._around).clamp(low, high)
        return Batch(self.frames[places], index, labels=self._labels[index])

    @cached_property
    def fingerprint(self) -> str:
        """SHA-256 of frames, labels and lengths."""
        columns = ("frames", self.frames), ("labels", self._labels), ("lengths", self.lengths)
        return hash_columns(("windows", [BEFORE, AFTER]), *columns)

    @property
    def labels(self) -> Tensor:
        """The label of each frame."""
        return self._labels

    @property
    def class_names(self) -> None:
        """None: states have no names."""
        return None
