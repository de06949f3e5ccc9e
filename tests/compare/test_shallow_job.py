"""Students that start from layers of the teacher, in every arm; invalid ones are refused."""

from __future__ import annotations

import json

import pytest
import torch

transformers = pytest.importorskip("transformers", reason="transformers is not installed (extra hf)")

import limbeck as lb  # noqa: E402
from job_events import collect_messages  # noqa: E402
from limbeck.compare.arms import ArmRun, start  # noqa: E402
from limbeck.compare.comparison_data import load_comparison_data  # noqa: E402
from limbeck.compare.student_start import make_student  # noqa: E402
from limbeck.compare.teacher import open_teacher  # noqa: E402
from limbeck.errors import LimbeckError  # noqa: E402
from limbeck.export import export_run  # noqa: E402
from limbeck.job import job_text, make_job, read_job, with_absolute_paths, with_settings  # noqa: E402
from limbeck.models import fingerprint, seeded, shallow  # noqa: E402

WORDS = ("fine", "dull", "moving", "flat", "funny", "slow")
TINY = {
    "pretrained": False, "vocab_size": 60, "hidden_size": 16, "num_hidden_layers": 4, "num_attention_heads": 2,
    "intermediate_size": 24, "max_position_embeddings": 32,
}  # fmt: skip
BERT = {"model": "hf:bert", **TINY}


@pytest.fixture(scope="module")
def rows(tmp_path_factory):
    """Texts of which one word tells the class."""
    file = tmp_path_factory.mktemp("texts") / "rows.jsonl"
    texts = [(f"a {WORDS[i % 6]} film {'of a kind ' * (i % 3)}by them", "gb"[i % 6 % 2]) for i in range(120)]
    file.write_text("".join(json.dumps({"text": text, "label": label}) + "\n" for text, label in texts))
    return file


def asked(rows, **changes):
    return make_job({
        "data": {"name": str(rows), "vocabulary": 60, "max_length": 16},
        "teacher": {**BERT, "train": {"epochs": 6, "lr": 0.01, "batch_size": 16}, "check": False},
        "student": {"model": "shallow", "layers": 2}, "budget": {"epochs": 1, "lr": 0.01, "batch_size": 16},
        "seeds": 1, "workers": 1, **changes,
    })  # fmt: skip


@pytest.mark.slow
def test_every_arm_begins_as_the_trained_teacher_s_layers_and_the_student_ships(rows, tmp_path):
    said = []
    job = asked(rows, out=str(tmp_path / "run"))
    result = lb.run_job(job, callback=collect_messages(said))
    assert "Student: layers 0, 2 of the teacher's 4 (from 0) at the start of every arm." in said
    assert set(result["arms"]) == {"teacher", "student alone", "label smoothing", "distilled"}
    # The shipped student opens with nothing but its folder, reads texts, and speaks the data's names.
    student, preprocess = lb.load(tmp_path / "run" / "student"), lb.load_preprocess(tmp_path / "run" / "student")
    assert len(student.bert.encoder.layer) == 2
    logits = student(**preprocess(lb.Batch(["a dull film by them", "a fine film"]))).logits
    data = load_comparison_data(job).data
    batch = data.test.take(torch.arange(4))
    texts = batch.extra["text"]
    assert torch.equal(student(**preprocess(lb.Batch(texts))).logits, student(**preprocess(batch)).logits)
    opened = transformers.AutoModelForSequenceClassification.from_pretrained(tmp_path / "run" / "student")
    words = transformers.AutoTokenizer.from_pretrained(tmp_path / "run" / "student")
    again = opened(**words(["a dull film by them", "a fine film"], padding=True, return_tensors="pt")).logits
    torch.testing.assert_close(again, logits, atol=1e-6, rtol=0)
    assert opened.config.id2label == {0: "b", 1: "g"}
    assert opened.config.label2id == {"b": 0, "g": 1}
    for to in ("folder", "hf"):
        found = export_run(tmp_path / "run", to=to)
        assert found.score_after == found.score_before
        shipped, asks = lb.load(found.path), lb.load_preprocess(found.path)
        assert torch.equal(shipped(**asks(lb.Batch(texts))).logits, student(**preprocess(lb.Batch(texts))).logits)


def test_arms_and_seeds_share_the_teacher_s_layers_and_a_new_head_is_the_seed_s(rows):
    job = asked(rows)
    material = load_comparison_data(job)
    teacher, models = open_teacher(job, material)
    with torch.no_grad():
        for parameter in models["member-0"].parameters():  # as training would
            parameter.add_(0.01)
    wanted = fingerprint(shallow(models["member-0"], 2))
    for arm, seed in (("student alone", 0), ("distilled", 0), ("label smoothing", 3)):
        run = start(ArmRun(job, arm, seed, None, None), material, teacher)
        begun = fingerprint(run.models["student"])
        run.finish()
        assert begun == wanted
        assert fingerprint(run.student) != wanted
    new = asked(rows, student={"model": "shallow", "layers": [0, 3], "head": False})
    first, second, again = (make_student(new, material, seed=seed, teacher=teacher) for seed in (0, 1, 0))
    assert torch.equal(first.classifier.weight, again.classifier.weight)
    assert not torch.equal(first.classifier.weight, second.classifier.weight)
    assert torch.equal(first.bert.encoder.layer[1].output.dense.bias, second.bert.encoder.layer[1].output.dense.bias)
    assert len(first.bert.encoder.layer) == 2


def test_it_is_reported_in_flags_and_survives_its_file(rows, tmp_path, monkeypatch):
    found = with_settings({"data": str(rows), "teacher": BERT, "student": "shallow"}, ["student.layers=[0, 3]"])
    job = make_job(found)
    assert job.student.arguments == {"layers": [0, 3]}
    (tmp_path / "shallow").mkdir()
    monkeypatch.chdir(tmp_path)
    (tmp_path / "job.yaml").write_text(job_text(with_absolute_paths(job)))
    assert make_job(read_job(tmp_path / "job.yaml")).student == job.student


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"teacher": {**BERT, "members": 2}}, r"shallow .* 2 members.*--set teacher\.members=1"),
        ({"teacher": {"model": "shallow", "layers": 1}}, "teacher: shallow is a student"),
        ({"student": {"model": "shallow"}}, r"shallow needs layers=.*--set student\.layers="),
        ({"student": {"model": "shallow", "layers": 1.5}}, r"takes layers as how many.*got 1\.5.*student\.layers="),
        ({"student": {"model": "shallow", "layers": 2, "head": "no"}}, r"takes head as true.*got 'no'"),
        ({"student": {"model": "shallow", "layer": 2}}, "no argument 'layer'. Did you mean 'layers'"),
    ],
    ids=["ensemble", "teacher", "none", "half", "head", "misspelt"],
)
def test_what_cannot_be_is_refused_when_the_job_is_made(rows, changes, said):
    with pytest.raises(LimbeckError, match=said):
        asked(rows, **changes)


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"student": {"model": "shallow", "layers": 3}}, r"3 layers do not divide the teacher's 4.*student\.layers="),
        ({"teacher": {**BERT, "model": "hf:albert", "embedding_size": 8}}, "as ALBERT does"),
    ],
    ids=["number", "albert"],
)
def test_what_the_teacher_lacks_is_refused_before_it_is_paid_for(rows, changes, said, tmp_path):
    with pytest.raises(LimbeckError, match=said) as error:
        lb.run_job(asked(rows, **changes, out=str(tmp_path / "run")))
    assert "\n" not in str(error.value)
    assert not (tmp_path / "run").exists()


def test_a_teacher_that_is_no_model_of_transformers_has_no_layers_to_give(tmp_path):
    teacher = {"model": "mlp", "hidden": [8]}
    job = make_job({"data": "digits", "teacher": teacher, "student": {"model": "shallow", "layers": 1}})
    with pytest.raises(LimbeckError, match="student: A Mlp "):
        lb.run_job(job)


def test_a_teacher_with_another_tokenizer_beside_it_is_refused(rows, tmp_path):
    mine, other = (load_comparison_data(asked(rows, data={"name": str(rows), "vocabulary": size})) for size in (60, 50))
    teacher = make_student(asked(rows, student=BERT), mine, seed=0)
    folder = lb.save(teacher, tmp_path / "teacher")
    mine.data.tokenizer.save_pretrained(folder)
    job = asked(rows, teacher={"model": str(folder)})
    open_teacher(job, mine)
    with pytest.raises(LimbeckError, match=rf"another tokenizer.*--set data\.tokenizer={folder}, or"):
        open_teacher(job, other)
    open_teacher(asked(rows, teacher={"model": str(folder), "check": False}), other)


def test_a_student_by_a_configuration_speaks_the_data_s_names(rows):
    job = asked(rows, student={**BERT, "num_hidden_layers": 1})
    student = make_student(job, load_comparison_data(job), seed=0)
    assert student.config.id2label == {0: "b", 1: "g"}
    with seeded(0):
        assert student.config.num_labels == 2
