"""Dual relations: the drawn shapes, the intersection over union, and a student of each arm."""

from __future__ import annotations

import pytest
import torch

from limbeck.papers import TaskFolder, li2025


def test_shapes_have_all_classes_and_follow_from_the_seed():
    images, labels = li2025.draw_shapes(20, seed=1)
    assert images.shape == (20, 1, li2025.SIZE, li2025.SIZE)
    assert labels.unique().tolist() == [0, 1, 2, 3]
    assert torch.equal(images, li2025.draw_shapes(20, seed=1)[0])
    bright = images.squeeze(1)
    assert bright[labels > 0].mean() > bright[labels == 0].mean() + 0.5


def test_the_intersection_over_union_is_a_mean_over_classes():
    labels = torch.tensor([[0, 1], [2, 3]])
    assert li2025.compute_miou(labels, labels) == 100
    assert li2025.compute_miou(torch.zeros_like(labels), labels) == pytest.approx(25 / 4)


def test_a_teacher_and_a_student_of_an_arm_are_trained(monkeypatch, tmp_path):
    for name, value in {"TEACHER_IMAGES": 16, "TEST": 8, "SIZE": 12}.items():
        monkeypatch.setattr(li2025, name, value)
    folder = TaskFolder(tmp_path, "teacher")
    folder.folder.mkdir()
    monkeypatch.setattr(li2025, "distill", lambda *a, original=li2025.distill, **k: original(*a, **{**k, "epochs": 1}))
    for figures in (
        li2025.train_teacher(folder, quick=True),
        li2025.train_arm(TaskFolder(tmp_path, "x"), arm="kd and drd", seed=0, quick=True),
    ):
        assert set(figures) == {"miou", "pixels"}
        assert all(0 <= value <= 100 for value in figures.values())
