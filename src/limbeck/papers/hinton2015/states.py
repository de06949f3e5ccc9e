"""Hidden Markov states of frames."""

from __future__ import annotations

from typing import NamedTuple

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

DIGITS = 10
STATES = 3
"""Of each digit, passed through from left to right."""
CLASSES = DIGITS * STATES
ROUNDS = 6
"""Of segmentation; in the last one, under one frame in a hundred still moves."""
_LEAST_VARIANCE = 1e-2  # of coefficients whose variance over all frames is 1


class Gaussians(NamedTuple):
    """One Gaussian with a diagonal covariance for each class, ``[classes, coefficients]``."""

    mean: Float[Tensor, "classes coefficients"]
    variance: Float[Tensor, "classes coefficients"]

    def log_densities(self, frames: Float[Tensor, "frames coefficients"]) -> Float[Tensor, "frames classes"]:
        """Of every frame under every class, in nats, less a constant."""
        precision = 1 / self.variance
        constant = (self.mean**2 * precision + self.variance.log()).sum(1)
        return frames @ (self.mean * precision).T - (frames**2 @ precision.T + constant) / 2


def uniform(lengths: Int[Tensor, " clips"]) -> Int[Tensor, " frames"]:
    """Every clip cut into equal parts: the state of each frame at a flat start.

    Example:
        >>> uniform(torch.tensor([6, 4]))
        tensor([0, 0, 1, 1, 2, 2, 0, 0, 1, 2])
    """
    return torch.cat([torch.arange(n) * STATES // n for n in lengths.tolist()])


def classes_of(
    states: Int[Tensor, " frames"], lengths: Int[Tensor, " clips"], digits: Int[Tensor, " clips"]
) -> Int[Tensor, " frames"]:
    """The label of each frame: 3 times its clip's digit, plus its state."""
    return torch.repeat_interleave(digits, lengths) * STATES + states


def segmented(
    frames: Float[Tensor, "frames coefficients"], lengths: Int[Tensor, " clips"], digits: Int[Tensor, " clips"]
) -> tuple[Int[Tensor, " frames"], Gaussians]:
    """Labels of frames whose clips' digits are known, from a flat start, and the Gaussians that they were found with.

    Each round fits a Gaussian to the frames of each class, and then cuts every clip where its frames are likeliest:
    segmental k-means, the usual way to an alignment where nobody has marked the states.

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
    """The label of each frame on the likeliest way through its digit's states, from the first to the last (Viterbi)."""
    own = torch.repeat_interleave(digits, lengths)[:, None] * STATES + torch.arange(STATES)
    scores = gaussians.log_densities(frames.double()).gather(1, own)
    inside = torch.arange(int(lengths.max())) < lengths[:, None]
    padded = torch.zeros(len(lengths), int(lengths.max()), STATES, dtype=scores.dtype)
    padded[inside] = scores
    return classes_of(_likeliest(padded, lengths)[inside], lengths, digits)


def _likeliest(
    scores: Float[Tensor, "clips longest states"], lengths: Int[Tensor, " clips"]
) -> Int[Tensor, "clips longest"]:
    """All clips at once; beyond a clip's end stands its last state."""
    moved = _moves(scores)
    state = torch.full((len(scores), 1), STATES - 1)
    path = torch.empty(scores.shape[:2], dtype=torch.int64)
    for t in range(scores.shape[1] - 1, -1, -1):
        path[:, t] = state[:, 0]
        came = moved[:, t].gather(1, state) & (t < lengths)[:, None]
        state = state - came.long()
    return path


def _moves(scores: Float[Tensor, "clips longest states"]) -> Bool[Tensor, "clips longest states"]:
    """Whether the best way to each state at each frame comes from the state before it."""
    best = torch.full_like(scores[:, 0], -torch.inf)
    best[:, 0] = scores[:, 0, 0]
    moved = torch.zeros_like(scores, dtype=torch.bool)
    for t in range(1, scores.shape[1]):
        before = torch.nn.functional.pad(best[:, :-1], (1, 0), value=-torch.inf)
        moved[:, t] = before > best
        best = torch.maximum(before, best) + scores[:, t]
    return moved


def _fitted(frames: Float[Tensor, "frames coefficients"], labels: Int[Tensor, " frames"]) -> Gaussians:
    """A class without a frame keeps the Gaussian of all frames' mean and variance, 0 and 1."""
    x = frames.double()
    count = torch.bincount(labels, minlength=CLASSES).double()[:, None]
    zeros = x.new_zeros(CLASSES, x.shape[1])
    mean = zeros.index_add(0, labels, x) / count.clamp_min(1)
    variance = zeros.index_add(0, labels, x**2) / count.clamp_min(1) - mean**2
    return Gaussians(mean, torch.where(count > 0, variance, 1.0).clamp_min(_LEAST_VARIANCE))
