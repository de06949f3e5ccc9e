"""Hidden Markov states of frames, and windows of frames."""

from __future__ import annotations

from functools import cached_property
from typing import NamedTuple, final

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from limbeck.batch import Batch
from limbeck.data import Dataset
from limbeck.data.dataset import hash_columns
from limbeck.errors import DataError

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
