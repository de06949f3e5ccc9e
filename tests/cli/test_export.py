"""`limbeck export` and `limbeck cite`: output and errors."""

from __future__ import annotations

import re
import shutil

import pytest

from limbeck.cli import jobs
from small_jobs import contents, refused


def test_export_speaks_json(limbeck, done, here):
    ended = limbeck("export", done[0] / "run", "--to", "onnx", "--out", here / "out", "--json")
    assert ended.code == 0, ended.err
    found = ended.result
    assert list(found) == ["path", "arm", "bytes", "max_difference", "metric", "score_before", "score_after"]
    assert found["arm"] == "distilled"
    assert found["path"] == str(here / "out" / "model.onnx")
    assert found["max_difference"] < 1e-4
    assert found["score_before"] == found["score_after"]
    said = ended.err.strip()
    assert said.startswith("Note: This is the student of distilled. To ship: distilled, student alone or ")
    assert "To ship another: --arm 'student alone' or " in said
    alone = limbeck("export", done[0] / "run", "--arm", "student alone", "--to", "onnx", "--out", here / "alone")
    assert (alone.code, alone.err) == (0, "")


def test_export_is_read_in_a_terminal(limbeck, done, here):
    ended = limbeck("export", done[0] / "run", "--to", "int8", "--out", "out", "--license", "mit")
    assert ended.code == 0, ended.err
    assert "out/model_int8.onnx" in ended.out
    assert "on 60 test examples" in ended.out
    assert re.search(r"^  arm +distilled$", ended.out, re.M)
    assert "license: mit" in (here / "out" / "README.md").read_text()
    assert ended.err.startswith("Note: In 8 bits this student has ")


def test_8_bits_say_what_was_tried_and_how_fast_they_are(limbeck, done, here):
    ended = limbeck("export", done[0] / "run", "--to", "int8", "--out", here / "out", "--json")
    assert ended.code == 0, ended.err
    found = ended.result
    assert list(found)[:7] == ["path", "arm", "bytes", "max_difference", "metric", "score_before", "score_after"]
    assert len(found["tried"]) == 6
    best = next(one for one in found["tried"] if one["method"] == found["calibration"]
                and one["symmetric"] == found["symmetric"])  # fmt: skip
    assert best["accuracy"] >= max(one["accuracy"] for one in found["tried"]) - 0.2
    for times in found["milliseconds"].values():
        assert times["ratio"] == pytest.approx(times["int8"] / times["float32"], rel=0.01)
    assert list(found["milliseconds"]) == ["batch_1", "batch_64"]


def test_a_calibration_of_ones_own_choice(limbeck, done, here):
    ended = limbeck("export", done[0] / "run", "--to", "int8", "--out", "out", "--calibration", "percentile")
    assert ended.code == 0, ended.err
    assert "calibrated percentile, " in ended.out
    assert "the best of 2 on " in ended.out
    assert "batch 64" in ended.out
    refused(limbeck("export", done[0] / "run", "--to", "int8", "--calibration", "all"), "Unknown calibration 'all'")


def test_cite(limbeck, done):
    ended = limbeck("cite", done[0] / "run")
    assert "@article{hinton2015distilling," in ended.out
    assert "@software{limbeck," in ended.out
    found = limbeck("cite", done[0] / "run", "--json").result
    assert found["entries"][0]["key"] == "hinton2015distilling"
    assert found["entries"][0]["bibtex"] in ended.out


def test_an_export_of_another_student_is_named_after_a_change(limbeck, done, here, monkeypatch):
    run = shutil.copytree(done[0] / "run", here / "run", ignore=shutil.ignore_patterns("export"))
    (run / "export" / "onnx").mkdir(parents=True)
    monkeypatch.setattr(jobs, "_run", lambda *_, **__: None)
    assert limbeck("resume", "run", "--set", "seeds=3").err == ""

    def ship_another(*_, **__):
        other = run / "arms" / "student-alone" / "seed-0" / "student"
        shutil.copytree(other, run / "student", dirs_exist_ok=True)

    monkeypatch.setattr(jobs, "_run", ship_another)
    said = limbeck("resume", "run", "--set", "seeds=3").err
    assert said.startswith("Note: ")
    assert "run/export/onnx" in said


class TestRefused:
    @pytest.mark.parametrize("command", [("cite",), ("export", "--to", "onnx")])
    def test_what_is_no_finished_run(self, limbeck, done, here, command):
        name, *rest = command
        refused(limbeck(name, "none", *rest), "no run at 'none'")
        (here / "some").mkdir()
        refused(limbeck(name, "some", *rest), "not the folder of a run")
        (here / "some" / "run.json").write_text("{}")
        refused(limbeck(name, "some", *rest), "limbeck.export.to_onnx")
        refused(limbeck(name, done[0] / "run" / "arms", *rest), f"part of the run {done[0] / 'run'}")

    def test_an_unfinished_run_and_one_without_a_student(self, limbeck, done, here):
        run = shutil.copytree(done[0] / "run", here / "run")
        (run / "result.json").rename(here / "result.json")
        refused(limbeck("export", "run", "--to", "onnx"), "not finished", "limbeck resume run")
        (here / "result.json").rename(run / "result.json")
        shutil.rmtree(run / "student")
        refused(limbeck("export", "run", "--to", "onnx"), "no student", "missing")
        shutil.copytree(done[0] / "run" / "student", run / "student")
        (run / "result.json").write_text("{")
        refused(limbeck("export", "run", "--to", "onnx"), "result.json is damaged")

    def test_a_place_that_is_taken(self, limbeck, done, here):
        (here / "mine").write_text("mine")
        before = contents(done[0] / "run")
        refused(limbeck("export", done[0] / "run", "--to", "folder", "--out", here), "--out: ", "not empty")
        refused(limbeck("export", done[0] / "run", "--to", "folder", "--out", here / "mine"), "--out: ", "is a file")
        refused(limbeck("export", done[0] / "run", "--to", "folder", "--raw", "--out", "x"), "--raw: ", "onnx and int8")
        refused(limbeck("export", done[0] / "run", "--to", "onxx"), "Did you mean 'onnx'")
        refused(limbeck("export", done[0] / "run", "--to", "hf"), "not a Hugging Face model", "--to onnx")
        assert contents(done[0] / "run") == before
        assert contents(here) == {"mine": b"mine"}

    @pytest.mark.parametrize("module", ["onnx", "onnxscript", "onnxruntime"])
    def test_a_missing_extra(self, limbeck, done, monkeypatch, module):
        import sys

        monkeypatch.setitem(sys.modules, module, None)
        refused(limbeck("export", done[0] / "run", "--to", "int8"), f"needs {module}", "pip install 'limbeck[export]'")
        assert not (done[0] / "run" / "export").exists()
