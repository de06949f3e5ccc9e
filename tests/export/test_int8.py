"""Quantized files are smaller and nearly as accurate for every calibration."""

from __future__ import annotations

import onnx
import pytest
import torch

import limbeck as lb
from limbeck.errors import LimbeckError
from limbeck.export import predict_onnx, to_int8, to_onnx


@pytest.fixture(scope="module")
def wide(tmp_path_factory):
    """A network of 60,000 weights in float32 and in 8 bits, and what it was calibrated on."""
    folder = tmp_path_factory.mktemp("wide")
    inputs = torch.randn(400, 64, generator=torch.Generator().manual_seed(0))
    model = lb.build("mlp", inputs=64, classes=10, hidden=[400, 80], seed=0)
    to_onnx(model, inputs, folder / "model.onnx", metadata={"data": "made up"})
    to_int8(folder / "model.onnx", inputs[:200], folder / "int8.onnx")
    return folder, inputs


def test_it_is_nearly_four_times_smaller(wide):
    folder, _ = wide
    assert (folder / "model.onnx").stat().st_size > 3 * (folder / "int8.onnx").stat().st_size


def test_weights_are_8_bit_integers_with_a_scale_for_each_channel(wide):
    proto = onnx.load(wide[0] / "int8.onnx")
    large = [one for one in proto.graph.initializer if len(one.dims) == 2]
    assert [one.data_type for one in large] == [onnx.TensorProto.INT8] * 3
    scales = [one for one in proto.graph.initializer if list(one.dims) == [400] and one.data_type == 1]
    assert scales


def test_answers_nearly_stay_as_they_were(wide):
    folder, inputs = wide
    whole, small = (predict_onnx(folder / name, inputs[200:]) for name in ("model.onnx", "int8.onnx"))
    assert 0 < (whole - small).abs().max() < 0.1 * whole.abs().max()
    assert (whole.argmax(-1) == small.argmax(-1)).float().mean() > 0.9


@pytest.fixture(scope="module")
def skewed(tmp_path_factory):
    """A layer whose inputs are small, but for one in five hundred; how much each calibration keeps of the rest."""
    folder = tmp_path_factory.mktemp("skewed")
    inputs = torch.randn(500, 64, generator=torch.Generator().manual_seed(0))
    inputs[7, 3] = 200.0
    model = lb.build("mlp", inputs=64, classes=10, hidden=[], seed=0)
    to_onnx(model, inputs, folder / "model.onnx")
    return folder, inputs


def loss(folder, inputs, *, method, symmetric=True):
    file = to_int8(
        folder / "model.onnx", inputs, folder / f"{method}-{symmetric}.onnx", method=method, symmetric=symmetric
    )
    usual = torch.cat([inputs[:7], inputs[8:]])
    whole, small = (predict_onnx(name, usual) for name in (folder / "model.onnx", file))
    return float((whole - small).abs().mean() / whole.abs().mean())


def test_what_is_rare_need_not_cost_all_else_its_precision(skewed):
    """The range of all values leaves the usual ones five levels; 99.99 % of them, or the nearest in KL, leave more."""
    lost = {method: loss(*skewed, method=method) for method in ("minmax", "entropy", "percentile")}
    assert lost["minmax"] > 0.3
    assert lost["entropy"] < 0.2
    assert lost["percentile"] < 0.2


def test_activations_that_are_never_negative_gain_a_bit(wide):
    folder, inputs = wide
    inputs = inputs.relu()
    model = lb.build("mlp", inputs=64, classes=10, hidden=[400, 80], seed=0)
    to_onnx(model, inputs, folder / "positive.onnx")
    (folder / "model.onnx").rename(folder / "kept.onnx")
    try:
        (folder / "positive.onnx").rename(folder / "model.onnx")
        lost = [loss(folder, inputs, method="minmax", symmetric=symmetric) for symmetric in (True, False)]
    finally:
        (folder / "kept.onnx").rename(folder / "model.onnx")
    assert lost[1] < 0.8 * lost[0]


def test_an_unknown_calibration(wide):
    folder, inputs = wide
    with pytest.raises(LimbeckError, match="Did you mean 'minmax'"):
        to_int8(folder / "model.onnx", inputs, folder / "none.onnx", method="min-max")
    assert not (folder / "none.onnx").exists()


def test_what_the_file_says_of_itself_stays(wide):
    folder, _ = wide
    told = [onnx.load(folder / name).metadata_props[0].value for name in ("model.onnx", "int8.onnx")]
    assert told[0] == told[1]
    assert "made up" in told[0]


def test_too_few_examples(wide):
    folder, inputs = wide
    with pytest.raises(LimbeckError, match="at least 16 real examples; got 3"):
        to_int8(folder / "model.onnx", inputs[:3], folder / "few.onnx")
    assert not (folder / "few.onnx").exists()


def test_a_missing_file(tmp_path):
    with pytest.raises(LimbeckError, match=r"none.onnx"):
        to_int8(tmp_path / "none.onnx", torch.zeros(20, 4), tmp_path / "int8.onnx")
