"""Finds stacks of like blocks in a model, and chooses which blocks a smaller copy takes."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import groupby, product
from typing import Any, NamedTuple

from torch import nn

from limbeck.models.hf_folder import is_transformers
from limbeck.models.layers import find_layer_lists


class BlockStack(NamedTuple):
    """Consecutive blocks of the same class, settings and shapes, in a list of a model.

    Attributes:
        path: The name of the `torch.nn.ModuleList` or `torch.nn.Sequential`; empty for the model itself.
        blocks: The numbers of the blocks in it.
        fewest: How many of them must stay: one, or none if the list has other blocks too.
    """

    path: str
    blocks: tuple[int, ...]
    fewest: int


def find_block_stacks(model: nn.Module) -> list[BlockStack]:
    """Find the stacks of like blocks from which blocks can be taken; lists inside of such a block are left out.

    Args:
        model: Any module. A model of transformers declares its lists of layers.

    Example:
        >>> encoder = nn.TransformerEncoder(nn.TransformerEncoderLayer(8, 2, 16), 4, enable_nested_tensor=False)
        >>> [(stack.path, stack.blocks) for stack in find_block_stacks(encoder)]
        [('layers', (0, 1, 2, 3))]
    """
    if is_transformers(model):
        lists = {path: model.get_submodule(path) for path in find_layer_lists(model)}
        return [stack for path, part in lists.items() for stack in _whole(path, part)]
    stacks: list[BlockStack] = []
    for name, part in model.named_modules():
        inside = any(f"{name}.".startswith(prefix) for stack in stacks for prefix in _prefixes(stack))
        # A whole model can be a list too, if it has no forward pass of its own.
        is_list = isinstance(part, (nn.ModuleList, nn.Sequential)) if name else type(part) is nn.Sequential
        if is_list and not inside:
            stacks += _stacks_of(name, list(part))
    return stacks


def _prefixes(stack: BlockStack) -> list[str]:
    return [f"{stack.path}.{block}.".lstrip(".") for block in stack.blocks]


def _whole(path: str, layers: Any) -> list[BlockStack]:
    return [BlockStack(path, tuple(range(len(layers))), 1)] if len(layers) > 1 else []


def _stacks_of(path: str, blocks: Sequence[nn.Module]) -> list[BlockStack]:
    """The runs of at least two like blocks in a list, without the first if it differs from the others in its shapes."""
    runs = [list(run) for _, run in groupby(range(len(blocks)), key=lambda number: _kind(blocks[number]))]
    return [
        BlockStack(path, tuple(run), 1 if len(run) == len(blocks) else 0)
        for run in runs
        if len(run) > 1 and any(True for _ in blocks[run[0]].parameters())
    ]


def _kind(block: nn.Module) -> tuple[type, str, tuple[object, ...]]:
    # The text has settings that shapes do not show, such as strides.
    return type(block), repr(block), tuple(value.shape for value in block.state_dict().values())


def take_evenly(blocks: Sequence[int], count: int) -> list[int]:
    """Take blocks at even distances, the first one included.

    Example:
        >>> take_evenly(range(6), 2), take_evenly(range(6), 4)
        ([0, 3], [0, 1, 3, 4])
    """
    return [blocks[i * len(blocks) // count] for i in range(count)]


def choose_depths(stacks: Sequence[BlockStack], share: float) -> list[int]:
    """The number of blocks of each stack at a share of its depth, rounded, and at least `BlockStack.fewest`.

    Example:
        >>> choose_depths([BlockStack("layer1", (0, 1, 2), 1), BlockStack("layer2", (1, 2), 0)], 0.4)
        [1, 1]
    """
    return [max(stack.fewest, int(share * len(stack.blocks) + 0.5)) for stack in stacks]


def list_depths(stacks: Sequence[BlockStack]) -> list[list[int]]:
    """All depths that `choose_depths` gives, the deepest first."""
    # Halves round up at these shares, so that each step removes one block of some stack.
    shares = {(j - 0.5) / len(stack.blocks) for stack, j in product(stacks, range(1, 1 + max(map(_depth, stacks))))}
    every = {tuple(choose_depths(stacks, min(share, 1.0))) for share in (*shares, 0.0, 1.0)}
    return [list(depths) for depths in sorted(every, reverse=True)]


def _depth(stack: BlockStack) -> int:
    return len(stack.blocks)


def chosen_blocks(model: nn.Module, stacks: Sequence[BlockStack], depths: Sequence[int]) -> dict[str, list[int]]:
    """The numbers of the blocks that stay, in order, for each list."""
    kept: dict[str, list[int]] = {}
    for stack, depth in zip(stacks, depths, strict=True):
        present = kept.get(stack.path, list(range(len(model.get_submodule(stack.path)))))  # type: ignore[arg-type]
        taken = set(take_evenly(stack.blocks, depth))
        kept[stack.path] = [number for number in present if number in taken or number not in stack.blocks]
    return kept
