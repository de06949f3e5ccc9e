"""The studies of Tang et al., Yang et al. and Jafari et al., on few images: every arm is trained and judged."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from torch import nn

from limbeck.papers import ExperimentScale, TaskFolder, jafari2022, tang2020, yang2018
from limbeck.papers.jafari2022 import NoisyLogits
from limbeck.papers.small_images import train_teacher

SCALE = ExperimentScale("quick", (0, 1))
STUDIES = {"tang2020": tang2020, "yang2018": yang2018, "jafari2022": jafari2022}


@pytest.mark.parametrize("name", STUDIES)
def test_every_arm_is_trained_and_the_claims_are_judged(name, monkeypatch, tmp_path):
    module = STUDIES[name]
    if module.SETTING.why_skipped(SCALE):
        pytest.skip("needs fashion_mnist.npz")
    few = {"train": 80, "test": 50, "student_images": 64, "teacher_epochs": 1, "epochs": 4}
    setting, figures = replace(module.SETTING, quick=few), {}
    monkeypatch.setattr(module, "SETTING", setting)
    if name != "yang2018":
        (task,) = setting.teacher_of(0)
        (tmp_path / task).mkdir(parents=True)
        train_teacher(TaskFolder(tmp_path, task), setting=setting.at(True), seed=0)
    for arm in module.ARMS:
        folder = TaskFolder(tmp_path, module.STUDY.task_name(arm, 0))
        figures[arm] = module.train_arm(folder, arm=arm, seed=0, quick=True)
        missing = {figure.key for figure in module.STUDY.figures} - set(figures[arm])
        assert missing == ({"teacher", "second"} if (name, arm) == ("yang2018", "alone") else set())
    results = {module.STUDY.task_name(arm, seed): figures[arm] for arm in module.ARMS for seed in SCALE.seeds}
    arm, settings = next(reversed(module.SETTINGS.items()))
    tried = module.train_arm(folder, arm=arm, seed=0, quick=True, development=True, **settings[-1])
    assert tried["accuracy"] != figures[arm]["accuracy"]  # of other images
    claims = module.STUDY.judge(SCALE, results)
    assert [one.word for one in claims]
    assert len(claims) == len(module.STUDY.claims)


def test_noise_belongs_to_the_input_and_has_the_right_size():
    noisy = NoisyLogits(nn.Flatten(), 3.0)
    inputs = torch.rand(4000, 2, 2, generator=torch.Generator().manual_seed(0))
    noise = noisy(inputs) - inputs.flatten(1)
    torch.testing.assert_close(noisy(inputs[5:9]), noisy(inputs)[5:9])
    assert noise.std().item() == pytest.approx(3.0, rel=0.05)
    assert noise.mean().abs() < 0.1
    assert torch.corrcoef(noise.T).fill_diagonal_(0).abs().max() < 0.06


def test_noise_of_two_arms_is_compared_by_what_they_lose():
    accuracy = {"kd": 90.0, "kd, noise": 80.0, "continuation": 85.0, "continuation, noise": 84.0}
    claim = next(one for one in jafari2022.STUDY.claims if one.sentence.startswith("continuation loses less"))
    assert claim.values(lambda arm, key: [accuracy[arm]] * 2) == [9.0, 9.0]
