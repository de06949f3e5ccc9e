"""Students of other kinds are exported with the heads that they need."""

from __future__ import annotations

import numpy as np
import onnx
import pytest
import torch

import limbeck as lb
from export_runs import OWN, finished
from limbeck.errors import LimbeckError
from limbeck.export import export_run, open_student


def weights(file):
    """The shapes of all that a file holds; a matrix may lie there on its side."""
    found = [tuple(one.dims) for one in onnx.load(file).graph.initializer]
    return {shape for dims in found for shape in (dims, dims[::-1])}


def test_two_classes_and_a_network_of_the_user(tmp_path):
    own = tmp_path / "own.py"
    own.write_text(OWN)
    run = finished(tmp_path / "two", classes=2, student=f"{own}:build")
    found = export_run(run, trust=True, to="onnx")
    assert found.score_after == found.score_before
    assert export_run(run, trust=True, to="folder").parity.max_difference == 0
    with pytest.raises(LimbeckError, match=r"does not run files .*trust=True"):
        open_student(run)
    assert open_student(run, trust=True)
    card = (run / "export" / "folder" / "README.md").read_text()
    assert "from own import build\nstudent = limbeck.load('.', build=lambda: build(classes=2))" in card
    (tmp_path / "own.py").unlink()
    with pytest.raises(LimbeckError, match=r"no file .*own.py"):
        export_run(run, trust=True, to="onnx", out=tmp_path / "out")


def test_heads_that_are_needed_are_shipped(tmp_path):
    """SimKD's way, run for real: body, learned projector, and the teacher's own classifier."""
    run = finished(
        tmp_path / "run", student=f"{tmp_path / 'run' / 'own.py'}:build",
        method={"name": f"{tmp_path / 'run' / 'own.py'}:borrowed"},
    )  # fmt: skip
    found = export_run(run, trust=True, to="onnx")
    shapes = weights(found.path)
    assert {(32, 12), (5, 32)} <= shapes  # the projector, the teacher's classifier
    assert (5, 12) not in shapes  # the student's own last layer, which nothing asks
    assert found.score_after == found.score_before
    images = torch.from_numpy(np.load(run.parent / "blobs.npz")["x_test"])
    asked = lb.export.predict_onnx(found.path, lb.load_preprocess(run / "student")(lb.Batch(images)))
    kept = lb.metrics.load_tensors(run / "arms" / "distilled" / "seed-0" / "predictions.safetensors")["test"]
    torch.testing.assert_close(asked, kept, atol=1e-4, rtol=0)


def test_heads_that_only_helped_to_learn_stay_behind(tmp_path):
    """FitNets' regressor from 6 features to the teacher's 32 was learnt with the student, and is no part of it."""
    run = finished(tmp_path / "run", method={"name": "fitnets", "hint": "layer1", "guided": "layer1"})
    plain = {tuple(tensor.shape) for tensor in lb.load(run / "student").parameters()}
    assert plain == {(6, 36), (6,), (5, 6), (5,)}
    for to in ("onnx", "int8"):
        shapes = weights(export_run(run, trust=True, to=to).path)
        assert plain <= shapes
        assert (32, 6) not in shapes
        assert (32, 36) not in shapes  # and nothing of the teacher
    assert export_run(run, trust=True, to="folder").parity.max_difference == 0


def test_weights_that_the_named_student_does_not_have(tmp_path):
    own = tmp_path / "own.py"
    own.write_text(OWN)
    run = finished(tmp_path / "run", student=f"{own}:build")
    told = lb.models.read_config(run / "student")["metadata"]
    for file in (run / "student").iterdir():
        file.unlink()
    lb.save(torch.nn.Linear(36, 5), run / "student", metadata=told)
    with pytest.raises(LimbeckError, match=r"build=build\), then limbeck.export.to_onnx"):
        export_run(run, trust=True, to="onnx")
