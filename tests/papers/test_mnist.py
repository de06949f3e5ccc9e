"""The MNIST experiments, on small digits."""

from __future__ import annotations

import shutil
from dataclasses import replace
from pathlib import Path
from statistics import fmean

import pytest
import torch
from safetensors.torch import save_file
from sklearn.datasets import load_digits

from limbeck.data import ArrayDataset, DataSplits, NormalizeImages
from limbeck.papers import ExperimentScale, TaskFolder
from limbeck.papers.experiment import RESULT
from limbeck.papers.hinton2015 import mnist, mnist_training
from limbeck.papers.hinton2015.mnist_settings import SETTINGS
from limbeck.papers.hinton2015.mnist_training import (
    MnistTeacherTraining,
    MnistTraining,
    constrained_adam,
    constrained_sgd,
    study,
    teach,
)

QUICK = ExperimentScale("quick", (0,))
FULL = ExperimentScale("full", (0, 1, 2))


@pytest.fixture
def small(monkeypatch):
    """scikit-learn's digits, blown up to 28 x 28."""
    found = load_digits()
    images = torch.nn.functional.interpolate(torch.tensor(found.images)[:, None] * 15, size=(28, 28))[:, 0].byte()
    labels = torch.tensor(found.target)
    names = tuple("0123456789")
    train, test = (
        ArrayDataset(images[part], labels[part], class_names=names) for part in (slice(600), slice(600, 1000))
    )
    data = DataSplits("small", train, test, NormalizeImages((0.0,), (1.0,)), names)
    mnist_training.development_digits.cache_clear()
    monkeypatch.setattr(mnist_training, "digits", lambda quick: data)
    yield data
    mnist_training.development_digits.cache_clear()


@pytest.fixture
def taught(small, tmp_path, tmp_path_factory):
    """A folder with a teacher, which is trained for the first test that asks for it."""
    if not TAUGHT:
        root = tmp_path_factory.mktemp("taught")
        desk = TaskFolder(root, "mnist/teacher/seed-0")
        desk.folder.mkdir(parents=True)
        figures = teach(desk, lesson=MnistTeacherTraining(epochs=6), seed=0, quick=True)
        assert figures["errors"] < 120
        TAUGHT.append(root)
    shutil.copytree(TAUGHT[0], tmp_path, dirs_exist_ok=True)
    return tmp_path


TAUGHT: list[Path] = []


def learnt(root, name: str, lesson: MnistTraining):
    desk = TaskFolder(root, name)
    desk.folder.mkdir(parents=True)
    return study(desk, lesson=lesson, seed=0, quick=True)


def test_a_student_without_threes_knows_them_once_its_bias_is_right(taught):
    lesson = MnistTraining(
        units=100, epochs=30, teachers=("mnist/teacher/seed-0",), only=mnist._OMIT3, free=(3,), batch=32
    )
    found = learnt(taught, "omit3/seed-0", lesson)
    assert found["bias"]["3"] > 0
    assert found["corrected_errors_on_3"] < found["errors_on_3"]
    assert found["errors"] == sum(found[f"errors_on_{digit}"] for digit in range(10))
    assert found["error_percent"] == pytest.approx(found["errors"] / 4)


def test_the_same_seed_gives_the_same_student_and_another_task_none_of_it(taught):
    lesson = MnistTraining(units=20, epochs=2, teachers=("mnist/teacher/seed-0",))
    assert learnt(taught, "a", lesson) == learnt(taught, "b", lesson)
    assert learnt(taught, "c", replace(lesson, temperature=1.0)) != learnt(taught, "d", lesson)
    assert learnt(taught, "g", replace(lesson, weight=1.0)) != learnt(taught, "h", lesson)
    assert learnt(taught, "e", replace(lesson, teachers=())) != learnt(taught, "f", lesson)
    assert not (taught / "a" / RESULT).exists()


def test_development_images_are_not_learned_from_and_are_no_test_images(small):
    data = mnist_training.development_digits(quick=True)
    every = small.train.take(torch.arange(600)).inputs
    assert torch.equal(data.train.take(torch.arange(500)).inputs, every[:500])
    assert torch.equal(data.test.take(torch.arange(100)).inputs, every[500:])


def test_the_logits_of_several_teachers_are_averaged(small, tmp_path):
    lesson = MnistTraining(units=20, epochs=2, teachers=("a",))
    for name, logits in {"a": torch.zeros(600, 10), "b": torch.eye(10)[torch.arange(600) % 10] * 40}.items():
        (tmp_path / name).mkdir()
        save_file({"train": logits}, tmp_path / name / mnist_training._ANSWERS)
    (tmp_path / "half").mkdir()
    save_file({"train": torch.eye(10)[torch.arange(600) % 10] * 20}, tmp_path / "half" / mnist_training._ANSWERS)
    both = learnt(tmp_path, "1", replace(lesson, teachers=("a", "b")))
    assert both == learnt(tmp_path, "2", replace(lesson, teachers=("half",)))
    assert both != learnt(tmp_path, "3", lesson)


@pytest.mark.parametrize(("make", "norm"), [(constrained_sgd, 3.0), (constrained_adam, 3.5)])
def test_no_unit_has_incoming_weights_longer_than_the_bound(make, norm):
    layer = torch.nn.Linear(4, 2)
    optimizer = make(layer.parameters())
    with torch.no_grad():
        layer.weight[0] = 10.0
        layer.weight[1] = 0.1
        layer.bias.fill_(9.0)
    layer.weight.grad, layer.bias.grad = torch.zeros(2, 4), torch.zeros(2)
    optimizer.step()
    assert layer.weight.norm(dim=1).tolist() == pytest.approx([norm, 0.2])
    assert layer.bias.tolist() == [9.0, 9.0]


def figures(errors: int) -> dict[str, object]:
    one = {"errors": errors, "errors_on_3": 9, "error_percent": errors / 100, "bias": {"3": 1.0, "7": -2.0, "8": -2.5}}
    return one | {f"corrected_{key}": value for key, value in one.items() if key != "bias"}


@pytest.mark.parametrize("scale", [QUICK, FULL])
@pytest.mark.parametrize("experiment", [SETTINGS, mnist.MNIST, mnist.TEMPERATURE, mnist.OMIT3, mnist.ONLY78])
def test_rows_come_of_the_tasks(experiment, scale):
    found = {task.name: figures(60 + 7 * i) for i, task in enumerate(experiment.tasks(scale))}
    rows = experiment.rows(scale, found)
    assert all(row.values and row.unit in ("errors", "%") for row in rows)


def test_each_row_shows_the_figure_that_it_names():
    found = {task.name: figures(100 + 10 * i) for i, task in enumerate(mnist.OMIT3.tasks(FULL))}
    own = [found[f"omit3/seed-{seed}"] for seed in FULL.seeds]
    for seed, one in enumerate(own):
        one |= {"errors_on_3": 50 + seed, "corrected_errors": 60 + seed, "corrected_errors_on_3": 5 + seed}
    rows = mnist.OMIT3.rows(FULL, found)
    assert [list(row.values) for row in rows] == [[one["errors"] for one in own], [50, 51, 52], [60, 61, 62], [5, 6, 7]]
    assert [row.paper for row in rows] == [206, 133, 109, 14]
    assert [row.met for row in rows] == [None, None, True, None]


def test_the_share_of_the_gain_is_of_means():
    row = mnist._gain_row([60.0, 80.0], [140.0, 160.0], [90.0, 90.0])
    assert row.mean == pytest.approx(100 * (150 - 90) / (150 - 70))
    assert row.paper == pytest.approx(91.1, abs=0.05)
    assert mnist._gain_row([100.0], [90.0], [80.0]).mean == 0.0
    assert fmean(row.values) == row.mean
