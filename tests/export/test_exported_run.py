"""Is what a run exports what it trained?"""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch

import limbeck as lb
from export_runs import front
from limbeck.export import export_run


def test_the_accuracy_before_is_the_runs(done, exports):
    result = json.loads((done / "result.json").read_text())
    for found in exports.values():
        assert found.accuracy_before == pytest.approx(result["arms"]["distilled"]["accuracy"]["values"][0])


def test_float32_loses_nothing(exports):
    assert exports["folder"].parity.max_difference == 0
    assert exports["onnx"].parity.max_difference < 1e-4
    for name in ("folder", "onnx"):
        assert exports[name].accuracy_after == exports[name].accuracy_before
        assert exports[name].notes == ()


def test_a_folder_is_the_plain_student(done, exports):
    found = exports["folder"]
    mine, own = lb.load(found.path), lb.load(done / "student")
    assert type(mine).__name__ == "Mlp"
    assert all(torch.equal(a, b) for a, b in zip(mine.parameters(), own.parameters(), strict=True))
    assert lb.reads_of(found.path) == lb.reads_of(done / "student")
    assert found.bytes == sum((found.path / name).stat().st_size for name in ("config.json", "model.safetensors"))


def test_8_bits_are_smaller(exports):
    assert exports["onnx"].bytes == exports["onnx"].path.stat().st_size
    assert sorted(path.name for path in exports["int8"].path.parent.iterdir()) == ["README.md", "model_int8.onnx"]
    assert exports["int8"].parity.max_difference > 0


def test_the_code_in_the_card_runs(done, exports, monkeypatch):
    """In the export's folder, with the data's own images: it gives the student's answers."""
    images = np.load(done.parent / "blobs.npz")["x_test"]
    student, reads = lb.load(done / "student"), lb.reads_of(done / "student")
    with torch.no_grad():
        ours = student(reads(lb.Batch(torch.from_numpy(images)))).numpy()
    for name, found in exports.items():
        folder, (_, text) = (found.path if name == "folder" else found.path.parent), front(found)
        code = text.split("```python\n")[1].split("```")[0]
        monkeypatch.chdir(folder)
        scope = {"images": images, "examples": torch.from_numpy(images)}
        exec(code, scope)
        logits = scope["logits"].detach().numpy() if name == "folder" else scope["logits"]
        np.testing.assert_allclose(logits, ours, atol=1e-4 if name != "int8" else 1.0)
        if name != "folder":
            assert set(scope["answers"]) <= {f"class {letter}" for letter in "abcde"}


def test_raw_examples(done, tmp_path):
    found = export_run(done, to="onnx", out=tmp_path / "raw", raw=True)
    assert found.accuracy_after == found.accuracy_before
    told, text = front(found)
    assert "normalises by itself" in text
    assert told["library_name"] == "onnx"
