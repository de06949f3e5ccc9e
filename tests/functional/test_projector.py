"""The projector maps the student's shape to the teacher's, and can be saved."""

from __future__ import annotations

import copy
import pickle

import pytest
import torch
from torch import nn

from limbeck.errors import LimbeckError
from limbeck.functional import Projector

SHAPES = [
    ((2, 6), (2, 10)),
    ((2, 3, 6), (2, 3, 10)),
    ((2, 6, 8, 8), (2, 10, 8, 8)),
    ((2, 6, 8, 7), (2, 10, 5, 7)),
]


def shaped(mine, its, dtype=torch.float32):
    head = Projector()
    head.shape(torch.zeros(mine, dtype=dtype), torch.zeros(its, dtype=dtype))
    return head


@pytest.mark.parametrize(("mine", "its"), SHAPES)
def test_it_leads_from_one_shape_to_the_other(mine, its):
    assert shaped(mine, its)(torch.randn(mine)).shape == its


def test_the_kernel_is_the_difference_of_sizes_and_one():
    assert shaped((2, 6, 8, 7), (2, 10, 5, 7)).map.kernel_size == (4, 1)
    assert shaped((2, 6, 8, 8), (2, 10, 8, 8)).map.kernel_size == (1, 1)


def test_it_is_linear_with_bias():
    head, x = shaped((2, 3, 6), (2, 3, 10)), torch.randn(2, 3, 6)
    torch.testing.assert_close(head(x), x @ head.map.weight.T + head.map.bias)


def test_it_can_learn_a_linear_map_exactly():
    x, wanted = torch.randn(32, 6), torch.randn(32, 6) @ torch.randn(6, 3)
    head = shaped((32, 6), (32, 3))
    optimizer = torch.optim.LBFGS(head.parameters(), max_iter=100)

    def closure():
        optimizer.zero_grad()
        loss = (head(x) - wanted).square().mean()
        loss.backward()
        return loss

    before = closure().item()
    optimizer.step(closure)
    least = (torch.linalg.lstsq(torch.cat([x, torch.ones(32, 1)], 1), wanted).solution,)
    best = (torch.cat([x, torch.ones(32, 1)], 1) @ least[0] - wanted).square().mean().item()
    assert best * (1 - 1e-5) <= closure().item() < min(before, best * 1.01)


def test_it_starts_as_its_layer_does_with_the_same_seed():
    torch.manual_seed(3)
    head = shaped((2, 6), (2, 10))
    torch.manual_seed(3)
    layer = nn.Linear(6, 10)
    assert torch.equal(head.map.weight, layer.weight)
    assert torch.equal(head.map.bias, layer.bias)


@pytest.mark.parametrize(("mine", "its"), SHAPES)
def test_its_state_goes_into_a_fresh_one(mine, its):
    head, fresh, x = shaped(mine, its), shaped(mine, its), torch.randn(mine)
    assert not torch.equal(head(x), fresh(x))
    fresh.load_state_dict(head.state_dict())
    assert torch.equal(head(x), fresh(x))


@pytest.mark.parametrize("copied", [copy.deepcopy, lambda head: pickle.loads(pickle.dumps(head))])
def test_copies_and_pickles(copied):
    head, x = shaped((2, 6), (2, 10)), torch.randn(2, 6)
    assert torch.equal(copied(head)(x), head(x))
    assert copied(Projector()).map is None


def test_shaping_again_keeps_the_parameters():
    head = shaped((2, 6), (2, 10))
    before = head.map.weight
    head.shape(torch.zeros(5, 6), torch.zeros(5, 10))
    assert head.map.weight is before
    with pytest.raises(LimbeckError, match="already built"):
        head.shape(torch.zeros(5, 6), torch.zeros(5, 11))


@pytest.mark.parametrize(
    ("dtype", "parameter"),
    [(torch.bfloat16, torch.float32), (torch.float32, torch.float32), (torch.float64, torch.float64)],
)
def test_parameters_are_float32_or_better(dtype, parameter):
    head = shaped((2, 6), (2, 10), dtype=dtype)
    assert head.map.weight.dtype == parameter
    assert head(torch.randn(2, 6, dtype=dtype)).dtype == parameter


def test_before_shaping_it_explains_what_to_do():
    with pytest.raises(LimbeckError, match=r"no parameters yet\. Call shape"):
        Projector()(torch.zeros(2, 6))


@pytest.mark.parametrize(
    ("mine", "its", "sentence"),
    [
        ((2, 6, 4, 4), (2, 6, 8, 4), "4x4 is smaller than the teacher's 8x4.*earlier layer of the student"),
        ((2, 3, 6), (2, 4, 6), "3 positions and the teacher 4"),
        ((2, 6), (2, 6, 8, 8), "A Projector cannot map"),
        ((2,), (2,), "A Projector cannot map"),
    ],
)
def test_what_cannot_be_bridged_is_refused(mine, its, sentence):
    with pytest.raises(LimbeckError, match=sentence):
        shaped(mine, its)
