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
from limbeck.papers.hinton2015.states import aligned, segmented
from limbeck.papers.hinton2015.windows import Windows

PARTS = ("train", "dev", "test")
SPEEDS = (10, 9, 11)
"""Tenths of its speed at which each training clip is learnt from: as spoken, slower, faster."""
_DEV_TAKES = 5


class FramePart(NamedTuple):
    """Some clips.

    Attributes:
        windows: Every frame of them, with its label.
        digits: What is said in each clip.
        copies: How often each clip is there, at different speeds: all clips as spoken come first.
    """

    windows: Windows
    digits: Int[Tensor, " clips"]
    copies: int = 1


class _Raw(NamedTuple):
    frames: Float[Tensor, "frames coefficients"]
    lengths: Int[Tensor, " clips"]
    digits: Int[Tensor, " clips"]


def keep_frames(desk: TaskFolder, *, quick: bool) -> Figures:
    """Log-Mel frames of all clips and their labels, kept once for all that learn from them.

    A development part is carved from the file's training part: the first five takes there of each speaker and digit.
    Means and variances (which make each coefficient's 0 and 1) and Gaussians (which segment the clips) come from the
    training part alone.
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
    """What `keep_frames` kept of a part in its folder."""
    arrays = load_file(folder / f"{part}.safetensors")
    windows = Windows(arrays["frames"], arrays["labels"], arrays["lengths"])
    return FramePart(windows, arrays["digits"], int(arrays["copies"]))


def parts_of(spoken: Spoken) -> dict[str, np.ndarray]:
    """Which clips belong to each part; a clip is never divided.

    Raises:
        DataError: If a part would have none.
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
