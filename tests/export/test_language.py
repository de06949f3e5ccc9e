"""Exported language models write text: with stock transformers, from ONNX, by read.py and by the code on the card."""

from __future__ import annotations

import csv
import io
import json
import random
import re

import pytest
import torch
from torch import nn

import limbeck as lb
from export_runs import front, read_alone
from limbeck.data import TokenDataset, TokenPairDataset, train_tokenizer
from limbeck.errors import LimbeckError, MissingOutputError
from limbeck.export import export_run, predict_onnx, to_onnx
from limbeck.export.exporter import unpack
from limbeck.export.onnx_file import file_inputs
from limbeck.export.usage import choose_reader
from limbeck.model_call import call, logits_of
from limbeck.models import open_model, seeded
from limbeck.tasks import LanguageModeling

transformers = pytest.importorskip("transformers", reason="transformers is not installed (extra hf)")
pytest.importorskip("onnxscript", reason="onnxscript is not installed (extra export)")

WORDS = ["one", "two", "three", "four", "five", "six", "seven"]
OWN = """
from torch import nn


class Lstm(nn.Module):
    def __init__(self, vocab_size, width):
        super().__init__()
        self.embedding, self.lstm = nn.Embedding(vocab_size, width), nn.LSTM(width, width, batch_first=True)
        self.output = nn.Linear(width, vocab_size)

    def forward(self, ids):
        return self.output(self.lstm(self.embedding(ids))[0])


def build(vocab_size, width=8):
    return Lstm(vocab_size, width)
"""


def job_of(folder, *, model, small, large, **data):
    """A run over counted words: one follows the other, so that a small model learns it."""
    draw = random.Random(0)
    folder.mkdir(parents=True, exist_ok=True)
    starts = [draw.randrange(7) for _ in range(120)]
    rows = [{"text": " ".join(WORDS[(a + i) % 7] for i in range(draw.randint(4, 12)))} for a in starts]
    (folder / "corpus.jsonl").write_text("\n".join(map(json.dumps, rows)))
    budget = {"epochs": 4, "batch_size": 16, "lr": 0.02, "optimizer": "adam"}
    job = {
        "task": "language_modeling",
        "data": {"name": str(folder / "corpus.jsonl"), "max_length": 12, "vocabulary": 270, **data},
        "teacher": {"model": model, **large, "train": budget},
        "student": {"model": model, **small},
        "method": "hinton",
        "budget": budget,
        "seeds": 1,
        "arms": ["teacher", "distilled"],
        "out": str(folder / "run"),
    }
    lb.run_job(lb.make_job(job))
    return folder / "run"


@pytest.fixture(scope="module")
def gpt2(tmp_path_factory):
    sizes = {"pretrained": False, "n_head": 2, "n_positions": 32, "n_layer": 1}
    return job_of(
        tmp_path_factory.mktemp("gpt2"), model="hf:gpt2", packing=True,
        large={**sizes, "n_embd": 32}, small={**sizes, "n_embd": 16},
    )  # fmt: skip


def read(folder, prompts, count=4, **how):
    """The answers of read.py, without limbeck, and its remarks about prompts."""
    (folder.parent / "prompts.txt").write_text("\n".join(prompts))
    done = read_alone(folder, folder.parent / "prompts.txt", "--max-new-tokens", count, **how)
    notes = [line for line in done.err.splitlines() if "prompt" in line.lower()]
    return [row["answer"] for row in csv.DictReader(io.StringIO(done.out))], notes


def on_the_card(text):
    """The variables of the card's code, run as a user runs it, with nothing defined before."""
    variables = {}
    exec(re.search(r"```python\n(.*?)```", text, re.DOTALL)[1], variables)
    return variables


PROMPTS = ["one two", "three", "six seven one"]


SOAK = pytest.mark.soak


@pytest.mark.parametrize("to", ["hf", "onnx", pytest.param("folder", marks=SOAK), pytest.param("int8", marks=SOAK)])
def test_an_export_writes_text(gpt2, to, monkeypatch):
    options = {"calibration": "minmax"} if to == "int8" else {}
    exported = export_run(gpt2, to=to, **options)
    folder = exported.path if exported.path.is_dir() else exported.path.parent
    assert exported.metric.name == "nll"
    assert exported.score_after == pytest.approx(exported.score_before, abs=0.1 if to == "int8" else 1e-4)
    reader = transformers.AutoTokenizer.from_pretrained(gpt2 / "student")
    student = transformers.AutoModelForCausalLM.from_pretrained(gpt2 / "student")
    expected = []
    for prompt in PROMPTS:
        ids = reader(prompt, return_tensors="pt")["input_ids"]
        written = student.generate(ids, attention_mask=torch.ones_like(ids), max_new_tokens=4, do_sample=False)
        expected.append(reader.decode(written[0, ids.shape[1] :], skip_special_tokens=True))
    if to != "int8":
        long = " ".join(WORDS * 20)
        answers, notes = read(folder, [*PROMPTS, long, "", "one two"], fresh=to == "hf")
        assert answers[:3] == expected
        assert len(answers) == 6
        assert len(notes) == 2, "one sentence for the long prompt, one for the empty one"
        assert str(len(reader(long, verbose=False)["input_ids"])) in notes[0]
        assert "Prompt 5" in notes[1]
    head, card = front(exported)
    assert ("no cache of keys and values" in card) == (to in ("onnx", "int8"))
    assert head["pipeline_tag"] == "text-generation"
    assert "base_model" not in head, "its weights are new"
    monkeypatch.chdir(folder)
    variables = on_the_card(card)
    prompt, text = variables["prompt"], variables["text"]
    ids = reader(prompt, return_tensors="pt")["input_ids"]
    written = student.generate(ids, attention_mask=torch.ones_like(ids), max_new_tokens=4, do_sample=False)
    assert text.startswith(prompt)
    assert to == "int8" or text.startswith(reader.decode(written[0], skip_special_tokens=True))


def test_a_module_of_ones_own_is_exported_too(tmp_path, monkeypatch):
    (tmp_path / "own.py").write_text(OWN)
    monkeypatch.chdir(tmp_path)
    run = job_of(tmp_path / "lstm", model="own.py:build", large={"width": 24}, small={"width": 8})
    exported = export_run(run, to="folder", trust=True)
    assert exported.score_after == pytest.approx(exported.score_before, abs=1e-4)
    _, card = front(exported)
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.chdir(exported.path)
    logits = on_the_card(card)["logits"]
    assert logits.ndim == 3


# Without a run.


@pytest.fixture(scope="module")
def tokenizer():
    tokenizer = train_tokenizer(WORDS, vocabulary=60)
    tokenizer.bos_token, tokenizer.eos_token = tokenizer.cls_token, tokenizer.sep_token
    return tokenizer


def small(name, tokenizer, **sizes):
    return open_model(f"hf:{name}", head="language_modeling", tokenizer=tokenizer, seed=0, pretrained=False, **sizes)


class Lstm(nn.Module):
    def __init__(self, vocabulary):
        super().__init__()
        with seeded(0):
            self.embedding, self.lstm = nn.Embedding(vocabulary, 8), nn.LSTM(8, 8, batch_first=True)
            self.output = nn.Linear(8, vocabulary)

    def forward(self, ids):
        return self.output(self.lstm(self.embedding(ids))[0])


MODELS = {
    "llama": {"num_hidden_layers": 1, "hidden_size": 8, "num_attention_heads": 2, "intermediate_size": 16},
    "gemma2": {"num_hidden_layers": 1, "hidden_size": 8, "num_attention_heads": 2, "num_key_value_heads": 1,
               "head_dim": 4, "intermediate_size": 16},
    "t5": {"num_layers": 1, "d_model": 8, "d_kv": 4, "d_ff": 16, "num_heads": 2},
}  # fmt: skip


@pytest.mark.parametrize("name", ["lstm", "t5", *(pytest.param(name, marks=SOAK) for name in ("llama", "gemma2"))])
def test_a_file_of_each_kind_of_model_agrees(name, tokenizer, tmp_path):
    model = Lstm(len(tokenizer)) if name == "lstm" else small(name, tokenizer, **MODELS[name]).eval()
    if name == "t5":
        rows = [{"source": " ".join(WORDS[: 2 + i % 4]), "target": WORDS[i % 7]} for i in range(12)]
        data = TokenPairDataset(rows, tokenizer=tokenizer)
    else:
        data = TokenDataset([" ".join(WORDS[: 2 + i % 5]) for i in range(12)], tokenizer=tokenizer, max_length=16)
    to_onnx(model, data.take(torch.arange(12)).inputs, tmp_path / "model.onnx")
    other = data.take(torch.arange(5)).inputs  # another number of rows, and of tokens
    with torch.no_grad():
        expected = logits_of(call(model, other))
    torch.testing.assert_close(
        predict_onnx(tmp_path / "model.onnx", file_inputs(model, other)), expected, rtol=1e-4, atol=1e-5
    )


def test_a_file_of_an_lstm_has_any_number_of_tokens(tokenizer, tmp_path):
    """The exporter writes the number of its example into the shape of the logits, and onnxruntime warns of others."""
    import onnx

    ids = torch.randint(4, len(tokenizer), (8, 12))
    to_onnx(Lstm(len(tokenizer)), {"input_ids": ids}, tmp_path / "model.onnx")
    graph = onnx.load(tmp_path / "model.onnx").graph
    (inputs,), (logits,) = ([one.type.tensor_type.shape.dim for one in side] for side in (graph.input, graph.output))
    assert inputs[1].dim_param
    assert logits[1].dim_param == inputs[1].dim_param


def test_texts_that_share_rows_get_rows_of_their_own(tokenizer):
    texts = [" ".join(WORDS[: 2 + i % 5]) for i in range(40)]
    packed = TokenDataset(texts, tokenizer=tokenizer, max_length=16, packing=True)
    rows = unpack(packed.select(torch.arange(3, 9)))
    own = {int(i) for i in packed.take(torch.arange(3, 9)).extra["text_number"].unique() if i >= 0}
    batch = rows.take(torch.arange(len(rows)))
    assert set(batch.extra["text_number"][:, 0].tolist()) == own
    assert "attention_mask" in batch.inputs
    model, task = small("llama", tokenizer, **MODELS["llama"]).eval(), LanguageModeling().fit(packed)
    one, other = (task.evaluate(model, part).measures["nll"] for part in (packed, unpack(packed)))
    assert one == pytest.approx(other, rel=1e-5)
    plain = TokenDataset(texts, tokenizer=tokenizer, max_length=16)
    assert unpack(plain) is plain


def test_packed_rows_have_no_file(tokenizer, tmp_path):
    texts = [" ".join(WORDS[: 2 + i % 5]) for i in range(40)]
    packed = TokenDataset(texts, tokenizer=tokenizer, max_length=16, packing=True)
    with seeded(0):
        own = nn.Sequential(nn.Embedding(60, 4), nn.Linear(4, 60))
    with pytest.raises(MissingOutputError, match="packing"):
        to_onnx(own, packed.take(torch.arange(8)).inputs, tmp_path / "model.onnx")
    assert not (tmp_path / "model.onnx").exists()


def test_who_writes_and_who_classifies():
    classes = {"GPT2LMHeadModel": "prompts", "T5ForConditionalGeneration": "prompts"}
    for name, kind in {**classes, "BertForSequenceClassification": "texts"}.items():
        reader = choose_reader("folder", {"class": f"transformers.models.{name}"}, {}, texts=True)
        assert reader is not None
        assert reader.kind == kind


def test_a_file_has_the_merged_weights_of_an_adapter(tmp_path):
    peft = pytest.importorskip("peft", reason="peft is not installed (extra hf)")
    with seeded(0):
        base = nn.Sequential(nn.Linear(4, 6), nn.ReLU(), nn.Linear(6, 3))
        model = peft.get_peft_model(
            base, peft.LoraConfig(r=2, target_modules=["0", "2"], init_lora_weights=False)
        ).eval()
    inputs = torch.linspace(-1, 1, 40).reshape(10, 4)
    to_onnx(model, inputs, tmp_path / "model.onnx")
    torch.testing.assert_close(predict_onnx(tmp_path / "model.onnx", inputs), model(inputs).detach())
    assert "lora" not in str((tmp_path / "model.onnx").read_bytes())


def test_raw_texts_have_no_file(gpt2, tmp_path):
    with pytest.raises(LimbeckError, match="raw"):
        export_run(gpt2, to="onnx", raw=True, out=tmp_path / "raw")
