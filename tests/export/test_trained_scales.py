"""8-bit files of students that were trained with rounded weights: their scales, their answers, folded BatchNorm."""

from __future__ import annotations

import copy

import numpy as np
import pytest
import torch
from torch import nn

from export_runs import finished, front
from limbeck.errors import ArgumentError, LimbeckError
from limbeck.export import export_run, predict_onnx, to_int8_trained
from limbeck.models import is_student_folder, load
from limbeck.models.quantization import (
    FakeQuantizedInput,
    fake_quantize,
    find_quantized_layers,
    observe_ranges,
)

onnx = pytest.importorskip("onnx")


class Net(nn.Module):
    """Convolutions with BatchNorm, one of them on channels whose scale is negative or 0, and linear layers."""

    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.body = nn.Sequential(
            nn.Conv2d(2, 6, 3, bias=False), nn.BatchNorm2d(6), nn.ReLU(), nn.Conv2d(6, 6, 3, groups=6),
            nn.BatchNorm2d(6), nn.ReLU(), nn.Flatten(), nn.Linear(24, 10), nn.BatchNorm1d(10), nn.ReLU(),
        )  # fmt: skip
        self.last = nn.Linear(10, 4)
        for norm in (self.body[1], self.body[4], self.body[8]):
            nn.init.normal_(norm.weight)
            nn.init.normal_(norm.bias)
            norm.running_mean.normal_()
            norm.running_var.uniform_(0.5, 2.0)
        with torch.no_grad():
            self.body[1].weight[0] = 0.0

    def forward(self, inputs):
        return self.last(self.body(inputs))


def rounded(**settings):
    net, inputs = Net().eval(), torch.randn(64, 2, 6, 6, generator=torch.Generator().manual_seed(1))
    return fake_quantize(net, ranges=observe_ranges(net, [inputs]), **settings), inputs


@pytest.mark.parametrize(
    "settings", [{}, {"weights": "int4"}, {"weights": "ternary", "per_channel": False}, {"activations": "float"}]
)
def test_the_file_answers_as_the_student_does(settings, tmp_path):
    net, inputs = rounded(**settings)
    before = copy.deepcopy(net.state_dict())
    parity = to_int8_trained(net, inputs, tmp_path / "model.onnx")
    with torch.no_grad():
        theirs = net(inputs)
    ours = predict_onnx(tmp_path / "model.onnx", inputs)
    assert parity.max_difference == pytest.approx(float((ours - theirs).abs().max()))
    # Nearly all logits are equal; a few inputs lie between two levels and are rounded to the other one.
    assert float((ours - theirs).abs().median()) < 1e-5
    assert float((ours - theirs).square().mean().sqrt()) < 0.02 * float(theirs.std())
    assert all(torch.equal(before[name], value) for name, value in net.state_dict().items())


def test_the_file_has_the_trained_scales_and_integers(tmp_path):
    net, inputs = rounded()
    to_int8_trained(net, inputs, tmp_path / "model.onnx")
    graph = onnx.load(tmp_path / "model.onnx").graph
    values = {one.name: onnx.numpy_helper.to_array(one) for one in graph.initializer}
    assert not [node for node in graph.node if node.op_type == "BatchNormalization"]
    scales = {float(values[node.input[1]]) for node in graph.node if node.op_type == "QuantizeLinear"}
    trained = {module: net.get_submodule(f"{module}.input_quantizer") for module in find_quantized_layers(net)}
    assert all(isinstance(one, FakeQuantizedInput) for one in trained.values())
    assert scales == {float(one.read_scale()[0]) for one in trained.values()}
    integers, scale = net.last.read_scales()
    stored = next(value for value in values.values() if value.dtype == np.int8 and value.size == 40)
    assert np.array_equal(np.sort(stored.ravel()), np.sort(integers.numpy().astype(np.int8).ravel()))
    assert any(value.shape == scale.shape and np.allclose(value, scale.numpy()) for value in values.values())
    floats = sum(value.size for value in values.values() if value.dtype == np.float32)
    assert floats < 100  # scales and biases: no weight is left in float


def test_a_file_that_differs_is_refused(tmp_path, monkeypatch):
    net, inputs = rounded()
    monkeypatch.setattr("limbeck.export.trained_scales.run", lambda session, part: [np.zeros((64, 4), np.float32)])
    with pytest.raises(LimbeckError, match="differ"):
        to_int8_trained(net, inputs, tmp_path / "model.onnx")
    assert list(tmp_path.iterdir()) == []


def test_a_model_without_scales_is_refused(tmp_path):
    with pytest.raises(LimbeckError, match="choose_int8"):
        to_int8_trained(Net(), torch.randn(4, 2, 6, 6), tmp_path / "model.onnx")


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """A finished job whose students are rounded, with two seeds. Only read."""
    student = {"model": "mlp", "hidden": [16], "quantize": {"weights": "int4", "epochs": 1}}
    arms = ["teacher", "student alone", "post-training quantization", "distilled"]
    return finished(tmp_path_factory.mktemp("rounded"), student=student, arms=arms, seeds=2)


def test_a_job_judges_the_rounded_student_against_rounding_alone(run):
    import json

    result = json.loads((run / "result.json").read_text())
    verdict = result["verdict"]["against"]["post-training quantization"]
    assert len(verdict["interval"]) == 2
    assert "post-training quantization" in verdict["sentence"]
    rows = result["arms"]
    assert rows["distilled"]["megabytes"] < 0.4 * rows["teacher"]["megabytes"] * rows["distilled"]["parameters"] / rows["teacher"]["parameters"]  # fmt: skip # noqa: E501
    assert "8 bits" in rows["distilled"]["size_note"]
    page = (run / "report.html").read_text()
    assert "rounded after its training" in page
    assert "over post-training quantization" in page


def test_the_control_is_the_float_student_of_the_method_with_fewer_steps(run):
    import json

    rows = json.loads((run / "result.json").read_text())["arms"]
    assert rows["post-training quantization"]["steps"] < rows["distilled"]["steps"]
    students = [load(run / "arms" / arm / "seed-1" / "student") for arm in ("distilled", "post-training-quantization")]
    assert all(len(find_quantized_layers(student)) == 2 for student in students)


def test_export_writes_the_trained_scales(run, tmp_path):
    done = export_run(run, to="int8", out=tmp_path / "out", arm="distilled")
    assert done.score_after == pytest.approx(done.score_before, abs=0.021)
    assert done.eight.to_dict()["calibration"] == "trained"
    assert "Scales: those of the student" in front(done)[1]
    folder = export_run(run, to="folder", out=tmp_path / "folder", arm="distilled").path
    assert is_student_folder(folder)
    assert not (folder / "read.py").exists()


@pytest.mark.parametrize("to", ["onnx", "hf"])
def test_a_rounded_student_is_not_exported_in_full_precision(run, to):
    with pytest.raises(ArgumentError, match="--to int8"):
        export_run(run, to=to)


def test_it_takes_no_calibration(run):
    with pytest.raises(ArgumentError) as told:
        export_run(run, to="int8", calibration="minmax")
    assert told.value.argument == "calibration"
