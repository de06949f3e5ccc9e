"""Bounds on what a Hugging Face configuration may ask for: no more than the weights beside it can fill."""

from __future__ import annotations

import math
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import nn

from limbeck.errors import DataError
from limbeck.models.safefile import read_shapes

_COUNTED = re.compile(r"(layer|block|depth|expert|stage|repeat|branch|codebook)s?$")
"""Keys that say how many parts of a kind a network has; each part has a tensor of its own."""
_ALWAYS = 256
"""So many parts are never too many: some networks share the tensors of all their layers."""
_LARGEST = 2**31
_ROOM = 50_000_000
"""So many numbers more than the file holds may a network have: tables of positions, masks, a head that is new."""


class Held(NamedTuple):
    """What the weights in a folder hold.

    Attributes:
        tensors: How many there are.
        numbers: How many numbers they have.
        longest: The largest side of any of them.
    """

    tensors: int
    numbers: int
    longest: int

    @classmethod
    def of(cls, folder: Path) -> Held:
        """Of all safetensors files in a folder; only their headers are read.

        Raises:
            DataError: If one is damaged.
        """
        shapes = [shape for file in sorted(folder.glob("*.safetensors")) for shape in read_shapes(file).values()]
        return cls(len(shapes), sum(map(math.prod, shapes)), max((max(s, default=1) for s in shapes), default=0))


def check_config(file: Path, config: Mapping[str, Any], held: Held) -> None:
    """Refuse numbers in a configuration that no network with these weights has, before anything is made of it.

    Raises:
        DataError: Naming the key.
    """
    for name, value in _numbers(config):
        if abs(value) > _LARGEST:
            raise DataError(f"{file} is damaged: {name}={_digits(value)}; no network is so large.")
        most = max(held.tensors, _ALWAYS)
        if _COUNTED.search(name) and value > most:
            raise DataError(f"{file} is damaged: {name}={value}; its weights are {held.tensors} tensors.")
        # A name is made for each label.
        if name == "num_labels" and value > max(held.longest, 1000):
            raise DataError(f"{file} is damaged: {name}={value}; no tensor of its weights is so long.")


def check_size(file: Path, kind: Any, config: Any, held: Held) -> None:
    """Refuse a network that is larger than its weights; it is made without memory, of shapes alone.

    Raises:
        DataError: Naming both sizes.
    """
    with torch.device("meta"):
        model: nn.Module = kind(config)
    wanted = sum(one.numel() for one in (*model.parameters(), *model.buffers()))
    if wanted > 4 * held.numbers + _ROOM:
        raise DataError(
            f"{file} is damaged: it describes a network of {wanted / 1e6:,.0f} million numbers, and the weights beside "
            f"it are {held.numbers / 1e6:,.1f} million."
        )


def _numbers(value: Any, name: str = "") -> Iterator[tuple[str, int]]:
    if isinstance(value, Mapping):
        for key, inner in value.items():
            yield from _numbers(inner, str(key))
    elif isinstance(value, list):
        whole = [one for one in value if isinstance(one, int)]
        if whole:
            yield name, sum(whole) if all(one >= 0 for one in whole) else max(whole)
        for inner in value:
            if not isinstance(inner, int):
                yield from _numbers(inner, name)
    elif isinstance(value, int) and not isinstance(value, bool):
        yield name, value


def _digits(number: int) -> str:
    # To spell an integer of many digits takes long, and Python refuses it.
    return str(number) if abs(number) < 2**63 else "a number of more than 18 digits"
