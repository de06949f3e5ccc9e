"""Reference networks: a multilayer perceptron, a plain convolutional network, residual networks."""

from __future__ import annotations

import math
import os
from itertools import pairwise
from typing import Annotated, Any, NamedTuple, final

import torch
import torch.nn.functional as F
from jaxtyping import Float
from pydantic import Field, TypeAdapter, ValidationError
from torch import Tensor, nn

from limbeck.errors import ArgumentError


class ModelSpec(NamedTuple):
    """The name of a reference network and the arguments it was built with, all of them JSON values.

    Attributes:
        name: One of `reference_names()`.
        arguments: The arguments of `build`.
    """

    name: str
    arguments: dict[str, Any]


class _Kind(NamedTuple):
    adapter: TypeAdapter[Any]
    text: str
    example: str


_Size = Annotated[int, Field(ge=1, strict=True)]
_SIZE = _Kind(TypeAdapter(_Size), "an integer of at least 1", "...")
# A network with more layers takes seconds to build, and cannot be trained.
_WIDTHS = _Kind(
    TypeAdapter(Annotated[list[_Size], Field(max_length=1000)]),
    "a list of at most 1,000 integers of at least 1, such as [64, 32]",
    "[64,32]",
)
_RATE = _Kind(TypeAdapter(Annotated[float, Field(ge=0, lt=1, strict=True)]), "a fraction from 0 to below 1", "0.1")


def _check(who: str, kind: _Kind, **values: Any) -> None:
    """Refuse a value of another kind.

    Raises:
        ArgumentError: If there is one; it names the argument and its value.
    """
    for name, value in values.items():
        try:
            kind.adapter.validate_python(value)
        except ValidationError as error:
            shown = repr(value) if len(repr(value)) < 200 else f"{repr(value)[:200]} ..."
            message = f"{who} needs {name} to be {kind.text}; got {shown}."
            raise ArgumentError(message, argument=name, example=kind.example) from error


def _check_memory(who: str, numbers: int) -> None:
    """Refuse a network whose weights alone would not fit into this machine's memory, before any is taken.

    On the meta device there is no check, as networks there take no memory.

    Args:
        who: The name of the network in errors.
        numbers: The approximate number of weights; each takes four bytes.

    Raises:
        ArgumentError: If it does not; it names both sizes.
    """
    if torch.get_default_device().type == "meta":
        return
    room = _memory()
    if 4 * numbers > room:
        raise ArgumentError(
            f"{who} of these sizes has {numbers:,} weights, which take {4 * numbers / 1e9:,.0f} GB; this machine has "
            f"{room / 1e9:,.0f} GB of memory. Make it smaller.",
            argument="",
        )


def _memory() -> int:
    """Bytes of this machine's memory; 2^40 where the system does not report it."""
    try:
        return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    except (AttributeError, ValueError, OSError):
        return 2**40


@final
class Mlp(nn.Module):
    """A multilayer perceptron: linear layers with ReLU between them, on the flattened input.

    Addresses: ``layer1``, ``layer2``, ... are the hidden layers after their ReLU, ``features`` is the last of them
    before dropout (the flattened input where there is none), shape ``[batch, hidden[-1]]``, and ``classifier`` gives
    the logits.

    Hinton et al. used two layers of 1200 units with dropout as teacher, and two of 800 as student, on MNIST.

    Args:
        inputs: The number of inputs of one example, after flattening.
        classes: The number of logits.
        hidden: The units of each hidden layer; an empty list makes a linear classifier.
        dropout: The fraction of each hidden layer's units that training drops.
        input_dropout: The fraction of the inputs that training drops.

    Raises:
        LimbeckError: If a size is below 1 or a rate is outside [0, 1).

    Source: Hinton, Vinyals and Dean, 2015, arXiv:1503.02531, section 3.

    Example:
        >>> import torch
        >>> Mlp(inputs=64, classes=10, hidden=[32])(torch.zeros(5, 1, 8, 8)).shape
        torch.Size([5, 10])
    """

    def __init__(
        self, *, inputs: int, classes: int, hidden: list[int], dropout: float = 0.0, input_dropout: float = 0.0
    ) -> None:
        super().__init__()
        _check("mlp", _SIZE, inputs=inputs, classes=classes)
        _check("mlp", _RATE, dropout=dropout, input_dropout=input_dropout)
        _check("mlp", _WIDTHS, hidden=hidden)
        sizes = [inputs, *hidden]
        _check_memory("mlp", sum(map(math.prod, pairwise([*sizes, classes]))))
        self.spec = ModelSpec(
            "mlp",
            {
                "inputs": inputs,
                "classes": classes,
                "hidden": sizes[1:],
                "dropout": dropout,
                "input_dropout": input_dropout,
            },
        )
        self.flatten = nn.Flatten()
        self.depth = len(hidden)
        rates = [input_dropout] + [dropout] * self.depth
        for i in range(self.depth):
            layer = nn.Sequential(nn.Dropout(rates[i]), nn.Linear(sizes[i], sizes[i + 1]), nn.ReLU())
            self.add_module(f"layer{i + 1}", layer)
        self.features = nn.Identity()
        self.dropout = nn.Dropout(rates[-1])
        self.classifier = nn.Linear(sizes[-1], classes)

    def forward(self, x: Float[Tensor, "batch ..."]) -> Float[Tensor, "batch classes"]:
        """The logits."""
        x = self.flatten(x)
        for i in range(self.depth):
            x = self.get_submodule(f"layer{i + 1}")(x)
        return self.classifier(self.dropout(self.features(x)))


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
        _check("cnn", _SIZE, channels=channels, classes=classes, size=size)
        _check("cnn", _RATE, dropout=dropout)
        _check("cnn", _WIDTHS, widths=widths)
        sizes = [channels, *widths]
        if not widths:
            message = "cnn needs at least one width, such as widths=[32, 64]; got []."
            raise ArgumentError(message, argument="widths", example="[32,64]")
        last = min(size, max(size >> len(widths), 3))  # pixels along a side of the last map, at most
        _check_memory("cnn", 9 * sum(map(math.prod, pairwise(sizes))) + sizes[-1] * last**2 * classes)
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
        _store_channels_last(self)

    def forward(self, x: Float[Tensor, "batch channels side side"]) -> Float[Tensor, "batch classes"]:
        """The logits."""
        for i in range(self.depth):
            x = self.get_submodule(f"layer{i + 1}")(x)
        return self.classifier(self.dropout(self.features(x)))


@final
class Fcn(nn.Module):
    """A small fully convolutional network for segmentation, at the resolution of the images.

    For each width it has a 3x3 convolution with dilation 1, 2, 4, ... (at most 8), batch norm and ReLU.

    Addresses: ``layer1``, ``layer2``, ... are the maps, and ``classifier`` gives the logits. Images have any size.

    Args:
        channels: Channels of the images.
        classes: The number of classes of a pixel.
        widths: Channels of each convolution, at least one.

    Raises:
        LimbeckError: If a size is below 1, or `widths` is empty.

    Source: Long, Shelhamer and Darrell, Fully convolutional networks, 2014, arXiv:1411.4038; dilation: Yu and Koltun,
        2015, arXiv:1511.07122.
    """

    def __init__(self, *, channels: int, classes: int, widths: list[int]) -> None:
        super().__init__()
        _check("fcn", _SIZE, channels=channels, classes=classes)
        _check("fcn", _WIDTHS, widths=widths)
        if not widths:
            message = "fcn needs at least one width, such as widths=[16, 32]; got []."
            raise ArgumentError(message, argument="widths", example="[16,32]")
        sizes = [channels, *widths]
        self.spec = ModelSpec("fcn", {"channels": channels, "classes": classes, "widths": sizes[1:]})
        self.depth = len(widths)
        for i in range(self.depth):
            step = min(2**i, 8)
            conv = nn.Conv2d(sizes[i], sizes[i + 1], 3, padding=step, dilation=step, bias=False)
            self.add_module(f"layer{i + 1}", nn.Sequential(conv, nn.BatchNorm2d(sizes[i + 1]), nn.ReLU()))
        self.classifier = nn.Conv2d(sizes[-1], classes, 1)
        _store_channels_last(self)

    def forward(self, x: Float[Tensor, "batch channels height width"]) -> Float[Tensor, "batch classes height width"]:
        """The logits of each pixel."""
        for i in range(self.depth):
            x = self.get_submodule(f"layer{i + 1}")(x)
        return self.classifier(x)


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
        _check(f"resnet{depth}", _SIZE, channels=channels, classes=classes, width=width)
        if depth not in DEPTHS:
            depths = ", ".join(map(str, DEPTHS))
            raise ArgumentError(f"A residual network has one of the depths {depths}; got {depth!r}.", argument="depth")
        # Only the last stage: the other two have about a third of its weights.
        _check_memory(f"resnet{depth}", 9 * ((depth - 2) // 3) * (4 * width) ** 2 + width * (channels + 4 * classes))
        self.spec = ModelSpec(f"resnet{depth}", {"channels": channels, "classes": classes, "width": width})
        blocks = (depth - 2) // 6
        self.stem = nn.Sequential(_conv(channels, width), nn.BatchNorm2d(width), nn.ReLU())
        self.layer1 = _stage(blocks, width, width, stride=1)
        self.layer2 = _stage(blocks, width, 2 * width, stride=2)
        self.layer3 = _stage(blocks, 2 * width, 4 * width, stride=2)
        self.features = nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten())
        self.classifier = nn.Linear(4 * width, classes)
        _store_channels_last(self)

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


def _store_channels_last(network: nn.Module) -> None:
    """Store the weights of convolutions with the channels last; maps then have their channels last, too.

    On a CPU a training step takes 0.6 to 0.8 of the time, and a forward pass of `Cnn` half, most of it by max pooling
    and batch norm (`docs/benchmarks.md`). Shapes do not change. Code that reads maps calls ``reshape``, not ``view``.
    """
    network.to(memory_format=torch.channels_last)  # type: ignore[call-overload]  # missing in the stubs of torch


def _conv(inputs: int, outputs: int, stride: int = 1) -> nn.Conv2d:
    conv = nn.Conv2d(inputs, outputs, 3, stride=stride, padding=1, bias=False)
    # On the meta device there is nothing to initialize, and the call would load PyTorch's compiler: one second.
    if not conv.weight.is_meta:
        nn.init.kaiming_normal_(conv.weight, nonlinearity="relu")
    return conv
