"""What an extra metric sees, and trained students opened again."""

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
    """A job of which all arms are trained, or, before that, of which nothing is.

    Attributes:
        job: What was asked.
        material: The data.
        teacher: Who taught.
        models: What the teacher is made of, by name.
        judged: The arm that the verdict is about.
        answers: The teacher's logits for the test data; None before it was asked.
    """

    job: Job
    material: ComparisonData
    teacher: Teacher
    models: Mapping[str, nn.Module]
    judged: str = ""
    answers: Tensor | None = None


def over_seeds(values: list[float]) -> dict[str, Any]:
    """A figure as results have it: its mean, its standard deviation, and one value a seed."""
    return {"mean": sum(values) / len(values), "std": std_over_seeds(values), "values": values}


def arms_to_measure(job: Job, judged: str) -> list[str]:
    """The student alone, where it was run, and the arm that the verdict is about."""
    return [*([ALONE] if ALONE in job.arms else []), judged]


def load_student(job: Job, material: ComparisonData, arm: str, seed: int) -> nn.Module:
    """The student of an arm and a seed as its run left it, in eval mode, on the device that the job's runs take.

    Raises:
        LimbeckError: If it cannot be made again.
    """
    own = seed_folder(Path(job.out or ""), arm, seed)
    # The only method's first student stands where it is shipped.
    folder = own if own is not None and (own / "student").is_dir() else Path(job.out or "")
    student = folder / "student"
    config, result = read_config(student), {"data": {"classes": material.classes}}
    left = FinishedRun(folder, job, result, student, config["model"], config["metadata"])
    return rebuild_combined_student(left, material.data).to(device_of(job)).eval()


def device_of(job: Job) -> torch.device:
    """The first of the devices that a run of the job takes."""
    return open_fabric(precision=job.precision, devices=1).device


def own_preprocess(teacher: Teacher) -> Preprocess | None:
    """How a teacher reads a batch, where that is not how its student does."""
    return teacher.preprocess if isinstance(teacher, ModelTeacher) else None
