"""Residual networks."""

from __future__ import annotations

from typing import final

import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from limbeck.errors import LimbeckError
from limbeck.models.arguments import ModelSpec, check_memory, check_positive

DEPTHS = (8, 14, 20, 32, 44, 56, 110)
"""The depths ``6 n + 2`` that have a name: the paper's, and two small ones from the distillation literature."""


@final
class ResNet(nn.Module):
    """The residual network for small images: ``6 n + 2`` weighted layers in three stages that widen.

    A 3x3 convolution, then three stages of n blocks of two 3x3 convolutions, each with BatchNorm, with `width`, 2 and
    4 times `width` channels; the second and third stage halve the side; then a global average and one linear layer.
    Shortcuts are option A of the paper, the one it uses for CIFAR: every second pixel, and zeros for the channels that
    are new. They have no parameters. Convolutions start as in He et al., 2015, arXiv:1502.01852.

    Addresses: ``stem``, ``layer1``, ``layer2``, ``layer3`` are the maps after each stage, ``features`` is the global
    average, shape ``[batch, 4 * width]``, and ``classifier`` gives the logits.

    Args:
        depth: Weighted layers, one of `DEPTHS`.
        channels: Channels of the images.
        classes: The number of logits.
        width: Channels of the first stage; the paper's networks have 16.

    Raises:
        LimbeckError: If a size is below 1 or `depth` is not in `DEPTHS`.

    Source: He, Zhang, Ren and Sun, 2015, arXiv:1512.03385, section 4.2.

    Example:
        >>> sum(p.numel() for p in ResNet(depth=20, channels=3, classes=10).parameters())
        269722
    """

    def __init__(self, *, depth: int, channels: int, classes: int, width: int = 16) -> None:
        super().__init__()
        check_positive(f"resnet{depth}", channels=channels, classes=classes, width=width)
        if depth not in DEPTHS:
            raise LimbeckError(
                f"A residual network has one of the depths {', '.join(map(str, DEPTHS))}; got {depth!r}."
            )
        # The last stage alone: the other two are about a third of it.
        check_memory(f"resnet{depth}", 9 * ((depth - 2) // 3) * (4 * width) ** 2 + width * (channels + 4 * classes))
        self.spec = ModelSpec(f"resnet{depth}", {"channels": channels, "classes": classes, "width": width})
        blocks = (depth - 2) // 6
        self.stem = nn.Sequential(_conv(channels, width), nn.BatchNorm2d(width), nn.ReLU())
        self.layer1 = _stage(blocks, width, width, stride=1)
        self.layer2 = _stage(blocks, width, 2 * width, stride=2)
        self.layer3 = _stage(blocks, 2 * width, 4 * width, stride=2)
        self.features = nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten())
        self.classifier = nn.Linear(4 * width, classes)

    def forward(self, x: Float[Tensor, "batch channels height width"]) -> Float[Tensor, "batch classes"]:
        """The logits."""
        return self.classifier(self.features(self.layer3(self.layer2(self.layer1(self.stem(x))))))


@final
class Block(nn.Module):
    """Two 3x3 convolutions beside a shortcut without parameters (option A)."""

    def __init__(self, *, inputs: int, outputs: int, stride: int) -> None:
        super().__init__()
        self.conv1, self.norm1 = _conv(inputs, outputs, stride), nn.BatchNorm2d(outputs)
        self.conv2, self.norm2 = _conv(outputs, outputs), nn.BatchNorm2d(outputs)
        self.stride, self.new_channels = stride, outputs - inputs

    def forward(self, x: Float[Tensor, "batch inputs height width"]) -> Float[Tensor, "batch outputs h w"]:
        """The block's maps, after the second ReLU."""
        y = self.norm2(self.conv2(F.relu(self.norm1(self.conv1(x)))))
        shortcut = x[:, :, :: self.stride, :: self.stride]
        before = self.new_channels // 2
        return F.relu(y + F.pad(shortcut, (0, 0, 0, 0, before, self.new_channels - before)))


def _stage(blocks: int, inputs: int, outputs: int, *, stride: int) -> nn.Sequential:
    first = Block(inputs=inputs, outputs=outputs, stride=stride)
    return nn.Sequential(first, *(Block(inputs=outputs, outputs=outputs, stride=1) for _ in range(blocks - 1)))


def _conv(inputs: int, outputs: int, stride: int = 1) -> nn.Conv2d:
    conv = nn.Conv2d(inputs, outputs, 3, stride=stride, padding=1, bias=False)
    # On the meta device there is nothing to initialize, and the call would load PyTorch's compiler: one second.
    if not conv.weight.is_meta:
        nn.init.kaiming_normal_(conv.weight, nonlinearity="relu")
    return conv
