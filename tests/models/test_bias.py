"""A bias is added to the output layer, and the model stays plain."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from limbeck.errors import LimbeckError, UnknownNameError
from limbeck.models import Mlp, add_bias, build


@pytest.mark.parametrize(
    ("name", "shape"),
    [
        ("mlp", {"inputs": 64, "hidden": [6]}),
        ("cnn", {"channels": 1, "widths": [4, 4], "size": 8}),
        ("resnet8", {"channels": 1, "width": 4}),
    ],
)
def test_the_logits_of_every_reference_network_move_by_it(name, shape):
    model = build(name, classes=5, **shape).eval()
    images = torch.rand(3, 1, 8, 8)
    keys, before, bias = list(model.state_dict()), model(images).detach(), torch.arange(5.0)
    assert add_bias(model, bias) is model
    assert torch.allclose(model(images), before + bias, atol=1e-5)
    assert list(model.state_dict()) == keys


def test_a_layer_without_a_bias_gets_one():
    model = nn.Linear(2, 3, bias=False)
    add_bias(model, torch.tensor([1.0, 2.0, 3.0]))
    assert model(torch.zeros(1, 2)).tolist() == [[1.0, 2.0, 3.0]]
    assert model.bias.requires_grad


def test_the_layer_can_be_named():
    model = nn.Sequential(nn.Linear(2, 3), nn.Linear(3, 3))
    add_bias(model, torch.ones(3), at="0")
    add_bias(model, 2 * torch.ones(3))
    untouched = nn.Sequential(nn.Linear(2, 3), nn.Linear(3, 3))
    untouched.load_state_dict(model.state_dict())
    untouched[0].bias.data -= 1
    untouched[1].bias.data -= 2
    inputs = torch.randn(4, 2)
    assert torch.allclose(model[0](inputs), untouched[0](inputs) + 1, atol=1e-6)


def test_what_does_not_fit_is_refused():
    model = Mlp(inputs=4, classes=3, hidden=[5])
    with pytest.raises(LimbeckError, match="has 7 outputs"):
        add_bias(model, torch.zeros(7))
    with pytest.raises(LimbeckError, match="no linear layer of 3 outputs"):
        add_bias(model, torch.zeros(3), at="layer1")
    with pytest.raises(UnknownNameError, match="classifier"):
        add_bias(model, torch.zeros(3), at="clasifier")


@pytest.mark.usefixtures("unchecked")
@pytest.mark.parametrize(
    "bias", [[0.0, 1.0, 2.0], torch.zeros(1, 3), torch.tensor(0.0), torch.tensor([0.0, torch.nan, 1.0])]
)
def test_a_bias_is_one_finite_number_for_each_class(bias):
    model = nn.Linear(2, 3)
    before = model.bias.clone()
    with pytest.raises(LimbeckError, match="one finite number for each class"):
        add_bias(model, bias)
    assert torch.equal(model.bias, before)
