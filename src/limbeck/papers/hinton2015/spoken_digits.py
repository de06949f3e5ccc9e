"""Spoken digits as labeled log-Mel frames."""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from jaxtyping import Float, Int
from safetensors.torch import load_file, save_file
from scipy.signal import resample_poly
from torch import Tensor

from limbeck.data.builtin_datasets import data_folders
from limbeck.data.npz import read_arrays
from limbeck.errors import DataError
from limbeck.optional_imports import import_optional
from limbeck.papers.experiment import Figures, TaskFolder
from limbeck.papers.hinton2015.states import Windows, aligned, segmented

FILE = "fsdd_8k.npz"
RATE = 8000
"""Samples per second."""
COEFFICIENTS = 40
_ARRAYS = ("waveform", "offsets", "label", "take", "is_test")
_FULL_SCALE = 32768.0
_SHORTEST = RATE * 25 // 1000


class Spoken(NamedTuple):
    """Clips of one spoken digit each.

    Attributes:
        waveform: All clips concatenated, in int16.
        offsets: The start of each clip in `waveform`, and the end of the last one.
        digits: The spoken digit of each clip.
        take: The number of the recording of this speaker and digit.
        is_test: Whether the clip is in the test part.
    """

    waveform: np.ndarray
    offsets: np.ndarray
    digits: np.ndarray
    take: np.ndarray
    is_test: np.ndarray

    def clip(self, number: int) -> np.ndarray:
        """Return the samples of one clip, from -1 to 1."""
        begin, end = self.offsets[number], self.offsets[number + 1]
        return self.waveform[begin:end].astype(np.float32) / _FULL_SCALE


def read_spoken(folder: str | Path | None = None) -> Spoken:
    """Read the Free Spoken Digit Dataset, ``fsdd_8k.npz`` in `folder`, `LIMBECK_DATA` or ``./data``.

    Raises:
        DataError: If the file is missing or has other contents.
    """
    places = data_folders(folder)
    for path in places:
        if (path / FILE).is_file():
            return _checked(path / FILE)
    raise DataError(
        f"The spoken digits are not on this machine: put {FILE} into {places[0]}/ (or set LIMBECK_DATA to its folder), "
        "the Free Spoken Digit Dataset with the arrays waveform (int16, 8 kHz, all clips end to end), "
        "offsets [clips + 1], label [clips], take [clips] and is_test [clips]."
    )


def _checked(path: Path) -> Spoken:
    arrays = read_arrays(path)
    lacking = [name for name in _ARRAYS if name not in arrays]
    if lacking:
        raise DataError(f"{path} has no array {lacking[0]!r}; it needs {', '.join(_ARRAYS)}.")
    spoken = Spoken(*(arrays[name] for name in _ARRAYS))
    clips = len(spoken.offsets) - 1
    if spoken.waveform.dtype != np.int16 or {len(a) for a in (spoken.digits, spoken.take, spoken.is_test)} != {clips}:
        raise DataError(
            f"{path}: waveform is {spoken.waveform.dtype}, and label, take, is_test have the lengths "
            f"{len(spoken.digits)}, {len(spoken.take)}, {len(spoken.is_test)}; expected int16, and {clips} of each."
        )
    lengths = np.diff(spoken.offsets)
    if clips < 1 or spoken.offsets[0] < 0 or spoken.offsets[-1] > len(spoken.waveform) or lengths.min() < _SHORTEST:
        raise DataError(f"{path}: offsets must rise by at least {_SHORTEST} samples (25 ms) within the waveform.")
    if spoken.digits.max() > 9:
        raise DataError(f"{path}: label holds {spoken.digits.max()}; expected digits from 0 to 9.")
    return spoken


def log_mel(samples: Float[np.ndarray, " samples"]) -> Float[np.ndarray, "frames 40"]:
    """Compute log energies of 40 Mel filters in windows of 25 ms every 10 ms, like Kaldi, without dither.

    Raises:
        LimbeckError: If kaldi-native-fbank is not installed.

    Example:
        >>> log_mel(np.zeros(8000, np.float32)).shape
        (98, 40)
    """
    kaldi = import_optional("kaldi_native_fbank", extra="speech", purpose="Computing log-Mel coefficients")
    options = kaldi.FbankOptions()
    options.frame_opts.samp_freq = RATE
    options.frame_opts.dither = 0.0
    options.mel_opts.num_bins = COEFFICIENTS
    bank = kaldi.OnlineFbank(options)
    bank.accept_waveform(RATE, samples)
    bank.input_finished()
    return np.stack([bank.get_frame(i) for i in range(bank.num_frames_ready)])


def spoken_faster(samples: Float[np.ndarray, " samples"], tenths: int) -> Float[np.ndarray, " fewer"]:
    """Change the speed of a clip, in tenths, including its pitch.

    Source: Ko, Peddinti, Povey and Khudanpur, Audio augmentation for speech recognition, Interspeech 2015.
    """
    return samples if tenths == 10 else resample_poly(samples, 10, tenths).astype(np.float32)


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
