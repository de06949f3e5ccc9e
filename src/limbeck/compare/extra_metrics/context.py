"""The input of an extra metric, and the loading of trained students."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from limbeck.compare.arms import ALONE
from limbeck.compare.comparison_data import ComparisonData
from limbeck.compare.result import std_over_seeds
from limbeck.compare.run_storage import seed_folder
from limbeck.engine import open_fabric
from limbeck.export.finished_run import FinishedRun, rebuild_combined_student
from limbeck.job import Job
from limbeck.models import read_config
from limbeck.teachers import ModelTeacher, Teacher
from limbeck.teachers.teacher import Preprocess


class MetricContext(NamedTuple):
    """A job, before or after the training of its arms.

    Attributes:
        job: The job.
        material: The data.
        teacher: The teacher.
        models: The modules of the teacher by name.
        arm: The arm of the verdict.
        answers: The teacher's logits for the test data; None before training.
    """

    job: Job
    material: ComparisonData
    teacher: Teacher
    models: Mapping[str, nn.Module]
    arm: str = ""
    answers: Tensor | None = None


def over_seeds(values: list[float]) -> dict[str, Any]:
    """A value for the result: mean, standard deviation, and one value per seed."""
    return {"mean": sum(values) / len(values), "std": std_over_seeds(values), "values": values}


def arms_to_measure(job: Job, arm: str) -> list[str]:
    """The student alone, if the job has it, and the arm of the verdict."""
    return [*([ALONE] if ALONE in job.arms else []), arm]


def load_student(job: Job, material: ComparisonData, arm: str, seed: int) -> nn.Module:
    """Load the trained student of an arm and a seed, in eval mode, on the device of the job.

    Raises:
        LimbeckError: If it cannot be loaded.
    """
    run_folder = seed_folder(Path(job.out or ""), arm, seed)
    # With one method, the first student is saved only in the shipped place.
    folder = run_folder if run_folder is not None and (run_folder / "student").is_dir() else Path(job.out or "")
    student = folder / "student"
    config, result = read_config(student), {"data": {"classes": material.classes}}
    run = FinishedRun(folder, job, result, student, config["model"], config["metadata"])
    return rebuild_combined_student(run, material.data).to(first_device(job)).eval()


def first_device(job: Job) -> torch.device:
    """The first device of the job."""
    return open_fabric(precision=job.precision, devices=1).device


def own_preprocess(teacher: Teacher) -> Preprocess | None:
    """The teacher's own preprocessing; None if it uses the data's."""
    return teacher.preprocess if isinstance(teacher, ModelTeacher) else None
