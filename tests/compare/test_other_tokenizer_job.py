"""A job whose teacher has another tokenizer than its student."""

from __future__ import annotations

import json
import math

import pytest
import torch

from limbeck.compare import checkup, run_job
from limbeck.compare.comparison_data import arms_of_task, load_comparison_data
from limbeck.compare.language import describe_vocabulary
from limbeck.compare.teacher import ask, open_teacher
from limbeck.compare.teacher_cache import build
from limbeck.errors import LimbeckError
from limbeck.job import make_job
from limbeck.models import TokenizersDifferError
from limbeck.teachers import CrossTokenizerTeacher
from vocabularies import TEXTS, train_bytes

transformers = pytest.importorskip("transformers")

QUIET = pytest.mark.filterwarnings("ignore::limbeck.errors.LimbeckWarning")


def write_model(folder, tokenizer, seed=0, positions=64):
    config = transformers.GPT2Config(
        vocab_size=len(tokenizer), n_positions=positions, n_embd=8, n_layer=1, n_head=1, bos_token_id=0, eos_token_id=0
    )
    torch.manual_seed(seed)
    transformers.GPT2LMHeadModel(config).save_pretrained(folder)
    tokenizer.save_pretrained(folder)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("tokenizers")
    write_model(folder / "student", train_bytes())
    words = train_bytes(["entirely other words in this one"], vocabulary=280)
    write_model(folder / "other", words, 1)
    write_model(folder / "short", words, 1, positions=20)
    lines = (json.dumps({"text": f"{text} {number}"}) for number in range(20) for text in TEXTS)
    (folder / "texts.jsonl").write_text("\n".join(lines))
    return folder


def job_of(folder, method="alm", teacher="other", **more):
    methods = {"methods": [{"name": name} for name in method]} if isinstance(method, tuple) else {"method": method}
    return make_job({
        "data": {"name": str(folder / "texts.jsonl"), "max_length": 32}, "task": "language_modeling",
        "teacher": {"model": f"hf:{folder / teacher}", "check": False}, "student": f"hf:{folder / 'student'}",
        "budget": {"epochs": 1, "batch_size": 8}, **methods, **more,
    })  # fmt: skip


def open_job(job):
    material = load_comparison_data(job)
    return material, open_teacher(job, material)[0]


def test_trap_19_methods_by_token_refuse_the_teacher_and_name_those_that_take_it(folder):
    job = job_of(folder, "hinton")
    checked = job.model_copy(update={"teacher": job.teacher.model_copy(update={"check": True})})
    with pytest.raises(TokenizersDifferError, match="alm and uld"):
        open_job(checked)


def test_methods_of_both_kinds_do_not_share_a_teacher(folder):
    with pytest.raises(LimbeckError, match="uld compare texts and hinton"):
        open_job(job_of(folder, ("uld", "hinton")))


@pytest.mark.parametrize("method", ["alm", ("uld", "alm")])
def test_the_teacher_of_a_method_that_compares_texts_reads_its_own_tokens(folder, method):
    job = job_of(folder, method)
    material, teacher = open_job(job)
    assert isinstance(teacher, CrossTokenizerTeacher)
    assert len(teacher.aligner.teacher.tokenizer) == 280
    assert len(material.data.tokenizer) == 290
    assert "280" in describe_vocabulary(teacher, material.train)
    assert "label smoothing" not in arms_of_task(job, material.task).arms


def test_the_same_tokenizer_on_both_sides_works_as_well(folder):
    _, teacher = open_job(job_of(folder, teacher="student"))
    assert isinstance(teacher, CrossTokenizerTeacher)


def test_windows_that_are_too_long_for_the_teachers_tokens_are_refused(folder):
    with pytest.raises(LimbeckError, match=r"data\.max_length"):
        open_job(job_of(folder, teacher="short"))


def test_the_teachers_row_has_the_likelihood_of_the_texts_by_the_students_tokens(folder):
    """The same nats as the teacher's own on its own tokens, where every token but the first is aligned."""
    material, teacher = open_job(job_of(folder))
    table = ask(teacher, material.data.test, material)
    measures = material.task.measure(table, material.task.stored_targets(material.data.test))
    assert not {"entropy", "token_accuracy", "kl_to_teacher"} & set(measures)
    nats, tokens, size = 0.0, 0, 0
    model, own = teacher.inner.model.eval(), teacher.aligner.teacher.tokenizer
    texts = material.data.test.take(torch.arange(len(material.data.test)))
    for row in range(len(material.data.test)):
        one = texts.rows(torch.tensor([row]))
        text = teacher.align(one)
        ids = torch.cat([text.teacher_ids[0][text.is_text[0]], torch.tensor([own.eos_token_id])])
        with torch.no_grad():
            log_q = model(input_ids=ids[None, :-1]).logits[0].log_softmax(-1)
        counted = sum(text.teacher_count.tolist())
        values = -log_q.gather(1, ids[1:, None])[:, 0]
        nats += float(values[-counted:].sum())  # the groups are the last ones
        covered, every = text.aligned_tokens, text.tokens
        nats += float(values[-counted:].sum()) * (every - covered) / covered
        tokens += every
        size += int(one.extra["label_bytes"].sum())
    assert measures["nll"] == pytest.approx(nats / tokens, rel=1e-5)
    assert measures["bits_per_byte"] == pytest.approx(nats / math.log(2) / size, rel=1e-5)


def test_a_teacher_behind_a_server_is_refused_before_it_is_asked(folder):
    job = job_of(folder)
    served = {"url": "http://127.0.0.1:9/v1", "model": "other", "check": False}
    with pytest.raises(LimbeckError, match="behind a server"):
        open_job(make_job({**job.model_dump(exclude_unset=True), "teacher": served}))


@QUIET
def test_a_job_runs_from_the_teacher_to_the_verdict(folder, tmp_path):
    run_job(job_of(folder, ("uld", "alm"), seeds=1, out=str(tmp_path / "run")))
    rows = json.loads((tmp_path / "run" / "result.json").read_text())["arms"]
    assert {"teacher", "student alone", "uld", "alm"} <= set(rows)
    assert rows["teacher"]["measures"]["bits_per_byte"]["mean"] > 0
    assert not {"kl_to_teacher", "agreement"} & set(rows["alm"]["measures"])


@QUIET
def test_the_doctor_shows_how_many_tokens_are_aligned(folder):
    findings = {finding.name: finding for finding in checkup(job_of(folder))}
    assert not [name for name, one in findings.items() if one.state in ("wrong", "crash") and name != "teacher's news"]
    aligned = findings["aligned tokens"]
    assert aligned.value["tokens"] >= aligned.value["aligned"] > 0
    assert "=" in aligned.details[0]


@QUIET
def test_a_cache_of_likelihoods_serves_a_job(folder, tmp_path):
    cache = {"folder": str(tmp_path / "cache"), "encoding": "likelihoods"}
    (reader,) = build(job_of(folder, cache=cache), callback=lambda event: None)
    assert reader.manifest.origin.outputs["logits"]["encoding"]["name"] == "likelihoods"
    with pytest.raises(LimbeckError, match="likelihoods"):
        build(job_of(folder, cache={"folder": str(tmp_path / "other")}), callback=lambda event: None)


def test_one_tokenizer_for_both_is_said_and_other_methods_are_named(folder):
    material, teacher = open_job(job_of(folder, "alm", teacher="student"))
    said = describe_vocabulary(teacher, material.train)
    assert "hinton" in said
    assert "gkd" in said
