"""GKD on real text: the captions and GSM8K run from their first task to their rows, with tiny models."""

from __future__ import annotations

import gzip
import json

import pytest
import torch

from limbeck.data import train_byte_level_tokenizer
from limbeck.errors import DataError
from limbeck.papers import ExperimentScale, TaskFolder
from limbeck.papers.gkd import captions, gsm8k
from limbeck.papers.gkd.captions import CaptionScale
from limbeck.papers.gkd.gsm8k import ProblemScale
from limbeck.task_runner import sort_tasks

transformers = pytest.importorskip("transformers", reason="transformers is not installed (extra hf)")
SEEDS = ExperimentScale("full", (0, 1))
NOUNS = ("man", "dog", "girl", "bird", "boat", "child")


def run_all(tasks, root):
    """Run tasks in order, as the queue does, and return their results."""
    results = {}
    for task in sort_tasks(tasks):
        folder = TaskFolder(root, task.name)
        folder.folder.mkdir(parents=True)
        results[task.name] = json.loads(json.dumps(dict(task.function(folder)), allow_nan=False))
        (folder.folder / "result.json").write_text(json.dumps({"figures": results[task.name]}))
    return results


@pytest.mark.soak
def test_every_task_of_the_captions_runs(monkeypatch, tmp_path):
    text = [f"A {a} and a {b} near the {c} today." for a in NOUNS for b in NOUNS for c in NOUNS]
    folder = tmp_path / "data" / "multi30k_en_de"
    folder.mkdir(parents=True)
    for part, rows in (("train", text[:90]), ("val", text[90:110])):
        with gzip.open(folder / f"{part}.jsonl.gz", "wt") as file:
            file.write("\n".join(json.dumps({"en": row, "de": "-"}) for row in rows))
    monkeypatch.setenv("LIMBECK_DATA", str(tmp_path / "data"))
    sizes = CaptionScale(
        vocabulary=270, teacher=(3, 1, 16), start=2, steps=20, captions=70, test=12, rates=(1e-3, 2e-3)
    )
    monkeypatch.setattr(captions, "_SCALE", sizes)
    assert captions.why_skipped(SEEDS) == ""
    results = run_all(captions._tasks(SEEDS), tmp_path / "out")
    assert set(results["captions/seconds"]["steps"]) == {"forward"}
    for arm in captions.ARMS:
        for seed in SEEDS.seeds:
            figures = results[captions._task(arm, seed)]
            assert len(figures["scores"]) == 12
            assert min(figures["own"], figures["given"], figures["entropy"], *figures["scores"]) >= 0
            assert figures["perplexity"] > 1
            tried = results["captions/settings"][f"{captions._SEARCHED[arm]}: nats"]
            assert tried[f"{figures['rate']:g}"] == min(tried.values())
    rows = captions._rows(SEEDS, results)
    assert {row.name for row in rows if row.column} == {"the teacher", "start", *captions.ARMS}
    assert results["captions/teacher"]["own"] == pytest.approx(0, abs=1e-6)
    (claim,) = captions._judge(SEEDS, results)
    assert claim.low < claim.mean < claim.high


def test_captions_that_are_not_there_are_named(monkeypatch, tmp_path):
    monkeypatch.setenv("LIMBECK_DATA", str(tmp_path))
    monkeypatch.chdir(tmp_path)
    assert "train.jsonl.gz" in captions.why_skipped(SEEDS)
    with pytest.raises(DataError, match=r"train\.jsonl\.gz"):
        captions._read("train")
    with pytest.raises(DataError, match=r"test\.jsonl\.gz"):
        gsm8k.read_problems("test")


@pytest.mark.slow
def test_every_task_of_gsm8k_runs(monkeypatch, tmp_path):
    problems = [
        {"question": f"What is {a} and {b}?", "answer": f"It is\n#### {a + b}"} for a in range(6) for b in range(4)
    ]
    (tmp_path / "gsm8k").mkdir()
    for part, rows in (("train", problems[:16]), ("test", problems[16:])):
        with gzip.open(tmp_path / "gsm8k" / f"{part}.jsonl.gz", "wt") as file:
            file.write("\n".join(json.dumps(row) for row in rows))
    monkeypatch.setenv("LIMBECK_DATA", str(tmp_path))
    tokenizer = train_byte_level_tokenizer([row["question"] + row["answer"] for row in problems], vocabulary=280)
    for variable, width in ((gsm8k.TEACHER, 16), (gsm8k.STUDENT, 8)):
        config = transformers.GPT2Config(
            vocab_size=len(tokenizer), n_embd=width, n_layer=1, n_head=1, n_positions=80, bos_token_id=None,
            eos_token_id=tokenizer.eos_token_id,
        )  # fmt: skip
        torch.manual_seed(width)
        transformers.GPT2LMHeadModel(config).save_pretrained(tmp_path / variable)
        tokenizer.save_pretrained(tmp_path / variable)
        monkeypatch.setenv(variable, str(tmp_path / variable))
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    assert gsm8k.why_skipped(SEEDS) == ""
    sizes = ProblemScale(tuning=2, steps=2, batch=4, prompts=8, test=6, new=4, device="cpu")
    monkeypatch.setattr(gsm8k, "_SCALE", sizes)
    results = run_all(gsm8k._tasks(SEEDS), tmp_path / "out")
    for figures in results.values():
        assert all(0 <= figures[name] <= 100 and len(figures["scores"][name]) == 6 for name in ("right", "greedy"))
    rows = gsm8k._rows(SEEDS, results)
    assert {row.name for row in rows if row.column} == {"the teacher", "start", *gsm8k.ARMS}
    assert len(gsm8k._judge(SEEDS, results)) == 2
