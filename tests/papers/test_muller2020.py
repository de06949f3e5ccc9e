"""Subclass distillation: the study of two halves of the digits, on few of them."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from limbeck.data import ArrayDataset
from limbeck.models.subclass_head import SubclassHead
from limbeck.papers import ExperimentScale, TaskFolder, muller2020
from limbeck.papers.muller2020 import ARMS, STUDY, count_used, train_arm

SCALE = ExperimentScale("quick", (0, 1))


def test_every_arm_is_trained_and_the_claims_are_judged(tmp_path, monkeypatch):
    if STUDY.skip(SCALE):
        pytest.skip("needs mnist.npz")
    monkeypatch.setattr(muller2020, "TEST", 60)
    monkeypatch.setitem(muller2020.SIZES, "quick", muller2020.HalvesSizes(100, 1))
    folder = TaskFolder(tmp_path, "x")
    figures = {arm: train_arm(folder, arm=arm, seed=0, quick=True) for arm in ARMS}
    assert {arm: {figure.key for figure in STUDY.figures} - set(found) for arm, found in figures.items()} == {
        arm: {"teacher", "used"} if arm == "alone" else set() for arm in ARMS
    }
    results = {STUDY.task_name(arm, seed): figures[arm] for arm in ARMS for seed in SCALE.seeds}
    assert len(STUDY.judge(SCALE, results)) == 5


def test_subclasses_are_counted_if_they_are_used():
    head = SubclassHead(nn.Linear(6, 2), 3)
    with torch.no_grad():
        head.subclass_logits.weight.copy_(torch.eye(6))
        head.subclass_logits.bias.zero_()
    inputs = torch.eye(6)[torch.tensor([0] * 50 + [4] * 48 + [5])]
    assert count_used(head, ArrayDataset(inputs)) == 2
