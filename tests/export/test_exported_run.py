"""An export is the trained student."""

from __future__ import annotations

import json
import shutil

import numpy as np
import pytest
import torch

import limbeck as lb
from export_runs import front
from limbeck.errors import LimbeckError
from limbeck.export import export_run


def test_the_score_before_is_the_runs(done, exports):
    result = json.loads((done / "result.json").read_text())
    for found in exports.values():
        assert found.score_before == pytest.approx(result["arms"]["distilled"]["accuracy"]["values"][0])


def test_float32_loses_nothing(exports):
    assert exports["folder"].parity.max_difference == 0
    assert exports["onnx"].parity.max_difference < 1e-4
    for name in ("folder", "onnx"):
        assert exports[name].score_after == exports[name].score_before
        assert all("To ship" in note for note in exports[name].notes), "one seed: which student to ship is open"


def test_a_folder_is_the_plain_student(done, exports):
    found = exports["folder"]
    mine, own = lb.load(found.path), lb.load(done / "student")
    assert type(mine).__name__ == "Mlp"
    assert all(torch.equal(a, b) for a, b in zip(mine.parameters(), own.parameters(), strict=True))
    assert lb.load_preprocess(found.path) == lb.load_preprocess(done / "student")
    assert found.bytes == sum((found.path / name).stat().st_size for name in ("config.json", "model.safetensors"))


def test_8_bits_are_smaller(exports):
    assert exports["onnx"].bytes == exports["onnx"].path.stat().st_size
    assert sorted(path.name for path in exports["int8"].path.parent.iterdir()) == [
        "README.md",
        "model_int8.onnx",
        "read.py",
    ]
    assert exports["int8"].parity.max_difference > 0


def test_the_code_in_the_card_runs(done, exports, monkeypatch):
    """In the export's folder, with the data's own images: it gives the student's answers."""
    images = np.load(done.parent / "blobs.npz")["x_test"]
    student, preprocess = lb.load(done / "student"), lb.load_preprocess(done / "student")
    with torch.no_grad():
        ours = student(preprocess(lb.Batch(torch.from_numpy(images)))).numpy()
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
    assert found.score_after == found.score_before
    told, text = front(found)
    assert "normalizes by itself" in text
    assert told["library_name"] == "onnx"


def test_the_student_of_another_arm(done, exports, tmp_path):
    result = json.loads((done / "result.json").read_text())
    found = export_run(done, to="folder", arm="student alone", out=tmp_path / "alone")
    assert found.score_before == pytest.approx(result["arms"]["student alone"]["accuracy"]["values"][0])
    own = lb.load(done / "arms" / "student-alone" / "seed-0" / "student").state_dict()
    assert all(torch.equal(tensor, own[name]) for name, tensor in lb.load(found.path).state_dict().items())
    _, text = front(found)
    assert "**student alone** (this one)" in text
    assert "distilled by" not in text.split("## Cite")[0].splitlines()[0]
    same = export_run(done, to="folder", arm="distilled", out=tmp_path / "same")
    ours, theirs = lb.load(same.path).state_dict(), lb.load(exports["folder"].path).state_dict()
    assert all(torch.equal(tensor, theirs[name]) for name, tensor in ours.items())


def test_an_arm_that_there_is_not(done, tmp_path):
    for arm in ("student lone", "teacher"):
        with pytest.raises(LimbeckError, match="Unknown arm"):
            export_run(done, to="folder", arm=arm, out=tmp_path / "out")
    assert not list(tmp_path.iterdir())


def test_a_student_that_was_not_shown_to_help_is_shipped_with_a_word(done, tmp_path):
    run = tmp_path / "run"
    shutil.copytree(done, run, ignore=shutil.ignore_patterns("export"))
    result = json.loads((run / "result.json").read_text())
    del result["sha256"]  # a file without one is taken for one of an earlier version
    for helps, interval, said in ((False, [-0.1, 0.1], 1), (True, [0.01, 0.1], 0), (False, [-0.1, -0.01], 1)):
        result["verdict"] |= {"helps": helps, "interval": interval}
        (run / "result.json").write_text(json.dumps(result))
        notes = export_run(run, to="folder", out=tmp_path / f"{interval}").notes
        assert [note.count("--arm 'student alone'") for note in notes] == [1] * said
    assert export_run(run, to="folder", arm="student alone").path == run / "export" / "folder-student-alone"
