"""Jobs of language models: the tokenizer, splits by text, all arms, saved students, and mistakes before training."""

from __future__ import annotations

import json

import pytest
import torch

pytest.importorskip("transformers")

import transformers

from limbeck.cli.jobs import job_from_flags
from limbeck.compare import run_job
from limbeck.compare.comparison_data import load_comparison_data
from limbeck.compare.dry_run import find_seen_rows
from limbeck.compare.language import describe_tokens, unigram_nll, with_tokenizer
from limbeck.compare.teacher import iterate_answers, open_teacher
from limbeck.data import hash_tokenizer, load_data, open_tokenizer, train_byte_level_tokenizer
from limbeck.errors import LimbeckError, TextTooLongError
from limbeck.events import StepsTaken
from limbeck.job import Budget, make_job, read_run_job, with_settings
from limbeck.job.splits import train_and_development
from limbeck.metrics.predictions import rows_at_once
from limbeck.report.curves import read_written_texts

WORDS = "the king and queen of a far land speak to my good lord by day or night".split()  # noqa: SIM905
TEXTS = [" ".join(WORDS[(i * j + j) % len(WORDS)] for j in range(3 + i % 9)) for i in range(60)]
PAIRS = [{"prompt": f"{i} + {j} =", "completion": f" {i + j}"} for i in range(8) for j in range(6)]
SMALL = {"n_layer": 1, "n_head": 2, "n_embd": 16, "n_positions": 32}
NEW = {"model": "hf:gpt2", "pretrained": False, **SMALL}
FAST = {"epochs": 1, "batch_size": 16, "lr": 0.01}


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """A folder with texts, pairs, and a teacher as transformers saves it."""
    folder = tmp_path_factory.mktemp("language")
    (folder / "t.txt").write_text("\n".join(TEXTS))
    (folder / "p.jsonl").write_text("\n".join(map(json.dumps, PAIRS)))
    tokenizer = train_byte_level_tokenizer([*TEXTS, *map(str, PAIRS)], vocabulary=300, max_length=32)
    torch.manual_seed(0)
    config = transformers.GPT2Config(**{**SMALL, "n_embd": 32}, vocab_size=len(tokenizer), eos_token_id=0)
    transformers.GPT2LMHeadModel(config).save_pretrained(folder / "teacher")
    tokenizer.save_pretrained(folder / "teacher")
    return folder


def job_of(place, **changes):
    job = {
        "data": {"name": str(place / "t.txt"), "max_length": 32},
        "teacher": {"model": f"hf:{place / 'teacher'}", "check": False},
        "student": NEW,
        "budget": FAST,
    }
    return make_job({**job, **changes})


def test_the_teacher_s_tokenizer_reads_the_texts(place):
    material = load_comparison_data(job_of(place))
    assert hash_tokenizer(material.data.tokenizer) == hash_tokenizer(open_tokenizer(place / "teacher"))
    assert material.options == {"name": str(place / "t.txt"), "max_length": 32, "tokenizer": str(place / "teacher")}
    assert (material.task.name, material.classes) == ("language_modeling", 300)


def test_parts_are_split_by_text_and_not_by_window(place):
    job = job_of(place, data={"name": str(place / "t.txt"), "max_length": 4, "packing": True})
    material = load_comparison_data(job)
    train, development = train_and_development(job, material.data)
    parts = [set(part.text_numbers.tolist()) for part in (train, development, material.data.test)]
    assert sum(map(len, parts)) == len(set.union(*parts)) == len(TEXTS)
    assert (len(parts[1]), len(parts[2])) == (5, 12)


def test_a_tokenizer_is_trained_where_the_job_trains_the_teacher(place):
    data = {"name": str(place / "t.txt"), "vocabulary": 270, "max_length": 32}
    material = load_comparison_data(job_of(place, teacher=NEW, data=data))
    assert (material.options, len(material.data.tokenizer)) == (None, 270)
    (model,) = open_teacher(job_of(place, teacher=NEW, data=data), material)[1].values()
    assert model.config.vocab_size == 270


def test_a_saved_teacher_without_a_tokenizer_is_refused(place, tmp_path):
    transformers.GPT2LMHeadModel(transformers.GPT2Config(**SMALL, vocab_size=300)).save_pretrained(tmp_path / "bare")
    teacher = {"model": f"hf:{tmp_path / 'bare'}"}
    with pytest.raises(LimbeckError, match=r"data\.tokenizer=FOLDER"):
        load_comparison_data(job_of(place, teacher=teacher))
    with pytest.raises(LimbeckError, match=r"data.vocabulary|data.tokenizer"):
        load_comparison_data(job_of(place, data={"name": str(place / "t.txt"), "vocabulary": 300}))
    data = {"name": str(place / "t.txt"), "tokenizer": str(place / "teacher"), "max_length": 32}
    assert load_comparison_data(job_of(place, teacher=teacher, data=data)).classes == 300


def test_mismatched_vocabularies_are_refused_before_training(place, tmp_path):
    tokenizer = train_byte_level_tokenizer(["other words entirely"] * 3, vocabulary=262)
    config = transformers.GPT2Config(**SMALL, vocab_size=262)
    transformers.GPT2LMHeadModel(config).save_pretrained(tmp_path / "student")
    tokenizer.save_pretrained(tmp_path / "student")
    teacher = {"model": f"hf:{place / 'teacher'}"}
    job = job_of(place, student={"model": f"hf:{tmp_path / 'student'}"}, teacher=teacher)
    with pytest.raises(LimbeckError, match="token"):  # the texts are read with the student's own tokenizer
        open_teacher(job, load_comparison_data(job))
    data = {"name": str(place / "t.txt"), "tokenizer": str(place / "teacher"), "max_length": 32}
    with pytest.raises(LimbeckError, match="another token"):
        load_comparison_data(job.model_copy(update={"data": data}))


def test_the_wrong_tokenizer_is_refused_before_training(place, tmp_path):
    train_byte_level_tokenizer(["other words entirely"] * 3, vocabulary=262).save_pretrained(tmp_path / "own")
    job = job_of(place, data={"name": str(place / "t.txt"), "tokenizer": str(tmp_path / "own"), "max_length": 32})
    job = make_job(with_settings(job.model_dump(mode="json"), ["teacher.check=true"]))
    with pytest.raises(LimbeckError, match="tokenizer"):
        open_teacher(job, load_comparison_data(job))


def test_windows_longer_than_the_model_reads_are_refused(place):
    job = job_of(place, data={"name": str(place / "t.txt"), "max_length": 64})
    with pytest.raises(LimbeckError, match=r"data\.max_length=32"):
        open_teacher(job, load_comparison_data(job))


def test_texts_that_are_too_long_are_no_longer_than_the_models_read(place):
    with pytest.raises(TextTooLongError) as caught:
        load_comparison_data(job_of(place, data={"name": str(place / "p.jsonl"), "max_length": 3}))
    fits, short = caught.value.needed, {**NEW, "n_positions": caught.value.needed - 1}
    assert caught.value.readable == 32
    assert f"max_length={fits}" in str(caught.value)
    assert str(place / "teacher") in str(caught.value)
    with pytest.raises(TextTooLongError) as caught:
        load_comparison_data(job_of(place, student=short, data={"name": str(place / "p.jsonl"), "max_length": 3}))
    assert caught.value.readable == fits - 1
    assert f"max_length={fits}" not in str(caught.value)


def test_another_vocabulary_is_refused_before_texts_that_are_too_long(place, tmp_path):
    train_byte_level_tokenizer(["other words entirely"] * 3, vocabulary=262).save_pretrained(tmp_path / "own")
    (tmp_path / "p.jsonl").write_text("\n".join(map(json.dumps, [*PAIRS, {"prompt": "1 " * 40, "completion": "2"}])))
    data = {"name": str(tmp_path / "p.jsonl"), "tokenizer": str(tmp_path / "own"), "max_length": 32}
    job = job_of(place, data=data, teacher={"model": f"hf:{place / 'teacher'}"})
    with pytest.raises(LimbeckError) as caught:
        run_job(job)
    assert not isinstance(caught.value, TextTooLongError)
    own = {**data, "tokenizer": str(place / "teacher")}
    with pytest.raises(TextTooLongError):
        run_job(job.model_copy(update={"data": own}))


def test_a_teacher_that_knows_no_context_stops_the_job_and_leaves_no_folder(place, tmp_path):
    changes = {"teacher": {"model": f"hf:{place / 'teacher'}"}, "arms": ["teacher", "distilled"]}
    with pytest.raises(LimbeckError, match="counting the tokens"):
        run_job(job_of(place, **changes, out=str(tmp_path / "run")))
    assert list(tmp_path.iterdir()) == []


def test_a_teacher_that_was_trained_is_kept_if_it_is_refused(place, tmp_path):
    teacher = {**NEW, "train": {**FAST, "lr": 1e-9}}
    data = {"name": str(place / "t.txt"), "vocabulary": 270, "max_length": 32}
    with pytest.raises(LimbeckError):
        run_job(job_of(place, teacher=teacher, data=data, arms=["teacher", "distilled"], out=str(tmp_path / "run")))
    assert (tmp_path / "run" / "teacher").is_dir()


def test_parts_that_the_teacher_may_know_are_said_in_the_words_of_the_task(place):
    job = job_of(place)
    sentence = find_seen_rows(job, load_comparison_data(job), {})["sentence"]
    assert "nats per token there may be too low" in sentence
    assert "accuracy" not in sentence


def test_token_counts_are_the_baseline(place):
    material = load_comparison_data(job_of(place))
    value = unigram_nll(material.train, material.development, material.classes)
    batch = material.train.take(torch.arange(len(material.train)))
    counts = batch.labels[batch.mask].bincount(minlength=300).double() + 1
    held_out = material.development.take(torch.arange(len(material.development)))
    assert value == pytest.approx(float(-(counts / counts.sum()).log()[held_out.labels[held_out.mask]].mean()))


def test_batches_of_predictions_have_bounded_logits(place):
    material = load_comparison_data(job_of(place))
    assert rows_at_once(material.train) == 256
    material.train.max_length = 1 << 20
    assert rows_at_once(material.train) == 1


@pytest.mark.integration
def test_all_arms_run_and_the_student_opens_with_from_pretrained(place, tmp_path):
    arms = ["teacher", "student alone", "label smoothing", "shuffled teacher", "distilled"]
    out = tmp_path / "run"
    result = run_job(job_of(place, data=str(place / "p.jsonl"), arms=arms, out=str(out)))
    row = result["arms"]["distilled"]
    assert min(row["nll"]["mean"], row["kl_to_teacher"]) > 0
    assert 0 < result["arms"]["label smoothing"]["method"]["smoothing"] <= 1
    assert result["task"]["name"] == "language_modeling"
    student = transformers.AutoModelForCausalLM.from_pretrained(out / "student")
    tokenizer = transformers.AutoTokenizer.from_pretrained(out / "student")
    written = student.generate(**tokenizer("1 + 1 =", return_tensors="pt"), max_new_tokens=4)
    assert written.shape[1] > 5
    assert (out / "report.html").is_file()
    more = run_job(make_job({**read_run_job(out), "out": str(out), "seeds": 2}), change=True)
    assert more["arms"]["distilled"]["nll"]["values"][0] == row["nll"]["values"][0]
    assert more["seeds"] == 2


@pytest.mark.integration
def test_a_module_from_ids_to_logits_is_teacher_and_student(place, tmp_path):
    (tmp_path / "my.py").write_text(
        "from torch import nn\n"
        "def build(vocab_size, width=8):\n"
        "    return nn.Sequential(nn.Embedding(vocab_size, width), nn.Linear(width, vocab_size))\n"
    )
    own = f"{tmp_path / 'my.py'}:build"
    data = {"name": str(place / "t.txt"), "vocabulary": 280, "max_length": 16}
    job = job_of(place, data=data, teacher={"model": own, "width": 16, "check": False}, student=own)
    result = run_job(job)
    assert result["arms"]["distilled"]["parameters"] == 280 * 8 * 2 + 280


@pytest.mark.integration
def test_the_teacher_is_asked_once_with_a_cache(place, tmp_path):
    job = job_of(
        place, data=str(place / "p.jsonl"), cache={"encoding": {"name": "top-k", "k": 8}}, out=str(tmp_path / "run"),
        budget=Budget(**{**FAST, "epochs": 2}), arms=["teacher", "distilled"],
    )  # fmt: skip
    assert run_job(job)["arms"]["distilled"]["nll"]["mean"] > 0
    assert (tmp_path / "run" / "answers").is_dir()


@pytest.mark.integration
def test_the_student_writes_in_an_on_policy_job(place, tmp_path):
    """Beside a method with a cache of the teacher's outputs, which the written texts do not use."""
    methods = [{"name": "hinton"}, {"name": "gkd", "share": 0.5, "max_new_tokens": 4, "divergence": "reverse"}]
    job = job_of(
        place, data=str(place / "p.jsonl"), methods=methods, cache={}, out=str(tmp_path / "run"),
        budget=Budget(**{**FAST, "epochs": 4}), arms=["distilled"],
    )  # fmt: skip
    said = []
    result = run_job(job, callback=said.append)
    reports = [event for event in said if isinstance(event, StepsTaken) and event.run.startswith("gkd")]
    assert sum(event.generation["finished"] + event.generation["cut_off"] for event in reports) > 0
    assert result["arms"]["gkd"]["nll"]["mean"] > 0
    (lines,) = (tmp_path / "run").glob("arms/gkd/seed-0/metrics.jsonl")
    assert "tokens_per_second" in lines.read_text()
    written = read_written_texts(lines.parents[1])
    assert written.finished + written.cut_off == sum(
        event.generation["finished"] + event.generation["cut_off"] for event in reports
    )
    assert read_written_texts(tmp_path / "run" / "arms" / "hinton") is None
    assert "Texts that a model wrote" in (tmp_path / "run" / "report.html").read_text()
    examples = load_data({"name": str(place / "p.jsonl"), "tokenizer": str(place / "teacher")}).train
    written = 2 * len(examples) * 4
    cost = describe_tokens(job, examples)
    assert f"stored, and up to {written:,}. Models write up to {written:,} of these tokens." in cost
    alone = job.model_copy(update={"cache": None, "methods": None, "method": job.methods[1], "arms": ["distilled"]})
    given = 2 * int((examples.take(torch.arange(len(examples))).labels >= 0).sum())
    assert f"the teacher answers up to {given + written:,}." in describe_tokens(alone, examples)
    assert [line for line in map(str, said) if "of the texts were cut off" in line]
    assert "of the texts were cut off" in (tmp_path / "run" / "report.html").read_text()
    shuffled = {"method": methods[1], "arms": ["shuffled teacher", "distilled"]}
    with pytest.raises(LimbeckError, match="ShuffledTeacher"):
        run_job(job_of(place, data=str(place / "p.jsonl"), **shuffled))


@pytest.mark.integration
def test_an_encoder_decoder_reads_prompts_and_writes_answers(place, tmp_path):
    small = {"num_layers": 1, "d_model": 16, "d_ff": 32, "num_heads": 2, "d_kv": 8}
    model = {"model": "hf:t5", "pretrained": False, **small}
    data = {"name": str(place / "p.jsonl"), "vocabulary": 280, "max_length": 16}
    job = job_of(place, data=data, teacher={**model, "check": False}, student=model, arms=["teacher", "distilled"])
    assert load_comparison_data(job).options == {**data, "encoder_decoder": True}
    assert run_job(job)["arms"]["distilled"]["nll"]["mean"] > 0
    with pytest.raises(LimbeckError, match="a prompt and a completion"):
        load_comparison_data(job.model_copy(update={"data": str(place / "t.txt")}))
    with pytest.raises(LimbeckError, match="packing"):
        load_comparison_data(job.model_copy(update={"data": {**data, "packing": True}}))


def test_trap_30_the_teacher_of_a_job_answers_without_dropout(place):
    job = job_of(place)
    material = load_comparison_data(job)
    teacher, models = open_teacher(job, material)
    models["member-0"].train()  # GPT-2 has a dropout of 0.1
    some = material.train.select(torch.arange(4))
    first, second = ([one for _, one in iterate_answers(teacher, some, material)] for _ in range(2))
    assert all(map(torch.equal, first, second))


def test_the_command_and_the_file_are_the_same_job(place, tmp_path):
    (tmp_path / "job.yaml").write_text(
        f"data: {{name: {place / 't.txt'}, max_length: 32}}\n"
        f"teacher: hf:{place / 'teacher'}\n"
        "student: {model: 'hf:gpt2', pretrained: false, n_layer: 1}\n"
        "task: language_modeling\n"
    )
    flags = {"teacher": f"hf:{place / 'teacher'}", "student": "hf:gpt2", "data": str(place / "t.txt")}
    settings = ["student.pretrained=false", "student.n_layer=1", "data.max_length=32", "task=language_modeling"]
    assert job_from_flags(None, flags, settings) == job_from_flags(str(tmp_path / "job.yaml"), {}, [])


def test_a_tokenizer_of_the_hub_is_opened_by_name(place, monkeypatch):
    asked = []
    ours = open_tokenizer(place / "teacher")

    def open_by_name(name, **options):
        asked.append((name, options))
        return ours

    monkeypatch.setattr(transformers.AutoTokenizer, "from_pretrained", open_by_name)
    monkeypatch.setattr("limbeck.compare.language._is_encoder_decoder", lambda model: False)
    teacher = {"model": "hf:some/model"}
    options = with_tokenizer(job_of(place, teacher=teacher), {"name": str(place / "t.txt")}, None)
    assert options["tokenizer"] == "hf:some/model"
    assert load_data(options).tokenizer is ours
    assert asked == [("some/model", {"trust_remote_code": False})]
