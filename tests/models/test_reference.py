"""Reference networks match their papers, and invalid arguments are refused."""

from __future__ import annotations

import copy
import json
import time

import pytest
import torch
from torch import nn

import limbeck as lb
from limbeck.errors import ArgumentError, LimbeckError, UnknownNameError
from limbeck.models import Cnn, Mlp, ModelSpec, build, count_parameters, fit_arguments, get_model_spec, reference_names
from limbeck.models.networks import DEPTHS, Block
from limbeck.tap import Tapped

SAMPLES = {
    "mlp": {"inputs": 12, "classes": 3, "hidden": [5, 4], "dropout": 0.5, "input_dropout": 0.2},
    "cnn": {"channels": 1, "classes": 3, "widths": [4, 6], "size": 8, "dropout": 0.1},
    "resnet8": {"channels": 1, "classes": 3, "width": 4},
}


@pytest.mark.parametrize(("depth", "millions"), [(20, 0.27), (32, 0.46), (44, 0.66), (56, 0.85), (110, 1.7)])
def test_residual_networks_have_the_papers_parameters(depth, millions):
    model = build(f"resnet{depth}", channels=3, classes=10)
    assert count_parameters(model) / 1e6 == pytest.approx(millions, abs=0.03 if depth == 110 else 0.005)
    weighted = [m for m in model.modules() if isinstance(m, (nn.Conv2d, nn.Linear))]
    assert len(weighted) == depth


def test_shortcut_takes_every_second_pixel_and_zeros_for_new_channels():
    block = Block(inputs=2, outputs=4, stride=2).eval()
    for conv in (block.conv1, block.conv2):
        nn.init.zeros_(conv.weight)
    x = torch.rand(3, 2, 6, 6)
    y = block(x)
    assert torch.equal(y[:, 1:3], x[:, :, ::2, ::2])
    assert torch.equal(y[:, [0, 3]], torch.zeros(3, 2, 3, 3))


def test_stages_halve_the_side_and_double_the_width():
    model = build("resnet8", channels=3, classes=7)
    with Tapped(model, ["stem", "layer1", "layer2", "layer3", "features"]) as tapped:
        shapes = {a: tuple(t.shape[1:]) for a, t in tapped(torch.rand(2, 3, 32, 32)).items()}
    assert shapes == {
        "stem": (16, 32, 32),
        "layer1": (16, 32, 32),
        "layer2": (32, 16, 16),
        "layer3": (64, 8, 8),
        "features": (64,),
        "logits": (7,),
    }


@pytest.mark.parametrize(("size", "last"), [(8, 2), (28, 3), (32, 4), (5, 2), (1, 1)])
def test_cnn_pools_only_down_to_a_side_of_two(size, last):
    model = Cnn(channels=1, classes=3, widths=[4, 5, 6], size=size)
    with Tapped(model, ["layer3", "features"]) as tapped:
        signal = tapped(torch.rand(2, 1, size, size))
    assert signal["layer3"].shape == (2, 6, last, last)
    assert torch.equal(signal["features"], signal["layer3"].flatten(1))


@pytest.mark.parametrize("name", SAMPLES)
def test_features_are_what_the_classifier_reads(name):
    model = build(name, **SAMPLES[name]).eval()
    x = torch.rand(4, 12) if name == "mlp" else torch.rand(4, 1, 8, 8)
    with Tapped(model, ["features", "classifier:in"]) as tapped:
        signal = tapped(x)
    assert torch.equal(signal["features"], signal["classifier:in"])
    assert torch.allclose(model.classifier(signal["features"]), signal["logits"])


def test_features_are_read_before_dropout():
    model = Mlp(inputs=4, classes=2, hidden=[50], dropout=0.9)
    with Tapped(model, ["layer1", "features", "classifier:in"]) as tapped:
        signal = tapped(torch.rand(3, 4))
    assert torch.equal(signal["features"], signal["layer1"])
    assert not torch.equal(signal["features"], signal["classifier:in"])


def test_mlp_is_its_formula():
    model = Mlp(inputs=6, classes=3, hidden=[5])
    x = torch.rand(4, 2, 3)
    first, last = model.layer1[1], model.classifier
    by_hand = (x.reshape(4, 6) @ first.weight.T + first.bias).clamp(min=0) @ last.weight.T + last.bias
    assert torch.allclose(model(x), by_hand)


def test_mlp_without_hidden_layers_is_linear():
    model = Mlp(inputs=6, classes=3, hidden=[])
    x = torch.rand(4, 6)
    assert torch.allclose(model(x), model.classifier(x))


@pytest.mark.parametrize("name", ["mlp", "cnn", "resnet8"])
def test_networks_learn(name):
    torch.manual_seed(1)
    images = torch.rand(60, 1, 8, 8)
    labels = (images[:, 0, :4].sum((1, 2)) > images[:, 0, 4:].sum((1, 2))).long()
    extra = {"mlp": {"hidden": [32]}, "cnn": {"widths": [8, 16]}, "resnet8": {"width": 8}}[name]
    model = build(name, **fit_arguments(name, (1, 8, 8), 2), **extra)
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-2)
    for _ in range(60):
        optimizer.zero_grad()
        nn.functional.cross_entropy(model(images), labels).backward()
        optimizer.step()
    assert (model(images).argmax(1) == labels).float().mean() > 0.95


@pytest.mark.parametrize("name", SAMPLES)
def test_specification_builds_the_same_network(name):
    model = build(name, seed=3, **SAMPLES[name])
    spec = get_model_spec(model)
    assert spec == ModelSpec(name, SAMPLES[name])
    assert json.loads(json.dumps(spec.arguments)) == spec.arguments
    assert repr(build(spec.name, **spec.arguments)) == repr(model)
    assert get_model_spec(copy.deepcopy(model)) == spec


def test_specification_is_gone_once_a_layer_is_exchanged():
    model = build("mlp", **SAMPLES["mlp"])
    model.layer1[2] = nn.GELU()
    assert get_model_spec(model) is None
    model = build("cnn", **SAMPLES["cnn"])
    model.classifier = nn.Linear(model.classifier.in_features, 99)
    assert get_model_spec(model) is None
    model = build("cnn", **SAMPLES["cnn"])
    model.scale = nn.Parameter(torch.ones(1))
    assert get_model_spec(model) is None
    assert get_model_spec(nn.Linear(2, 2)) is None


def test_specification_cannot_be_written_to():
    model = build("mlp", **SAMPLES["mlp"])
    get_model_spec(model).arguments["classes"] = 99
    assert get_model_spec(model).arguments["classes"] == 3


def test_seed_decides_the_weights_and_leaves_the_generator():
    torch.manual_seed(5)
    expected = torch.rand(1)
    torch.manual_seed(5)
    a, b, c = (build("cnn", seed=seed, **SAMPLES["cnn"]) for seed in (1, 1, 2))
    assert torch.equal(torch.rand(1), expected)
    assert torch.equal(a.classifier.weight, b.classifier.weight)
    assert not torch.equal(a.classifier.weight, c.classifier.weight)


def test_asking_for_a_specification_draws_nothing():
    model = build("resnet8", channels=1, classes=2)
    torch.manual_seed(5)
    expected = torch.rand(1)
    torch.manual_seed(5)
    get_model_spec(model)
    assert torch.equal(torch.rand(1), expected)


def test_names():
    assert reference_names() == ["mlp", "cnn", "fcn", *(f"resnet{depth}" for depth in DEPTHS)]
    with pytest.raises(UnknownNameError, match="Did you mean 'resnet20'"):
        build("resent20", channels=3, classes=10)


@pytest.mark.parametrize(
    ("name", "arguments", "message"),
    [
        (
            "mlp",
            {"inputs": 4, "classes": 2, "hiden": [3]},
            "argument 'hiden'. Did you mean 'hidden'.*inputs, classes",
        ),
        ("mlp", {"inputs": 4, "classes": 2}, r"mlp needs hidden=\[64,32\].*dropout=0.0"),
        (
            "resnet20",
            {"depth": 8, "channels": 1, "classes": 2},
            "no argument 'depth'.*channels, classes, width=16",
        ),
        ("resnet20", {"classes": 2}, "resnet20 needs channels"),
        ("mlp", {"inputs": 0, "classes": 2, "hidden": [3]}, "inputs .* at least 1; got 0"),
        ("mlp", {"inputs": 4, "classes": 2, "hidden": [3, -1]}, "hidden .*; got .*-1"),
        ("mlp", {"inputs": 4, "classes": 2, "hidden": [3], "dropout": 1.0}, "dropout .* below 1; got 1.0"),
        ("mlp", {"inputs": 4, "classes": 2, "hidden": [3], "input_dropout": -0.1}, "input_dropout .*; got -0.1"),
        ("cnn", {"channels": 1, "classes": 2, "widths": [], "size": 8}, "at least one width"),
        ("cnn", {"channels": 1, "classes": 2, "widths": [4], "size": -8}, "size .* got -8"),
        ("resnet8", {"channels": 1, "classes": 2, "width": 0}, "width .* got 0"),
    ],
)
def test_wrong_arguments_are_refused_by_name(name, arguments, message):
    with pytest.raises(LimbeckError, match=message):
        build(name, **arguments)


def test_what_follows_from_the_data():
    assert fit_arguments("mlp", (1, 8, 8), 10) == {"inputs": 64, "classes": 10}
    assert fit_arguments("mlp", (20,), 3) == {"inputs": 20, "classes": 3}
    assert fit_arguments("cnn", (3, 32, 32), 10) == {"channels": 3, "size": 32, "classes": 10}
    assert fit_arguments("resnet56", (3, 32, 20), 100) == {"channels": 3, "classes": 100}
    for name in ("cnn", "resnet8"):
        with pytest.raises(LimbeckError, match="reads images"):
            fit_arguments(name, (64,), 10)
    with pytest.raises(LimbeckError, match="square images; got 8x9"):
        fit_arguments("cnn", (1, 8, 9), 10)
    with pytest.raises(UnknownNameError, match="Did you mean 'mlp'"):
        fit_arguments("mpl", (64,), 10)


@pytest.mark.parametrize(
    ("name", "arguments"),
    [
        ("mlp", {"inputs": 64, "hidden": [10**9]}),
        ("mlp", {"inputs": 64, "hidden": [10**6] * 3}),
        ("mlp", {"inputs": 10**12, "hidden": []}),
        ("cnn", {"channels": 1, "size": 8, "widths": [10**6, 10**6]}),
        ("cnn", {"channels": 1, "size": 10**7, "widths": [8]}),
        ("resnet8", {"channels": 1, "width": 10**6}),
    ],
)
def test_a_network_larger_than_the_memory_is_refused_before_any_is_taken(name, arguments):
    began = time.process_time()
    with pytest.raises(ArgumentError, match="GB"):
        build(name, classes=10, **arguments)
    assert time.process_time() - began < 1


def test_a_network_without_memory_may_be_of_any_size():
    with torch.device("meta"):
        assert build("mlp", inputs=64, classes=10, hidden=[10**9]).classifier.in_features == 10**9


@pytest.mark.parametrize(
    ("name", "arguments"),
    [
        ("cnn", {"channels": 3, "classes": 3, "widths": [4, 8], "size": 8}),
        ("fcn", {"channels": 3, "classes": 3, "widths": [4, 8]}),
        ("resnet8", {"channels": 3, "classes": 3, "width": 4}),
    ],
)
def test_convolutions_store_channels_last_also_after_loading(tmp_path, name, arguments):
    """It halves the time of a forward pass on a CPU (docs/benchmarks.md)."""
    model = lb.build(name, **arguments)
    for network in (model, lb.load(lb.save(model, tmp_path / "student"))):
        filters = [p for p in network.parameters() if p.ndim == 4]
        assert filters
        assert all(p.is_contiguous(memory_format=torch.channels_last) for p in filters)
