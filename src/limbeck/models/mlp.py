"""A fully connected network."""

from __future__ import annotations

import math
from itertools import pairwise
from typing import final

from jaxtyping import Float
from torch import Tensor, nn

from limbeck.models.arguments import ModelSpec, check_dropout, check_memory, check_positive, check_widths


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
        check_positive("mlp", inputs=inputs, classes=classes)
        check_dropout("mlp", dropout=dropout, input_dropout=input_dropout)
        sizes = [inputs, *check_widths("mlp", "hidden", hidden)]
        check_memory("mlp", sum(map(math.prod, pairwise([*sizes, classes]))))
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
