"""Windows of frames."""

from __future__ import annotations

from functools import cached_property
from typing import final

import torch
from jaxtyping import Float, Int
from torch import Tensor

from limbeck.batch import Batch
from limbeck.data import Dataset
from limbeck.data.column_checks import hash_columns
from limbeck.errors import DataError

BEFORE, AFTER = 20, 5
"""Frames of a window before and after the one whose label is predicted: 26 in all, the 21st of which is that one."""


@final
class Windows(Dataset):
    """Every frame of some clips as an example: its inputs are the window around it, its label is its own.

    Example i is frame i, and its inputs are the frames i - 20, ..., i + 5. A window that reaches beyond its clip
    repeats the clip's first or last frame. Only the frames are held; a window is made when it is asked for.

    Args:
        frames: All clips' frames, end to end.
        labels: One class for each frame.
        lengths: How many frames each clip has.

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
        """The windows around the frames `index`, ``[n, 26, coefficients]``, and the frames' labels."""
        low, high = self._first[index, None], self._last[index, None]
        places = (index[:, None] + self._around).clamp(low, high)
        return Batch(self.frames[places], index, labels=self._labels[index])

    @cached_property
    def fingerprint(self) -> str:
        """SHA-256 of frames, labels and the clips' lengths."""
        columns = ("frames", self.frames), ("labels", self._labels), ("lengths", self.lengths)
        return hash_columns(("windows", [BEFORE, AFTER]), *columns)

    @property
    def labels(self) -> Tensor:
        """The label of each frame."""
        return self._labels

    @property
    def class_names(self) -> None:
        """States have no names."""
        return None
