"""Similarities: every arm has its recipe, and the claims are judged."""

from __future__ import annotations

import pytest
from torch import nn

from limbeck.papers import ExperimentScale, TaskFolder, tung2019


@pytest.mark.parametrize("arm", tung2019.ARMS)
def test_every_arm_trains_its_recipe(monkeypatch, tmp_path, arm):
    seen = {}
    monkeypatch.setattr(tung2019, "load_teacher", lambda *_: nn.Linear(4, 3))
    monkeypatch.setattr(
        tung2019,
        "train_student",
        lambda recipe, setting, **rest: seen.update(recipe=recipe, **rest) or {"accuracy": 1.0},
    )
    assert tung2019.train_arm(TaskFolder(tmp_path, "x"), arm=arm, seed=3, quick=True) == {"accuracy": 1.0}
    terms = " ".join(repr(stage.objective) for stage in seen["recipe"].stages())
    assert ("similarity" in terms, "kl_divergence" in terms) == ("sp" in arm, "kd" in arm)
    assert seen["seed"] == 3


def test_the_claims_compare_with_the_student_alone_and_with_plain_distillation():
    scale = ExperimentScale("quick", (0, 1, 2))
    values = {"alone": 80.0, "kd": 82.0, "sp": 83.0, "kd and sp": 81.0}
    results = {
        tung2019.STUDY.task_name(arm, seed): {"accuracy": value + 0.1 * seed}
        for arm, value in values.items()
        for seed in scale.seeds
    }
    assert [round(one.mean, 6) for one in tung2019.STUDY.judge(scale, results)] == [3.0, 1.0, -1.0]
