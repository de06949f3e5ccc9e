"""The way to 8 bits that keeps a student's predictions best is chosen."""

from __future__ import annotations

import pytest
import torch

import limbeck as lb
from limbeck.errors import LimbeckError
from limbeck.export import choose_int8, int8, predict_onnx, to_onnx
from limbeck.export.int8 import QuantizationTrial, Quantizer, _best


@pytest.fixture(scope="module")
def network(tmp_path_factory):
    """A network whose inputs are small but for one, the labels that it gives itself, and held-out inputs."""
    folder = tmp_path_factory.mktemp("network")
    draw = torch.Generator().manual_seed(0)
    inputs = torch.randn(900, 64, generator=draw)
    inputs[7, 3] = 150.0
    model = lb.build("mlp", inputs=64, classes=10, hidden=[24], seed=0)
    to_onnx(model, inputs, folder / "model.onnx")
    held_out = inputs[500:]
    return folder / "model.onnx", inputs[:500], held_out, predict_onnx(folder / "model.onnx", held_out).argmax(-1)


def test_the_best_on_held_out_examples_is_what_the_file_holds(network, tmp_path):
    model, calibration, held_out, labels = network
    found = choose_int8(model, calibration, held_out, tmp_path / "int8.onnx", labels=labels)
    assert len(found.tried) == 6
    assert found.best.accuracy >= max(one.accuracy for one in found.tried) - 0.03
    assert found.best.method in ("entropy", "percentile")
    by_minmax = max(one.accuracy for one in found.tried if one.method == "minmax")
    assert found.best.accuracy > by_minmax + 0.03
    again = (predict_onnx(tmp_path / "int8.onnx", held_out).argmax(-1) == labels).double().mean()
    assert float(again) == pytest.approx(found.best.accuracy)
    assert [path.name for path in tmp_path.iterdir()] == ["int8.onnx"]  # and nothing of the others


def test_without_labels_the_divergence_decides(network, tmp_path):
    model, calibration, held_out, _ = network
    found = choose_int8(model, calibration, held_out, tmp_path / "a.onnx", methods=["minmax", "percentile"])
    assert [one.accuracy for one in found.tried] == [None] * 4
    assert found.best.kl == min(one.kl for one in found.tried)
    unknown = torch.full((len(held_out),), -100)
    same = choose_int8(model, calibration, held_out, tmp_path / "b.onnx", labels=unknown, methods=["percentile"])
    assert all(one.accuracy is None for one in same.tried)


def trial(name, right, kl, **more):
    return QuantizationTrial(name, True, sum(right) / len(right), kl, **more), torch.tensor(right, dtype=torch.bool)


def test_accuracy_decides_but_not_by_a_lucky_example():
    good = trial("minmax", [1] * 90 + [0] * 10, 0.5)
    one_less = trial("entropy", [1] * 89 + [0] * 11, 0.1)  # differs in 1, by 1: as good, and nearer
    four_less = trial("percentile", [1] * 86 + [0] * 14, 0.001)  # differs in 4, by 4: worse, however near
    assert _best([good, four_less])[0] == "minmax"
    assert _best([good, one_less, four_less])[0] == "entropy"
    swapped = trial("percentile", [0] * 10 + [1] * 78 + [0] * 2 + [1] * 10, 0.2)  # 2 less of 22 that differ
    assert _best([good, swapped])[0] == "percentile"


def test_what_failed_or_has_no_divergence_comes_last():
    failed = QuantizationTrial("minmax", True, failed="It broke."), torch.zeros(3, dtype=torch.bool)
    endless = trial("entropy", [1, 1, 0], None)
    assert _best([failed, endless])[0] == "entropy"
    assert _best([failed, endless, trial("percentile", [1, 0, 1], 9.0)])[0] == "percentile"
    assert _best([failed, failed]).failed == "It broke."


def test_a_way_that_fails_does_not_stop_the_others(network, tmp_path, monkeypatch):
    model, calibration, held_out, labels = network
    real = Quantizer.write

    def write(self, path, *, method, symmetric):
        if method == "entropy":
            raise LimbeckError("onnxruntime could not quantize model.onnx: autodetected range is not finite.")
        return real(self, path, method=method, symmetric=symmetric)

    monkeypatch.setattr(Quantizer, "write", write)
    found = choose_int8(model, calibration, held_out, tmp_path / "int8.onnx", labels=labels)
    assert found.best.method == "percentile"
    assert [one.failed is not None for one in found.tried] == [False, False, True, True, False, False]
    assert "not finite" in found.to_dict()["tried"][2]["failed"]
    with pytest.raises(LimbeckError, match="not finite"):
        choose_int8(model, calibration, held_out, tmp_path / "none.onnx", methods=["entropy"])
    assert [path.name for path in tmp_path.iterdir()] == ["int8.onnx"]


def test_a_way_that_answers_with_nan_is_right_about_nothing(network, tmp_path, monkeypatch):
    model, calibration, held_out, _ = network
    real = int8.predict_onnx

    def predicted(path, inputs):
        found = real(path, inputs)
        return found if path == model else found * torch.nan

    monkeypatch.setattr(int8, "predict_onnx", predicted)
    zeros = torch.zeros(len(held_out), dtype=torch.int64)
    found = choose_int8(model, calibration, held_out, tmp_path / "a.onnx", labels=zeros, methods=["minmax"])
    assert [one.accuracy for one in found.tried] == [0.0, 0.0]


def test_no_way_at_all(network, tmp_path):
    model, calibration, held_out, _ = network
    with pytest.raises(LimbeckError, match="methods is empty"):
        choose_int8(model, calibration, held_out, tmp_path / "int8.onnx", methods=[])
    with pytest.raises(LimbeckError, match="Did you mean 'entropy'"):
        choose_int8(model, calibration, held_out, tmp_path / "int8.onnx", methods=["entropi"])
    assert not list(tmp_path.iterdir())
