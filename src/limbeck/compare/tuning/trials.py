"""The trials of a search: their values, their runs and their records."""

from __future__ import annotations

import hashlib
import json
import math
import shutil
import time
import warnings
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch.quasirandom import SobolEngine

from limbeck.checksums import append_line, read_lines
from limbeck.compare.arms import ArmRun, evaluate_development, start
from limbeck.compare.comparison_data import ComparisonData
from limbeck.compare.run_storage import to_json_safe
from limbeck.compare.teacher import steps_taken
from limbeck.compare.trackers import with_trackers
from limbeck.compare.tuning.estimator_space import fit_trial, has_estimator_student
from limbeck.compare.tuning.search_space import Space, Values, with_values
from limbeck.engine import StepReport
from limbeck.errors import DataError, DivergedError, LimbeckWarning
from limbeck.events import Callback, TrialFinished, TrialsPlanned
from limbeck.job import Job, RunLayout
from limbeck.job.run_layout import arm_folder_name
from limbeck.methods.card import SearchRange
from limbeck.optional_imports import import_optional
from limbeck.task_runner import WorkItem, run_tasks
from limbeck.tasks import Classification, Score
from limbeck.teachers import Teacher

SEED = 1_000_000
"""The seed of every trial. No student of a comparison has it, so the choice cannot favor one of them."""
TRIALS = "trials.jsonl"


class Trial(NamedTuple):
    """The result of one trial on development data.

    Attributes:
        number: Number of the trial in its arm, from 0.
        values: The values of the trial.
        accuracy: The primary metric of the task on development data, after the last epoch: for a classifier
            the accuracy.
        nll: A second metric there that orders equal trials, where lower is better: for a classifier the
            negative log-likelihood, in nats. None if the run diverged.
        seconds: Seconds of training and evaluation; None for a resumed run.
        epochs: Number of epochs.
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
    """Train the student of an arm with these values, and evaluate it on development data.

    A run that diverges gets the accuracy 0, or a bad value of another metric. A killed run continues from its
    checkpoint.
    """
    trial_job = with_values(job, arm, values)
    folder = place / f"trial-{number}-{_digest(values)}"
    start_time, fresh = time.perf_counter(), not folder.exists()
    epochs = trial_job.budget_of(arm).epochs
    smoothing = float(values.get("smoothing", 0.1))
    if has_estimator_student(job):
        return _fit_trial(trial_job, arm, number, values, place, material, teacher, smoothing)
    run = start(ArmRun(trial_job, arm, SEED, folder, None, smoothing), material, teacher)
    task = material.task
    first, second = task.headline[:2]
    measures: dict[str, float | None] = {first: task.primary.diverged, **({} if second is None else {second: None})}
    try:
        for report in with_trackers(run, trial_job, f"{arm_folder_name(arm)}/trial-{number}"):
            if callback is not None:
                callback(report)
        evaluation = evaluate_development(run.student, material, teacher)
        measures |= {name: evaluation.measures[name] for name in measures}
    except DivergedError:
        pass
    trial = Trial(
        number,
        values,
        value if (value := measures[first]) is not None else task.primary.diverged,
        _as_loss(measures.get(second or ""), task.metrics[second or first].higher_is_better),
        time.perf_counter() - start_time if fresh else None,
        epochs,
    )
    append_trial(place, trial)
    shutil.rmtree(folder, ignore_errors=True)
    return trial


def _fit_trial(
    job: Job, arm: str, number: int, values: Values, place: Path, material: ComparisonData, teacher: Teacher,
    smoothing: float,
) -> Trial:  # fmt: skip
    """Fit an estimator, which has no epochs."""
    measures, seconds = fit_trial(job, arm, material, teacher, seed=SEED, smoothing=smoothing)
    task = material.task
    first, second = task.headline[:2]
    loss = _as_loss(measures.get(second or ""), task.metrics[second or first].higher_is_better)
    trial = Trial(number, values, measures[first], loss, seconds, 0)
    append_trial(place, trial)
    return trial


def _as_loss(value: float | None, higher_is_better: bool | None) -> float | None:
    """A metric with its sign changed if needed, so that lower is better."""
    return -value if value is not None and higher_is_better else value


def trials_folder(out: Path, arm: str) -> Path:
    """The folder of one arm's trials."""
    place = RunLayout(out).arm(arm)
    place.mkdir(parents=True, exist_ok=True)
    return place


def append_trial(place: Path, trial: Trial) -> None:
    """Add a trial to the arm's ``trials.jsonl``."""
    append_line(to_json_safe(trial._asdict()), place / TRIALS)


def load_trials(place: Path) -> list[Trial]:
    """Read the finished trials of an arm, in order. An incomplete line does not count."""
    trials, damaged = _read_trials(place)
    if damaged:
        message = f"{damaged} lines of {place / TRIALS} are damaged: these trials are run again."
        warnings.warn(message, LimbeckWarning, stacklevel=2)
    return trials


def _read_trials(place: Path) -> tuple[list[Trial], int]:
    trials: list[Trial] = []
    lines = read_lines(place / TRIALS)
    for line in lines.values:
        trial = _trial(line)
        if trial is not None and trial.number == len(trials):
            trials.append(trial)
    return trials, lines.damaged


def _trial(line: Mapping[str, Any]) -> Trial | None:
    """Read a trial from a line; None if it is damaged."""
    try:
        trial = Trial(**line)
        number = float(trial.accuracy), float(trial.epochs), float(trial.nll or 0.0), float(trial.seconds or 0.0)
        values = {str(name): float(value) for name, value in trial.values.items()}
    except (TypeError, ValueError, AttributeError, OverflowError):
        return None
    return trial if all(map(math.isfinite, (*number, *values.values()))) else None


def best_of(trials: list[Trial], score: Score = Classification.primary) -> Trial:
    """The trial with the best metric; among equal ones, that with the lower NLL, then the earlier one."""
    return max(trials, key=lambda trial: _rank(trial, score))


def _rank(trial: Trial, score: Score) -> tuple[float, float, int]:
    return score.rank(trial.accuracy), -(float("inf") if trial.nll is None else trial.nll), -trial.number


def _digest(values: Values) -> str:
    return hashlib.sha256(json.dumps(values, sort_keys=True).encode()).hexdigest()[:8]


_SHARED = ("lr", "epochs")  # parameters of every arm: all arms try the same values

_COLUMNS = 32


def sobol_point(space: Space, number: int) -> Values:
    """Point `number`, from 0, of a scrambled Sobol sequence over a space.

    The first 2^k points have exactly one value in each 2^k-th part of every range (of the logarithm, for logarithmic
    ranges). Independent random values leave gaps: six of seven learning rates may lie in one half, so that an unlucky
    arm looks worse than it is. All arms try the same learning rates.

    Source: Sobol, On the distribution of points in a cube and the approximate evaluation of integrals, 1967; scrambled
    as Matousek, On the L2-discrepancy for anchored boxes, 1998; the sequence is PyTorch's.

    Example:
        >>> space = {"lr": SearchRange(1e-4, 1.0, log=True)}
        >>> [f"{rate:.4f}" for rate in sorted(sobol_point(space, number)["lr"] for number in range(4))]
        ['0.0006', '0.0080', '0.0503', '0.4151']
    """
    names = sorted(space, key=lambda name: (_SHARED.index(name) if name in _SHARED else len(_SHARED), name))
    engine = SobolEngine(max(_COLUMNS, len(names)), scramble=True, seed=0)
    point: list[float] = engine.draw(number + 1, dtype=torch.float64)[-1].tolist()
    return {name: _at(space[name], part) for name, part in zip(names, point, strict=False)}


def _at(search_range: SearchRange, part: float) -> int | float:
    """The value at this fraction of a range."""
    # Half a step more on both sides, so that rounding gives the end values the same share as the others.
    aside = 0.5 if search_range.whole else 0.0
    low, high = search_range.low - aside, search_range.high + aside
    value = low * (high / low) ** part if search_range.log else low + (high - low) * part
    value = min(max(value, search_range.low), search_range.high)
    return round(value) if search_range.whole else float(value)


_SPREAD = 10  # density estimates need this many trials; Optuna's default too


def propose(
    arm: str, space: Space, start: Values, done: Sequence[Trial], *, score: Score = Classification.primary
) -> Values:
    """The values of an arm's next trial. They depend only on the earlier trials.

    The first trial has the job's own values, moved into the ranges if needed. The next nine come from `sobol_point`.
    The following ones come from a tree-structured Parzen estimator with a seed from the arm's name and the trial's
    number, so that a killed search continues with the same values.

    Source: Bergstra, Bardenet, Bengio and Kegl, Algorithms for Hyper-Parameter Optimization, NIPS 2011; as in Optuna.
    """
    if not done:
        return {
            name: min(max(start[name], search_range.low), search_range.high) for name, search_range in space.items()
        }
    if len(done) < _SPREAD:
        return sobol_point(space, len(done) - 1)
    optuna = import_optuna()
    kinds = {name: _kind(optuna, search_range) for name, search_range in space.items()}
    before = optuna.logging.get_verbosity()
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    try:
        study = optuna.create_study(
            direction="maximize", sampler=optuna.samplers.TPESampler(seed=_seed(arm, len(done)))
        )
        for trial in done:
            rank = score.rank(trial.accuracy)
            study.add_trial(optuna.trial.create_trial(params=trial.values, distributions=kinds, value=rank))
        return dict(study.ask(kinds).params)
    finally:
        optuna.logging.set_verbosity(before)


def import_optuna() -> Any:
    """Import Optuna.

    Raises:
        MissingPackageError: If it is not installed.
    """
    return import_optional("optuna", extra="tune", purpose="A search")


def _kind(optuna: Any, search_range: SearchRange) -> Any:
    kind = optuna.distributions.IntDistribution if search_range.whole else optuna.distributions.FloatDistribution
    return kind(search_range.low, search_range.high, log=search_range.log)


def _seed(arm: str, number: int) -> int:
    return int.from_bytes(hashlib.sha256(f"{arm}/{number}".encode()).digest()[:4], "big")


def all_trials(
    job: Job, spaces: Mapping[str, Space], starts: Mapping[str, Values], trials: int, out: Path,
    material: ComparisonData, teacher: Teacher, callback: Callback,
) -> dict[str, list[Trial]]:  # fmt: skip
    """Run every arm's trials that are not in its folder yet, and return all.

    The trials of an arm run one after another, because a trial's values depend on earlier results. The arms take turns,
    so that all arms of an interrupted search have about the same number of trials.

    """
    trials_by_arm = {arm: load_trials(trials_folder(out, arm))[:trials] for arm in spaces}
    callback(TrialsPlanned(trials * len(spaces)))
    for arm, done in trials_by_arm.items():
        for trial in done:
            callback(TrialFinished(arm, trial.number, trial.accuracy, material.task.primary.describe(trial.accuracy)))
    tasks: list[WorkItem] = []
    for arm, done in trials_by_arm.items():
        for number in range(len(done), trials):
            report = partial(_report_steps, callback, arm, number) if job.workers == 1 else None
            function = partial(
                _run_next,
                job,
                arm,
                number,
                spaces[arm],
                starts[arm],
                trials_folder(out, arm),
                material,
                teacher,
                report,
            )
            requires = (f"{arm}, trial {number - 1}",) if number > len(done) else ()
            tasks.append(WorkItem(f"{arm}, trial {number}", function, requires))
    for _, (arm, trial) in run_tasks(tasks, workers=job.workers):
        trials_by_arm[arm].append(trial)
        callback(TrialFinished(arm, trial.number, trial.accuracy, material.task.primary.describe(trial.accuracy)))
    return trials_by_arm


def _run_next(
    job: Job, arm: str, number: int, space: Space, start: Values, place: Path, material: ComparisonData,
    teacher: Teacher, callback: Callable[[StepReport], None] | None,
) -> tuple[str, Trial]:  # fmt: skip
    done = _read_trials(place)[0][:number]
    if len(done) < number:
        raise DataError(f"{place / TRIALS} lost trial {len(done)} while the search ran: repeat the command.")
    values = propose(arm, space, start, done, score=material.task.primary)
    return arm, run_trial(job, arm, number, values, place, material, teacher, callback)


def _report_steps(callback: Callback, arm: str, number: int, report: StepReport) -> None:
    callback(steps_taken(f"{arm}, trial {number}", report))
