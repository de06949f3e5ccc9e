"""`check_transform`: checks the laws of transforms."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from limbeck.batch import Inputs, input_rows
from limbeck.data import Transform
from limbeck.testing.law import require

_OF = "transforms"


def check_transform(view: Transform, inputs: Inputs) -> None:
    """Check a transform against all laws of transforms, on some inputs.

    The laws:

    * It has a fingerprint that does not change.
    * The same (id, view) gives bitwise equal results, whatever the order and the other examples of the batch.
    * It does not change its inputs.
    * It does not use PyTorch's random number generator.

    Args:
        view: The transform.
        inputs: Inputs of a model, for at least two examples.

    Raises:
        AssertionError: If a law is broken; the message names it.

    Example:
        >>> from limbeck.data import Crop
        >>> check_transform(Crop(), torch.rand(4, 3, 8, 8))
    """
    mark = view.fingerprint
    require(isinstance(mark, str) and bool(mark), "it has no fingerprint", of=_OF)
    count = len(next(iter(_parts(inputs))))
    require(count > 1, "give at least two examples", of="this check")
    id, number = torch.arange(count) * 3 + 1, torch.arange(count) % 2
    before, state = [part.clone() for part in _parts(inputs)], torch.get_rng_state()
    result = view(inputs, id, number)
    require(_same(before, _parts(inputs)), "it writes into the inputs", of=_OF)
    require(
        torch.equal(torch.get_rng_state(), state),
        "it uses PyTorch's random number generator: use counter_uniform",
        of=_OF,
    )
    torch.rand(1)
    require(_same(_parts(view(inputs, id, number)), _parts(result)), "a second call gives another result", of=_OF)
    for part, what in (
        (torch.arange(count).flip(0), "the order of the batch"),
        (torch.arange(count)[1::2], "what else is in the batch"),
        (torch.tensor([count - 1]), "what else is in the batch"),
    ):
        again = view(input_rows(inputs, part), id[part], number[part])
        require(_same(_parts(again), _parts(input_rows(result, part))), f"it depends on {what}", of=_OF)
    require(view.fingerprint == mark, "its fingerprint changes while it is used", of=_OF)


def _parts(inputs: Any) -> list[Tensor]:
    """The tensors of the inputs."""
    if isinstance(inputs, Tensor):
        return [inputs]
    return list(inputs.values()) if isinstance(inputs, dict) else list(inputs)


def _same(mine: list[Tensor], theirs: list[Tensor]) -> bool:
    pairs = zip(mine, theirs, strict=False)
    return len(mine) == len(theirs) and all(
        mine_tensor.dtype == their_tensor.dtype and torch.equal(mine_tensor, their_tensor)
        for mine_tensor, their_tensor in pairs
    )
