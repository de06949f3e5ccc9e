"""SimKD on images: what is shipped and counted, and the claims."""

from __future__ import annotations

from dataclasses import replace

import pytest

from limbeck.papers import ExperimentScale, TaskFolder, chen2022
from limbeck.papers.chen2022 import ARMS, LARGER, SETTING, STUDY, train_arm
from limbeck.papers.small_images import make_network

SCALE = ExperimentScale("quick", (0, 1))


@pytest.mark.skipif(bool(SETTING.why_skipped(SCALE)), reason="needs fashion_mnist.npz in LIMBECK_DATA")
def test_the_shipped_student_is_counted_with_its_projector_and_classifier(monkeypatch, tmp_path):
    tiny = replace(SETTING, quick={"train": 64, "test": 40, "student_images": 64, "epochs": 1})
    monkeypatch.setattr(chen2022, "SETTING", tiny)
    monkeypatch.setattr(chen2022, "load_teacher", lambda folder, own, seed: make_network(own.teacher, own, 1).eval())
    sizes = {}
    for arm in ("alone", "simkd", "kd, as large"):
        figures = train_arm(TaskFolder(tmp_path, "x"), arm=arm, seed=0, quick=True)
        sizes[arm] = figures["parameters"]
    assert sizes["alone"] < 0.5 * sizes["simkd"]
    assert sizes["kd, as large"] == pytest.approx(sizes["simkd"], rel=0.2)
    assert LARGER[0] == tiny.student[0]


def test_the_claims_compare_with_the_student_alone_plain_kd_and_a_larger_student():
    accuracies = {"alone": 60.0, "kd": 64.0, "simkd": 70.0, "kd, as large": 68.0}
    results = {
        STUDY.task_name(arm, seed): {"accuracy": accuracies[arm] + seed}
        for arm in ARMS for seed in SCALE.seeds
    }  # fmt: skip
    assert [claim.mean for claim in STUDY.judge(SCALE, results)] == pytest.approx([6.0, 10.0, 2.0])


def test_each_arm_needs_a_teacher_that_is_trained():
    for scale in (SCALE, ExperimentScale("full", (0, 1, 2))):
        tasks = {task.name: task for task in STUDY.tasks(scale)}
        assert all(name in tasks for task in tasks.values() for name in task.requires)
