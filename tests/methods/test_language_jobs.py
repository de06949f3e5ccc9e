"""Methods of papers in a job of texts from a file, with models of transformers."""

from __future__ import annotations

import json

import pytest
import torch

pytest.importorskip("transformers")

import transformers

from limbeck.compare import run_job
from limbeck.data import load_data, train_byte_level_tokenizer
from limbeck.job import make_job

PAIRS = [
    {"prompt": f"{i} + {j} =", "completion": f" {i + j}", "context": f"It is {i + j}."}
    for i in range(8)
    for j in range(6)
]
SMALL = {"n_layer": 1, "n_head": 2, "n_embd": 16, "n_positions": 24}
METHODS = [
    {"name": "distillspec", "max_new_tokens": 3},
    {"name": "minillm", "max_new_tokens": 3, "share": 0.5},
    {"name": "divergence_tokens", "weight": 0.5},
    {"name": "weighted_mutual", "peers": 2, "every": 1},
    {"name": "hanjabridge", "at": "transformer.h.0", "student_at": "transformer.h.0", "size": 64},
]


@pytest.mark.integration
def test_the_methods_run_in_one_job_of_texts(tmp_path):
    (tmp_path / "p.jsonl").write_text("\n".join(map(json.dumps, PAIRS)))
    tokenizer = train_byte_level_tokenizer(list(map(str, PAIRS)), vocabulary=280, max_length=24)
    torch.manual_seed(0)
    config = transformers.GPT2Config(**{**SMALL, "n_embd": 32}, vocab_size=len(tokenizer), eos_token_id=0)
    transformers.GPT2LMHeadModel(config).save_pretrained(tmp_path / "teacher")
    tokenizer.save_pretrained(tmp_path / "teacher")
    methods = [*METHODS, {"name": "sdft", "max_new_tokens": 3, "context": str(tmp_path / "p.jsonl")}]
    job = make_job(
        {
            "data": {"name": str(tmp_path / "p.jsonl"), "max_length": 24},
            "teacher": {"model": f"hf:{tmp_path / 'teacher'}", "check": False},
            "student": {"model": "hf:gpt2", "pretrained": False, **SMALL},
            "budget": {"epochs": 1, "batch_size": 16, "lr": 0.01},
            "methods": methods, "arms": ["distilled"], "out": str(tmp_path / "run"),
        }
    )  # fmt: skip
    result = run_job(job)
    train = load_data({"name": str(tmp_path / "p.jsonl"), "tokenizer": str(tmp_path / "teacher")}).train
    batch = train.take(torch.arange(len(train)))
    for ids, number in zip(batch.inputs["input_ids"], batch.extra["text_number"].amax(1).tolist(), strict=True):
        assert tokenizer.decode(ids).startswith(PAIRS[number]["prompt"])  # so each prompt gets the context of its line
    assert all(result["arms"][method["name"]]["nll"]["mean"] > 0 for method in methods)
