"""A job of language models, from data to verdict, page and export."""

from __future__ import annotations

import json
import shutil
from functools import cache
from pathlib import Path
from tempfile import mkdtemp

import pytest

import limbeck as lb
from limbeck.compare import run_job
from limbeck.compare.comparison_data import load_comparison_data
from limbeck.compare.tuning import tune
from limbeck.errors import LimbeckError
from limbeck.job import make_job, read_job, read_run_job, recommend
from limbeck.job.result import read_result, read_task
from limbeck.metrics import load_tensors
from limbeck.tasks import LanguageModeling

pytestmark = pytest.mark.filterwarnings("ignore::limbeck.errors.LimbeckWarning")

LETTERS = "abcdefgh"


def job_of(folder, **changes):
    """A job whose answers are the next letters of the alphabet."""
    pytest.importorskip("transformers")
    rows = [
        {"prompt": " ".join(LETTERS[i : i + n]) + f" {number}", "completion": f" {LETTERS[(i + n) % 8]}"}
        for number in range(8) for i in range(4) for n in (2, 3)
    ]  # fmt: skip
    (folder / "letters.jsonl").write_text("\n".join(map(json.dumps, rows)))
    model = {"model": "hf:gpt2", "pretrained": False, "n_layer": 1, "n_head": 2, "n_positions": 64}
    return {
        "data": {"name": str(folder / "letters.jsonl"), "vocabulary": 280, "max_length": 16},
        "task": "language_modeling",
        "teacher": {**model, "n_embd": 16, "train": {"epochs": 2, "lr": 0.01, "batch_size": 8}, "check": False},
        "student": {**model, "n_embd": 8},
        "budget": {"epochs": 1, "lr": 0.01, "batch_size": 8},
        "seeds": 2,
        **changes,
    }


@cache
def finished():
    """The folder and the result of a finished job."""
    folder = Path(mkdtemp(prefix="limbeck-language-"))
    return folder / "run", run_job(make_job(job_of(folder, out=str(folder / "run"))))


def test_every_arm_has_the_metrics_of_the_task():
    folder, result = finished()
    task = read_task(read_result(folder))
    assert isinstance(task, LanguageModeling)
    for arm, row in result["arms"].items():
        assert set(row["measures"]) <= set(task.metrics)
        assert row["nll"]["mean"] > 0
        assert ("kl_to_teacher" in row["measures"]) == (arm != "teacher")
    assert "label smoothing" in result["arms"]


def test_the_verdict_is_about_nats_and_texts():
    folder, result = finished()
    verdict = result["verdict"]
    alone, ours = (result["arms"][arm]["nll"]["mean"] for arm in ("student alone", "distilled"))
    assert verdict["difference"] == pytest.approx(alone - ours)
    assert verdict["covers"] == "seeds and test examples"
    targets = load_tensors(folder / "teacher" / "answers.safetensors")["test_labels"]
    assert verdict["examples"] == len(targets)
    assert f"{len(targets)} test texts" in verdict["sentence"]
    assert "nats per token" in verdict["sentence"]
    assert recommend(read_result(folder)).arm is not None


def test_stored_sums_give_the_numbers_of_the_result():
    folder, result = finished()
    task = read_task(result)
    targets = load_tensors(folder / "teacher" / "answers.safetensors")["test_labels"]
    outputs = load_tensors(folder / "arms" / "distilled" / "seed-1" / "predictions.safetensors")["test"]
    for name, value in task.measure(outputs, targets).items():
        assert value == pytest.approx(result["arms"]["distilled"]["measures"][name]["values"][1])


def test_teacher_and_students_answer_the_same_prompts():
    folder, _ = finished()
    places = [folder / "teacher", *(folder / "arms" / arm / "seed-0" for arm in ("distilled", "student-alone"))]
    samples = [json.loads((place / "samples.json").read_text()) for place in places]
    prompts = [[one["prompt"] for one in each["texts"]] for each in samples]
    assert prompts[0] == prompts[1] == prompts[2]
    assert all("exact_match" in each for each in samples)
    assert ["speculative" in each for each in samples] == [False, True, True]
    assert 0 <= samples[1]["speculative"]["acceptance"] <= 1


def test_the_page_shows_texts_and_no_classes():
    pytest.importorskip("matplotlib")
    folder, _ = finished()
    page = (folder / "report.html").read_text()
    assert 'id="texts"' in page
    assert 'id="fidelity"' not in page
    assert lb.report.write_report([folder]).read_text() == page


def test_an_export_scores_as_the_student_and_its_card_has_the_words_of_the_task(tmp_path):
    folder, result = finished()
    exported = lb.export.export_run(folder, to="folder", arm="distilled", out=tmp_path / "folder")
    assert exported.score_before == pytest.approx(result["shipped"]["nll"], abs=1e-6)
    assert exported.score_after == pytest.approx(exported.score_before, abs=1e-5)
    card = (tmp_path / "folder" / "README.md").read_text()
    assert "text-generation" in card
    assert "windows" in card
    assert "nats per token" in card


def test_a_resumed_job_has_the_same_verdict(tmp_path):
    folder, result = finished()
    copy = tmp_path / "run"
    shutil.copytree(folder, copy)
    (copy / "result.json").unlink()
    again = run_job(make_job({**read_run_job(copy), "out": str(copy)}), resume=True)
    assert again["verdict"]["difference"] == pytest.approx(result["verdict"]["difference"])
    assert again["verdict"]["examples"] == result["verdict"]["examples"]


def test_a_job_whose_texts_cannot_be_written_ends_with_all_its_results(tmp_path, monkeypatch):
    def fail(*_, **__):
        raise IndexError("index out of range in self")

    monkeypatch.setattr(LanguageModeling, "sample_texts", fail)
    run = tmp_path / "run"
    result = run_job(make_job(job_of(tmp_path, out=str(run), seeds=1, arms=["teacher", "student alone", "distilled"])))
    assert result["arms"]["distilled"]["nll"]["mean"] > 0
    assert "IndexError: index out of range in self" in (run / "report.html").read_text()
    assert lb.export.export_run(run, to="folder", out=tmp_path / "folder").score_after > 0
    again = run_job(make_job({**read_run_job(run), "out": str(run)}), resume=True)
    assert again["verdict"] == result["verdict"]


@pytest.mark.parametrize("fuse", [True, False])
def test_a_job_selects_positions_with_and_without_logits(fuse, tmp_path):
    run = tmp_path / "run"
    changes = {"seeds": 1, "arms": ["student alone", "distilled"], "fuse_output_layer": fuse}
    result = run_job(make_job(job_of(tmp_path, out=str(run), method={"name": "se_kd", "share": 0.3}, **changes)))
    assert result["arms"]["distilled"]["nll"]["mean"] > 0
    assert read_run_job(run)["fuse_output_layer"] is fuse


@pytest.mark.parametrize("value", ["sometimes", 2])
def test_another_value_for_the_output_layer_is_refused(value, tmp_path):
    with pytest.raises(LimbeckError, match="fuse_output_layer"):
        make_job(job_of(tmp_path, fuse_output_layer=value))


def test_a_search_leaves_a_job_whose_texts_are_read_with_the_tokenizer_of_its_teacher(tmp_path):
    pytest.importorskip("optuna")
    arms = ["teacher", "student alone", "distilled"]
    found = tune(make_job(job_of(tmp_path, arms=arms, out=str(tmp_path / "search"))), trials=1)
    best = make_job(read_job(found["best"]))
    assert "vocabulary" not in best.data
    material = load_comparison_data(best)
    vocabulary = json.loads((tmp_path / "search" / "teacher" / "student" / "config.json").read_text())["vocab_size"]
    assert material.classes == vocabulary
