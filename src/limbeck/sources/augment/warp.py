"""How are images turned, sheared and moved, each pixel the nearest one?"""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
from jaxtyping import Bool, Int, Shaped
from torch import Tensor

Images = Shaped[Tensor, "batch c h w"]


class Matrix(NamedTuple):
    """Where a pixel comes from: ``x' = xx x + xy y + right`` and ``y' = yx x + yy y + down``, from the image's middle.

    x counts pixels to the right and y down.
    """

    xx: float = 1.0
    xy: float = 0.0
    right: float = 0.0
    yx: float = 0.0
    yy: float = 1.0
    down: float = 0.0


def turn(degrees: float) -> Matrix:
    """Counter-clockwise about the middle."""
    cos, sin = math.cos(math.radians(degrees)), math.sin(math.radians(degrees))
    return Matrix(xx=cos, xy=-sin, yx=sin, yy=cos)


def warped(images: Images, forth: Bool[Tensor, " batch"], one: Matrix, other: Matrix) -> Images:
    """Each image by matrix `one` where `forth` is true, by `other` where not; zeros where nothing was.

    Pixels are moved, never mixed: no arithmetic is done with them.
    """
    height, width = images.shape[2:]
    maps = [_sources(matrix, height, width) for matrix in (other, one)]
    which = forth.long().to(images.device)
    source, inside = (torch.stack(part).to(images.device)[which].unsqueeze(1) for part in zip(*maps, strict=True))
    flat = images.flatten(2)
    moved = flat.gather(2, source.expand(flat.shape))
    return moved.masked_fill(~inside, 0).view(images.shape)


def _sources(matrix: Matrix, height: int, width: int) -> tuple[Int[Tensor, " hw"], Bool[Tensor, " hw"]]:
    """For each pixel of an image in rows, where it comes from, and whether that is inside."""
    x = torch.arange(width, dtype=torch.float64) - (width - 1) / 2
    y = torch.arange(height, dtype=torch.float64)[:, None] - (height - 1) / 2
    across = (x * matrix.xx + y * matrix.xy + (matrix.right + width / 2)).floor().long()
    along = (x * matrix.yx + y * matrix.yy + (matrix.down + height / 2)).floor().long()
    inside = (across >= 0) & (across < width) & (along >= 0) & (along < height)
    source = along.clamp(0, height - 1) * width + across.clamp(0, width - 1)
    return source.flatten(), inside.flatten()
