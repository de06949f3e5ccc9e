"""`SubclassHead`: an output layer with several subclasses of each class, and `add_subclasses`."""

from __future__ import annotations

from collections.abc import Callable

from jaxtyping import Float
from torch import Tensor, nn

from limbeck.errors import ArgumentError, LimbeckError
from limbeck.model_call import find_output_layer

SUBCLASS_LOGITS = "subclass_logits"
"""The name of the layer within a `SubclassHead` that computes the logits of all subclasses."""


class SubclassHead(nn.Module):
    """Logits of classes from those of their subclasses: the logarithm of the summed exponentials.

    So the softmax of the class logits is the sum of the softmax of all subclass logits over each class. The subclass
    logits are the output of its layer ``subclass_logits``, class by class.

    Args:
        layer: The output layer that it replaces, for its sizes, device and dtype; its weights are not used.
        subclasses: The number of subclasses of each class.

    Example:
        >>> import torch
        >>> SubclassHead(nn.Linear(4, 3), 5)(torch.zeros(2, 4)).shape
        torch.Size([2, 3])
    """

    def __init__(self, layer: nn.Linear, subclasses: int) -> None:
        super().__init__()
        self.subclasses = subclasses
        self.subclass_logits = nn.Linear(
            layer.in_features, subclasses * layer.out_features, bias=layer.bias is not None,
            device=layer.weight.device, dtype=layer.weight.dtype,
        )  # fmt: skip

    def forward(self, inputs: Float[Tensor, "*batch width"]) -> Float[Tensor, "*batch classes"]:
        """The class logits."""
        logits: Tensor = self.subclass_logits(inputs)
        return logits.unflatten(-1, (-1, self.subclasses)).logsumexp(-1)


def add_subclasses(model: nn.Module, *, subclasses: int) -> nn.Module:
    """Replace the output layer of a model by a newly initialized `SubclassHead`.

    Args:
        model: The model; it is changed.
        subclasses: The number of subclasses of each class, at least 1.

    Raises:
        ArgumentError: If the number is below 1.
        LimbeckError: If the model has no linear output layer.

    Example:
        >>> net = add_subclasses(nn.Sequential(nn.Linear(4, 8), nn.Linear(8, 3)), subclasses=2)
        >>> net[1].subclass_logits.out_features
        6
    """
    if isinstance(subclasses, bool) or not isinstance(subclasses, int) or subclasses < 1:
        raise ArgumentError(f"subclasses is a whole number of at least 1; got {subclasses!r}.", argument="subclasses")
    return replace_output_layer(model, lambda layer: SubclassHead(layer, subclasses))


def replace_output_layer(model: nn.Module, make: Callable[[nn.Linear], nn.Module]) -> nn.Module:
    """Replace the output layer of a model by a module that is made from it.

    Args:
        model: The model; it is changed.
        make: A function of the layer.

    Returns:
        The model, or the new module if the model is its own output layer.

    Raises:
        LimbeckError: If the model has no linear output layer.

    Example:
        >>> net = replace_output_layer(nn.Sequential(nn.Linear(4, 3)), lambda layer: nn.Linear(4, 1))
        >>> net[0].out_features
        1
    """
    name, layer = find_output_layer(model) or ("", None)
    if not isinstance(layer, nn.Linear):
        raise LimbeckError(
            f"A linear output layer is needed, and this {type(model).__name__} has none that can be found."
        )
    head = make(layer)
    if not name:  # the model is the layer
        return head
    parent, _, last = name.rpartition(".")
    setattr(model.get_submodule(parent), last, head)
    return model
