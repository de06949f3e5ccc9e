"""Finds which units of a network's layers arrive at which inputs of its other layers."""

from __future__ import annotations

import copy
import itertools
from collections import defaultdict
from collections.abc import Iterator, Mapping
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from limbeck.batch import Inputs
from limbeck.errors import LimbeckError
from limbeck.model_call import call, logits_of

_MIXING = (nn.Linear, nn.Conv1d, nn.Conv2d, nn.Conv3d)
_NORMS = (nn.modules.batchnorm._BatchNorm, nn.LayerNorm)
LOGITS = " logits"
"""The network's own output among the readers; no module has such a name."""
INPUTS = " inputs"
"""The network's own inputs among the layers."""
_STEP = 0.05


def run_in_eval(network: nn.Module, inputs: Inputs) -> Tensor:
    """The logits in eval mode; every module keeps its mode."""
    modes = {module: module.training for module in network.modules()}
    network.eval()
    try:
        with torch.no_grad():
            return logits_of(call(network, inputs))
    finally:
        for module, training in modes.items():
            module.training = training


def not_separable(why: str) -> LimbeckError:
    """The error for a network whose units cannot be matched."""
    return LimbeckError(
        "Only networks of linear layers and convolutions can be fused, whose units are added, concatenated or passed "
        f"on one by one, and of this network {why}. Average the answers of the networks instead: Ensemble(a, b), or "
        "teacher: {ensemble: [...]}."
    )


def check_layers(network: nn.Module) -> dict[str, nn.Module]:
    """The layers and normalizations by name."""
    names = {
        name: module for name, module in network.named_modules()
        if next(iter([*module.parameters(recurse=False), *module.buffers(recurse=False)]), None) is not None
    }  # fmt: skip
    for name, module in names.items():
        if not isinstance(module, (*_MIXING, *_NORMS)) or (isinstance(module, _MIXING[1:]) and module.groups != 1):
            raise not_separable(f"the {type(module).__name__} {name!r} cannot be matched unit by unit")
        if isinstance(module, _MIXING) and "weight" not in dict(module.named_parameters()):
            raise not_separable(f"the weight of {name!r} is computed from others (a mask, weight or spectral norm)")
    if not any(isinstance(module, _MIXING) for module in names.values()):
        raise not_separable("no part is a linear layer or a convolution")
    return names


def _take(inputs: Any) -> Any:
    """The first example: it is enough, and quicker."""
    if isinstance(inputs, Tensor):
        return inputs[:1]
    if isinstance(inputs, Mapping):
        return {name: _take(value) for name, value in inputs.items()}
    return type(inputs)(_take(value) for value in inputs) if isinstance(inputs, (list, tuple)) else inputs


class UnitTrace:
    """A copy of a network whose layers return fixed numbers, and whose normalizations return their inputs."""

    def __init__(self, network: nn.Module, inputs: Inputs, names: Mapping[str, nn.Module]) -> None:
        self.called: list[str] = []
        self.base: dict[str, Tensor] = {}
        self._inputs = _take(inputs)
        self._seen: dict[str, Tensor] = {}
        self._layers = names
        self._record(network, names)
        self._copy = copy.deepcopy(network)
        for name in names:
            module = self._copy.get_submodule(name)
            module.forward = partial(self._answer, name)
        self._values = dict(self.base)

    def _record(self, network: nn.Module, names: Mapping[str, nn.Module]) -> None:
        """Run the network once, for the order of its layers and the shapes of their outputs."""
        draw = torch.Generator().manual_seed(0)

        def write(name: str, module: nn.Module, inputs: Any, output: Tensor) -> None:
            self.called.append(name)
            if isinstance(module, _MIXING):
                numbers = torch.rand(output.shape, generator=draw, dtype=torch.float64)
                self.base[name] = (_STEP * (1 + numbers)).to(output)

        handles = [module.register_forward_hook(partial(write, name)) for name, module in names.items()]
        try:
            run_in_eval(network, self._inputs)
        finally:
            for handle in handles:
                handle.remove()
        if len(self.called) != len(names) or len(set(self.called)) != len(self.called):
            raise not_separable("a layer is called twice, or not at all")

    def count_units(self, layer: str) -> int:
        """The number of outputs of a layer."""
        return self.base[layer].shape[_unit_dim(self._layers[layer])]

    def _answer(self, name: str, value: Tensor) -> Tensor:
        self._seen[name] = value
        return self._values.get(name, value)

    def find_links(self) -> dict[str, dict[str, Tensor]]:
        """For each reader and each layer the unit that arrives at each input of the reader; -1 for none.

        A reader that the network's own inputs reach has the entry `INPUTS`, with 0 where they arrive.
        """
        start = self._run(self._inputs)
        links: dict[str, dict[str, Tensor]] = defaultdict(dict)
        for name, columns in self._changes(start, self._run(_shift(self._inputs))):
            links[name][INPUTS] = torch.where(columns, 0, -1)
        for layer in self.base:
            for name, units in self._find_units(layer, start):
                links[name][layer] = units
        return links

    def _find_units(self, layer: str, start: Mapping[str, Tensor]) -> Iterator[tuple[str, Tensor]]:
        """Each bit of a unit's number is found by changing the units with this bit, and then those without it."""
        count = self.count_units(layer)
        bits = max(1, (count - 1).bit_length())
        changes: dict[str, list[Tensor]] = defaultdict(list)
        for bit, side in itertools.product(range(bits), (0, 1)):
            chosen = (torch.arange(count) >> bit & 1) == side
            for name, columns in self._changes(start, self._run_with(layer, chosen)):
                changes[name].append(columns)
        for name, trials in changes.items():
            sides = torch.stack(trials).unflatten(0, (bits, 2))
            arrives = sides.any(0).any(0)
            number = (sides[:, 1].long() << torch.arange(bits)[:, None]).sum(0)
            wrong = arrives & ((sides.sum(1) != 1).any(0) | (number >= count))
            if bool(wrong.any()) and name != LOGITS:
                raise not_separable(f"an input of {name!r} depends on several units of {layer!r} at once")
            if bool(arrives.any()):
                yield name, number.masked_fill(~arrives, -1)

    def _run_with(self, layer: str, chosen: Tensor) -> dict[str, Tensor]:
        dim = _unit_dim(self._layers[layer])
        changed = self.base[layer].movedim(dim, 0).clone()
        changed[chosen.to(changed.device)] += _STEP
        self._values[layer] = changed.movedim(0, dim)
        try:
            return self._run(self._inputs)
        finally:
            self._values[layer] = self.base[layer]

    def _run(self, inputs: Inputs) -> dict[str, Tensor]:
        """What each layer was called with, and the logits."""
        self._seen = {}
        logits = run_in_eval(self._copy, inputs)
        return {**self._seen, LOGITS: logits}

    def _changes(self, before: Mapping[str, Tensor], after: Mapping[str, Tensor]) -> Iterator[tuple[str, Tensor]]:
        """For each reader, which of its inputs differ."""
        for name, old in before.items():
            dim = -1 if name == LOGITS else _unit_dim(self._layers[name])
            rows = (old != after[name]).movedim(dim, 0)
            yield name, rows.reshape(len(rows), -1).any(1).cpu()


def _unit_dim(module: nn.Module) -> int:
    """The dimension of the units in the inputs and outputs of a layer."""
    return -1 if isinstance(module, (nn.Linear, nn.LayerNorm)) else 1


def _shift(inputs: Any) -> Any:
    """Other inputs of the same shape; whole numbers, such as tokens, stay."""
    if isinstance(inputs, Tensor):
        return inputs + 1 if inputs.is_floating_point() else inputs
    if isinstance(inputs, Mapping):
        return {name: _shift(value) for name, value in inputs.items()}
    return type(inputs)(_shift(value) for value in inputs) if isinstance(inputs, (list, tuple)) else inputs
