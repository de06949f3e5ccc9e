"""Studies of several teachers, rounded students and trees: what they measure, and that every arm trains."""

from __future__ import annotations

import json
from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import nn

from limbeck.papers import (
    ExperimentScale,
    TaskFolder,
    agrekd,
    che2015,
    lamb2023,
    li2021,
    mishra2018,
    mtard,
    rlkd,
    shrink,
    wang2022,
    yang2023,
)
from limbeck.papers.claim_study import ClaimStudy
from limbeck.papers.experiment import RESULT
from limbeck.task_runner import sort_tasks

SCALE = ExperimentScale("quick", (0, 1))
FEW = {"train": 120, "test": 60, "student_images": 100, "teacher_epochs": 1, "epochs": 1}


def run_study(study: ClaimStudy, folder):
    """The results of two seeds, of which the second repeats the first."""
    results = {}
    for task in sort_tasks(study.tasks(ExperimentScale("quick", (0,)))):
        place = TaskFolder(folder, task.name)
        place.folder.mkdir(parents=True)
        results[task.name] = task.function(place)
        (place.folder / RESULT).write_text(json.dumps({"figures": results[task.name]}))  # for a search of settings
        results[task.name.replace("seed-0", "seed-1")] = results[task.name]
    rows = study.table(SCALE, results)
    assert {row.name for row in rows if row.column} == set(study.arms)
    assert len(study.judge(SCALE, results)) == len(study.claims)
    return results


@pytest.mark.parametrize(
    "module", [lamb2023, mtard, rlkd, li2021], ids=lambda module: module.__name__.rpartition(".")[2]
)
def test_every_arm_of_few_images_is_trained_and_judged(module, monkeypatch, tmp_path):
    if module.SETTING.why_skipped(SCALE):
        pytest.skip("needs fashion_mnist.npz")
    monkeypatch.setattr(module, "SETTING", replace(module.SETTING, quick=FEW))
    results = run_study(module.STUDY, tmp_path)
    missing = {figure.key for figure in module.STUDY.figures} - set(results[module.STUDY.task_name("alone", 0)])
    assert missing == {rlkd: {"bad", "right"}, li2021: {"seconds"}}.get(module, set())


def test_every_arm_of_few_labels_is_trained_and_judged(monkeypatch, tmp_path):
    if yang2023.SETTING.why_skipped(SCALE):
        pytest.skip("needs mnist.npz")
    monkeypatch.setattr(yang2023, "SETTING", replace(yang2023.SETTING, quick=FEW))
    run_study(replace(yang2023.STUDY, search=None), tmp_path)


def test_few_labels_are_in_every_class_and_a_teacher_labels_the_others():
    if yang2023.SETTING.why_skipped(SCALE):
        pytest.skip("needs mnist.npz")
    setting = replace(yang2023.SETTING, quick={}, train=400, test=60)
    data = yang2023.mask_labels(setting, seed=0)
    few = data.take(torch.arange(len(data)))
    known = few.labels[few.labels >= 0]
    assert known.bincount().tolist() == [yang2023.LABELED * yang2023.COPIES] * 10
    assert len(few.labels) == 400 + 100 * (yang2023.COPIES - 1)
    always = nn.Sequential(nn.Flatten(), nn.Linear(784, 10))
    with torch.no_grad():
        always[1].weight.zero_()
        always[1].bias.copy_(torch.arange(10) == 7)
    taught = yang2023.mask_labels(setting, seed=0, teacher=always).take(torch.arange(len(data)))
    assert torch.equal(taught.labels[few.labels >= 0], known)
    assert set(taught.labels[few.labels < 0].tolist()) == {7}


@pytest.mark.soak
@pytest.mark.parametrize(
    "study", [agrekd.STUDY, che2015.STUDY, wang2022.STUDY, mishra2018.STUDY, shrink.TEXT_STUDY, shrink.IMAGE_STUDY],
    ids=lambda study: study.name,
)  # fmt: skip
def test_every_arm_is_trained_and_judged(study, tmp_path):
    if study.skip(SCALE):
        pytest.skip(study.skip(SCALE))
    run_study(study, tmp_path)


class ReadsPatch(nn.Module):
    """A classifier that reads the shortcut alone."""

    def forward(self, inputs):
        patch = inputs.view(-1, 28, 28)[:, 0, 0]
        return torch.stack([-patch, patch], 1)


def test_a_classifier_of_the_shortcut_has_no_right_answer_in_the_worst_group():
    if agrekd.STUDY.skip(SCALE):
        pytest.skip("needs fashion_mnist.npz")
    figures = agrekd.measure(ReadsPatch(), 0, quick=True)
    assert figures["worst"] == 0
    assert 40 < figures["accuracy"] < 60
    sample = agrekd.make_sample("train", quick=True, seed=1, agreement=0.97, count=1000)
    assert float(sample.agrees.float().mean()) == pytest.approx(0.97, abs=0.02)


def test_mtard_is_compared_with_the_better_single_teacher():
    values = {"clean teacher": [50.0, 60.0], "robust teacher": [58.0, 56.0], "mtard": [60.0, 60.0]}
    assert mtard._over_best_single(lambda arm, _: values[arm]) == [2.0, 4.0]


def test_weights_are_compared_with_a_fifth():
    values = {"gate": [0.1, 0.3]}
    assert rlkd._below_a_fifth("gate", lambda arm, _: values[arm]) == pytest.approx([0.1, -0.1])


def test_the_layer_of_noise_leaves_the_logits_as_they_are():
    teacher, inputs = nn.Linear(6, 3), torch.randn(5, 6, generator=torch.Generator().manual_seed(0))
    noisy, read = wang2022.NoisyLayer(teacher), []
    noisy.noise.register_forward_hook(lambda *call: read.append(call[2]))
    assert torch.equal(noisy(inputs), teacher(inputs))
    assert read[0].shape == (5, 20)
    assert float(read[0].abs().amax()) > 5


def test_wide_units_compute_the_same_and_cost_one_scale_more():
    net = nn.Sequential(nn.Linear(8, 16), nn.ReLU(), nn.Linear(16, 3)).double()
    inputs = torch.randn(20, 8, generator=torch.Generator().manual_seed(0)).double()
    before, spread = net(inputs), net[0].weight.abs().amax(1)
    mishra2018.rescale_units(net, seed=0)
    torch.testing.assert_close(net(inputs), before)
    wide = net[0].weight.abs().amax(1)
    assert wide.max() / wide.min() > 10 * spread.max() / spread.min()


def test_half_of_a_loss_must_be_regained():
    values = {"int4, rounded": [2.0, 1.0], "int4, trained": [0.5, 0.75]}
    assert mishra2018.regained("int4").values(lambda arm, _: values[arm]) == [0.5, -0.25]


def test_soft_labels_of_trees_are_distributions_and_smoothing_is_as_sure_as_the_ensemble():
    draw = np.random.default_rng(0)
    soft, labels = draw.dirichlet(np.ones(4), 300), draw.integers(0, 4, 300)
    hard = np.eye(4)[labels]
    mixed = {arm: che2015.soft_labels(arm, soft, labels, seed=0) for arm in che2015.ARMS if arm.startswith("trees, ")}
    for values in mixed.values():
        np.testing.assert_allclose(values.sum(1), 1.0)
    np.testing.assert_allclose(
        (mixed["trees, smoothed"] * hard).sum(1).mean(), (mixed["trees, ensemble"] * hard).sum(1).mean()
    )
    # Shuffled within a class, the rows of each class are the same, in another order.
    for label in range(4):
        own = [np.sort(mixed[arm][labels == label], 0) for arm in ("trees, shuffled", "trees, ensemble")]
        np.testing.assert_allclose(*own)
    assert not np.allclose(mixed["trees, shuffled"], mixed["trees, ensemble"])
