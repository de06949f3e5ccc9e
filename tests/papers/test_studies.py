"""Studies of papers: their arms, their data, and that each trains and is judged."""

from __future__ import annotations

import itertools

import pytest
import torch

from limbeck.data import ArrayDataset, DataSplits, Subset
from limbeck.data.preprocess import fit_normalization
from limbeck.papers import ExperimentScale, TaskFolder, lukasik2021, pouransari2020, small_images, stanton2021
from limbeck.papers.experiment import renumbered
from limbeck.papers.lukasik2021 import HELD_OUT, RARITY, split_images
from limbeck.papers.task_queue import run_and_save
from limbeck.task_runner import sort_tasks

IMAGE_STUDIES = [stanton2021.STUDY, lukasik2021.STUDY]
SCALE = ExperimentScale("quick", (0, 1))


@pytest.fixture
def noise(monkeypatch):
    """A thousand small images of noise, whose mean is the class, in place of Fashion-MNIST; training is one epoch."""
    draw = torch.Generator().manual_seed(0)
    labels = torch.arange(1100) % 10
    pixels = (labels[:, None, None] * 20 + torch.randint(0, 40, (1100, 6, 6), generator=draw)).to(torch.uint8)
    images = ArrayDataset(pixels, labels, class_names=list("0123456789"))
    train, test = (renumbered(Subset(images, torch.arange(*part))) for part in ((0, 1000), (1000, 1100)))
    splits = DataSplits("noise", train, test, fit_normalization(train, scale=1 / 255), images.class_names)
    monkeypatch.setattr(small_images, "load_images", lambda *_: splits)
    train_network = small_images.train_network
    for module in (small_images, stanton2021, lukasik2021):
        monkeypatch.setattr(module, "train_network", lambda *a, **k: train_network(*a, **{**k, "epochs": 1}))
    monkeypatch.setattr(stanton2021, "LABELED", 100)
    setting = stanton2021.SETTING
    quick = {"train": 800, "quick": {}}
    monkeypatch.setattr(stanton2021, "SETTING", small_images.replace(setting, **quick))


@pytest.mark.parametrize("study", IMAGE_STUDIES, ids=lambda study: study.name)
def test_every_arm_of_a_study_trains_and_is_judged(study, noise, tmp_path):
    results = {}
    for task in sort_tasks(study.tasks(SCALE)):
        if task.name.endswith("seed-1"):
            results[task.name] = results[task.name.replace("seed-1", "seed-0")]
            continue
        results[task.name] = run_and_save(task, tmp_path, "hash")["figures"]
    rows = study.table(SCALE, results)
    assert {row.name for row in rows if row.column} == set(study.arms)
    assert len(study.judge(SCALE, results)) == len(study.claims)


def test_the_images_of_the_teacher_are_the_first_of_all(noise):
    few, more, most = (
        stanton2021.transfer_images(arm, 800, 3, quick=True) for arm in ("kd", "kd, 4 x images", "kd, all images")
    )
    assert (len(few), len(more), len(most)) == (100, 400, 800)
    for small, large in itertools.pairwise((few, more, most)):
        own = torch.arange(len(small))
        assert torch.equal(torch.as_tensor(small.take(own).inputs), torch.as_tensor(large.take(own).inputs))


def test_rare_classes_have_few_images_and_none_is_held_out():
    labels = torch.arange(8000) % 10
    train, held_out, classes = split_images(labels, 1, 400)
    counts = torch.bincount(labels[train], minlength=10)[classes]
    assert counts.tolist() == [round(400 * RARITY ** (place / 9)) for place in range(10)]
    assert torch.bincount(labels[held_out]).tolist() == [HELD_OUT] * 10
    assert not set(train.tolist()) & set(held_out.tolist())
    assert split_images(labels, 2, 400)[2] != classes


def test_students_of_an_ensemble_train_and_are_judged(monkeypatch, tmp_path):
    study, original = pouransari2020.STUDY, pouransari2020._train
    monkeypatch.setattr(
        pouransari2020, "_train", lambda net, recipe, data, seed, _: original(net, recipe, data, seed, 3)
    )
    results = {}
    for task in sort_tasks(study.tasks(ExperimentScale("quick", (0,)))):
        folder = TaskFolder(tmp_path, task.name)
        folder.folder.mkdir(parents=True)
        results[task.name] = task.function(folder)
        results[task.name.replace("seed-0", "seed-1")] = results[task.name]
    assert len(study.judge(SCALE, results)) == len(study.claims)
    assert all(value >= 0 for figures in results.values() for value in figures.values())


def test_moments_of_an_ensemble_are_those_of_its_members():
    members = [pouransari2020.make_network(4, seed) for seed in range(3)]
    x = torch.linspace(-1, 1, 5)[:, None]
    outputs = torch.stack([member(x)[:, 0] for member in members]).detach()
    found = pouransari2020._moments_of_members(members, x)
    mean = outputs.sum(0) / 3
    variance = ((outputs - mean) ** 2).sum(0) / 3 + pouransari2020.SMALLEST
    torch.testing.assert_close(found, torch.stack([mean, variance.log()], 1))
    assert torch.equal(pouransari2020._moments_of_student(members[0], x, -2.0)[:, 1], torch.full((5,), -2.0))
