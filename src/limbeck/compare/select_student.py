"""The student that is shipped, and its cost."""

from __future__ import annotations

import math
import shutil
from collections.abc import Sequence
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from limbeck.atomic_io import remove, replace_folder, write_bytes
from limbeck.compare.arms import Outcome, metadata_of
from limbeck.compare.comparison_data import ComparisonData, student_of
from limbeck.compare.rank_zero import is_rank_zero
from limbeck.compare.run_storage import seed_folder
from limbeck.job import Job, Recommendation
from limbeck.models import save
from limbeck.teachers import Teacher


def leave_student(job: Job, material: ComparisonData, teacher: Teacher, out: Path) -> None:
    """Leave an untrained student, so that the folder holds one that opens from the first moment on."""
    if not (out / "student").exists():
        student = student_of(job, material, seed=0, teacher=teacher)
        save(student, out / "student", metadata=metadata_of(job, next(iter(job.method_arms)), material))


def ship(
    job: Job, material: ComparisonData, advice: Recommendation, outcomes: Sequence[Outcome], out: Path | None
) -> dict[str, Any]:
    """Say which student is shipped, and bring it to its place if it is not there from its first step on.

    A job of one method ships a first seed's student. Of several methods the one that is best on development data is
    judged, and of an arm's students the best there is shipped: how good that one is is said by the test data alone.

    Args:
        job: What was asked.
        material: The data.
        advice: Which arm's student the result speaks for.
        outcomes: Of every arm and seed.
        out: The run's folder.
    """
    arm = advice.arm or next(iter(job.method_arms))
    own = [outcome for outcome in outcomes if outcome.arm == arm]
    chosen = max(own, key=_rank) if job.methods else min(own, key=lambda one: one.seed)
    student_folder = seed_folder(out, arm, chosen.seed)
    if out is not None and student_folder is not None and is_rank_zero(job):
        _keep_first(job, arm, out)
        if (student_folder / "student").is_dir():
            _replace(student_folder / "student", out / "student")
        if material.data.tokenizer is not None:
            _add_tokenizer(material.data.tokenizer, out / "student")
    return {
        "arm": arm,
        "seed": chosen.seed,
        "accuracy": chosen.measures["accuracy"],
        "path": None if out is None else str(out / "student"),
        "ready": advice.ready,
        "why": advice.why,
        "others": list(advice.others),
    }


def _rank(outcome: Outcome) -> tuple[float, int]:
    accuracy = -1.0 if math.isnan(outcome.development) else outcome.development
    return accuracy, -outcome.seed


def _keep_first(job: Job, arm: str, out: Path) -> None:
    """Move the only method's first student from the shipped one's place to its own, where another is to be shipped."""
    first = next(iter(job.method_arms))
    home = seed_folder(out, first, 0)
    if job.methods or arm == first or home is None or (home / "student").exists():
        return
    _replace(out / "student", home / "student")


def _add_tokenizer(tokenizer: Any, student: Path) -> None:
    """Put a tokenizer's files beside a student's, so that it reads texts; each appears whole."""
    with TemporaryDirectory() as folder:
        tokenizer.save_pretrained(folder)
        for file in sorted(Path(folder).iterdir()):
            write_bytes(file.read_bytes(), student / file.name)


def _replace(source: Path, target: Path) -> None:
    """Put a copy of a folder in another one's place."""
    new = target.with_name(f".{target.name}.new")
    remove(new)
    shutil.copytree(source, new)
    replace_folder(new, target)
