"""Train and eval mode of the parts of a model."""

from __future__ import annotations

from collections.abc import Iterator

from torch import nn


def frozen_eval_modules(model: nn.Module) -> list[nn.Module]:
    """The modules that stay in eval mode while the model trains: those that were put to rest on purpose.

    That is a part in eval mode, none of whose parameters may learn, inside a whole in train mode: a BatchNorm with its
    running statistics held, a frozen body. A model that is in eval mode as a whole has only been asked something, or
    just been loaded, and so has a part whose parameters may learn: they train as a whole.

    Example:
        >>> model = nn.Sequential(nn.Linear(2, 2), nn.BatchNorm1d(2)).train()
        >>> _ = model[1].requires_grad_(False).eval()
        >>> resting(model) == [model[1]]
        True
        >>> resting(model.eval())
        []
    """
    return list(dict.fromkeys(_resting(model))) if model.training else []


def _resting(module: nn.Module) -> Iterator[nn.Module]:
    for child in module.children():
        if child.training:
            yield from _resting(child)
        elif not any(parameter.requires_grad for parameter in child.parameters()):
            yield from child.modules()


def has_sparse_gradients(model: nn.Module) -> bool:
    """Whether an embedding in it that learns gives gradients of which only the rows that were looked up are there."""
    kinds = (nn.Embedding, nn.EmbeddingBag)
    embeddings = [module for module in model.modules() if isinstance(module, kinds) and module.sparse]
    return any(module.weight.requires_grad for module in embeddings)
