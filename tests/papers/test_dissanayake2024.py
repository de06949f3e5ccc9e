"""RID and VID with a teacher that knows nothing: the arms, their information, and the claims."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from limbeck.papers import ExperimentScale, TaskFolder, dissanayake2024
from limbeck.papers.dissanayake2024 import ARMS, STUDY, train_arm
from limbeck.papers.small_images import FASHION_MLP, make_network

SCALE = ExperimentScale("quick", (0, 1))
TINY = {"train": 64, "test": 60, "student_images": 64, "epochs": 1}


@pytest.mark.skipif(bool(FASHION_MLP.why_skipped(SCALE)), reason="needs fashion_mnist.npz in LIMBECK_DATA")
def test_the_untrained_teacher_is_another_one_than_the_trained(monkeypatch, tmp_path):
    monkeypatch.setattr(dissanayake2024, "SETTING", replace(FASHION_MLP, quick=TINY))
    loaded = []

    def load_teacher(folder, own, seed):
        loaded.append(seed)
        return make_network(own.teacher, own, 1).eval()

    monkeypatch.setattr(dissanayake2024, "load_teacher", load_teacher)
    for arm in ("alone", "rid", "vid, untrained teacher"):
        figures = train_arm(TaskFolder(tmp_path, "x"), arm=arm, seed=3, quick=True)
        assert all(torch.tensor(figures[key]).isfinite() for key in ("accuracy", "redundant", "unique_teacher"))
    assert loaded == [3, 3]


def test_the_claims_are_of_both_teachers():
    accuracies = dict(zip(ARMS, (72.0, 73.0, 81.0, 81.5, 40.0, 66.0), strict=True))
    results = {STUDY.task_name(arm, seed): {"accuracy": accuracies[arm] + seed} for arm in ARMS for seed in SCALE.seeds}
    assert [claim.mean for claim in STUDY.judge(SCALE, results)] == pytest.approx([26.0, 32.0, 9.5, 8.5, 0.5])
