"""Replaces linear layers and embeddings by products of two thinner ones."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from limbeck.errors import ArgumentError, unknown_name_error
from limbeck.model_call import call


def factorize_layers(model: nn.Module, *, ranks: Mapping[str, int]) -> None:
    r"""Replace linear layers and embeddings by two layers of a low rank, from the singular value decomposition.

    With :math:`W = U \Sigma V^\top`, a linear layer becomes :math:`x \mapsto U_r \Sigma_r^{1/2} (\Sigma_r^{1/2}
    V_r^\top x) + b`: the nearest matrix of rank r in the Frobenius norm. An embedding of n tokens and width m becomes
    an embedding of width r and a linear layer. At full rank, r = min(n, m), nothing is lost.

    Args:
        model: The model; each of these layers is replaced by a `torch.nn.Sequential` of two.
        ranks: The rank of each layer by its name, from 1 to its smaller side.

    Raises:
        LimbeckError: If there is no such linear layer or embedding, or a rank is out of range.

    Example:
        >>> model = nn.Sequential(nn.Linear(8, 6))
        >>> factorize_layers(model, ranks={"0": 2})
        >>> [tuple(layer.weight.shape) for layer in model[0]]
        [(2, 8), (6, 2)]

    Source: Eckart and Young, 1936, The approximation of one matrix by another of lower rank; of embeddings, Lan et al.,
        ALBERT, 2019, arXiv:1909.11942.
    """
    named = {name: part for name, part in model.named_modules() if name and isinstance(part, (nn.Linear, nn.Embedding))}
    for name, rank in ranks.items():
        if name not in named:
            raise unknown_name_error("linear layer or embedding", name, named, argument="ranks")
        largest = min(named[name].weight.shape)
        if isinstance(rank, bool) or not isinstance(rank, int) or not 1 <= rank <= largest:
            raise ArgumentError(f"The rank of {name} is from 1 to {largest}; got {rank!r}.", argument="ranks")
        parent, _, leaf = name.rpartition(".")
        setattr(model.get_submodule(parent), leaf, _factorize(named[name], rank))


def _factorize(layer: Any, rank: int) -> nn.Sequential:
    weight: Tensor = layer.weight.detach()
    place: dict[str, Any] = {"device": weight.device, "dtype": weight.dtype}
    # float64, so that the product at full rank differs from the weight only by its own rounding.
    u, sigma, v = torch.linalg.svd(weight.double(), full_matrices=False)
    left, right = u[:, :rank] * sigma[:rank].sqrt(), sigma[:rank].sqrt()[:, None] * v[:rank]
    if isinstance(layer, nn.Embedding):
        own = {name: vars(layer)[name] for name in ("padding_idx", "scale_grad_by_freq", "sparse")}
        inner: nn.Module = nn.Embedding(layer.num_embeddings, rank, **own, **place)
        outer = nn.Linear(rank, layer.embedding_dim, bias=False, **place)
        pair = ((inner, left), (outer, right.T))
    else:
        inner = nn.Linear(layer.in_features, rank, bias=False, **place)
        outer = nn.Linear(rank, layer.out_features, bias=layer.bias is not None, **place)
        pair = ((inner, right), (outer, left))
    padding = layer.padding_idx if isinstance(layer, nn.Embedding) else None
    if padding is not None and not weight[padding].any():
        left[padding] = 0.0  # it would be zero only up to rounding, and does not learn
    with torch.no_grad():
        for part, value in pair:
            part.weight.copy_(value)  # type: ignore[operator]
        if outer.bias is not None:
            outer.bias.copy_(layer.bias)
    return nn.Sequential(inner, outer).train(layer.training)


def find_factorizable(model: nn.Module, example: Any, classes: int) -> dict[str, tuple[int, int]]:
    """The linear layers and embeddings that can be replaced, with their shapes.

    Left out are the layers of the logits, tied weights, weights that are computed from others (weight or spectral
    norm), embeddings with a ``max_norm``, which two factors do not keep, and layers whose weight is read without a
    call, as attention reads its last layer, and `torch.nn.TransformerEncoderLayer` all of its own in eval mode.

    Args:
        model: The model.
        example: Its inputs.
        classes: The number of its logits.
    """
    called: set[nn.Module] = set()
    # Hooks would keep this class from its fast path, so that its layers would seem to be called.
    read = {
        inner for part in model.modules() if isinstance(part, nn.TransformerEncoderLayer) for inner in part.modules()
    }
    candidates = {
        name: part
        for name, part in model.named_modules()
        if name and type(part) in (nn.Linear, nn.Embedding) and part not in read
    }
    handles = [part.register_forward_hook(lambda module, *_: called.add(module)) for part in candidates.values()]
    was_training = model.training
    try:
        with torch.no_grad():
            call(model.eval(), example)
    finally:
        model.train(was_training)
        for handle in handles:
            handle.remove()
    uses: dict[int, int] = {}
    for _, parameter in model.named_parameters(remove_duplicate=False):
        uses[id(parameter)] = uses.get(id(parameter), 0) + 1
    shapes: dict[str, tuple[int, int]] = {}
    for name, part in candidates.items():
        weight: Any = part.weight
        is_output = isinstance(part, nn.Linear) and part.out_features == classes
        bounded = isinstance(part, nn.Embedding) and part.max_norm is not None
        if part in called and not is_output and not bounded and uses.get(id(weight)) == 1:
            shapes[name] = (weight.shape[0], weight.shape[1])
    return shapes


def choose_ranks(shapes: Mapping[str, tuple[int, int]], share: float) -> dict[str, int]:
    """The rank of each layer at which it has about a share of its weights; a layer that would not shrink is left out.

    Two factors of an n x m matrix have r (n + m) weights.

    Example:
        >>> choose_ranks({"layer": (64, 64), "small": (2, 2)}, 0.5)
        {'layer': 16}
    """
    ranks = {name: max(1, int(share * n * m / (n + m))) for name, (n, m) in shapes.items()}
    return {name: rank for name, rank in ranks.items() if rank * sum(shapes[name]) < shapes[name][0] * shapes[name][1]}


def count_saved(shapes: Mapping[str, tuple[int, int]], ranks: Mapping[str, int]) -> int:
    """The number of weights that these ranks save.

    Example:
        >>> count_saved({"layer": (64, 64)}, {"layer": 16})
        2048
    """
    return sum(shapes[name][0] * shapes[name][1] - rank * sum(shapes[name]) for name, rank in ranks.items())
