"""A job of language models with teachers of other vocabularies."""

from __future__ import annotations

import json

import pytest
import torch

from limbeck.compare import checkup
from limbeck.compare.arms import write_samples
from limbeck.compare.comparison_data import load_comparison_data
from limbeck.compare.language import describe_vocabulary
from limbeck.compare.student_start import make_student
from limbeck.compare.teacher import open_teacher
from limbeck.compare.teacher_cache import build, check, make_cache_loader, open_cached_teacher, with_cache
from limbeck.errors import LimbeckError, LimbeckWarning
from limbeck.job import make_job
from limbeck.teachers import (
    AlignedTeacher,
    CachedTeacher,
    Ensemble,
    ModelTeacher,
    TeacherContext,
    TranslatedTeacher,
)
from vocabularies import TEXTS, renumber, train_bytes

transformers = pytest.importorskip("transformers")


def write_model(folder, tokenizer, rows, seed=0):
    config = transformers.GPT2Config(
        vocab_size=rows, n_positions=32, n_embd=8, n_layer=1, n_head=1, bos_token_id=0, eos_token_id=0
    )
    torch.manual_seed(seed)
    transformers.GPT2LMHeadModel(config).save_pretrained(folder)
    tokenizer.save_pretrained(folder)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("vocabularies")
    tokenizer = train_bytes()
    for name, rows in {"student": 290, "padded": 300, "same": 290, "also": 300}.items():
        write_model(folder / name, tokenizer, rows)
    write_model(folder / "renumbered", renumber(tokenizer), 300)
    write_model(folder / "other", train_bytes(["entirely other words in this one"], vocabulary=280), 290)
    lines = (json.dumps({"text": f"{text} {number}"}) for number in range(20) for text in TEXTS)
    (folder / "texts.jsonl").write_text("\n".join(lines))
    return folder


def job_of(folder, teacher, **more):
    teachers = {"ensemble": {name: {"model": f"hf:{folder / name}"} for name in teacher}}
    return make_job({
        "data": {"name": str(folder / "texts.jsonl"), "max_length": 32}, "task": "language_modeling",
        "teacher": teachers if isinstance(teacher, tuple) else f"hf:{folder / teacher}",
        "student": f"hf:{folder / 'student'}", "budget": {"epochs": 1, "batch_size": 8}, **more,
    })  # fmt: skip


def open_job(job):
    material = load_comparison_data(job)
    return material, open_teacher(job, material)[0]


def test_equal_vocabularies_are_left_alone(folder):
    material, teacher = open_job(job_of(folder, "same"))
    assert isinstance(teacher, ModelTeacher)
    assert describe_vocabulary(teacher, material.train) is None


@pytest.mark.parametrize("name", ["padded", "renumbered"])
def test_trap_18_another_vocabulary_is_aligned_to_that_of_the_trained_student(folder, name):
    material, teacher = open_job(job_of(folder, name))
    assert isinstance(teacher, AlignedTeacher)
    assert teacher.alignment.shared == 290
    assert (teacher.alignment.student_size, teacher.alignment.teacher_size) == (290, 300)
    own = transformers.AutoTokenizer.from_pretrained(folder / "student")
    assert material.data.tokenizer.get_vocab() == own.get_vocab()
    assert "290 tokens are shared" in describe_vocabulary(teacher, material.train)


def test_trap_19_a_teacher_with_other_tokens_is_refused_before_anything_is_trained(folder):
    with pytest.raises(LimbeckError, match="same family"):
        open_job(job_of(folder, "other"))


def test_a_tokenizer_that_is_typed_and_is_not_the_teachers_is_named(folder):
    data = {"name": str(folder / "texts.jsonl"), "max_length": 32, "tokenizer": str(folder / "other")}
    new = {"model": "hf:gpt2", "pretrained": False, "n_layer": 1, "n_head": 1, "n_embd": 8, "n_positions": 32}
    with pytest.raises(LimbeckError, match=r"data\.tokenizer=.*other, which is not the teacher's: leave it out"):
        open_job(job_of(folder, "same", data=data, student=new))


def test_the_cache_of_a_job_has_the_teachers_own_outputs(folder, tmp_path):
    job = job_of(folder, "renumbered", cache={"folder": str(tmp_path / "cache")})
    material, teacher = open_job(job)
    cached = with_cache(job, teacher, material.task)
    assert isinstance(cached, AlignedTeacher)
    assert isinstance(cached.inner, CachedTeacher)
    (store,) = open_cached_teacher(job, teacher, material.task, str(tmp_path / "cache")).values()
    assert isinstance(store.inner, TranslatedTeacher)
    assert store.inner.teachers[0] is teacher.inner
    plain = job_of(folder, "padded", cache={"folder": str(tmp_path / "other")})
    (store,) = open_cached_teacher(plain, own := open_job(plain)[1], material.task, str(tmp_path / "other")).values()
    assert store.inner is own.inner


@pytest.mark.filterwarnings("ignore:The teacher's accuracy is:limbeck.errors.LimbeckWarning")  # it is not trained
def test_a_cache_that_is_built_before_serves_the_temperature_of_the_task(folder, tmp_path):
    """The plan of the cache once asked for the losses of classification, at temperature 4."""
    cache = {"folder": str(tmp_path / "cache"), "encoding": {"name": "sampled", "draws": 4}}
    job = job_of(folder, "padded", cache=cache, method={"name": "hinton"})
    (reader,) = build(job, callback=lambda event: None)
    assert reader.manifest.origin.outputs["logits"]["encoding"]["power"] == 1.0


@pytest.mark.filterwarnings("ignore:The teacher's accuracy is:limbeck.errors.LimbeckWarning")  # it is not trained
@pytest.mark.parametrize("name", ["padded", "renumbered"])
def test_trap_18_a_cache_that_is_built_before_has_the_outputs_that_the_job_reads(folder, tmp_path, name):
    job = job_of(folder, name, cache={"folder": str(tmp_path / "cache"), "encoding": "float32"})
    build(job, callback=lambda event: None)
    assert all(one.same for one in check(job, sample=8, seed=0))
    material, teacher = open_job(job)
    loader = make_cache_loader(job, material)
    context = TeacherContext(loader=loader, preprocess=material.data.preprocess)
    with with_cache(job, teacher, material.task).open(context) as stored, teacher.open(context) as live:
        batch = loader.peek()
        torch.testing.assert_close(
            stored(batch)["logits"][batch.mask], live(batch)["logits"][batch.mask], atol=1e-5, rtol=1e-4
        )


def test_teachers_of_one_vocabulary_are_averaged_in_it_and_others_are_not(folder):
    _, teacher = open_job(job_of(folder, ("padded", "also")))
    assert isinstance(teacher, AlignedTeacher)
    assert isinstance(teacher.inner, Ensemble)
    with pytest.raises(LimbeckError, match="one family"):
        open_job(job_of(folder, ("padded", "same")))


def test_a_student_with_padded_rows_writes_and_drafts_tokens_of_the_tokenizer(folder, tmp_path):
    job = job_of(folder, "same", student=f"hf:{folder / 'padded'}")
    material, teacher = open_job(job)
    student = make_student(job, material, seed=0)
    weight = student.transformer.wte.weight.data
    weight[290:] = 9 * weight[:290].mean(0) + torch.randn(10, 8, generator=torch.Generator().manual_seed(0))
    write_samples(student, material, tmp_path, teacher=teacher)
    samples = json.loads((tmp_path / "samples.json").read_text())
    assert samples["speculative"]["tokens"] > 0


def test_texts_that_cannot_be_written_do_not_stop_the_job(folder, tmp_path):
    material, teacher = open_job(job_of(folder, "same"))
    with pytest.warns(LimbeckWarning):
        write_samples(torch.nn.Linear(2, 2), material, tmp_path, teacher=teacher)
    assert list(json.loads((tmp_path / "samples.json").read_text())) == ["failure"]


def test_the_doctor_says_that_an_untrained_teacher_knows_nothing_and_finds_nothing_else_wrong(folder):
    findings = {one.name: one for one in checkup(job_of(folder, "renumbered"))}
    assert {name for name, one in findings.items() if one.state in ("wrong", "crash")} == {"teacher's news"}
    assert "290 tokens are shared" in " ".join(findings["teacher"].details)


def test_methods_of_a_language_job_are_at_temperature_1_unless_another_is_typed(folder):
    from limbeck.compare.arm_recipes import recipe_of

    material, teacher = open_job(job := job_of(folder, "same", method={"name": "hinton"}))
    typed = job_of(folder, "same", method={"name": "hinton", "temperature": 2})
    for one, temperature in ((job, 1.0), (typed, 2.0)):
        (stage,) = recipe_of(one, "distilled", teacher, task=material.task).stages()
        assert stage.objective.temperatures == {temperature}
