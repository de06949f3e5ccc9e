"""Weights and inputs that are rounded in training: the levels, the gradients, the ranges, and what is saved."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import nn

from limbeck.errors import ArgumentError, LimbeckError, UnknownNameError
from limbeck.export.trained_scales import fix_scales
from limbeck.models import build, load, save, transform_model
from limbeck.models.quantization import (
    FakeQuantizedInput,
    FakeQuantizedWeight,
    fake_quantize,
    find_quantized_layers,
    is_fake_quantized,
    observe_ranges,
    quantize_weight,
    quantized_bytes,
    remove_fake_quantize,
)

LEVELS = {"int8": 127, "int4": 7}


def network():
    torch.manual_seed(0)
    return nn.Sequential(nn.Conv2d(2, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.Flatten(), nn.Linear(64, 3))


def rounded(**settings):
    net, inputs = network(), torch.randn(32, 2, 6, 6)
    return fake_quantize(net, ranges=observe_ranges(net, [inputs]), **settings), inputs


def by_loops(weight, kind, per_channel):
    """The formula with plain loops, in float64."""
    rows = weight.double().flatten(1).tolist()
    sizes = [[abs(one) for one in row] for row in rows]
    whole = [size for row in sizes for size in row]
    out = []
    for row, own in zip(rows, sizes, strict=True):
        size = own if per_channel else whole
        if kind == "ternary":
            bound = 0.7 * sum(size) / len(size)
            large = [one for one in size if one > bound]
            scale = sum(large) / max(len(large), 1)
            out.append([0.0 if abs(one) <= bound else scale * (1 if one > 0 else -1) for one in row])
        else:
            scale = max(size) / LEVELS[kind]
            out.append([round(one / scale) * scale if scale else 0.0 for one in row])
    return torch.tensor(out).reshape(weight.shape)


@pytest.mark.parametrize("kind", ["int8", "int4", "ternary"])
@pytest.mark.parametrize("per_channel", [True, False])
def test_weights_are_those_of_the_formula(kind, per_channel):
    weight = (
        torch.randn(5, 3, 2, generator=torch.Generator().manual_seed(1))
        * torch.tensor([1, 9, 0.1, 3, 0])[:, None, None]
    )
    found = FakeQuantizedWeight(kind, per_channel=per_channel)(weight)
    torch.testing.assert_close(found, by_loops(weight, kind, per_channel), atol=1e-6, rtol=1e-6)
    integers, scale = quantize_weight(weight, kind, per_channel=per_channel)
    assert torch.equal(integers, integers.round())
    assert torch.equal(found, integers * scale[:, None, None])
    if kind == "ternary":
        assert set(integers.unique().tolist()) <= {-1.0, 0.0, 1.0}
    else:
        assert integers.abs().max() == LEVELS[kind]
        again, _ = quantize_weight(found, kind, per_channel=per_channel)
        assert torch.equal(again, integers)


def test_the_gradient_of_a_weight_is_that_without_rounding():
    weight = torch.randn(4, 6, requires_grad=True)
    direction = torch.randn(4, 6)
    for kind in ("int8", "int4", "ternary"):
        (found,) = torch.autograd.grad((FakeQuantizedWeight(kind)(weight) * direction).sum(), weight)
        assert torch.equal(found, direction)


def test_inputs_are_rounded_to_levels_between_the_ends_and_0_stays_0():
    quantizer = FakeQuantizedInput(low=-1.0, high=3.0)
    scale = 4 / 255
    inputs = torch.tensor([-9.0, -1.0, -0.5, 0.0, 0.004, 1.0, 3.0, 9.0], requires_grad=True)
    found = quantizer(inputs)
    assert found[3] == 0
    steps = found / scale
    torch.testing.assert_close(steps, steps.round(), atol=1e-4, rtol=0)
    inside = (inputs > -1.01) & (inputs < 3.01)
    assert (found - inputs)[inside].abs().max() <= 0.5001 * scale
    assert found.min() >= -1 - scale
    assert found.max() <= 3 + scale
    (gradient,) = torch.autograd.grad(found.sum(), inputs)
    assert gradient.tolist() == [0, 1, 1, 1, 1, 1, 1, 0]


def test_the_range_follows_batches_in_training_and_is_then_fixed():
    quantizer = FakeQuantizedInput(observe=2).train()
    quantizer(torch.tensor([-1.0, 2.0]))
    assert (float(quantizer.low), float(quantizer.high)) == (-1.0, 2.0)
    quantizer.eval()(torch.tensor([100.0]))
    quantizer.train()(torch.tensor([0.5, 4.0]))
    torch.testing.assert_close(quantizer.low, torch.tensor(-0.99))
    torch.testing.assert_close(quantizer.high, torch.tensor(2.02))
    quantizer(torch.tensor([100.0]))
    torch.testing.assert_close(quantizer.high, torch.tensor(2.02))
    unknown = FakeQuantizedInput()
    assert torch.equal(unknown(torch.tensor([0.123])), torch.tensor([0.123]))


@pytest.mark.parametrize("bad", [float("nan"), float("inf"), -float("inf")])
def test_a_batch_that_is_not_finite_leaves_the_range(bad):
    quantizer = FakeQuantizedInput(observe=3).train()
    quantizer(torch.tensor([1.0, bad]))
    quantizer(torch.tensor([-1.0, 2.0]))
    quantizer(torch.tensor([1.0, bad]))
    assert (float(quantizer.low), float(quantizer.high)) == (-1.0, 2.0)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
@pytest.mark.parametrize("kind", ["int8", "int4", "ternary"])
def test_weights_in_half_precision_are_rounded_like_others(dtype, kind):
    weight = torch.tensor([[0.0, 0.0, 0.0], [1e-3, -4e-4, 2e-4]]).to(dtype)
    found = FakeQuantizedWeight(kind)(weight)
    assert found.dtype == dtype
    torch.testing.assert_close(found, by_loops(weight, kind, per_channel=True).to(dtype), rtol=1e-2, atol=0)


def test_ranges_are_measured_in_eval_mode_and_leave_no_trace():
    net, inputs = network().train(), torch.randn(8, 2, 6, 6)
    before = copy.deepcopy(net.state_dict())
    ranges = observe_ranges(net, [inputs[:4], inputs[4:]])
    assert ranges["0"] == [float(inputs.min()), float(inputs.max())]
    assert ranges["4"][0] == 0.0
    assert all(module.training for module in net.modules())
    assert all(torch.equal(before[name], value) for name, value in net.state_dict().items())


def test_a_rounded_model_is_saved_and_built_again(tmp_path):
    net, inputs = build("mlp", inputs=6, hidden=[8], classes=3, seed=0), torch.randn(16, 6)
    arguments = {"weights": "int4", "ranges": observe_ranges(net, [inputs])}
    origin = {"name": "mlp", "arguments": {"inputs": 6, "hidden": [8], "classes": 3}}
    net = transform_model(net, "fake_quantize", arguments, origin=origin).eval()
    with torch.no_grad():
        for parameter in net.parameters():
            parameter.mul_(1.5)
    again = load(save(net, tmp_path / "student"))
    assert is_fake_quantized(again)
    assert torch.equal(again(inputs), net(inputs))


def test_taking_the_rounding_out_gives_the_weights_back():
    net, inputs = rounded(weights="int4")
    plain = remove_fake_quantize(copy.deepcopy(net))
    assert not is_fake_quantized(plain)
    assert {name: type(module) for name, module in plain.named_modules()} == {
        name: type(module) for name, module in network().named_modules()
    }
    assert torch.equal(plain.eval()(inputs), network().eval()(inputs))
    assert not torch.equal(plain(inputs), net.eval()(inputs))


@pytest.mark.parametrize("weights", ["int8", "int4", "ternary"])
@pytest.mark.parametrize("per_channel", [True, False])
def test_fixed_scales_change_no_output(weights, per_channel):
    net, inputs = rounded(weights=weights, per_channel=per_channel)
    before = net.eval()(inputs).detach()
    difference = (fix_scales(copy.deepcopy(net))(inputs).detach() - before).abs()
    assert float((difference > 1e-5).float().mean()) < 0.1  # values in the middle between two levels
    assert float(difference.max()) < 0.05 * float(before.std())


def test_bytes_count_one_for_each_weight():
    net, _ = rounded(activations="float")
    floats = sum(value.numel() * value.element_size() for value in network().state_dict().values())
    weights = 4 * 2 * 9 + 64 * 3
    assert quantized_bytes(net) == floats - 3 * weights + 4 * (4 + 3)


def test_what_cannot_be_rounded_is_refused():
    net, _ = rounded()
    with pytest.raises(LimbeckError, match="already"):
        fake_quantize(net)
    with pytest.raises(LimbeckError, match="no linear"):
        fake_quantize(nn.ReLU(), observe=1)
    with pytest.raises(UnknownNameError, match="int5") as told:
        fake_quantize(network(), weights="int5")
    assert told.value.argument == "weights"
    with pytest.raises(UnknownNameError, match="int4") as told:
        fake_quantize(network(), activations="int4")
    assert told.value.argument == "activations"
    with pytest.raises(ArgumentError, match="ranges") as told:
        fake_quantize(network())
    assert told.value.argument == "ranges"
    with pytest.raises(LimbeckError, match="'5'"):
        fake_quantize(network(), at=["5"], observe=1)
    assert list(find_quantized_layers(network())) == []


def test_attention_keeps_the_layer_that_it_does_not_call():
    attention = nn.MultiheadAttention(4, 2)
    with pytest.raises(LimbeckError, match="no linear"):
        fake_quantize(attention, observe=1)


def test_a_layer_that_stands_twice_is_rounded_in_both_places_and_a_model_may_be_one_layer():
    shared = nn.Linear(4, 4)
    net = fake_quantize(nn.Sequential(shared, nn.ReLU(), shared), observe=1)
    assert net[0] is net[2]
    single = fake_quantize(nn.Linear(4, 2), activations="float")
    assert is_fake_quantized(single)
    assert single.weight.shape == (2, 4)
    assert type(remove_fake_quantize(single)) is nn.Linear
