"""Is what a run exports what it trained, and is it described truly?"""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch
import yaml

import limbeck as lb
from export_runs import OWN, finished
from limbeck.errors import LimbeckError
from limbeck.export import FORMATS, export_run
from limbeck.export.exporting import _smaller
from small_jobs import contents


@pytest.fixture(scope="module")
def exports(done):
    """The run in every format that it has, by name."""
    return {to: export_run(done, to=to) for to in ("folder", "onnx", "int8")}


def front(found):
    folder = found.path if found.path.is_dir() else found.path.parent
    text = (folder / "README.md").read_text()
    assert text.startswith("---\n")
    return yaml.safe_load(text.split("---\n")[1]), text


class TestFormats:
    def test_the_accuracy_before_is_the_runs(self, done, exports):
        result = json.loads((done / "result.json").read_text())
        for found in exports.values():
            assert found.accuracy_before == pytest.approx(result["arms"]["distilled"]["accuracy"]["values"][0])

    def test_float32_loses_nothing(self, exports):
        assert exports["folder"].parity.max_difference == 0
        assert exports["onnx"].parity.max_difference < 1e-4
        for name in ("folder", "onnx"):
            assert exports[name].accuracy_after == exports[name].accuracy_before
            assert exports[name].notes == ()

    def test_a_folder_is_the_plain_student(self, done, exports):
        found = exports["folder"]
        mine, own = lb.load(found.path), lb.load(done / "student")
        assert type(mine).__name__ == "Mlp"
        assert all(torch.equal(a, b) for a, b in zip(mine.parameters(), own.parameters(), strict=True))
        assert lb.reads_of(found.path) == lb.reads_of(done / "student")
        assert found.bytes == sum((found.path / name).stat().st_size for name in ("config.json", "model.safetensors"))

    def test_8_bits_are_smaller(self, exports):
        assert exports["onnx"].bytes == exports["onnx"].path.stat().st_size
        assert sorted(path.name for path in exports["int8"].path.parent.iterdir()) == ["README.md", "model_int8.onnx"]
        assert exports["int8"].parity.max_difference > 0

    def test_the_code_in_the_card_runs(self, done, exports, monkeypatch):
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

    def test_raw_examples(self, done, tmp_path):
        found = export_run(done, to="onnx", out=tmp_path / "raw", raw=True)
        assert found.accuracy_after == found.accuracy_before
        told, text = front(found)
        assert "normalises by itself" in text
        assert told["library_name"] == "onnx"


class TestCard:
    def test_the_hub_can_read_it(self, exports):
        told, _ = front(exports["int8"])
        assert told["license"] == "unknown"
        assert told["tags"] == ["knowledge-distillation", "limbeck", "hinton", "int8"]
        assert told["pipeline_tag"] == "image-classification"
        metric = told["model-index"][0]["results"][0]["metrics"][0]
        assert metric["value"] == pytest.approx(exports["int8"].accuracy_after, abs=1e-6)
        hub = pytest.importorskip("huggingface_hub", reason="the hub's own reader of cards is not installed")
        read = hub.ModelCard.load(exports["int8"].path.parent / "README.md")
        assert read.data.eval_results[0].metric_type == "accuracy"

    def test_verdict_teacher_and_protocol(self, done, exports):
        _, text = front(exports["onnx"])
        verdict = json.loads((done / "result.json").read_text())["verdict"]["sentence"]
        assert f"**{verdict}**" in text
        assert "Teacher: mlp (hidden=[32])" in text
        assert "60 to test" in text
        assert "| **distilled** (this one) |" in text
        assert "@article{hinton2015distilling" in text
        assert "jacob2018" not in text
        assert "jacob2018" in front(exports["int8"])[1]

    def test_no_path_of_this_machine(self, done, exports):
        for found in exports.values():
            assert str(done.parent) not in front(found)[1]

    def test_a_licence(self, done, tmp_path):
        told, text = front(export_run(done, to="folder", out=tmp_path / "licensed", licence="apache-2.0"))
        assert told["license"] == "apache-2.0"
        assert "apache-2.0, as whoever exported it said" in text

    def test_an_old_result_that_lacks_almost_everything(self, tmp_path):
        run = finished(tmp_path)
        (run / "result.json").write_text("{}")
        _, text = front(export_run(run, to="folder"))
        assert "not judged against a control" in text


def test_a_tables_columns_are_told():
    from limbeck.export.card import _column

    assert _column({"kind": "category", "name": "c", "values": ["x", "z"]}).startswith("c, one of x, z, other: a 1")
    number = {"kind": "number", "name": "a", "mean": 0.5, "std": 2.0}
    assert _column({**number, "missing": False}) == "(a - 0.5) / 2"
    assert _column({**number, "missing": True}).endswith("then 1 where a is missing, else 0")


class TestOtherStudents:
    def test_two_classes_and_a_network_of_ones_own(self, tmp_path):
        own = tmp_path / "own.py"
        own.write_text(OWN)
        run = finished(tmp_path / "two", classes=2, student=f"{own}:build")
        found = export_run(run, to="onnx")
        assert found.accuracy_after == found.accuracy_before
        assert export_run(run, to="folder").parity.max_difference == 0
        assert "build=build" in (run / "export" / "folder" / "README.md").read_text()
        (tmp_path / "own.py").unlink()
        with pytest.raises(LimbeckError, match=r"no file .*own.py"):
            export_run(run, to="onnx", out=tmp_path / "out")

    def test_heads_that_are_needed_are_shipped(self, tmp_path):
        """SimKD's way: body, learned projector, and the teacher's own classifier."""
        own = tmp_path / "own.py"
        own.write_text(OWN)
        run = finished(tmp_path / "run", student=f"{own}:build")
        scope: dict = {}
        exec(OWN, scope)
        teacher = lb.load(run / "teacher" / "student")
        with torch.no_grad():
            body = scope["build"](5).body.eval()
            whole = scope["Fixed"](body, torch.nn.Linear(12, 32), teacher.classifier).eval()
        told = lb.models.read_config(run / "student")["metadata"]
        for file in (run / "student").iterdir():
            file.unlink()
        lb.save(whole, run / "student", metadata=told)
        job = yaml.safe_load((run / "job.yaml").read_text())
        (run / "job.yaml").write_text(yaml.safe_dump({**job, "method": {"name": f"{own}:borrowed"}}))
        found = export_run(run, to="onnx")
        images = torch.from_numpy(np.load(run.parent / "blobs.npz")["x_test"])
        inputs = lb.reads_of(run / "student")(lb.Batch(images))
        with torch.no_grad():
            torch.testing.assert_close(lb.export.predict_onnx(found.path, inputs), whole(inputs), atol=1e-4, rtol=0)

    def test_weights_that_the_named_student_does_not_have(self, tmp_path):
        own = tmp_path / "own.py"
        own.write_text(OWN)
        run = finished(tmp_path / "run", student=f"{own}:build")
        told = lb.models.read_config(run / "student")["metadata"]
        for file in (run / "student").iterdir():
            file.unlink()
        lb.save(torch.nn.Linear(36, 5), run / "student", metadata=told)
        with pytest.raises(LimbeckError, match=r"build=build\), then limbeck.export.to_onnx"):
            export_run(run, to="onnx")


class TestRefused:
    def test_not_hugging_face(self, done):
        with pytest.raises(LimbeckError, match=r"Mlp is no Hugging Face model.*--to onnx"):
            export_run(done, to="hf")
        assert not (done / "export" / "hf").exists()

    def test_an_unknown_format(self, done):
        with pytest.raises(LimbeckError, match="Did you mean 'onnx'"):
            export_run(done, to="onxx")
        assert set(FORMATS) == {"folder", "hf", "onnx", "int8"}

    def test_a_place_that_is_taken(self, done, tmp_path):
        (tmp_path / "note").write_text("mine")
        for out in (tmp_path, tmp_path / "note"):
            with pytest.raises(LimbeckError, match="choose another"):
                export_run(done, to="folder", out=out)
        with pytest.raises(LimbeckError, match=r"called model\.onnx"):
            export_run(done, to="onnx", out=tmp_path / "student.onnx")
        assert contents(tmp_path) == {"note": b"mine"}

    def test_nothing_is_left_where_it_fails(self, tmp_path):
        own = tmp_path / "own.py"
        own.write_text(OWN)
        run = finished(tmp_path / "run", student=f"{own}:branching")
        with pytest.raises(LimbeckError, match="Branching cannot be exported"):
            export_run(run, to="int8", out=tmp_path / "out")
        assert not (tmp_path / "out").exists()
        assert not list(tmp_path.glob(".*"))
        assert export_run(run, to="folder", out=tmp_path / "out").parity.max_difference == 0

    def test_raw_where_it_means_nothing(self, done, tmp_path):
        with pytest.raises(LimbeckError, match="--raw is for"):
            export_run(done, to="folder", out=tmp_path / "out", raw=True)

    def test_data_that_have_changed(self, tmp_path):
        from small_jobs import blobs

        run = finished(tmp_path)
        blobs(tmp_path / "blobs.npz", test=50)
        with pytest.raises(LimbeckError, match="50 test examples, and had 60"):
            export_run(run, to="folder")


def test_what_8_bits_bring_is_said():
    assert _smaller(4000, 1000, 0.9, 0.891, 500) == []
    (note,) = _smaller(1500, 1000, 0.9, 0.9, 500)
    assert "1,000 bytes instead of 1,500" in note
    (note,) = _smaller(4000, 1000, 0.9, 0.88, 500)
    assert "2.0 points of accuracy on 500" in note
