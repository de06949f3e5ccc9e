"""Spoken digits as log-Mel frames, and the hidden Markov states that label them."""

from __future__ import annotations

from functools import cached_property
from pathlib import Path
from typing import NamedTuple, final

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from safetensors.torch import load_file, save_file
from scipy.signal import resample_poly
from torch import Tensor

from limbeck.batch import Batch
from limbeck.data import Dataset
from limbeck.data.builtin_datasets import data_folders
from limbeck.data.dataset import hash_columns
from limbeck.data.npz import read_arrays
from limbeck.errors import DataError
from limbeck.optional_imports import import_optional
from limbeck.papers.experiment import Figures, TaskFolder

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


DIGITS = 10
STATES = 3
"""The number of states of each digit, in a left-to-right model."""
CLASSES = DIGITS * STATES
ROUNDS = 6
"""The number of rounds of segmentation. In the last one, fewer than 1 % of the frames change."""
_LEAST_VARIANCE = 1e-2  # of coefficients whose variance over all frames is 1


class Gaussians(NamedTuple):
    """Diagonal Gaussians, one per class, ``[classes, coefficients]``."""

    mean: Float[Tensor, "classes coefficients"]
    variance: Float[Tensor, "classes coefficients"]

    def log_densities(self, frames: Float[Tensor, "frames coefficients"]) -> Float[Tensor, "frames classes"]:
        """Compute the log-likelihood of every frame under every class, in nats, up to a constant."""
        precision = 1 / self.variance
        constant = (self.mean**2 * precision + self.variance.log()).sum(1)
        return frames @ (self.mean * precision).T - (frames**2 @ precision.T + constant) / 2


def uniform(lengths: Int[Tensor, " clips"]) -> Int[Tensor, " frames"]:
    """Divide each clip into equal parts, for a flat start.

    Example:
        >>> uniform(torch.tensor([6, 4]))
        tensor([0, 0, 1, 1, 2, 2, 0, 0, 1, 2])
    """
    return torch.cat([torch.arange(n) * STATES // n for n in lengths.tolist()])


def classes_of(
    states: Int[Tensor, " frames"], lengths: Int[Tensor, " clips"], digits: Int[Tensor, " clips"]
) -> Int[Tensor, " frames"]:
    """Compute the label of each frame: 3 times the digit plus the state."""
    return torch.repeat_interleave(digits, lengths) * STATES + states


def segmented(
    frames: Float[Tensor, "frames coefficients"], lengths: Int[Tensor, " clips"], digits: Int[Tensor, " clips"]
) -> tuple[Int[Tensor, " frames"], Gaussians]:
    """Align the frames of clips with known digits, from a flat start; return labels and Gaussians.

    Each round fits a Gaussian to the frames of each class and then finds the best segmentation of each clip. This is
    segmental k-means, the usual alignment without annotated states.

    Source: Juang and Rabiner, The segmental K-means algorithm for estimating parameters of hidden Markov models, IEEE
    Transactions on Acoustics, Speech, and Signal Processing 38(9), 1990.
    """
    labels = classes_of(uniform(lengths), lengths, digits)
    for _ in range(ROUNDS):
        gaussians = _fitted(frames, labels)
        labels = aligned(frames, lengths, digits, gaussians)
    return labels, gaussians


def aligned(
    frames: Float[Tensor, "frames coefficients"],
    lengths: Int[Tensor, " clips"],
    digits: Int[Tensor, " clips"],
    gaussians: Gaussians,
) -> Int[Tensor, " frames"]:
    """Find the best path through the states of the digit (Viterbi)."""
    own = torch.repeat_interleave(digits, lengths)[:, None] * STATES + torch.arange(STATES)
    scores = gaussians.log_densities(frames.double()).gather(1, own)
    inside = torch.arange(int(lengths.max())) < lengths[:, None]
    padded = torch.zeros(len(lengths), int(lengths.max()), STATES, dtype=scores.dtype)
    padded[inside] = scores
    return classes_of(_likeliest(padded, lengths)[inside], lengths, digits)


def _likeliest(
    scores: Float[Tensor, "clips longest states"], lengths: Int[Tensor, " clips"]
) -> Int[Tensor, "clips longest"]:
    """Pad all clips to one length with their last state."""
    moved = _moves(scores)
    state = torch.full((len(scores), 1), STATES - 1)
    path = torch.empty(scores.shape[:2], dtype=torch.int64)
    for t in range(scores.shape[1] - 1, -1, -1):
        path[:, t] = state[:, 0]
        came = moved[:, t].gather(1, state) & (t < lengths)[:, None]
        state = state - came.long()
    return path


def _moves(scores: Float[Tensor, "clips longest states"]) -> Bool[Tensor, "clips longest states"]:
    """Whether the best path to each state at each frame comes from the previous state."""
    best = torch.full_like(scores[:, 0], -torch.inf)
    best[:, 0] = scores[:, 0, 0]
    moved = torch.zeros_like(scores, dtype=torch.bool)
    for t in range(1, scores.shape[1]):
        before = torch.nn.functional.pad(best[:, :-1], (1, 0), value=-torch.inf)
        moved[:, t] = before > best
        best = torch.maximum(before, best) + scores[:, t]
    return moved


def _fitted(frames: Float[Tensor, "frames coefficients"], labels: Int[Tensor, " frames"]) -> Gaussians:
    """Fit the Gaussians. A class without frames keeps mean 0 and variance 1, those of all frames."""
    x = frames.double()
    count = torch.bincount(labels, minlength=CLASSES).double()[:, None]
    zeros = x.new_zeros(CLASSES, x.shape[1])
    mean = zeros.index_add(0, labels, x) / count.clamp_min(1)
    variance = zeros.index_add(0, labels, x**2) / count.clamp_min(1) - mean**2
    return Gaussians(mean, torch.where(count > 0, variance, 1.0).clamp_min(_LEAST_VARIANCE))


BEFORE, AFTER = 20, 5
"""The frames of a window before and after the labeled one: 26 frames, of which the 21st is labeled."""


@final
class Windows(Dataset):
    """A dataset with one example per frame: the window around the frame, with the label of the frame.

    Example i is frame i, and its inputs are the frames i - 20, ..., i + 5. At the ends of a clip a window repeats the
    first or last frame. Only frames are in memory; windows are made on request.

    Raises:
        DataError: If there is no clip, a clip has no frame, or the lengths do not add up.

    Example:
        >>> clips = Windows(torch.arange(4.0)[:, None], torch.tensor([0, 1, 0, 1]), torch.tensor([2, 2]))
        >>> clips.take(torch.tensor([2])).inputs[0, -7:, 0]
        tensor([2., 2., 3., 3., 3., 3., 3.])

    Source: Hinton, Vinyals and Dean, 2015, arXiv:1503.02531, section 4.
    """

    labels: Tensor

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
        self.labels = labels.to(torch.int64)
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
        return Batch(self.frames[places], index, labels=self.labels[index])

    @cached_property
    def fingerprint(self) -> str:
        """SHA-256 of frames, labels and lengths."""
        columns = ("frames", self.frames), ("labels", self.labels), ("lengths", self.lengths)
        return hash_columns(("windows", [BEFORE, AFTER]), *columns)
