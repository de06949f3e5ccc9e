"""Frames of the speech experiments."""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from jaxtyping import Float, Int
from safetensors.torch import load_file, save_file
from torch import Tensor

from limbeck.errors import DataError
from limbeck.papers.experiment import Figures, TaskFolder
from limbeck.papers.hinton2015.spoken_digits import Spoken, log_mel, read_spoken, spoken_faster
from limbeck.papers.hinton2015.states import Windows, aligned, segmented

PARTS = ("train", "dev", "test")
SPEEDS = (10, 9, 11)
"""Speeds of the copies of each training clip, in tenths: original, slower, faster."""
_DEV_TAKES = 5


class FramePart(NamedTuple):
    """Some clips.

    Attributes:
        windows: All frames of the clips, with labels.
        digits: The spoken digit of each clip.
        copies: The number of copies of each clip at different speeds. The originals come first.
    """

    windows: Windows
    digits: Int[Tensor, " clips"]
    copies: int = 1


class _Raw(NamedTuple):
    frames: Float[Tensor, "frames coefficients"]
    lengths: Int[Tensor, " clips"]
    digits: Int[Tensor, " clips"]


def keep_frames(desk: TaskFolder, *, quick: bool) -> Figures:
    """Compute log-Mel frames and labels of all clips and save them for all other tasks.

    The development part is the first five takes of each speaker and digit in the training part of the file. Means and
    variances for standardization and the Gaussians for segmentation use the training part alone.
    """
    spoken = read_spoken()
    clips = parts_of(spoken)
    speeds = SPEEDS[:1] if quick else SPEEDS
    raw = {part: _raw(spoken, clips[part], speeds if part == "train" else SPEEDS[:1]) for part in PARTS}
    mean, std = raw["train"].frames.mean(0), raw["train"].frames.std(0).clamp_min(1e-3)
    scaled = {part: features._replace(frames=(features.frames - mean) / std) for part, features in raw.items()}
    train, gaussians = segmented(*scaled["train"])
    for part, (frames, lengths, digits) in scaled.items():
        labels = train if part == "train" else aligned(frames, lengths, digits, gaussians)
        copies = torch.tensor(len(speeds) if part == "train" else 1)
        columns = {"frames": frames, "lengths": lengths, "digits": digits, "labels": labels, "copies": copies}
        save_file(columns, desk.folder / f"{part}.safetensors")
    return {f"{part}_frames": len(features.frames) for part, features in raw.items()}


def read_part(folder: Path, part: str) -> FramePart:
    """Read the frames of a part that `keep_frames` saved."""
    arrays = load_file(folder / f"{part}.safetensors")
    windows = Windows(arrays["frames"], arrays["labels"], arrays["lengths"])
    return FramePart(windows, arrays["digits"], int(arrays["copies"]))


def parts_of(spoken: Spoken) -> dict[str, np.ndarray]:
    """Select the clips of each part. A clip is never divided.

    Raises:
        DataError: If a part has no clips.
    """
    takes = np.unique(spoken.take[~spoken.is_test])
    dev = ~spoken.is_test & np.isin(spoken.take, takes[:_DEV_TAKES])
    masks = {"train": ~spoken.is_test & ~dev, "dev": dev, "test": spoken.is_test}
    for part, chosen in masks.items():
        if not chosen.any():
            raise DataError(
                f"No clip is left for the {part} part: there are {int(spoken.is_test.sum())} clips for testing, and "
                f"{len(takes)} takes in the others, of which {_DEV_TAKES} are for development; more are needed."
            )
    return {part: chosen.nonzero()[0] for part, chosen in masks.items()}


def _raw(spoken: Spoken, clips: np.ndarray, speeds: tuple[int, ...]) -> _Raw:
    features = [
        torch.from_numpy(log_mel(spoken_faster(spoken.clip(i), speed))) for speed in speeds for i in clips.tolist()
    ]
    digits = torch.from_numpy(spoken.digits[clips].astype(np.int64)).repeat(len(speeds))
    return _Raw(torch.cat(features), torch.tensor([len(clip) for clip in features]), digits)
