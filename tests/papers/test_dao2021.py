"""Semiparametric inference: folds that never saw their examples, splits of the digits, and the arms of both studies."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from limbeck.papers import ExperimentScale, TaskFolder, dao2021
from limbeck.papers.dao2021 import FORESTS, PERCEPTRONS, TREES, draw_digits, fit_tree, label_examples, train_arm
from limbeck.papers.small_images import make_network

SCALE = ExperimentScale("quick", (0, 1))
pytest.importorskip("sklearn")


def test_forests_know_random_labels_that_they_saw_and_no_others():
    draw = torch.Generator().manual_seed(0)
    x, y = torch.rand(200, 5, generator=draw), torch.randint(2, (200,), generator=draw)
    seen, unseen = (label_examples(x, y, folds=folds, trees=20, seed=0) for folds in (1, 5))
    torch.testing.assert_close(seen.exp().sum(1), torch.ones(200))
    right = [float((log_p.argmax(1) == y).float().mean()) for log_p in (seen, unseen)]
    assert right[0] > 0.95
    assert right[1] < 0.65


def test_examples_of_the_development_data_are_in_no_test():
    development = {tuple(row) for row in draw_digits(100, development=True)[2].tolist()}
    for seed in range(3):
        x, _, x_test, _ = draw_digits(seed, development=False)
        train, test = ({tuple(row) for row in part.tolist()} for part in (x, x_test))
        assert not (train | test) & development
        assert not train & test


def test_every_tree_is_fitted_and_the_claims_are_judged(tmp_path, monkeypatch):
    monkeypatch.setattr(dao2021, "FOLDS", 2)
    folder = TaskFolder(tmp_path, "x")
    figures = {arm: fit_tree(folder, arm=arm, seed=0, quick=True, leaf=3) for arm in FORESTS}
    assert all(60 < own["auc"] < 100 for own in figures.values())
    assert figures["cross-fitted"] != figures["corrected"]
    results = {TREES.task_name(arm, seed): figures[arm] for arm in FORESTS for seed in SCALE.seeds}
    assert len(TREES.judge(SCALE, results)) == len(TREES.claims)


def test_every_perceptron_is_trained_and_the_claims_are_judged(tmp_path, monkeypatch):
    if dao2021.SETTING.why_skipped(SCALE):
        pytest.skip("needs fashion_mnist.npz")
    tiny = replace(dao2021.SETTING, quick={"train": 64, "test": 40, "teacher_epochs": 1, "epochs": 1})
    monkeypatch.setattr(dao2021, "SETTING", tiny)
    monkeypatch.setattr(dao2021, "load_teacher", lambda folder, own, seed: make_network(own.teacher, own, 1).eval())
    figures = {
        arm: train_arm(TaskFolder(tmp_path, "x"), arm=arm, seed=0, quick=True, **PERCEPTRONS.search.settings[arm][0])
        for arm in dao2021.ARMS
    }
    results = {PERCEPTRONS.task_name(arm, seed): figures[arm] for arm in dao2021.ARMS for seed in SCALE.seeds}
    assert len(PERCEPTRONS.judge(SCALE, results)) == len(PERCEPTRONS.claims)
