"""`GaussianHead`: an output layer with a mean and a variance for each output, and `add_variance`."""

from __future__ import annotations

from jaxtyping import Float
from torch import Tensor, nn

from limbeck.models.subclass_head import replace_output_layer

MOMENTS = "moments"
"""The name of the layer within a `GaussianHead` that computes means and log-variances."""


class GaussianHead(nn.Module):
    """Means of normal distributions, whose variances are computed beside them.

    The output of its layer ``moments`` has all means, and then the logarithms of all variances; its own output are the
    means.

    Args:
        layer: The output layer that it replaces, for its sizes, device and dtype; its weights are not used.

    Example:
        >>> import torch
        >>> GaussianHead(nn.Linear(4, 2))(torch.zeros(3, 4)).shape
        torch.Size([3, 2])
    """

    def __init__(self, layer: nn.Linear) -> None:
        super().__init__()
        self.moments = nn.Linear(
            layer.in_features, 2 * layer.out_features, bias=layer.bias is not None,
            device=layer.weight.device, dtype=layer.weight.dtype,
        )  # fmt: skip

    def forward(self, inputs: Float[Tensor, "*batch width"]) -> Float[Tensor, "*batch outputs"]:
        """The means."""
        means: Tensor = self.moments(inputs).chunk(2, -1)[0]
        return means


def add_variance(model: nn.Module) -> nn.Module:
    """Replace the output layer of a model by a newly initialized `GaussianHead`.

    Args:
        model: The model; it is changed.

    Raises:
        LimbeckError: If the model has no linear output layer.

    Example:
        >>> add_variance(nn.Sequential(nn.Linear(4, 8), nn.Linear(8, 3)))[1].moments.out_features
        6
    """
    return replace_output_layer(model, GaussianHead)
