"""The cost of an arm's student that is built differently from the job's student."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from limbeck.compare.comparison_data import ComparisonData
from limbeck.metrics import cost_in_full, cost_of

Structure = tuple[tuple[tuple[str, type], ...], tuple[tuple[str, torch.Size, torch.dtype], ...]]


class ShippedCost(NamedTuple):
    """What a model costs, measured on the CPU with one thread.

    Attributes:
        parameters: How many numbers it has.
        megabytes: Of its parameters and buffers.
        milliseconds: For one example.
        in_full: All other figures, as `limbeck.metrics.CostInFull.as_dict` names them.
    """

    parameters: int
    megabytes: float
    milliseconds: float
    in_full: dict[str, int | float]

    @staticmethod
    def measure(model: nn.Module, material: ComparisonData) -> ShippedCost:
        """Time the model on test examples, as they lie in the data; it is moved to the CPU."""
        sample = material.data.preprocess(material.data.test.take(torch.arange(min(64, len(material.data.test)))))
        cost = cost_of(model.cpu(), sample)
        return ShippedCost(
            cost.parameters, cost.megabytes, cost.milliseconds, cost_in_full(model, sample).as_dict()
        )  # fmt: skip

    @staticmethod
    def read(line: Mapping[str, Any] | None) -> ShippedCost | None:
        """The cost that a line of JSON holds."""
        if line is None:
            return None
        return ShippedCost(
            int(line["parameters"]), float(line["megabytes"]), float(line["milliseconds"]), dict(line["in_full"])
        )


def structure_of(model: nn.Module) -> Structure:
    """The classes of a model's modules and the shapes and dtypes of its state: models that share it cost the same.

    Example:
        >>> structure_of(nn.Linear(2, 3)) == structure_of(nn.Linear(2, 3))
        True
    """
    state = ((name, value) for name, value in model.state_dict().items() if isinstance(value, Tensor))
    return (
        tuple((name, type(module)) for name, module in model.named_modules()),
        tuple((name, value.shape, value.dtype) for name, value in state),
    )
