"""A run on pictures that threads decode ahead: left in the middle of an epoch, it goes on to the same weights."""

from __future__ import annotations

import shutil

import numpy as np
import pytest
import torch
from torch import nn

import limbeck as lb

Image = pytest.importorskip("PIL.Image", reason="Pillow is not installed: pip install 'limbeck[image]'")


@pytest.fixture
def folder(tmp_path):
    draw = np.random.default_rng(0)
    for number in range(30):
        path = tmp_path / "pictures" / "ab"[number % 2] / f"{number}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(draw.integers(0, 255, (8, 8, 3), dtype=np.uint8)).save(path)
    return tmp_path / "pictures"


def network(seed):
    torch.manual_seed(seed)
    return nn.Sequential(nn.Flatten(), nn.Linear(192, 2))


def begin(folder, num_workers, out, *, resume=False):
    loader = lb.ShuffledLoader(
        lb.ImageFolder(folder), batch_size=4, augment=lb.Crop(1), views=2, seed=1, num_workers=num_workers
    )
    preprocess = lb.NormalizeImages(mean=(0.5,) * 3, std=(0.25,) * 3)
    teacher = lb.CachedTeacher(lb.ModelTeacher(network(1), preprocess=preprocess), out / "answers")
    return lb.distill(
        network(0), lb.methods.make("hinton", teacher=teacher), loader, epochs=3, preprocess=preprocess, log_every=1,
        seed=0,
        out=out / "run", resume=resume, checkpoint_seconds=0.0,
    )  # fmt: skip


def test_killed_in_the_middle_of_an_epoch_it_comes_to_the_same_weights(folder, tmp_path):
    whole = begin(folder, 0, tmp_path / "whole").finish()
    place = tmp_path / "killed"
    for step, report in enumerate(begin(folder, 3, place), 1):
        if step == 13:
            shutil.copytree(place, tmp_path / "copy", ignore=shutil.ignore_patterns(".lock"))
            assert report.epoch == 1
            break
    again = begin(folder, 2, tmp_path / "copy", resume=True).finish()
    assert again.history[0].step == 13
    for one, other in zip(whole.student.parameters(), again.student.parameters(), strict=True):
        assert torch.equal(one, other)
