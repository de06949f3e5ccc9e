"""Projector: maps the student's features to the shape of the teacher's."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import ClassVar, final

import torch
from jaxtyping import Float
from torch import Tensor, nn

from limbeck.errors import LimbeckError


class Head(nn.Module, ABC):
    """A module that maps the student's features to the teacher's shape.

    It is trained with the student and then dropped. Its parameters are created
    by `shape`.

    Attributes:
        takes_mask: Whether `forward` has a second argument, the mask of the positions that count, or None: for heads
            that compute statistics over a batch.
    """

    takes_mask: ClassVar[bool] = False

    @abstractmethod
    def shape(self, student: Tensor, teacher: Tensor) -> None:
        """Create the parameters for outputs of these shapes; called once, with the first batch, before training.

        Raises:
            LimbeckError: If no head of this kind fits between the two.
        """

    @abstractmethod
    def forward(self, student: Tensor) -> Tensor:
        """Map the student's features to the teacher's shape."""

    def describe(self) -> str:
        """The kind of the head with its settings, which a resumed run compares; by default the kind alone."""
        return type(self).__name__


def describe_kind(module: nn.Module | None) -> str:
    """The kind of a module; a head adds its settings (`Head.describe`)."""
    return module.describe() if isinstance(module, Head) else type(module).__name__


@final
class Projector(Head):
    """A linear map of features; for feature maps, the convolutional regressor of FitNets.

    * ``[batch, d]`` and ``[batch, positions, d]``: a linear layer with bias, from the student's d to the teacher's.
    * ``[batch, channels, height, width]``: one convolution without padding, with bias; its kernel is
      ``student size - teacher size + 1`` in each direction, so equal maps get a 1x1 convolution.

    Parameters are float32 (float64 if the student's features are), on the student's device.

    Args:
        skip_equal: Whether features of equal shapes stay as they are, without a map and without parameters.

    Example:
        >>> import torch
        >>> head = Projector()
        >>> head.shape(torch.zeros(2, 16, 8, 8), torch.zeros(2, 64, 6, 6))
        >>> head(torch.zeros(2, 16, 8, 8)).shape
        torch.Size([2, 64, 6, 6])

    Source: Romero et al., FitNets: Hints for Thin Deep Nets, 2014, arXiv:1412.6550.
    """

    def __init__(self, *, skip_equal: bool = False) -> None:
        super().__init__()
        self.skip_equal = skip_equal
        self.map: nn.Module | None = None

    def shape(self, student: Float[Tensor, "*student"], teacher: Float[Tensor, "*teacher"]) -> None:
        """Create the layer, unless it exists already for the same sizes.

        Raises:
            LimbeckError: If the numbers of dimensions or positions differ or the number of dimensions is not 2, 3 or 4,
                the student's map is smaller than the teacher's, or the layer exists for other sizes.
        """
        equal = self.skip_equal and student.shape[1:] == teacher.shape[1:]
        projector = nn.Identity() if equal else _map(student, teacher)
        if self.map is None and equal:
            self.map = projector
        elif self.map is None:
            wide = torch.float64 if student.dtype == torch.float64 else torch.float32
            self.map = projector.to_empty(device=student.device).to(wide)
            self.map.reset_parameters()  # type: ignore[operator]
        elif repr(projector) != repr(self.map):
            raise LimbeckError(
                f"This Projector is already built as {self.map} and cannot become {projector}. Make a new one."
            )

    def forward(self, student: Float[Tensor, "*student"]) -> Float[Tensor, "*projected"]:
        """Map the student's features to the teacher's shape.

        Raises:
            LimbeckError: If `shape` was not called yet.
        """
        if self.map is None:
            raise LimbeckError(
                "This Projector has no parameters yet. Call shape(student_features, teacher_features) first, then "
                "pass its parameters to the optimizer."
            )
        if isinstance(self.map, nn.Identity):
            return student
        return self.map(student.to(self.map.weight.dtype))  # type: ignore[arg-type]


def _map(student: Tensor, teacher: Tensor) -> nn.Module:
    """Make the layer from one shape to the other, without storage."""
    mine, its = tuple(student.shape), tuple(teacher.shape)
    if len(mine) != len(its) or len(mine) not in (2, 3, 4):
        raise LimbeckError(
            f"A Projector cannot map {mine} to {its}: both are [batch, d], [batch, positions, d] or "
            "[batch, channels, height, width]. Use two layers of the same kind."
        )
    if len(mine) == 4:
        return _regressor(mine, its)
    if mine[1:-1] != its[1:-1]:
        raise LimbeckError(
            f"The student has {mine[1]} positions and the teacher {its[1]}; a Projector maps features, not positions. "
            "Feed both the same tokens or patches, or use a layer that is pooled over positions."
        )
    return nn.Linear(mine[-1], its[-1], device="meta")


def _regressor(mine: tuple[int, ...], its: tuple[int, ...]) -> nn.Module:
    kernel = tuple(s - t + 1 for s, t in zip(mine[2:], its[2:], strict=True))
    if min(kernel) < 1:
        raise LimbeckError(
            f"The student's map {mine[2]}x{mine[3]} is smaller than the teacher's {its[2]}x{its[3]}: the FitNets "
            "regressor can only reduce the size. Use an earlier layer of the student, or a later one of the teacher."
        )
    return nn.Conv2d(mine[1], its[1], kernel, device="meta")  # type: ignore[arg-type]
