"""Connectors: learned maps from the student's channels to the teacher's, which are dropped after training."""

from __future__ import annotations

from itertools import pairwise
from typing import final

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn

from limbeck.errors import LimbeckError
from limbeck.functional.feature_maps import position_mask, to_positions
from limbeck.functional.projector import Head


@final
class Pointwise(nn.Module):
    """Linear layers of each position's channels: convolutions with kernels of 1x1, for maps, tokens and rows alike.

    Args:
        widths: The number of channels before, between and after the layers.
        norm: Whether a BatchNorm over examples and positions follows each layer, which then has no bias.
        activation: Whether a ReLU follows each layer but the last.
        last_activation: Whether a ReLU follows the last layer.

    Example:
        >>> Pointwise([4, 8, 6])(torch.zeros(2, 4, 5, 5)).shape
        torch.Size([2, 6, 5, 5])
    """

    def __init__(
        self, widths: list[int], *, norm: bool = False, activation: bool = True, last_activation: bool = False
    ) -> None:
        super().__init__()
        layers: list[nn.Module] = []
        for number, (before, after) in enumerate(pairwise(widths), 2):
            layers.append(nn.Linear(before, after, bias=not norm))
            if norm:
                layers.append(nn.BatchNorm1d(after))
            if last_activation if number == len(widths) else activation:
                layers.append(nn.ReLU())
        self.layers = nn.Sequential(*layers)

    def forward(
        self, features: Float[Tensor, "batch ..."], where: Bool[Tensor, "batch positions 1"] | None = None
    ) -> Float[Tensor, "batch ..."]:
        """The features with other channels, in the same layout.

        Args:
            features: Maps, tokens or rows.
            where: The tokens that count. The others become 0, and are no part of the statistics of a BatchNorm.
        """
        rows = to_positions(features.to(self.dtype))
        if where is not None and bool(where.any()):
            keep = where.squeeze(-1)
            values = self.layers(rows[keep])
            mapped = values.new_zeros(*rows.shape[:2], values.shape[1]).index_put((keep,), values)
        else:
            mapped = self.layers(rows.flatten(0, 1)).unflatten(0, rows.shape[:2])
        if features.ndim == 4:
            return mapped.transpose(1, 2).unflatten(2, features.shape[2:])
        return mapped if features.ndim == 3 else mapped.squeeze(1)

    @property
    def dtype(self) -> torch.dtype:
        """The type of its parameters."""
        return next(self.parameters()).dtype


@final
class Connector(Head):
    """A `Pointwise` map from the student's channels to the teacher's; sizes of maps stay as they are.

    Unlike `Projector` it does not change the size of a map, so that it fits where sizes are pooled later.

    Args:
        norm: Whether a BatchNorm follows, as in the methods `ab`, `ofd` and `srrl`. Then a batch cannot be accumulated.
        activation: Whether a ReLU follows.

    Example:
        >>> head = Connector(norm=True)
        >>> head.shape(torch.zeros(2, 16, 8, 8), torch.zeros(2, 64, 4, 4))
        >>> head(torch.zeros(2, 16, 8, 8)).shape
        torch.Size([2, 64, 8, 8])
    """

    takes_mask = True

    def __init__(self, *, norm: bool = False, activation: bool = False) -> None:
        super().__init__()
        self.norm, self.activation = norm, activation
        self.map: Pointwise | None = None

    def describe(self) -> str:
        """The kind of the head with its settings.

        Example:
            >>> Connector(norm=True).describe()
            'Connector(norm=True)'
        """
        settings = ", ".join(f"{name}=True" for name in ("norm", "activation") if getattr(self, name))
        return f"Connector({settings})" if settings else "Connector"

    def shape(self, student: Float[Tensor, "*student"], teacher: Float[Tensor, "*teacher"]) -> None:
        """Create the layer, unless it exists already for the same numbers of channels.

        Raises:
            LimbeckError: If it exists for other numbers of channels.
        """
        widths = [channels(student), channels(teacher)]
        if self.map is None:
            wide = torch.float64 if student.dtype == torch.float64 else torch.float32
            made = Pointwise(widths, norm=self.norm, last_activation=self.activation)
            self.map = made.to(device=student.device, dtype=wide)
            return
        first = next(module for module in self.map.modules() if isinstance(module, nn.Linear))
        if [first.in_features, first.out_features] != widths:
            raise LimbeckError(
                f"This Connector already maps {first.in_features} to {first.out_features} channels and cannot map "
                f"{widths[0]} to {widths[1]}. Make a new one."
            )

    def forward(
        self, student: Float[Tensor, "*student"], mask: Bool[Tensor, "batch ..."] | None = None
    ) -> Float[Tensor, "*connected"]:
        """Map the student's channels.

        Args:
            student: Maps, tokens or rows.
            mask: The tokens, or the examples, that count. The others are no part of the statistics of a BatchNorm.

        Raises:
            LimbeckError: If `shape` was not called yet.
        """
        if self.map is None:
            raise LimbeckError(
                "This Connector has no parameters yet. Call shape(student_features, teacher_features) first, then "
                "pass its parameters to the optimizer."
            )
        return self.map(student, find_counted(mask, student) if self.norm else None)


def find_counted(mask: Bool[Tensor, "batch ..."] | None, features: Tensor) -> Bool[Tensor, "batch positions 1"] | None:
    """The positions that a mask of tokens or of examples counts; None if all do, or it is the mask of others.

    Example:
        >>> find_counted(torch.tensor([True, False]), torch.zeros(2, 3)).flatten().tolist()
        [True, False]
    """
    if mask is not None and mask.shape == features.shape[:1]:
        positions = 1 if features.ndim == 2 else to_positions(features[:0]).shape[1]
        return mask.bool()[:, None, None].expand(-1, positions, 1)
    return position_mask(mask, features)


def channels(features: Float[Tensor, "batch ..."]) -> int:
    """The number of channels: dimension 1 of maps, else the last.

    Example:
        >>> channels(torch.zeros(2, 16, 8, 8)), channels(torch.zeros(2, 64, 5))
        (16, 5)
    """
    return int(features.shape[1 if features.ndim == 4 else -1])


def as_maps(features: Float[Tensor, "batch channels ..."]) -> Float[Tensor, "batch channels height width"]:
    """Maps as they are; rows ``[batch, channels]`` as maps of one pixel.

    Raises:
        LimbeckError: If the features are tokens, which have no height and width.

    Example:
        >>> as_maps(torch.zeros(2, 5)).shape
        torch.Size([2, 5, 1, 1])
    """
    if features.ndim not in (2, 4):
        raise LimbeckError(
            f"This method convolves maps [batch, channels, height, width], and these features are "
            f"{tuple(features.shape)}. Name another layer; attention_transfer, nst and vid take tokens."
        )
    return features[:, :, None, None] if features.ndim == 2 else features
