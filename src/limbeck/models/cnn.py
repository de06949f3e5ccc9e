"""A plain convolutional network."""

from __future__ import annotations

import math
from itertools import pairwise
from typing import final

from jaxtyping import Float
from torch import Tensor, nn

from limbeck.errors import ArgumentError
from limbeck.models.arguments import ModelSpec, check_dropout, check_memory, check_positive, check_widths


@final
class Cnn(nn.Module):
    """A plain convolutional network: for each width a 3x3 convolution, ReLU and 2x2 max-pooling, then one linear layer.

    A layer pools only while that leaves a side of at least 2, so that small images keep their layout: with three
    widths, 8x8 digits end at 2x2 (the third layer does not pool), 28x28 at 3x3 and 32x32 at 4x4.

    Addresses: ``layer1``, ``layer2``, ... are the maps after pooling, ``features`` is the last of them flattened,
    before dropout, shape ``[batch, widths[-1] * side * side]``, and ``classifier`` gives the logits.

    Args:
        channels: Channels of the images.
        classes: The number of logits.
        widths: Channels of each convolution, at least one.
        size: Side of the square images, in pixels.
        dropout: Fraction of the features that training drops before the classifier.

    Raises:
        LimbeckError: If a size is below 1, a rate is outside [0, 1), or `widths` is empty.

    Example:
        >>> import torch
        >>> Cnn(channels=1, classes=10, widths=[16, 32], size=8)(torch.zeros(5, 1, 8, 8)).shape
        torch.Size([5, 10])
    """

    def __init__(self, *, channels: int, classes: int, widths: list[int], size: int, dropout: float = 0.0) -> None:
        super().__init__()
        check_positive("cnn", channels=channels, classes=classes, size=size)
        check_dropout("cnn", dropout=dropout)
        sizes = [channels, *check_widths("cnn", "widths", widths)]
        if not widths:
            message = "cnn needs at least one width, such as widths=[32, 64]; got []."
            raise ArgumentError(message, argument="widths", example="[32,64]")
        last = min(size, max(size >> len(widths), 3))  # pixels along a side of the last map, at most
        check_memory("cnn", 9 * sum(map(math.prod, pairwise(sizes))) + sizes[-1] * last**2 * classes)
        self.spec = ModelSpec(
            "cnn",
            {"channels": channels, "classes": classes, "widths": sizes[1:], "size": size, "dropout": dropout},
        )
        self.depth = len(widths)
        side = size
        for i in range(self.depth):
            layer = nn.Sequential(nn.Conv2d(sizes[i], sizes[i + 1], 3, padding=1), nn.ReLU())
            if side >= 4:
                layer.append(nn.MaxPool2d(2))
                side //= 2
            self.add_module(f"layer{i + 1}", layer)
        self.features = nn.Flatten()
        self.dropout = nn.Dropout(dropout)
        self.classifier = nn.Linear(sizes[-1] * side * side, classes)

    def forward(self, x: Float[Tensor, "batch channels side side"]) -> Float[Tensor, "batch classes"]:
        """The logits."""
        for i in range(self.depth):
            x = self.get_submodule(f"layer{i + 1}")(x)
        return self.classifier(self.dropout(self.features(x)))
