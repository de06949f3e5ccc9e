"""The experiment with specialists, on small images."""

from __future__ import annotations

import json

import pytest
import torch

from limbeck.data import ArrayDataset, DataSplits, NormalizeImages
from limbeck.papers import ExperimentScale, TaskFolder
from limbeck.papers.experiment import RESULT
from limbeck.papers.hinton2015 import confusions

QUICK = ExperimentScale("quick", (0,))


@pytest.fixture
def small(monkeypatch):
    """A hundred colors, each in a few noisy pictures; neighbors are easily confused."""
    labels = torch.arange(400) % 100
    shades = torch.stack([labels % 10, labels // 10, (labels * 7) % 10], 1).float() * 25
    images = (shades[:, :, None, None] + 20 * torch.rand(400, 3, 32, 32)).byte()
    train, test = (ArrayDataset(images[part], labels[part]) for part in (slice(300), slice(300, 400)))
    data = DataSplits("small", train, test, NormalizeImages((0.5,) * 3, (0.25,) * 3), None)
    monkeypatch.setattr(confusions, "pictures", lambda quick: data)
    return data


def done(root, name: str, task, **settings) -> dict:
    desk = TaskFolder(root, name)
    desk.folder.mkdir(parents=True)
    figures = json.loads(json.dumps(task(desk, **settings)))
    (desk.folder / RESULT).write_text(json.dumps({"figures": figures}))
    return figures


@pytest.mark.slow
def test_generalist_specialists_and_controls_run_and_their_rows_come_of_it(small, tmp_path):
    quick = {"quick": True, "seed": 0}
    found = {}
    for kind, task, settings in (
        ("generalist", confusions.train_generalist, {"examples": 640}),
        ("another", confusions.train_generalist, {"examples": 640}),
        ("pooled", confusions.train_specialists, {"epochs": 1}),
        ("trained-on", confusions.train_on, {"examples": 640}),
        ("ensemble", confusions.compare, {}),
    ):
        name = f"specialists/{kind}/seed-0"
        found[name] = done(tmp_path, name, task, **settings, **quick)
    pooled = found["specialists/pooled/seed-0"]
    assert pooled["generalist"] == found["specialists/generalist/seed-0"]["accuracy"]
    assert sum(count for count, _, _ in pooled["cover"].values()) == 100
    assert sum(after for _, _, after in pooled["cover"].values()) == pytest.approx(pooled["accuracy"])
    assert len(pooled["groups"]) == confusions.SPECIALISTS
    assert all(len(group) == confusions.SIZE for group in pooled["groups"])
    rows = {row.name.strip(): row for row in confusions.CONFUSIONS.rows(QUICK, found)}
    gain = rows["gain over the generalist, relative"].mean
    assert gain == pytest.approx(100 * (pooled["accuracy"] / pooled["generalist"] - 1))


def test_where_no_specialist_knows_the_class_only_the_rest_can_change():
    alone = torch.tensor([[2.0, 1.0, 0.0], [0.0, 2.0, 1.0], [0.0, 1.0, 2.0]])
    pooled = torch.tensor([[2.0, 1.0, 0.0], [0.0, 1.0, 2.0], [0.0, 1.0, 2.0]])
    cover = torch.tensor([0, 1, 2])
    found = confusions._by_cover(alone, pooled, torch.tensor([0, 1, 2]), cover)
    assert found == {"0": [1, 1, 1], "1": [1, 1, 0], "2": [1, 1, 1]}


def test_conditional_accuracy_looks_at_a_specialists_own_classes():
    special = torch.tensor([[True, True, False]])
    shown = torch.tensor([[1.0, 0.0, 9.0], [1.0, 0.0, 9.0], [9.0, 0.0, 0.0]])
    assert confusions._conditional(shown, torch.tensor([0, 1, 2]), special) == 50.0


def test_the_control_is_shown_as_many_examples_as_all_specialists():
    scale = ExperimentScale("full", (0, 1))
    tasks = {task.name: task.function.keywords for task in confusions.CONFUSIONS.tasks(scale)}
    own = 16_000 * confusions.SIZE // 100
    further = confusions.SPECIALISTS * 2 * own * tasks["specialists/pooled/seed-0"]["epochs"]
    for kind in ("trained-on", "another"):
        assert tasks[f"specialists/{kind}/seed-1"]["examples"] == further
