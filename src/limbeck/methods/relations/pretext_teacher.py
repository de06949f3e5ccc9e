"""`PretextTeacher`: a teacher with a projection of its features, which learns while the teacher stays as it is."""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor, nn

from limbeck.batch import LOGITS
from limbeck.functional.relations import flatten_channels
from limbeck.tap import Tapped


def pool_channels(features: Float[Tensor, "batch ..."]) -> Float[Tensor, "batch channels"]:
    """Compute the mean over positions, in float32 at least."""
    return flatten_channels(features.to(torch.promote_types(features.dtype, torch.float32)), scale=False).mean(2)


def make_projection(width: int) -> nn.Sequential:
    """Two linear layers with a ReLU between."""
    return nn.Sequential(nn.Linear(width, width), nn.ReLU(), nn.Linear(width, width))


class PretextTeacher(nn.Module):
    """A teacher with a projection of its features at an address; its own weights and statistics stay as they are.

    Args:
        model: The teacher.
        at: The address of the features.
        width: Their number of channels.
    """

    def __init__(self, model: nn.Module, at: str, width: int) -> None:
        super().__init__()
        self.model, self.at = model.eval().requires_grad_(False), at
        self.projection = make_projection(width)

    def train(self, mode: bool = True) -> PretextTeacher:
        """Set the mode of the projection alone."""
        self.training = mode
        self.projection.train(mode)
        return self

    def forward(self, images: Tensor) -> Tensor:
        """The teacher's logits. The embedding is the output of ``projection``."""
        with torch.no_grad(), Tapped(self.model, [self.at]) as tapped:
            outputs = tapped(images)
        self.projection(pool_channels(outputs[self.at]))
        return outputs[LOGITS]
