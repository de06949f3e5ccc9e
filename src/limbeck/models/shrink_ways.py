"""The ways to make a smaller model of a larger one: which sizes each of them reaches, and the model of a size."""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Protocol, runtime_checkable
from weakref import WeakKeyDictionary

import torch
from torch import nn

from limbeck.errors import ArgumentError, LimbeckError
from limbeck.model_call import call, logits_of
from limbeck.models.block_stacks import chosen_blocks, find_block_stacks, list_depths
from limbeck.models.channel_pruning import ChannelGroups
from limbeck.models.folder import describe_structure
from limbeck.models.hf_folder import is_transformers
from limbeck.models.layers import copy_layers
from limbeck.models.low_rank import choose_ranks, count_saved, find_factorizable
from limbeck.models.model_transforms import copy_transformed, transform_model, transforms_of
from limbeck.models.narrow_copies import NarrowModel, list_narrow_models, list_resnet_widths, narrow_resnet
from limbeck.models.networks import ResNet
from limbeck.models.reference import get_model_spec
from limbeck.models.size_and_hash import count_parameters


@runtime_checkable
class ShrinkWay(Protocol):
    """Smaller models of one teacher, made in one way."""

    def reach(self, parameters: int) -> int:
        """The number of parameters, of those that this way can make, that is nearest to this one."""

    def make(self, parameters: int) -> tuple[nn.Module, str]:
        """The model nearest to this number of parameters, and what stays, in words."""


class Layers:
    """Blocks at even distances of each stack of like blocks."""

    def __init__(self, teacher: nn.Module, example: Any = None) -> None:
        self.teacher, self.stacks = teacher, find_block_stacks(teacher)
        if not self.stacks:
            raise LimbeckError(
                f"{type(teacher).__name__} has no stack of like blocks: no list (ModuleList, Sequential) with blocks "
                "of one class and the same shapes one after the other. Take channels (by: channels) or low-rank layers "
                "(by: low_rank)."
            )
        if is_transformers(teacher) and transforms_of(teacher):
            raise LimbeckError(
                f"This {type(teacher).__name__} has fewer channels or a lower rank already, so its configuration no "
                "longer describes its layers. Take layers of the original model, and shrink that."
            )
        total = count_parameters(teacher)
        owners: dict[int, tuple[int, list[str]]] = {}
        for name, parameter in teacher.named_parameters(remove_duplicate=False):
            owners.setdefault(id(parameter), (parameter.numel(), []))[1].append(name)
        self._owners = list(owners.values())
        options = [(self._count(depths), depths) for depths in list_depths(self.stacks)]
        self.options = [(count, depths) for count, depths in options if 0 < count < total]
        if not self.options:
            raise LimbeckError(
                f"The blocks of {type(teacher).__name__} share their parameters, or there are no others, so fewer of "
                "them make no smaller model. Take channels (by: channels) or low-rank layers (by: low_rank)."
            )

    def _count(self, depths: Sequence[int]) -> int:
        """The parameters that are left: those that some part other than the removed blocks has too."""
        chosen = chosen_blocks(self.teacher, self.stacks, depths)
        gone = tuple(
            f"{stack.path}.{number}.".lstrip(".")
            for stack in self.stacks
            for number in set(stack.blocks).difference(chosen[stack.path])
        )
        return sum(count for count, names in self._owners if not all(name.startswith(gone) for name in names))

    def reach(self, parameters: int) -> int:
        """The nearest number of parameters that can be made."""
        return _nearest(self.options, parameters)[0]

    def make(self, parameters: int) -> tuple[nn.Module, str]:
        """The model nearest to this number of parameters."""
        return self.take(_nearest(self.options, parameters)[1])

    def take(self, depths: Sequence[int]) -> tuple[nn.Module, str]:
        """The model with so many blocks of each stack."""
        chosen = chosen_blocks(self.teacher, self.stacks, depths)
        lengths = {path: len(self.teacher.get_submodule(path)) for path in chosen}  # type: ignore[arg-type]
        what = "; ".join(
            f"blocks {', '.join(map(str, numbers)) or 'none'} of {lengths[path]}" + (f" in {path}" if path else "")
            for path, numbers in chosen.items()
        )
        if is_transformers(self.teacher):  # its configuration has the number of layers, so nothing has to be replayed
            return copy_layers(self.teacher, chosen), what
        student = copy_transformed(self.teacher)
        for path, numbers in chosen.items():
            if len(numbers) < lengths[path]:
                student = _change(self.teacher, student, "keep_layers", {"at": path, "layers": numbers})
        return student, what


class ResnetChannels:
    """The strongest channels of a reference residual network, as a narrower one."""

    def __init__(self, teacher: ResNet) -> None:
        self.teacher = teacher
        self.options = [(count, width) for width, count in list_resnet_widths(teacher)]

    def reach(self, parameters: int) -> int:
        """The nearest number of parameters that can be made."""
        return _nearest(self.options, parameters)[0]

    def make(self, parameters: int) -> tuple[nn.Module, str]:
        """The model nearest to this number of parameters."""
        width = _nearest(self.options, parameters)[1]
        full = self.teacher.spec.arguments["width"]
        what = f"{width} of {full} channels of the first stage, and so in the others"
        return narrow_resnet(self.teacher, width), what


_KNOWN: WeakKeyDictionary[nn.Module, tuple[list[str], dict[float, int]]] = WeakKeyDictionary()
"""The groups of a model, and its parameters at shares of channels: all arms of a job shrink one model."""


class Channels:
    """The strongest channels of the groups that torch-pruning finds."""

    def __init__(self, teacher: nn.Module, example: Any) -> None:
        self.teacher, total = teacher, count_parameters(teacher)
        roots, self.counts = _KNOWN.get(teacher, ([], {}))
        known = roots if self.counts.get(1.0) == total else []
        self.groups = ChannelGroups(teacher, _need(example, "Pruning channels"), known)
        if not known:
            self.counts = {1.0: total, 0.0: self.groups.count_parameters(0.0)}
            _KNOWN[teacher] = (self.groups.roots, self.counts)

    def reach(self, parameters: int) -> int:
        """The nearest number of parameters that can be made."""
        return self._search(parameters)[1]

    def make(self, parameters: int) -> tuple[nn.Module, str]:
        """The model nearest to this number of parameters."""
        share, _ = self._search(parameters)
        plan = self.groups.plan(share)
        student = copy_transformed(self.teacher)
        if plan.keep:
            student = _change(self.teacher, student, "prune_channels", plan.arguments)
        return student, f"{100 * share:.3g} % of the channels of {len(self.groups.roots)} groups of layers"

    def _search(self, parameters: int) -> tuple[float, int]:
        """The share of channels whose number of parameters is nearest, by bisection."""
        low, high = 0.0, 1.0
        for _ in range(9):
            if not self.counts[low] < parameters < self.counts[high]:
                break
            # The parameters between two layers grow with the square of the share.
            middle = math.sqrt((low**2 + high**2) / 2)
            if middle not in self.counts:
                self.counts[middle] = self.groups.count_parameters(middle)
            low, high = (middle, high) if self.counts[middle] < parameters else (low, middle)
            if abs(math.log(self.counts[middle] / parameters)) < 0.005:
                return middle, self.counts[middle]
        share = min((low, high), key=lambda one: abs(math.log(self.counts[one] / parameters)))
        return share, self.counts[share]


class LowRank:
    """Linear layers and embeddings as products of two, each with the same share of its weights."""

    def __init__(self, teacher: nn.Module, example: Any) -> None:
        self.teacher, self.total = teacher, count_parameters(teacher)
        example = _need(example, "Low rank")
        with torch.no_grad():
            classes = logits_of(call(copy.deepcopy(teacher).eval(), example)).shape[-1]
        self.shapes = find_factorizable(copy.deepcopy(teacher), example, classes)
        if not choose_ranks(self.shapes, 0.0):
            raise LimbeckError(
                f"{type(teacher).__name__} has no linear layer or embedding that a lower rank makes smaller. Take "
                "channels (by: channels) or layers (by: layers)."
            )

    def reach(self, parameters: int) -> int:
        """The nearest number of parameters that can be made."""
        return self.total - count_saved(self.shapes, self._ranks(parameters))

    def make(self, parameters: int) -> tuple[nn.Module, str]:
        """The model nearest to this number of parameters."""
        ranks = self._ranks(parameters)
        student = copy_transformed(self.teacher)
        if ranks:
            student = _change(self.teacher, student, "factorize_layers", {"ranks": ranks})
        listed = sorted(set(ranks.values()))
        spread = "-".join(dict.fromkeys(map(str, (listed[0], listed[-1])))) if listed else "full"
        return student, f"{len(ranks)} linear layers and embeddings of rank {spread}"

    def _ranks(self, parameters: int) -> dict[str, int]:
        low, high = 0.0, 1.0
        for _ in range(30):
            middle = (low + high) / 2
            fits = self.total - count_saved(self.shapes, choose_ranks(self.shapes, middle)) <= parameters
            low, high = (middle, high) if fits else (low, middle)
        return {} if parameters >= self.total else choose_ranks(self.shapes, low)


class LayersAndLowRank:
    """About half of the reduction by layers, in the logarithm, and the rest by low rank."""

    def __init__(self, teacher: nn.Module, example: Any) -> None:
        self.layers, self.example = Layers(teacher), example
        self.total = count_parameters(teacher)

    def reach(self, parameters: int) -> int:
        """The nearest number of parameters that can be made."""
        return self._second(parameters)[0].reach(parameters)

    def make(self, parameters: int) -> tuple[nn.Module, str]:
        """The model nearest to this number of parameters."""
        second, what = self._second(parameters)
        student, ranks = second.make(parameters)
        return student, f"{what}; {ranks}"

    def _second(self, parameters: int) -> tuple[LowRank, str]:
        student, what = self.layers.make(round(math.sqrt(self.total * parameters)))
        return LowRank(student, self.example), what


class Narrow:
    """A narrower model of the same architecture with new weights."""

    def __init__(self, teacher: nn.Module, example: Any = None) -> None:
        models = list_narrow_models(teacher)
        if not models:
            raise LimbeckError(f"{type(teacher).__name__} is as narrow as it can be.")
        self.options: list[tuple[int, NarrowModel]] = [(model.parameters, model) for model in models]

    def reach(self, parameters: int) -> int:
        """The nearest number of parameters that can be made."""
        return _nearest(self.options, parameters)[0]

    def make(self, parameters: int) -> tuple[nn.Module, str]:
        """The model nearest to this number of parameters."""
        model = _nearest(self.options, parameters)[1]
        return model.build(), f"{model.what}, with new weights"


def _make_channels(teacher: nn.Module, example: Any) -> ShrinkWay:
    if isinstance(teacher, ResNet) and get_model_spec(teacher) is not None and teacher.spec.arguments["width"] > 1:
        return ResnetChannels(teacher)
    return Channels(teacher, example)


WAYS: Mapping[str, Callable[[nn.Module, Any], ShrinkWay]] = {
    "layers": Layers, "channels": _make_channels, "low_rank": LowRank, "narrow": Narrow,
    "layers and low_rank": LayersAndLowRank,
}  # fmt: skip


def _change(teacher: nn.Module, student: nn.Module, function: str, arguments: Mapping[str, Any]) -> nn.Module:
    """Change a student, and record how, for `save` and `load`."""
    return transform_model(student, function, arguments, origin=describe_structure(teacher))


def _nearest(options: Sequence[tuple[int, Any]], parameters: int) -> tuple[int, Any]:
    return min(options, key=lambda option: abs(math.log(option[0] / parameters)))


def _need(example: Any, purpose: str) -> Any:
    if example is None:
        raise ArgumentError(f"{purpose} follows the model's calls: pass example=, inputs of it.", argument="example")
    return example
