"""A study of claims: tasks, table and words from its description; small images, their teachers and students."""

from __future__ import annotations

import random
from dataclasses import replace
from functools import partial

import pytest
import torch

from limbeck.data import ArrayDataset, DataSplits, Subset, draw_digits
from limbeck.data.preprocess import fit_normalization
from limbeck.errors import LimbeckError
from limbeck.methods import make
from limbeck.papers import Claim, ClaimStudy, ExperimentScale, Figure, SettingsSearch, TaskFolder, small_images
from limbeck.papers.claim import count_words
from limbeck.papers.experiment import renumbered
from limbeck.papers.small_images import FASHION_CNN, FASHION_MLP, load_teacher, teacher_tasks, train_student
from limbeck.papers.task_queue import run_and_save
from limbeck.report import claims_markdown, paper_markdown, paper_tables
from limbeck.task_runner import WorkItem, sort_tasks

SCORE = Figure("score", "score", "%")


def train_arm(folder, *, arm, seed, quick):
    noise = random.Random(f"{seed} {quick}").random()
    return {"score": {"kd, tuned": 3.0, "alone": 0.0}[arm] + noise + 0.01 * random.Random(f"{arm}{seed}").random()}


STUDY = ClaimStudy(
    "toy", "Is it better?", {"kd, tuned": "distilled", "alone": "labels"}, train_arm, [SCORE],
    [Claim.of_difference("kd, tuned", "alone", SCORE), Claim.of_difference("alone", "kd, tuned", SCORE)],
    {"quick": 1, "full": 2.5}, shared=lambda scale: [WorkItem("teacher", print)], requires=lambda seed: ("teacher",),
)  # fmt: skip


def run(scale):
    return {task.name: task.function(None) for task in STUDY.tasks(scale) if task.name != "teacher"}


def test_tasks_have_names_requirements_and_seconds():
    tasks = STUDY.tasks(ExperimentScale("full", (0, 1)))
    assert [task.name for task in tasks] == [
        "teacher", "toy/kd-tuned/seed-0", "toy/alone/seed-0", "toy/kd-tuned/seed-1", "toy/alone/seed-1",
    ]  # fmt: skip
    assert {task.seconds for task in tasks[1:]} == {2.5}
    assert {task.requires for task in tasks[1:]} == {("teacher",)}
    assert tasks[1].function.keywords == {"arm": "kd, tuned", "seed": 0, "quick": False}


def test_the_table_and_the_words():
    scale = ExperimentScale("quick", tuple(range(5)))
    experiment, results = STUDY.experiment(), run(scale)
    rows = experiment.rows(scale, results)
    assert [(row.name, row.column, row.note) for row in rows] == [
        ("kd, tuned", "score", "distilled"), ("alone", "score", "labels"),
    ]  # fmt: skip
    claims = [claim.as_json() for claim in experiment.claims(scale, results)]
    assert [claim["word"] for claim in claims] == ["shown", "opposite"]
    assert count_words(claims) == {"shown": 1, "not shown": 0, "opposite": 1}
    table = {
        "claim": "KD is better.", "skipped": {},
        "experiments": {"toy": {"title": "?", "rows": [row.as_json() for row in rows], "claims": claims}},
    }  # fmt: skip
    assert claims_markdown(claims) in paper_markdown(table)
    assert "| opposite |" in paper_markdown(table)
    assert [str(cell) for cell in paper_tables(table)[-1].columns[-1].cells] == ["shown", "opposite"]


TEACHER = Figure("teacher", "accuracy of the teacher", "%")


def train_with_teacher(folder, *, arm, seed, quick):
    return {"score": 1.0 + seed} | ({} if arm == "alone" else {"teacher": 90.0 + seed})


def test_a_figure_that_an_arm_does_not_have_is_a_dash_and_no_number():
    study = replace(STUDY, train=train_with_teacher, figures=[SCORE, TEACHER])
    scale, results = ExperimentScale("quick", (0, 1)), {}
    for task in study.tasks(scale):
        results[task.name] = task.function(None) if task.name != "teacher" else {}
    rows = study.table(scale, results)
    assert [(row.name, row.column) for row in rows] == [
        ("kd, tuned", "score"), ("kd, tuned", "accuracy of the teacher"), ("alone", "score"),
    ]  # fmt: skip
    table = {"experiments": {"toy": {"title": "?", "rows": [row.as_json() for row in rows], "claims": []}}}
    (line,) = [line for line in paper_markdown(table).splitlines() if "alone" in line]
    assert line.endswith("| 1.5 ± 0.7 | - |")
    assert [str(cell) for cell in paper_tables(table)[0].columns[2].cells] == ["90.5 ± 0.7", "-"]


def test_a_figure_that_no_arm_has_is_an_error():
    with pytest.raises(KeyError):
        replace(STUDY, figures=[TEACHER]).table(ExperimentScale("quick", (0,)), run(ExperimentScale("quick", (0,))))


def fit(folder, *, arm, seed, quick, development=False, lr=1.0, weight=0.0):
    """The best lr is 3, on development data; on the others it is 1."""
    best = {"alone": 3.0, "kd": 2.0}[arm] if development else 1.0
    return {"score": 10 - abs(lr - best) + weight + 0.01 * random.Random(f"{arm}{seed}").random()}


SEARCH = {"alone": [{"lr": 1.0}, {"lr": 3.0}], "kd": [{"lr": 2.0}, {"lr": 2.0, "weight": 0.5}]}
SEARCHED = ClaimStudy(
    "toy", "Is it better?", {"alone": "labels", "kd": "distilled"}, fit, [SCORE],
    [Claim.of_difference("kd", "alone", SCORE)], {"quick": 1, "full": 2},
    shared=lambda scale: [WorkItem(f"teacher-{seed}", dict) for seed in scale.seeds],
    requires=lambda seed: (f"teacher-{seed}",), search=SettingsSearch(SEARCH, SCORE),
)  # fmt: skip


def test_each_arm_chooses_on_development_data_with_a_seed_and_a_teacher_of_its_own(tmp_path):
    scale, results = ExperimentScale("quick", (0, 1)), {}
    tasks = sort_tasks(SEARCHED.tasks(scale))
    assert "teacher-100" in [task.name for task in tasks]
    assert sum(task.name.startswith("toy/try") for task in tasks) == 4
    for task in tasks:
        work = task if not task.name.startswith("teacher") else WorkItem(task.name, lambda folder: {})
        results[task.name] = run_and_save(work, tmp_path, "hash")["figures"]
    assert results["toy/settings"] == {"alone": {"lr": 3.0}, "kd": {"lr": 2.0, "weight": 0.5}}
    column = SEARCHED.column(scale, results)
    assert column("alone", "score") == pytest.approx([8.0, 8.0], abs=0.01)
    assert column("kd", "score") == pytest.approx([9.5, 9.5], abs=0.01)
    rows = [(row.name, row.note) for row in SEARCHED.table(scale, results) if not row.column]
    assert rows == [
        ("development data, alone: lr 1.0", ""), ("development data, alone: lr 3.0", "chosen"),
        ("development data, kd: lr 2.0", ""), ("development data, kd: lr 2.0, weight 0.5", "chosen"),
    ]  # fmt: skip


def test_settings_are_named_with_few_digits():
    search = SettingsSearch({"alone": [{"lr": 4 / 255}], "kd": [{"lr": 1e-12}]}, SCORE)
    study, results = replace(SEARCHED, search=search), {}
    for task in study.tasks(ExperimentScale("quick", (0,))):
        results[task.name] = {"score": 1.0}
    results["toy/settings"] = {"alone": {"lr": 4 / 255}, "kd": {}}
    rows = [(row.name, row.note) for row in study.table(ExperimentScale("quick", (0,)), results) if not row.column]
    assert rows == [("development data, alone: lr 0.01569", "chosen"), ("development data, kd: lr 1e-12", "")]


def test_settings_with_the_best_mean_over_the_seeds_of_a_search_are_chosen(tmp_path):
    scores = {1.0: {7: 5.0, 8: 1.0}, 2.0: {7: 4.0, 8: 3.0}}  # the first seed alone would choose 1.0

    def fit_by_seed(folder, *, arm, seed, quick, development=False, lr=0.0):
        return {"score": scores[lr][seed] if development else lr}

    search = SettingsSearch({arm: [{"lr": 1.0}, {"lr": 2.0}] for arm in ("alone", "kd")}, SCORE, seeds=(7, 8))
    study, scale, results = replace(SEARCHED, train=fit_by_seed, search=search), ExperimentScale("quick", (0,)), {}
    for task in sort_tasks(study.tasks(scale)):
        work = task if not task.name.startswith("teacher") else WorkItem(task.name, lambda folder: {})
        results[task.name] = run_and_save(work, tmp_path, "hash")["figures"]
    assert {"teacher-7", "teacher-8"} <= set(results)
    assert results["toy/settings"] == {"alone": {"lr": 2.0}, "kd": {"lr": 2.0}}
    tries = [row.values for row in study.table(scale, results) if not row.column]
    assert tries == [[5.0, 1.0], [4.0, 3.0]] * 2
    with pytest.raises(LimbeckError, match="seeds"):
        SettingsSearch({"alone": [{}]}, SCORE, seeds=())


def test_a_search_gives_all_arms_of_the_study_equally_many_tries():
    with pytest.raises(LimbeckError, match="'kd': 1"):
        SettingsSearch({"alone": [{}, {"lr": 1.0}], "kd": [{}]}, SCORE)
    with pytest.raises(LimbeckError, match="'kd'"):
        replace(SEARCHED, search=SettingsSearch({"alone": [{}]}, SCORE))


def test_development_images_are_training_images_that_no_network_learns_from(monkeypatch):
    labels = torch.arange(90) % 3
    whole = ArrayDataset(torch.arange(90.0)[:, None], labels, class_names=list("abc"))
    splits = DataSplits(
        "toy", Subset(whole, torch.arange(60)), Subset(whole, torch.arange(60, 90)), repr, ("a", "b", "c")
    )
    monkeypatch.setattr(small_images, "load_data", lambda _: splits)
    parts = {}
    for development in (False, True):
        own = small_images.load_images.__wrapped__("toy", 30, 12, development)
        batches = [part.take(torch.arange(len(part))) for part in (own.train, own.test)]
        parts[development] = [set(torch.as_tensor(batch.inputs)[:, 0].tolist()) for batch in batches]
    assert parts[True][0] == parts[False][0]
    assert len(parts[True][1]) == 12
    assert max(parts[True][1]) < 60
    assert not parts[True][1] & parts[True][0]
    assert min(parts[False][1]) >= 60


@pytest.fixture
def drawn(monkeypatch):
    """Settings with drawn digits in place of Fashion-MNIST, and a few steps."""
    small = {"train": 60, "test": 40, "student_images": 30, "teacher_epochs": 1, "epochs": 1, "quick": {}}
    pixels, labels = draw_digits(100)
    images = ArrayDataset(pixels.astype("uint8"), labels.astype("int64"), class_names=list("0123456789"))
    train, test = (renumbered(Subset(images, torch.arange(*part))) for part in ((0, 60), (60, 100)))
    splits = DataSplits("drawn_digits", train, test, fit_normalization(train, scale=1 / 16), images.class_names)
    monkeypatch.setattr(small_images, "load_images", lambda *_: splits)
    return [replace(setting, **small) for setting in (FASHION_MLP, FASHION_CNN)]


def test_a_search_may_have_more_images_than_the_test(drawn, monkeypatch):
    seen, load = [], small_images.load_images
    monkeypatch.setattr(small_images, "load_images", lambda *called: seen.append(called) or load(*called))
    setting = replace(FASHION_MLP, development_images=9000)
    for one in (setting.at(False), setting.at(False, development=True), FASHION_MLP.at(False, development=True)):
        small_images.images_of(one)
    assert [called[2:] for called in seen] == [(2000, False), (9000, True), (2000, True)]
    scale = ExperimentScale("full", (0,))
    assert "9,000" in setting.describe(scale)
    assert "chosen" not in FASHION_MLP.describe(scale)


def test_teacher_and_student_of_small_images(drawn, tmp_path):
    for setting in drawn[1:]:
        (task,) = teacher_tasks(setting, ExperimentScale("full", (3,)))
        assert (task.name,) == setting.teacher_of(3)
        folder = TaskFolder(tmp_path, task.name)
        folder.folder.mkdir(parents=True, exist_ok=True)
        figures = task.function(folder)
        teacher = load_teacher(TaskFolder(tmp_path, "student"), setting, 3)
        assert small_images.measure_network(teacher, setting)["accuracy"] == figures["accuracy"]
        recipe = make("hinton", teacher=teacher)
        found = [train_student(recipe, setting, seed=3, teacher=teacher) for _ in range(2)]
        assert set(found[0]) == {*(figure.key for figure in small_images.FIGURES), "test_examples"}
        assert {**found[0], "seconds": 0} == {**found[1], "seconds": 0}
        assert small_images.measure_network(teacher, setting, teacher)["agreement"] == 100.0
        assert not any(parameter.grad is not None for parameter in teacher.parameters())


def test_one_teacher_or_one_for_each_seed():
    scale, make_tasks = ExperimentScale("quick", (0, 1, 2)), partial(teacher_tasks, FASHION_MLP)
    assert len(make_tasks(scale)) == 3
    assert len(teacher_tasks(small_images.CIFAR_RESNET, scale)) == 1
    assert small_images.CIFAR_RESNET.teacher_of(2) == small_images.CIFAR_RESNET.teacher_of(0)


def test_without_its_file_a_study_is_skipped_with_the_folder(monkeypatch, tmp_path):
    monkeypatch.setenv("LIMBECK_DATA", str(tmp_path))
    monkeypatch.chdir(tmp_path)
    scale = ExperimentScale("quick", (0,))
    assert str(tmp_path) in FASHION_MLP.why_skipped(scale)
    (tmp_path / "fashion_mnist.npz").write_bytes(b"")
    assert FASHION_MLP.why_skipped(scale) == ""
    assert "cifar100_subset.npz" in small_images.CIFAR_RESNET.why_skipped(scale)


def test_the_student_has_the_first_part_of_the_images(drawn):
    part = small_images.student_images(drawn[0])
    assert len(part) == 30
    assert torch.equal(part.take(torch.arange(30)).id, torch.arange(30))
