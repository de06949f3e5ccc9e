"""Drawn digits: small images of digits, made when asked for, so that no file and no library is needed."""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray

SIZE = 8
"""Height and width of an image."""
LEVELS = 16
"""The value of white. The images have the size and the 17 shades of scikit-learn's digits."""

_SAMPLES = 3  # points in each direction within a pixel
_RING = ((0.5, 0.1), (0.8, 0.3), (0.8, 0.7), (0.5, 0.9), (0.2, 0.7), (0.2, 0.3), (0.5, 0.1))
_STROKES: tuple[tuple[tuple[tuple[float, float], ...], ...], ...] = (
    (_RING,),
    (((0.35, 0.3), (0.55, 0.1), (0.55, 0.9)),),
    (((0.2, 0.3), (0.45, 0.1), (0.75, 0.25), (0.7, 0.5), (0.2, 0.9), (0.8, 0.9)),),
    (((0.2, 0.15), (0.7, 0.1), (0.75, 0.3), (0.45, 0.48), (0.78, 0.65), (0.65, 0.9), (0.2, 0.85)),),
    (((0.6, 0.9), (0.6, 0.1), (0.2, 0.6), (0.85, 0.6)),),
    (((0.75, 0.1), (0.3, 0.1), (0.25, 0.45), (0.65, 0.45), (0.78, 0.7), (0.55, 0.9), (0.2, 0.85)),),
    (((0.7, 0.1), (0.3, 0.4), (0.22, 0.75), (0.5, 0.9), (0.75, 0.72), (0.55, 0.52), (0.25, 0.65)),),
    (((0.2, 0.1), (0.8, 0.1), (0.4, 0.9)),),
    (((0.5, 0.48), (0.25, 0.28), (0.5, 0.1), (0.75, 0.28), (0.5, 0.48)),
     ((0.5, 0.48), (0.78, 0.7), (0.5, 0.9), (0.22, 0.7), (0.5, 0.48))),
    (((0.75, 0.35), (0.5, 0.5), (0.25, 0.3), (0.5, 0.1), (0.75, 0.3), (0.65, 0.9)),),
)  # fmt: skip
"""The strokes of each digit: corners in (x, y) from 0 to 1, y downwards."""


def draw_digits(count: int, *, seed: int = 0) -> tuple[NDArray[np.float32], NDArray[np.int64]]:
    """Draw digits, each with its own slant, size, place, thickness, and unsteady corners.

    Image i depends on the seed and i alone; its label is i modulo 10.

    Args:
        count: The number of images.
        seed: The seed.

    Returns:
        Images ``[count, 8, 8]`` with whole numbers from 0 to 16, and labels ``[count]``.

    Example:
        >>> images, labels = draw_digits(30)
        >>> images.shape, float(images.max()), labels[:3].tolist()
        ((30, 8, 8), 16.0, [0, 1, 2])
    """
    labels = np.arange(count, dtype=np.int64) % 10
    images = np.stack([_draw(int(label), np.random.default_rng((seed, i))) for i, label in enumerate(labels)])
    return images, labels


def _draw(digit: int, random: np.random.Generator) -> NDArray[np.float32]:
    """Draw one digit: ink where a point is near a stroke, averaged over each pixel."""
    angle, shear = random.normal(0.0, 0.2), random.normal(0.0, 0.2)
    scale, place = random.normal(0.85, 0.08, 2), random.normal(0.5, 0.05, 2)
    thickness = random.uniform(0.05, 0.11)
    turn = np.array([[math.cos(angle), -math.sin(angle)], [math.sin(angle), math.cos(angle)]])
    matrix = turn @ np.array([[scale[0], shear], [0.0, scale[1]]])
    side = (np.arange(SIZE * _SAMPLES) + 0.5) / (SIZE * _SAMPLES)
    points = np.stack(np.meshgrid(side, side), -1).reshape(-1, 1, 2)
    distance = np.full(len(points), np.inf)
    for stroke in _STROKES[digit]:
        corners = (np.array(stroke) - 0.5 + random.normal(0.0, 0.045, (len(stroke), 2))) @ matrix.T + place
        distance = np.minimum(distance, _distance(points, corners[:-1], corners[1:]))
    ink = np.clip(1.5 - distance / thickness, 0.0, 1.0).reshape(SIZE, _SAMPLES, SIZE, _SAMPLES).mean((1, 3))
    ink = ink * random.uniform(0.8, 1.1) + random.normal(0.0, 0.03, ink.shape)
    return np.rint(np.clip(ink, 0.0, 1.0) * LEVELS).astype(np.float32)


def _distance(
    points: NDArray[np.float64], starts: NDArray[np.float64], ends: NDArray[np.float64]
) -> NDArray[np.float64]:
    """Compute the distance of each point ``[n, 1, 2]`` from the nearest of the line segments."""
    along = ends - starts
    share = np.clip(((points - starts) * along).sum(-1) / (along**2).sum(-1), 0.0, 1.0)
    nearest: NDArray[np.float64] = np.linalg.norm(points - starts - share[..., None] * along, axis=-1).min(-1)
    return nearest
