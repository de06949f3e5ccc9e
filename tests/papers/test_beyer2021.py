"""Each kind of teacher input is the one of its name."""

from __future__ import annotations

import json

import pytest
import torch

from limbeck.data import ArrayDataset, DataSplits
from limbeck.papers import ExperimentScale, TaskFolder, beyer2021
from limbeck.papers.beyer2021 import PIXELS, WAYS, stream, teacher_preprocess, views

QUICK = ExperimentScale("quick", (0,))


def examples(count: int = 40) -> ArrayDataset:
    images = (255 * torch.rand(count, 28, 28, generator=torch.Generator().manual_seed(0))).byte()
    return ArrayDataset(images, torch.arange(count) % 10)


@pytest.mark.parametrize("way", WAYS)
def test_the_teacher_sees_what_the_way_says(way):
    data = examples()
    loader = stream(data, way, seed=3)
    for batch in loader.batches(2, 0):
        theirs, mine = teacher_preprocess(data, way, 3)(batch), PIXELS(batch)
        alone = PIXELS(batch._replace(inputs=data.take(batch.id).inputs))
        crop = PIXELS(batch._replace(inputs=views(3)(data.take(batch.id).inputs, batch.id, batch.view)))
        assert theirs.shape == mine.shape
        assert torch.equal(theirs, mine) == (way in ("consistent", "function matching"))
        assert torch.equal(theirs, alone) == (way == "fixed targets")
        assert torch.equal(mine, crop) == (way != "function matching")
        assert (batch.labels is None) == (way == "function matching")


def test_independent_noise_is_another_crop_of_the_same_image():
    data = examples()
    batch = stream(data, "independent noise", seed=3).peek()
    theirs = teacher_preprocess(data, "independent noise", 3)(batch)
    again = teacher_preprocess(data, "independent noise", 3)(batch.rows(torch.arange(batch.size).flip(0)))
    assert torch.equal(theirs.flip(0), again)
    other = PIXELS(batch._replace(inputs=views(1003)(data.take(batch.id).inputs, batch.id, batch.view)))
    assert torch.equal(theirs, other)


def test_teacher_and_students_run_and_their_rows_come_of_it(monkeypatch, tmp_path):
    data = DataSplits("small", examples(120), examples(40), PIXELS, None)
    monkeypatch.setattr(beyer2021, "fashion", lambda quick: data)
    monkeypatch.setattr(beyer2021, "transfer", lambda quick: examples(60))
    monkeypatch.setattr(beyer2021, "LENGTHS", {"short": 10, "long": 30})  # a tenth of that at quick scale
    found = {}
    for task in beyer2021.MATCHING.tasks(QUICK):
        desk = TaskFolder(tmp_path, task.name)
        desk.folder.mkdir(parents=True)
        found[task.name] = json.loads(json.dumps(task.function(desk)))
        assert 0 <= found[task.name]["accuracy"] <= 100
    assert len(found) == 1 + len(WAYS) * len(beyer2021.LENGTHS)
    rows = {row.name: row for row in beyer2021.MATCHING.rows(QUICK, found)}
    ahead = rows["function matching over consistent, when trained for long"]
    long = [found[f"matching/{way}/long/seed-0"]["accuracy"] for way in ("function-matching", "consistent")]
    assert ahead.values == [long[0] - long[1]]
