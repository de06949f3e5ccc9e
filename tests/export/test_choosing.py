"""Is the way to 8 bits chosen that keeps a student's answers best?"""

from __future__ import annotations

import pytest
import torch

import limbeck as lb
from limbeck.errors import LimbeckError
from limbeck.export import choose_int8, predict_onnx, to_onnx
from limbeck.export.choosing import Trial
from limbeck.export.int8 import Quantiser


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
    assert found.best == max(found.tried, key=lambda one: (one.accuracy, -one.kl))
    assert found.best.method in ("entropy", "percentile")
    by_minmax = max(one.accuracy for one in found.tried if one.method == "minmax")
    assert found.best.accuracy > by_minmax + 0.03
    again = (predict_onnx(tmp_path / "int8.onnx", held_out).argmax(-1) == labels).double().mean()
    assert float(again) == pytest.approx(found.best.accuracy)
    assert [path.name for path in tmp_path.iterdir()] == ["int8.onnx"]


def test_without_labels_the_divergence_decides(network, tmp_path):
    model, calibration, held_out, _ = network
    found = choose_int8(model, calibration, held_out, tmp_path / "a.onnx", methods=["minmax", "percentile"])
    assert [one.accuracy for one in found.tried] == [None] * 4
    assert found.best.kl == min(one.kl for one in found.tried)
    unknown = torch.full((len(held_out),), -100)
    same = choose_int8(model, calibration, held_out, tmp_path / "b.onnx", labels=unknown, methods=["percentile"])
    assert all(one.accuracy is None for one in same.tried)


def test_the_order_of_trials():
    low, high = Trial("minmax", True, 0.8, 0.001), Trial("entropy", True, 0.9, 0.5)
    assert high.rank > low.rank
    assert Trial("entropy", True, 0.8, 0.0005).rank > low.rank
    assert low.rank > Trial("entropy", False, 0.8, None).rank > Trial("entropy", True, failed="It broke.").rank


def test_a_way_that_fails_does_not_stop_the_others(network, tmp_path, monkeypatch):
    model, calibration, held_out, labels = network
    real = Quantiser.write

    def write(self, path, *, method, symmetric):
        if method == "entropy":
            raise LimbeckError("onnxruntime could not quantise model.onnx: autodetected range is not finite.")
        return real(self, path, method=method, symmetric=symmetric)

    monkeypatch.setattr(Quantiser, "write", write)
    found = choose_int8(model, calibration, held_out, tmp_path / "int8.onnx", labels=labels)
    assert found.best.method == "percentile"
    assert [one.failed is not None for one in found.tried] == [False, False, True, True, False, False]
    assert "not finite" in found.to_dict()["tried"][2]["failed"]
    with pytest.raises(LimbeckError, match="not finite"):
        choose_int8(model, calibration, held_out, tmp_path / "none.onnx", methods=["entropy"])
    assert [path.name for path in tmp_path.iterdir()] == ["int8.onnx"]


def test_no_way_at_all(network, tmp_path):
    model, calibration, held_out, _ = network
    with pytest.raises(LimbeckError, match="No calibration"):
        choose_int8(model, calibration, held_out, tmp_path / "int8.onnx", methods=[])
    with pytest.raises(LimbeckError, match="Did you mean 'entropy'"):
        choose_int8(model, calibration, held_out, tmp_path / "int8.onnx", methods=["entropi"])
    assert not list(tmp_path.iterdir())
