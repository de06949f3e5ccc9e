"""Jobs on prompts without answers: the teacher writes the texts, and students are judged by how near they are to it."""

from __future__ import annotations

import json
import warnings
from functools import cache
from pathlib import Path
from tempfile import mkdtemp

import numpy as np
import pytest
import torch

pytest.importorskip("transformers")

import limbeck as lb
from limbeck.compare import run_job
from limbeck.compare.comparison_data import load_comparison_data
from limbeck.compare.own_texts import SCORES
from limbeck.compare.run_doctor import checkup
from limbeck.compare.teacher import open_teacher
from limbeck.data import TokenDataset, find_prompt_files
from limbeck.errors import DataError, LimbeckError, LimbeckWarning
from limbeck.job import make_job, read_run_job
from limbeck.job.result import read_result, read_task
from limbeck.metrics import load_tensors
from limbeck.tasks import LanguageModeling
from limbeck.testing import serve_model
from served_models import model, tokenizer

WORDS = ["the", "other", "dog", "and", "a", "fox", "of", "some", "vocabulary"]
PROMPTS = [f"{WORDS[i % 9]} {WORDS[i % 5]} {i}" for i in range(30)]
STUDENT = {"model": "hf:gpt2", "pretrained": False, "n_layer": 1, "n_head": 2, "n_embd": 8, "n_positions": 32}
METHOD = {"name": "gkd", "max_new_tokens": 5, "divergence": "forward"}


@cache
def place():
    """A folder with prompts, and a teacher with its tokenizer."""
    folder = Path(mkdtemp(prefix="limbeck-prompts-"))
    (folder / "prompts.jsonl").write_text("\n".join(json.dumps({"prompt": one, "kind": "words"}) for one in PROMPTS))
    own, rows = model(positions=32), [{"prompt": one, "completion": f" {one.split()[0]} and"} for one in PROMPTS]
    learn = lb.methods.make("supervised"), TokenDataset(rows, tokenizer=tokenizer(), max_length=24)
    lb.distill(own, *learn, epochs=12, batch_size=8, optimizer=lb.Optimizer(lr=0.02)).finish()
    own.save_pretrained(folder / "teacher")
    tokenizer().save_pretrained(folder / "teacher")
    return folder


def job_of(**changes):
    folder = place()
    return make_job({
        "data": {"name": str(folder / "prompts.jsonl"), "max_length": 24},
        "teacher": f"hf:{folder / 'teacher'}", "student": STUDENT, "method": METHOD,
        "budget": {"epochs": 2, "batch_size": 8, "lr": 0.01}, "seeds": 2, **changes,
    })  # fmt: skip


def run(job, **how):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", LimbeckWarning)
        return run_job(job, **how)


@cache
def finished():
    told = []
    out = place() / "run"
    return out, run(job_of(out=str(out)), callback=lambda event: told.append(str(event))), told


def test_every_arm_is_measured_by_its_divergence_from_the_teacher():
    out, result, _ = finished()
    task = read_task(read_result(out))
    assert isinstance(task, LanguageModeling)
    assert task.written_by_teacher
    assert list(result["arms"]) == ["teacher", "student alone", "teacher texts", "distilled"]
    assert result["arms"]["teacher"]["kl_to_teacher"]["mean"] == pytest.approx(0.0, abs=1e-6)
    assert result["arms"]["student alone"]["steps"] == 0
    for arm in ("student alone", "teacher texts", "distilled"):
        assert result["arms"][arm]["kl_to_teacher"]["mean"] > 0.01
        assert result["arms"][arm]["development"]["mean"] > 0.01


def test_the_verdict_compares_with_the_student_before_training_and_with_sequence_level_distillation():
    _, result, told = finished()
    verdict = result["verdict"]
    start, ours = (result["arms"][arm]["kl_to_teacher"]["mean"] for arm in ("student alone", "distilled"))
    assert verdict["difference"] == pytest.approx(start - ours)
    assert verdict["covers"] == "seeds and test examples"
    assert "KL divergence from the teacher than the same student before training" in verdict["sentence"]
    assert "whether the teacher is right is not measured" in verdict["sentence"]
    assert list(verdict["against"]) == ["teacher texts"]
    assert any("are judged by their KL divergence" in line for line in told)
    assert any("on its own texts for the development prompts" in line for line in told)


def test_the_divergence_is_that_of_a_plain_loop():
    out, result, _ = finished()
    job = make_job({**read_run_job(out), "out": str(out)})
    material = load_comparison_data(job)
    teacher, _ = open_teacher(job, material)
    student = lb.load(out / "arms" / "teacher-texts" / "seed-1" / "student").eval()
    total, tokens = 0.0, 0
    batch = material.data.test.take(torch.arange(len(material.data.test)))
    with torch.no_grad():
        p, q = (
            one(batch.inputs["input_ids"], attention_mask=batch.inputs["attention_mask"]).logits.double().softmax(-1)
            for one in (teacher.model, student)
        )
    for row, column in (batch.labels != -100).nonzero().tolist():
        tokens += 1
        total += sum(a * np.log(a / b) for a, b in zip(p[row, column].tolist(), q[row, column].tolist(), strict=True))
    values = result["arms"]["teacher texts"]["kl_to_teacher"]["values"]
    assert values[1] == pytest.approx(total / tokens, rel=1e-4)


def test_the_texts_are_the_teachers_and_cut_off_ones_have_no_end():
    out, _, _ = finished()
    rows = [json.loads(line) for line in (place() / "run-texts" / "train.jsonl").read_text().splitlines()]
    assert {row["source"]["temperature"] for row in rows} == {1.0}
    assert any(row["stop_reason"] == "length" for row in rows)
    material = load_comparison_data(make_job({**read_run_job(out), "out": str(out)}))
    end, data = material.data.tokenizer.eos_token_id, material.data.train
    texts = [data.take(torch.tensor([i])) for i in range(len(data))]
    ends = [end in text.labels.flatten().tolist() for text in texts]
    assert any(ends) == any(row["stop_reason"] == "stop" for row in rows)
    assert not all(ends)


def test_own_texts_are_judged_with_intervals_over_prompts_and_seeds():
    out, result, _ = finished()
    own = result["own_texts"]
    assert set(own["arms"]) == {"student alone", "teacher texts", "distilled"}
    assert all(set(row) == set(SCORES) for row in own["arms"].values())
    for other in ("student alone", "teacher texts"):
        assert own["against"][other]["reverse_kl"]["covers"] == "seeds and test examples"
        assert own["against"][other]["reverse_kl"]["interval"] is not None
    page = (out / "report.html").read_text()
    assert "whether the teacher is right is not measured" in page
    assert "the same student before training" in page
    assert "sequence-level distillation" in page
    assert "reverse KL" in page


def test_a_resumed_job_asks_for_no_text_again(tmp_path, monkeypatch):
    out, result, _ = finished()
    (out / "result.json").unlink()
    monkeypatch.setattr("limbeck.compare.prompt_texts.generate_texts", None)
    again = run(make_job({**read_run_job(out), "out": str(out)}), resume=True)
    assert again["verdict"] == result["verdict"]


def test_the_untrained_student_is_the_start_of_all_arms():
    out, _, _ = finished()
    for seed in (0, 1):
        start = lb.load(out / "arms" / "student-alone" / f"seed-{seed}" / "student")
        trained = lb.load(out / "arms" / "teacher-texts" / f"seed-{seed}" / "student")
        moved = [(a - b).abs().max() for a, b in zip(start.parameters(), trained.parameters(), strict=True)]
        assert max(moved) > 0
    saved = load_tensors(out / "arms" / "student-alone" / "seed-0" / "predictions.safetensors")
    assert set(saved) == {"test", "development"}


def test_an_export_is_judged_by_the_teachers_texts_without_the_teacher(tmp_path):
    out, result, _ = finished()
    exported = lb.export.export_run(out, to="folder", out=tmp_path / "folder", arm="distilled")
    nll = result["arms"]["distilled"]["measures"]["nll"]["values"][0]
    assert exported.score_before == pytest.approx(nll, abs=1e-5)
    assert exported.metric.name == "nll"
    card = (tmp_path / "folder" / "README.md").read_text()
    assert "whether the teacher is right is not measured" in card


def test_sequence_level_distillation_is_a_method_of_its_own(tmp_path):
    job = job_of(out=str(tmp_path / "run"), method="supervised", seeds=1, data={
        "name": str(place() / "prompts.jsonl"), "max_new_tokens": 3, "max_length": 24,
    })  # fmt: skip
    result = run(job)
    assert list(result["arms"]) == ["teacher", "student alone", "distilled"]
    assert isinstance(result["verdict"]["difference"], float)
    rows = [json.loads(line) for line in (tmp_path / "run-texts" / "test.jsonl").read_text().splitlines()] if (
        tmp_path / "run-texts" / "test.jsonl").exists() else []  # fmt: skip
    written = (tmp_path / "run-texts" / "train.jsonl").read_text().splitlines()
    assert max(len(json.loads(line)["token_ids"]) for line in written) == 3
    assert rows == []


def test_the_doctor_answers_some_prompts_and_keeps_nothing(tmp_path):
    findings = list(checkup(job_of(out=str(tmp_path / "run"))))
    assert not [one for one in findings if one.state in ("wrong", "crash")], findings
    assert any("The teacher wrote answers" in one.sentence for one in findings)
    assert list(tmp_path.iterdir()) == []


def test_a_served_teacher_that_lists_all_tokens_writes_and_judges(tmp_path):
    own = lb.models.open_model(f"hf:{place() / 'teacher'}", head="language_modeling", tokenizer=tokenizer())
    with serve_model(own, tokenizer(), max_logprobs=-1, max_length=32) as server:
        teacher = {"url": server.url, "top_k": None, "tokenizer": str(place() / "teacher")}
        data = {"name": str(place() / "prompts.jsonl"), "max_length": 24, "max_new_tokens": 4}
        changes = {"method": {"name": "hinton"}, "seeds": 1, "cache": {}, "budget": {"epochs": 1, "batch_size": 8}}
        job = job_of(out=str(tmp_path / "run"), teacher=teacher, data=data, **changes)
        result = run(job)
    assert result["arms"]["teacher"]["kl_to_teacher"]["mean"] == pytest.approx(0.0, abs=1e-6)
    assert result["verdict"]["difference"] is not None
    assert "own_texts" not in result


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"teacher": {"model": "hf:gpt2", "pretrained": False}}, "trained one"),
        ({"teacher": {"url": "http://localhost:1/v1", "top_k": 8}}, "teacher.top_k=null"),
        ({"teacher": {"ensemble": ["hf:a", "hf:b"]}}, "one teacher"),
        ({"method": "uld"}, "limbeck generate"),
        ({"out": None}, "out="),
    ],
)
def test_what_cannot_be_measured_is_refused_before_anything_is_written(changes, words, tmp_path):
    with pytest.raises(LimbeckError, match=words):
        run(job_of(**{"out": str(tmp_path / "run"), **changes}))
    assert not (tmp_path / "run-texts").exists()


def test_windows_that_a_model_cannot_read_are_refused_before_the_teacher_writes(tmp_path):
    data = {"name": str(place() / "prompts.jsonl"), "max_length": 33}
    with pytest.raises(LimbeckError, match="max_length=32"):
        run(job_of(data=data, out=str(tmp_path / "run")))
    assert not (tmp_path / "run-texts").exists()


def test_prompts_with_and_without_answers_are_told_apart(tmp_path):
    def write(name, *rows):
        (tmp_path / name).write_text("\n".join(map(json.dumps, rows)))
        return str(tmp_path / name)

    alone = write("alone.jsonl", {"prompt": "a", "kind": "x"}, {"prompt": "b", "kind": "y"})
    assert find_prompt_files({"name": alone}) == {"name": alone}
    assert find_prompt_files({"name": alone, "completion": "kind"}) is None
    assert find_prompt_files({"name": write("pairs.jsonl", {"prompt": "a", "completion": "b"})}) is None
    assert find_prompt_files({"name": write("other.jsonl", {"prompt": "a", "answer": 3})}) is None
    chat = write("chat.jsonl", {"messages": [{"role": "user", "content": "a"}]})
    assert find_prompt_files({"name": chat}) == {"name": chat}
    assert find_prompt_files({"name": write("plain.jsonl", {"text": "a"})}) is None
    with pytest.raises(DataError):
        find_prompt_files({"name": alone, "test": str(tmp_path / "pairs.jsonl")})
    mixed = write("mixed.jsonl", {"prompt": "a"}, {"prompt": "b", "answer": "c"})
    with pytest.raises(DataError, match="has an answer"):
        run(job_of(data={"name": mixed}, out=str(tmp_path / "run")))


def test_new_token_counts_are_for_prompts_alone(tmp_path):
    (tmp_path / "pairs.jsonl").write_text("\n".join(json.dumps({"prompt": one, "completion": " a"}) for one in PROMPTS))
    with pytest.raises(LimbeckError, match="max_new_tokens"):
        run(job_of(data={"name": str(tmp_path / "pairs.jsonl"), "max_new_tokens": 4}))
    job = job_of(data={"name": str(tmp_path / "pairs.jsonl"), "max_length": 24}, arms=["teacher texts", "distilled"])
    with pytest.raises(LimbeckError, match="teacher texts"):
        run(job)
