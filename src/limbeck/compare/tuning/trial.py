"""One trial of a search, and its record."""

from __future__ import annotations

import hashlib
import json
import math
import shutil
import time
import warnings
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

from limbeck.checksums import append_line, read_lines
from limbeck.compare.arms import ArmRun, measure_student, start
from limbeck.compare.comparison_data import ComparisonData, eval_batches
from limbeck.compare.run_storage import to_json_safe
from limbeck.compare.trackers import with_trackers
from limbeck.compare.tuning.search_space import Values, with_values
from limbeck.engine import StepReport
from limbeck.errors import DivergedError, LimbeckWarning
from limbeck.job import Job
from limbeck.metrics import predict
from limbeck.teachers import Teacher

SEED = 1_000_000
"""Of every trial; no student of a comparison has it, so nothing is chosen for the luck of one of them."""
TRIALS = "trials.jsonl"


class Trial(NamedTuple):
    """What came of one setting of one arm, on development data.

    Attributes:
        number: Which of the arm's trials, from 0.
        values: What was tried.
        accuracy: The fraction of development examples that the student got right after its last epoch.
        nll: The mean negative log-likelihood there, in nats; None where the run diverged.
        seconds: Of training and judging; None for a run that was taken up again.
        epochs: For how many it learnt.
    """

    number: int
    values: Values
    accuracy: float
    nll: float | None
    seconds: float | None
    epochs: int


def run_trial(
    job: Job, arm: str, number: int, values: Values, place: Path, material: ComparisonData, teacher: Teacher,
    callback: Callable[[StepReport], None] | None = None,
) -> Trial:  # fmt: skip
    """Train the arm's student with these values and judge it on development data.

    A run whose loss is no number any more has got nothing right. A killed one goes on from its checkpoint.

    Args:
        job: What is asked.
        arm: Who learns.
        number: Which of the arm's trials.
        values: What is tried.
        place: The arm's folder; the run's own is inside, and goes when the trial is done.
        material: The data, without their test part.
        teacher: Who teaches.
        callback: Told every report.
    """
    trial_job = with_values(job, arm, values)
    folder = place / f"trial-{number}-{_digest(values)}"
    start_time, fresh = time.perf_counter(), not folder.exists()
    epochs = trial_job.budget_of(arm).epochs
    smoothing = float(values.get("smoothing", 0.1))
    run = start(ArmRun(trial_job, arm, SEED, folder, None, smoothing), material, teacher)
    measures: dict[str, float | None] = {"accuracy": 0.0, "nll": None}
    try:
        for report in with_trackers(run, trial_job, f"{arm.replace(' ', '-')}/trial-{number}"):
            if callback is not None:
                callback(report)
        answers = predict(run.student, eval_batches(material.development), preprocess=material.data.preprocess)
        measures |= measure_student(answers, ("accuracy", "nll"))
    except DivergedError:
        pass
    trial = Trial(
        number,
        values,
        measures["accuracy"] or 0.0,
        measures["nll"],
        time.perf_counter() - start_time if fresh else None,
        epochs,
    )
    append_trial(place, trial)
    shutil.rmtree(folder, ignore_errors=True)
    return trial


def append_trial(place: Path, trial: Trial) -> None:
    """Add a trial to the arm's ``trials.jsonl``."""
    append_line(to_json_safe(trial._asdict()), place / TRIALS)


def load_trials(place: Path) -> list[Trial]:
    """The arm's trials so far, in order; a line that a kill cut short does not count."""
    trials: list[Trial] = []
    lines = read_lines(place / TRIALS)
    for line in lines.values:
        trial = _trial(line)
        if trial is not None and trial.number == len(trials):
            trials.append(trial)
    if lines.damaged:
        message = f"{lines.damaged} lines of {place / TRIALS} are damaged: these trials are run again."
        warnings.warn(message, LimbeckWarning, stacklevel=2)
    return trials


def _trial(line: Mapping[str, Any]) -> Trial | None:
    """A trial, if a line tells of one."""
    try:
        trial = Trial(**line)
        number = float(trial.accuracy), float(trial.epochs), float(trial.nll or 0.0), float(trial.seconds or 0.0)
        values = {str(name): float(value) for name, value in trial.values.items()}
    except (TypeError, ValueError, AttributeError, OverflowError):
        return None
    return trial if all(map(math.isfinite, (*number, *values.values()))) else None


def best_of(trials: list[Trial]) -> Trial:
    """The trial with the highest accuracy; of equal ones that with the lower NLL, then the earlier."""
    return max(trials, key=_rank)


def _rank(trial: Trial) -> tuple[float, float, int]:
    return trial.accuracy, -(float("inf") if trial.nll is None else trial.nll), -trial.number


def _digest(values: Values) -> str:
    return hashlib.sha256(json.dumps(values, sort_keys=True).encode()).hexdigest()[:8]
