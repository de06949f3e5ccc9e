"""What was found, what did it cost, and which job does it make?"""

from __future__ import annotations

from collections.abc import Mapping
from itertools import accumulate
from pathlib import Path
from typing import Any

from limbeck.compare.asking import folder_of
from limbeck.compare.material import Material
from limbeck.compare.teaching import has_weights
from limbeck.compare.tuning.space import Space, with_values
from limbeck.compare.tuning.trial import Trial, best_of
from limbeck.errors import DataError
from limbeck.job import Job, TeacherModel, plain_name, search_job_texts
from limbeck.models import read_config
from limbeck.signal import IGNORED


def best_job(job: Job, found: Mapping[str, list[Trial]], out: Path) -> Job:
    """The job in which every arm has its best values, and the teacher is the one that was trained for the search.

    An ensemble is trained again, to the same weights: a job has no name for several networks on disk.

    Raises:
        DataError: If the teacher was trained for the search, and what lies on disk of it is damaged.
    """
    for arm, trials in found.items():
        job = with_values(job, arm, best_of(trials).values)
    update: dict[str, Any] = {"out": None, "search": str(out)}
    trained = out / "teacher" / "student"
    # A fitted classifier leaves no run.
    if not has_weights(job.teacher) and job.teacher.members == 1 and (out / "teacher" / "run.json").exists():
        _check_whole(trained)
        update["teacher"] = TeacherModel(model=str(trained), check=job.teacher.check)
    if job.cache is not None:
        update["cache"] = job.cache.model_copy(update={"folder": folder_of(job)})
    return job.model_copy(update=update)


def _check_whole(trained: Path) -> None:
    try:
        read_config(trained)
    except DataError as error:
        again = "Remove it, and the same command trains the teacher again."
        raise DataError(f"The search's teacher in {trained.parent} is damaged: {error} {again}") from error


def job_files(job: Job, best: Job, out: Path) -> dict[str, str]:
    """The job as files; what was left to its default is left to the command that runs it: seeds, arms."""
    left = [key for key in ("seeds", "arms", "out") if key == "out" or key not in job.model_fields_set]
    return search_job_texts(best, out, left=left)


def result_of(
    job: Job, material: Material, spaces: Mapping[str, Space], found: Mapping[str, list[Trial]],
    taught: Mapping[str, Any], out: Path,
) -> dict[str, Any]:  # fmt: skip
    """All of it, of JSON values.

    Args:
        job: What was asked.
        material: The data.
        spaces: What was searched for each arm.
        found: Each arm's trials.
        taught: The teacher's accuracy on development data, and the seconds that it took.
        out: The search's folder.
    """
    labels = material.development.labels
    count = 0 if labels is None else int((labels != IGNORED).sum())
    arms = {arm: _row(spaces[arm], trials) for arm, trials in found.items()}
    top = max(row["best"]["accuracy"] for row in arms.values())
    return {
        "arms": arms,
        "trials": len(next(iter(found.values()))),
        "best": str(out / "best.yaml"),
        "run": str(out),
        "teacher": dict(taught),
        "development": {"examples": count, "luck": _luck(top, count)},
        "data": {"name": plain_name(material.data.name), "train": len(material.train), "classes": material.classes},
    }


def _row(space: Space, trials: list[Trial]) -> dict[str, Any]:
    accuracies = [trial.accuracy for trial in trials]
    seconds = [trial.seconds for trial in trials if trial.seconds is not None]
    return {
        "searched": {name: [found.low, found.high] for name, found in space.items()},
        "own": trials[0]._asdict(),
        "best": best_of(trials)._asdict(),
        "accuracies": accuracies,
        "best_so_far": list(accumulate(accuracies, max)),
        "diverged": sum(trial.nll is None and trial.accuracy == 0 for trial in trials),
        "epochs": sum(trial.epochs for trial in trials),
        "seconds": round(sum(seconds), 3),
        "trials": [trial._asdict() for trial in trials],
    }


def _luck(accuracy: float, count: int) -> float:
    """Two standard errors of an accuracy near the best: differences below it may be the luck of these examples."""
    share = min(max(accuracy, 1 / count), 1 - 1 / count)
    return 2 * (share * (1 - share) / count) ** 0.5
