"""Do inputs, students and layers that are a little out of the way train as the plain ones do?"""

from __future__ import annotations

from typing import NamedTuple

import pytest
import torch
from torch import Tensor, nn

from engine.stories import SGD, weights
from limbeck.engine import distill
from limbeck.engine.checkpoint import to_device
from limbeck.engine.randomness import cloned
from limbeck.functional import cross_entropy
from limbeck.objective import Loss
from limbeck.recipe import Stage
from limbeck.signal import Batch
from limbeck.sources import share

CE = Loss(cross_entropy)


class Two(NamedTuple):
    """Inputs under names."""

    left: Tensor
    right: Tensor


class Takes(nn.Module):
    """A student of two inputs."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.map = nn.Linear(5, 3)

    def forward(self, left: Tensor, right: Tensor) -> Tensor:
        return self.map(left - right)


def pairs() -> Two:
    return Two(*torch.randn(2, 12, 5, generator=torch.Generator().manual_seed(0)))


def test_inputs_under_names_stay_what_they_are():
    moved = Batch(pairs(), extra={"more": pairs()}).to("cpu")
    for found in (moved.inputs, moved.extra["more"], to_device(pairs(), torch.device("cpu")), cloned(pairs())):
        assert isinstance(found, Two)
        assert torch.equal(found.right, pairs().right)
    mine = share(Batch(pairs()), 1, 2)
    assert isinstance(mine.inputs, Two)
    assert torch.equal(mine.inputs.left, pairs().left[1::2])


@pytest.mark.parametrize("as_loader", [False, True])
def test_inputs_under_names_train_as_a_tuple_does(as_loader):
    labels = torch.arange(12) % 3
    found = []
    for inputs in (tuple(pairs()), pairs()):
        data = [Batch(inputs, labels=labels)] if as_loader else (inputs, labels)
        student = Takes()
        distill(student, Stage(CE, epochs=2), data, optimiser=SGD, batch_size=4).finish()
        found.append(weights(student))
    assert torch.equal(*found)
