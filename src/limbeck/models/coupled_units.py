"""Finds which units of a network can change places together: those of layers whose outputs are added keep one order."""

from __future__ import annotations

import copy
from collections import defaultdict
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import torch
from jaxtyping import Int
from torch import Tensor, nn

from limbeck.batch import Inputs
from limbeck.models.unit_trace import INPUTS, LOGITS, UnitTrace, check_layers, not_separable, run_in_eval

_NORM_TENSORS = ("weight", "bias", "running_mean", "running_var")
_FIXED = (INPUTS, 0)
"""The class of what cannot change places: inputs of the network, and units that are logits."""

_Unit = tuple[str, int]
State = Mapping[str, Tensor]
"""The tensors of a network by name."""


class UnitGroup(NamedTuple):
    """Units that can change places with each other, if they do so everywhere.

    Attributes:
        outputs: For each layer that gives these units, the index of each among its outputs.
        norms: For each normalization of them, the indices in its tensors; more than one for each unit of a flattened
            map.
        inputs: For each layer that reads them, the indices among its inputs, in the same form.
    """

    outputs: dict[str, Int[Tensor, " units"]]
    norms: dict[str, Int[Tensor, "units places"]]
    inputs: dict[str, Int[Tensor, "units places"]]

    @property
    def size(self) -> int:
        """The number of units."""
        return len(next(iter(self.outputs.values())))


def find_unit_groups(network: nn.Module, inputs: Inputs) -> list[UnitGroup]:
    """Find the groups of hidden units of a network, in the order in which its layers are called.

    A chain has a group for each hidden layer. Where the outputs of layers are added, as in a residual stage, or
    multiplied, all of them give the units of one group; concatenated and padded maps have several groups side by side.
    The units that the logits are made of have no group: they are classes.

    Layers are replaced by fixed numbers, one layer's numbers are changed for some of its units, and what changes at the
    inputs of the other layers shows which units arrive there. Then all groups get another order in a copy of the
    network, which must not change its outputs.

    Args:
        network: Linear layers and convolutions, with anything between them that treats units alike and separately.
        inputs: A few examples, as the network takes them.

    Raises:
        LimbeckError: If a layer is of another kind, is called twice, or mixes units in another way: attention, grouped
            convolutions, shuffled channels.

    Example:
        >>> groups = find_unit_groups(nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 3)), torch.zeros(2, 4))
        >>> [(list(group.outputs), list(group.inputs), group.size) for group in groups]
        [(['0'], ['2'], 8)]
    """
    names = check_layers(network)
    trace = UnitTrace(network, inputs, names)
    groups = _make_groups(trace, trace.find_links())
    _check_order_is_free(network, groups, inputs)
    return groups


def move_units(state: State, groups: Sequence[UnitGroup], plans: Mapping[int, Tensor]) -> dict[str, Tensor]:
    r"""Apply :math:`T^\top` to the units of groups, in all tensors that give, normalize or read them.

    Args:
        state: The tensors of a network.
        groups: Its groups.
        plans: T of some groups by number: rows are the old units, columns the new ones.
    """
    moved = dict(state)
    for number, plan in plans.items():
        group = groups[number]
        for name, index in group.outputs.items():
            for key in (join_name(name, "weight"), join_name(name, "bias")):
                if key in moved:
                    moved[key] = _apply(moved[key], 0, index[:, None], plan)
        for name, index in group.norms.items():
            for key in (join_name(name, part) for part in _NORM_TENSORS):
                if key in moved:
                    moved[key] = _apply(moved[key], 0, index, plan)
        for name, index in group.inputs.items():
            key = join_name(name, "weight")
            moved[key] = _apply(moved[key], 1, index, plan)
    return moved


def move_inputs(name: str, weight: Tensor, groups: Sequence[UnitGroup], plans: Mapping[int, Tensor]) -> Tensor:
    """Apply the plans to the inputs of one layer."""
    for number, plan in plans.items():
        index = groups[number].inputs.get(name)
        weight = weight if index is None else _apply(weight, 1, index, plan)
    return weight


def _apply(tensor: Tensor, dim: int, index: Int[Tensor, "units places"], plan: Tensor) -> Tensor:
    """Apply a plan to some places along a dimension."""
    if tensor.ndim <= dim or int(index.max()) >= tensor.shape[dim]:
        raise not_separable("two layers do not follow each other")
    blocks = tensor.movedim(dim, 0)[index]
    result = tensor.movedim(dim, 0).clone()
    result[index] = torch.einsum("ab,a...->b...", plan, blocks)
    return result.movedim(0, dim)


def join_name(name: str, part: str) -> str:
    """The name of a tensor in the state; a network may be a single layer without a name."""
    return f"{name}.{part}".lstrip(".")


def read_state(network: nn.Module) -> dict[str, Tensor]:
    """The tensors in float64, on the CPU; whole numbers as they are."""
    return {
        name: tensor.detach().double().cpu() if tensor.is_floating_point() else tensor.detach()
        for name, tensor in network.state_dict().items()
    }


class _Classes:
    """Sets of units that are joined (union-find)."""

    def __init__(self) -> None:
        self._parents: dict[_Unit, _Unit] = {}

    def find(self, unit: _Unit) -> _Unit:
        """The unit that stands for the set."""
        parent = self._parents.setdefault(unit, unit)
        if parent != unit:
            parent = self._parents[unit] = self.find(parent)
        return parent

    def join(self, units: Sequence[_Unit]) -> None:
        """Join the sets of units."""
        for unit in units[1:]:
            self._parents[self.find(unit)] = self.find(units[0])


def _make_groups(trace: UnitTrace, links: Mapping[str, Mapping[str, Tensor]]) -> list[UnitGroup]:
    """Units with the same layers before and after them are a group."""
    classes, arriving = _Classes(), {}
    for layer in links.get(LOGITS, {}):
        if layer != INPUTS:
            classes.join([_FIXED, *((layer, unit) for unit in range(trace.count_units(layer)))])
    for name, layers in links.items():
        if name == LOGITS:
            continue
        for column, numbers in enumerate(zip(*(layers[layer].tolist() for layer in layers), strict=True)):
            units = [(layer, unit) for layer, unit in zip(layers, numbers, strict=True) if unit >= 0]
            classes.join(units)
            if units:
                arriving[name, column] = units[0]
    return _collect(trace, classes, arriving)


class _Places(NamedTuple):
    """Where the units of a class are: the outputs of layers, and the inputs of readers."""

    outputs: dict[str, list[int]]
    inputs: dict[str, list[int]]

    @property
    def kind(self) -> tuple[Any, ...]:
        """What two classes have in common that can change places."""
        return tuple(self.outputs), tuple((name, len(columns)) for name, columns in self.inputs.items())


def _collect(trace: UnitTrace, classes: _Classes, arriving: Mapping[tuple[str, int], _Unit]) -> list[UnitGroup]:
    places: dict[_Unit, _Places] = defaultdict(lambda: _Places(defaultdict(list), defaultdict(list)))
    fixed = classes.find(_FIXED)
    for layer in trace.called:
        for unit in range(trace.count_units(layer)) if layer in trace.base else ():
            places[classes.find((layer, unit))].outputs[layer].append(unit)
    for name in trace.called:
        for column in sorted(column for reader, column in arriving if reader == name):
            places[classes.find(arriving[name, column])].inputs[name].append(column)
    kinds: dict[tuple[Any, ...], list[_Places]] = defaultdict(list)
    for first, one in places.items():
        if first == fixed:
            continue
        if twice := next((layer for layer, units in one.outputs.items() if len(units) > 1), None):
            raise not_separable(f"units of {twice!r} are added to each other")
        kinds[one.kind].append(one)
    return [_make_group(trace, members) for members in kinds.values()]


def _make_group(trace: UnitTrace, members: Sequence[_Places]) -> UnitGroup:
    outputs = {name: torch.tensor([one.outputs[name][0] for one in members]) for name in members[0].outputs}
    inputs = {name: torch.tensor([one.inputs[name] for one in members]) for name in members[0].inputs}
    norms = {name: index for name, index in inputs.items() if name not in trace.base}
    return UnitGroup(outputs, norms, {name: index for name, index in inputs.items() if name in trace.base})


def _check_order_is_free(network: nn.Module, groups: Sequence[UnitGroup], inputs: Inputs) -> None:
    """Try another order of the units of each group, which may change rounding only."""
    draw = torch.Generator().manual_seed(0)
    plans = {
        number: torch.eye(group.size, dtype=torch.float64)[torch.randperm(group.size, generator=draw)]
        for number, group in enumerate(groups)
    }
    moved, other = move_units(read_state(network), groups, plans), copy.deepcopy(network)
    for name, tensor in other.state_dict().items():
        tensor.copy_(moved[name])
    before, after = run_in_eval(network, inputs), run_in_eval(other, inputs)
    scale = float(before.abs().amax().clamp_min(1e-6)) if before.numel() else 1.0
    if not torch.allclose(before, after, rtol=0, atol=1e-3 * scale):
        raise not_separable("the order of the hidden units matters")
