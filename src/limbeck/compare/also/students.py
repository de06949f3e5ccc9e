"""Which students are measured besides, and how are they opened again?"""

from __future__ import annotations

from pathlib import Path

import torch
from torch import nn

from limbeck.compare.arms import ALONE
from limbeck.compare.ledger import place
from limbeck.compare.material import Material
from limbeck.engine import open_fabric
from limbeck.export.finished import Finished, shipped_student
from limbeck.job import Job
from limbeck.models import read_config
from limbeck.teachers import Live, Teacher
from limbeck.teachers.teacher import Reads


def looked_at(job: Job, judged: str) -> list[str]:
    """The student alone, where it was run, and the arm that the verdict is about."""
    return [*([ALONE] if ALONE in job.arms else []), judged]


def trained(job: Job, material: Material, arm: str, seed: int) -> nn.Module:
    """The student of an arm and a seed as its run left it, in eval mode, on the device that the job's runs take.

    Raises:
        LimbeckError: If it cannot be made again.
    """
    own = place(Path(job.out or ""), arm, seed)
    # The only method's first student stands where it is shipped.
    folder = own if own is not None and (own / "student").is_dir() else Path(job.out or "")
    student = folder / "student"
    config, result = read_config(student), {"data": {"classes": material.classes}}
    left = Finished(folder, job, result, student, config["model"], config["metadata"])
    return shipped_student(left, material.data).to(device_of(job)).eval()


def device_of(job: Job) -> torch.device:
    """The first of the devices that a run of the job takes."""
    return open_fabric(precision=job.precision, devices=1).device


def own_reads(teacher: Teacher) -> Reads | None:
    """How a teacher reads a batch, where that is not how its student does."""
    return teacher.reads if isinstance(teacher, Live) else None
