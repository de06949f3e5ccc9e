"""A frozen model under autocast gives the same bits without casting its weights each time."""

from __future__ import annotations

import threading

import pytest
import torch
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode

from limbeck.tap import Tapped
from limbeck.teachers import model as model_module
from limbeck.teachers.model import LowPrecisionCopy


class Casts(TorchDispatchMode):
    """Counts casts to bfloat16."""

    def __init__(self):
        super().__init__()
        self.number = 0

    def __torch_dispatch__(self, function, types, arguments=(), keywords=None):
        given = keywords or {}
        self.number += function is torch.ops.aten._to_copy.default and given.get("dtype") == torch.bfloat16
        return function(*arguments, **given)


class OwnUse(nn.Module):
    """It normalizes a layer's weight before using it."""

    def __init__(self):
        super().__init__()
        self.layer = nn.Linear(12, 5)

    def forward(self, inputs):
        return inputs @ (self.layer.weight / self.layer.weight.norm(dim=1, keepdim=True)).t()


class Outside(OwnUse):
    """It takes a layer's weight out of PyTorch, where there is no bfloat16."""

    def forward(self, inputs):
        return inputs @ torch.from_numpy(self.layer.weight.detach().numpy()).t()


class Uncopied(nn.Linear):
    """It holds what cannot be copied."""

    def __init__(self):
        super().__init__(12, 5)
        self.lock = threading.Lock()


def network():
    normed = nn.Sequential(nn.Conv1d(3, 4, 1), nn.BatchNorm1d(4), nn.ReLU(), nn.Flatten(), nn.Linear(16, 5))
    return nn.Sequential(nn.Unflatten(1, (3, 4)), normed).eval()


def asked(model, inputs):
    with torch.no_grad(), torch.autocast("cpu", torch.bfloat16):
        return model(inputs)


@pytest.fixture
def opened():
    model = network()
    ask = LowPrecisionCopy(Tapped(model))
    asked(ask, torch.randn(6, 12))
    return model, ask


def test_answers_are_the_module_s_own_bit_for_bit(opened):
    model, ask = opened
    for batch in (6, 1, 9):
        inputs = torch.randn(batch, 12)
        shown = asked(ask, inputs)
        assert torch.equal(shown["logits"], asked(model, inputs))
        assert shown["logits"].dtype == torch.bfloat16


def test_weights_are_cast_once(opened):
    model, ask = opened
    inputs = torch.randn(6, 12)
    with Casts() as plain:
        asked(model, inputs)
    with Casts() as kept:
        asked(ask, inputs)
    assert plain.number - kept.number == 4  # weight and bias of a convolution and a linear layer


def test_the_module_is_not_touched(opened):
    model, ask = opened
    before = {name: value.clone() for name, value in model.state_dict().items()}
    asked(ask, torch.randn(6, 12))
    assert {value.dtype for value in model.parameters()} == {torch.float32}
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())


@pytest.mark.parametrize("place", ["1.0.weight", "1.1.bias"])
def test_a_weight_that_changes_is_seen(opened, place):
    model, ask = opened
    inputs = torch.randn(6, 12)
    before = asked(ask, inputs)["logits"]
    with torch.no_grad():
        model.get_parameter(place).add_(1.0)
    after = asked(ask, inputs)["logits"]
    assert torch.equal(after, asked(model, inputs))
    assert not torch.equal(after, before)


def test_running_statistics_are_shared(opened):
    model, ask = opened
    inputs = torch.randn(6, 12)
    model[1][1].running_mean.add_(3.0)
    assert torch.equal(asked(ask, inputs)["logits"], asked(model, inputs))


def test_whoever_listens_in_the_module_is_notified(opened):
    model, ask = opened
    heard = []
    with model[1][4].register_forward_hook(lambda *_: heard.append(1)):
        asked(ask, torch.randn(6, 12))
    assert heard == [1]


def test_without_autocast_nothing_is_narrow(opened):
    model, _ = opened
    ask = LowPrecisionCopy(Tapped(model))
    with torch.no_grad():
        inputs = torch.randn(6, 12)
        assert torch.equal(ask(inputs)["logits"], model(inputs))
        assert ask(inputs)["logits"].dtype == torch.float32
    assert ask._narrow is None


def test_full_precision_comes_back_after_autocast(opened):
    model, ask = opened
    inputs = torch.randn(6, 12)
    with torch.no_grad():
        assert torch.equal(ask(inputs)["logits"], model(inputs))


@pytest.mark.parametrize("make", [OwnUse, Outside, Uncopied, lambda: nn.Flatten()])
def test_a_module_that_cannot_be_narrow_answers_as_it_is(make):
    model = make().eval()
    ask = LowPrecisionCopy(Tapped(model))
    for _ in range(2):
        inputs = torch.randn(6, 12)
        assert torch.equal(asked(ask, inputs)["logits"], asked(model, inputs))
    assert ask._narrow is None


def test_a_tapped_model_a_large_one_and_inference_tensors_stay_as_they_are(monkeypatch):
    with Tapped(network(), ["1.2"]) as tapped:
        ask = LowPrecisionCopy(tapped)
        assert set(asked(ask, torch.randn(6, 12))) == {"1.2", "logits"}
        assert ask._narrow is None
    with torch.inference_mode():
        ask = LowPrecisionCopy(Tapped(network()))
    asked(ask, torch.randn(6, 12))
    assert ask._narrow is None
    monkeypatch.setattr(model_module, "_LIMIT", 10)
    ask = LowPrecisionCopy(Tapped(network()))
    asked(ask, torch.randn(6, 12))
    assert ask._narrow is None
