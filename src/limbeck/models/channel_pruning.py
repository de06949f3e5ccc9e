"""Removes channels of a model, and finds with torch-pruning which layers lose them together."""

from __future__ import annotations

import copy
import math
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from limbeck.errors import ArgumentError, LimbeckError, unknown_name_error
from limbeck.model_call import call, logits_of
from limbeck.optional_imports import import_optional

Kept = Mapping[str, Sequence[Sequence[int] | None]]
"""For each tensor and each of its dimensions the indices that stay; None for all."""


def prune_channels(model: nn.Module, *, keep: Kept, sizes: Mapping[str, int | Sequence[int]] | None = None) -> None:
    """Keep some channels of the parameters and buffers of a model; the others are removed, not masked.

    Args:
        model: The model; it is changed.
        keep: For each parameter or buffer by name, and for each of its dimensions, the indices that stay, or None for
            all of them.
        sizes: Attributes of modules that hold a number of channels, such as ``conv1.out_channels``, and their new
            values.

    Raises:
        LimbeckError: If there is no such tensor or attribute, an index does not exist, or none is left.

    Example:
        >>> model = nn.Sequential(nn.Linear(4, 3))
        >>> prune_channels(model, keep={"0.weight": [[0, 2], None], "0.bias": [[0, 2]]}, sizes={"0.out_features": 2})
        >>> model(torch.zeros(1, 4)).shape
        torch.Size([1, 2])

    Source: Li et al., Pruning Filters for Efficient ConvNets, 2016, arXiv:1608.08710; the groups of layers, Fang et
        al., DepGraph, 2023, arXiv:2301.12900.
    """
    tensors = {
        **dict(model.named_parameters(remove_duplicate=False)),
        **dict(model.named_buffers(remove_duplicate=False)),
    }
    pruned: dict[int, Tensor] = {}
    for name, dims in keep.items():
        if name not in tensors:
            raise unknown_name_error("parameter or buffer", name, tensors, argument="keep")
        pruned[id(tensors[name])] = _select(name, tensors[name], dims)
    for name, tensor in tensors.items():  # tied parameters stay tied
        if id(tensor) in pruned:
            parent, _, leaf = name.rpartition(".")
            setattr(model.get_submodule(parent), leaf, pruned[id(tensor)])
    for place, value in (sizes or {}).items():
        parent, _, attribute = place.rpartition(".")
        module = model.get_submodule(parent)
        before = vars(module).get(attribute)
        if isinstance(before, bool) or not isinstance(before, (int, tuple)):
            raise ArgumentError(f"{place} is no number of channels: it is {before!r}.", argument="sizes")
        setattr(module, attribute, value if isinstance(value, int) else tuple(value))


def _select(name: str, tensor: Tensor, dims: Sequence[Sequence[int] | None]) -> Tensor:
    if len(dims) != tensor.ndim:
        raise ArgumentError(f"{name} has {tensor.ndim} dimensions, and {len(dims)} are listed.", argument="keep")
    result = tensor.detach()
    for dim, indices in enumerate(dims):
        if indices is None:
            continue
        if not indices or min(indices) < 0 or max(indices) >= result.shape[dim]:
            raise ArgumentError(
                f"Dimension {dim} of {name} has the indices 0 to {result.shape[dim] - 1}, of which at least one stays.",
                argument="keep",
            )
        result = result.index_select(dim, torch.tensor(indices, device=result.device))
    return nn.Parameter(result, tensor.requires_grad) if isinstance(tensor, nn.Parameter) else result.clone()


class ChannelPlan(NamedTuple):
    """The channels that stay, as arguments of `prune_channels`.

    Attributes:
        keep: The indices that stay.
        sizes: The new numbers of channels.
    """

    keep: dict[str, list[list[int] | None]]
    sizes: dict[str, int | list[int]]

    @property
    def arguments(self) -> dict[str, Any]:
        """The arguments of `prune_channels`."""
        return {"keep": self.keep, "sizes": self.sizes}


class ChannelGroups:
    """Groups of channels that can be removed from a model without a change of anything else.

    torch-pruning finds which layers share channels. A group is used only if removing half of its channels gives the
    same outputs as setting their weights to zero, so that the mathematics of the other channels stays as it was. This
    leaves out channels that a LayerNorm averages over, and those of attention heads.

    Args:
        model: The model. It is not changed.
        example: Its inputs, one example or more.
        roots: The first layer of each group, if they were found before; they do not depend on the weights.

    Raises:
        MissingPackageError: If torch-pruning is not installed (extra ``shrink``).
        LimbeckError: If no channels can be removed.
    """

    def __init__(self, model: nn.Module, example: Any, roots: Sequence[str] = ()) -> None:
        self._tp = import_optional("torch_pruning", extra="shrink", purpose="Pruning channels (by: channels)")
        self._model, self._example = model, example
        with torch.no_grad():
            self._output = logits_of(call(copy.deepcopy(model).eval(), example))
        self.roots = list(roots) or self._find_roots()
        if not self.roots:
            raise LimbeckError(
                f"No channels of {type(model).__name__} can be removed without a change of its other channels. Take "
                "layers (by: layers) or low-rank layers (by: low_rank)."
            )

    def count_parameters(self, share: float) -> int:
        """The number of parameters if each group keeps a share of its channels."""
        pruned, _ = self._prune(share, self.roots)
        return sum(parameter.numel() for parameter in pruned.parameters())

    def plan(self, share: float) -> ChannelPlan:
        """The channels that stay if each group keeps a share of its channels, rounded, and at least one."""
        return self._plan(share, self.roots)

    def _find_roots(self) -> list[str]:
        graph = self._graph(self._copy())
        roots = [name for name, group in self._groups(graph, self._ignored(graph.model))]
        if roots and self._is_exact(roots):
            return roots
        exact = [root for root in roots if self._is_exact([root], graph)]
        return exact if exact and self._is_exact(exact) else []

    def _copy(self) -> nn.Module:
        return copy.deepcopy(self._model).eval().requires_grad_(True)

    def _graph(self, model: nn.Module) -> Any:
        graph = self._tp.DependencyGraph()
        with _quiet():
            graph.build_dependency(
                model, example_inputs=self._example, forward_fn=lambda net, inputs: logits_of(call(net, inputs)),
                verbose=False,
            )  # fmt: skip
        return graph

    def _ignored(self, model: nn.Module) -> list[nn.Module]:
        """The last layer with one output for each logit, and attention layers."""
        width = {*self._output.shape[1:2], self._output.shape[-1]}
        layers = [part for part in model.modules() if isinstance(part, (nn.Linear, nn.Conv1d, nn.Conv2d, nn.Conv3d))]
        outputs = [part for part in layers if part.weight.shape[0] in width]
        attention = [part for part in model.modules() if isinstance(part, nn.MultiheadAttention)]
        return [*outputs[-1:], *attention, *(inner for part in attention for inner in part.modules())]

    def _groups(self, graph: Any, ignored: Sequence[nn.Module]) -> Iterator[tuple[str, Any]]:
        """The name of the first layer of each group, and the group."""
        names = {module: name for name, module in graph.model.named_modules()}
        kinds = (nn.Linear, nn.Conv1d, nn.Conv2d, nn.Conv3d)
        for group in graph.get_all_groups(ignored_layers=list(ignored), root_module_types=list(kinds)):
            changed = {dep.target.module for dep, _ in group if graph.is_out_channel_pruning_fn(dep.handler)}
            if not changed & set(ignored):
                yield names[group[0].dep.target.module], group

    def _prune(self, share: float, roots: Sequence[str]) -> tuple[nn.Module, list[tuple[str, list[int]]]]:
        """A pruned copy, and the removed channels of each root."""
        model = self._copy()
        graph, removed = self._graph(model), []
        for root in roots:
            if weakest := self._weakest(graph, share, root):
                layer = model.get_submodule(root)
                graph.get_pruning_group(layer, graph.get_pruner_of_module(layer).prune_out_channels, weakest).prune()
                removed.append((root, weakest))
        return model, removed

    def _weakest(self, graph: Any, share: float, root: str) -> list[int]:
        """The channels of a root that go if its group keeps a share of them."""
        layer = graph.model.get_submodule(root)
        prune = graph.get_pruner_of_module(layer).prune_out_channels
        group = graph.get_pruning_group(layer, prune, list(range(layer.weight.shape[0])))
        strength = self._tp.importance.GroupMagnitudeImportance(p=2)(group)
        stay = max(1, math.floor(share * len(strength) + 0.5))
        return sorted(strength.argsort(stable=True)[: len(strength) - stay].tolist())

    def _plan(self, share: float, roots: Sequence[str], whole: Any = None) -> ChannelPlan:
        """Prune a copy whose tensors hold their own indices, and read which ones are left.

        Args:
            share: The share of its channels that each group keeps.
            roots: The first layer of each group.
            whole: A graph of the whole model, for one root: no group before it has lost channels.
        """
        if whole is None:
            removed = self._prune(share, roots)[1]
        else:
            removed = [(root, weakest) for root in roots if (weakest := self._weakest(whole, share, root))]
        tagged = self._copy()
        graph = self._graph(tagged)
        tensors = {**dict(tagged.named_parameters()), **dict(tagged.named_buffers())}
        shapes = {name: tuple(tensor.shape) for name, tensor in tensors.items()}
        for tensor in tensors.values():
            tensor.data = torch.arange(tensor.numel(), dtype=torch.float64).reshape(tensor.shape)
        named = dict(tagged.named_modules())
        for root, weakest in removed:
            prune = graph.get_pruner_of_module(named[root]).prune_out_channels
            graph.get_pruning_group(named[root], prune, weakest).prune()
        left = {**dict(tagged.named_parameters()), **dict(tagged.named_buffers())}
        keep = {
            name: _read_indices(name, left[name].detach(), shape)
            for name, shape in shapes.items()
            if tuple(left[name].shape) != shape
        }
        return ChannelPlan(keep, _changed_sizes(self._model, tagged))

    def _is_exact(self, roots: Sequence[str], whole: Any = None) -> bool:
        """Whether channels of these groups can be removed with the outputs of the zeroed model."""
        try:
            with _quiet():
                # Not a half: two heads of attention could become one, which has a valid shape.
                plan = self._plan(0.4, roots, whole)
                pruned, zeroed = copy.deepcopy(self._model).eval(), copy.deepcopy(self._model).eval()
                prune_channels(pruned, **plan.arguments)
                zero_channels(zeroed, plan.keep)
                with torch.no_grad():
                    ours, theirs = (logits_of(call(net, self._example)) for net in (pruned, zeroed))
        # A model that reshapes its channels raises errors of many types; then these groups are not used.
        except Exception:
            return False
        if ours.shape != self._output.shape:
            return False
        # Rounding, and a small part of what the zeros change: a new model may hardly react to any channel.
        rounding = 1e-5 * float(theirs.abs().max())
        return bool(((ours - theirs).abs() <= rounding + 1e-3 * (theirs - self._output).abs().max()).all())


def zero_channels(model: nn.Module, keep: Kept) -> None:
    """Set to zero what `prune_channels` would remove.

    Args:
        model: The model; its parameters and buffers are changed in place.
        keep: As in `prune_channels`.
    """
    tensors = {**dict(model.named_parameters()), **dict(model.named_buffers())}
    with torch.no_grad():
        for name, dims in keep.items():
            for dim, indices in enumerate(dims):
                if indices is not None:
                    gone = torch.ones(tensors[name].shape[dim], dtype=torch.bool)
                    gone[list(indices)] = False
                    tensors[name].index_fill_(dim, gone.nonzero().squeeze(1), 0.0)


def _read_indices(name: str, tags: Tensor, shape: tuple[int, ...]) -> list[list[int] | None]:
    """The indices in each dimension of a tensor whose values are its flat indices."""
    indices: list[list[int] | None] = []
    index = torch.zeros((), dtype=torch.int64)
    for dim, size in enumerate(shape):
        line = tags.movedim(dim, 0).reshape(tags.shape[dim], -1)[:, 0].long()
        along = line // math.prod(shape[dim + 1 :]) % size
        index = index[..., None] * size + along
        indices.append(None if len(along) == size else along.tolist())
    if not torch.equal(index, tags.long()):
        raise LimbeckError(f"The channels that stay in {name} differ between its groups.")
    return indices


def _changed_sizes(before: nn.Module, after: nn.Module) -> dict[str, int | list[int]]:
    """The attributes of modules that pruning has changed: numbers of channels."""
    sizes: dict[str, int | list[int]] = {}
    for (name, old), new in zip(before.named_modules(), after.modules(), strict=True):
        for key, value in vars(new).items():
            was = vars(old).get(key)
            if isinstance(value, (int, tuple)) and not isinstance(value, bool) and value != was and was is not None:
                sizes[f"{name}.{key}" if name else key] = list(value) if isinstance(value, tuple) else value
    return sizes


@contextmanager
def _quiet() -> Iterator[None]:
    """A context without the warnings of torch-pruning about parameters outside of known layers."""
    import warnings

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield
