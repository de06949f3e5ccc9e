"""The studies of prepared teachers, on few images: every arm is trained and judged."""

from __future__ import annotations

from dataclasses import replace

import pytest

from limbeck.papers import ExperimentScale, TaskFolder, cho2019, park2021, pham2022, sftn2021, singh2019
from limbeck.papers import zhang2021 as evolution
from limbeck.task_runner import sort_tasks

SCALE = ExperimentScale("quick", (0, 1))
PAPERS = {module.STUDY.name: module for module in (cho2019, park2021, pham2022, sftn2021, singh2019, evolution)}
OF_A_TEACHER = {
    "stopping": {"kl", "teacher"}, "pruning": {"kl", "teacher", "entropy"}, "branches": {"kl", "teacher"},
    "fusion": {"teacher", "at_once"}, "evolution": {"kl", "teacher"},
}  # fmt: skip
"""Figures that the student alone does not have, as it has no teacher."""
FEW = {"train": 80, "test": 50, "student_images": 64, "teacher_epochs": 2, "epochs": 1}


@pytest.mark.parametrize("name", PAPERS)
def test_every_arm_is_trained_and_the_claims_are_judged(name, monkeypatch, tmp_path):
    module = PAPERS[name]
    if module.SETTING.why_skipped(SCALE):
        pytest.skip("needs fashion_mnist.npz")
    monkeypatch.setattr(module, "SETTING", replace(module.SETTING, quick=FEW, teacher=("mlp", {"hidden": [12, 12]})))
    if module is pham2022:
        module.load_noisy_images.cache_clear()
        monkeypatch.setattr(module, "_MEASURED", 20)
    study, results = module.STUDY, {}
    shared = [task for seed in (0,) for task in study.tasks(ExperimentScale("quick", (seed,)))]
    for task in sort_tasks(shared):
        folder = TaskFolder(tmp_path, task.name)
        folder.folder.mkdir(parents=True)
        function = task.function
        if task.name.startswith("teacher/"):  # its setting was bound before
            function = type(function)(function.func, **{**function.keywords, "setting": module.SETTING.at(True)})
        results[task.name] = function(folder)
        results[task.name.replace("seed-0", "seed-1")] = results[task.name]
    for arm in module.ARMS:
        missing = {figure.key for figure in study.figures} - set(results[study.task_name(arm, 0)])
        assert missing == (OF_A_TEACHER.get(name, set()) if arm == "alone" else set())
    rows = study.table(SCALE, results)
    assert {row.name for row in rows if row.column} == set(module.ARMS)
    assert len(study.judge(SCALE, results)) == len(study.claims)
    if module is pham2022:
        module.load_noisy_images.cache_clear()
