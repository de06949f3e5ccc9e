"""`ProjectedEmbedding`: a model with a linear map of its output; `add_projection` makes it."""

from __future__ import annotations

from typing import Any, cast

from torch import Tensor, nn

from limbeck.model_call import Adaptor


class ProjectedEmbedding(nn.Module):
    """A model with a linear map of its output, such as an encoder that gives embeddings of another size.

    Args:
        model: The model.
        width: The size of its output.
        dimension: The size of the mapped output.
        adaptor: Gets the embedding from the model's output, if that is no tensor.

    Example:
        >>> import torch
        >>> ProjectedEmbedding(nn.Linear(4, 2), 2, 5)(torch.zeros(3, 4)).shape
        torch.Size([3, 5])
    """

    def __init__(self, model: nn.Module, width: int, dimension: int, adaptor: Adaptor | None = None) -> None:
        super().__init__()
        self.model, self._adaptor = model, adaptor
        weights = [one for one in model.parameters() if one.is_floating_point()]
        kind: dict[str, Any] = {"dtype": weights[-1].dtype, "device": weights[-1].device} if weights else {}
        self.projection = nn.Linear(width, dimension, **kind)

    def forward(self, *args: Any, **kwargs: Any) -> Tensor:
        """Compute the mapped output."""
        output = self.model(*args, **kwargs)
        embedding = output if self._adaptor is None else self._adaptor(output)
        return cast(Tensor, self.projection(embedding))


def add_projection(
    model: nn.Module, *, width: int, dimension: int, adaptor: Adaptor | None = None
) -> ProjectedEmbedding:
    """Put a new linear map behind a model, as `embedding_distillation` does.

    Args:
        model: The model. It is not changed, and is a part of the result.
        width: The size of its output.
        dimension: The size of the mapped output.
        adaptor: Gets the embedding from the model's output, if that is no tensor.

    Example:
        >>> add_projection(nn.Linear(4, 2), width=2, dimension=5).projection
        Linear(in_features=2, out_features=5, bias=True)
    """
    return ProjectedEmbedding(model, width, dimension, adaptor)
