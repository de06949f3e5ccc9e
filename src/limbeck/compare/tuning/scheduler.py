"""The order of the trials of a search, and its processes."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from functools import partial
from pathlib import Path

from limbeck.compare.comparison_data import ComparisonData
from limbeck.compare.teacher_training import steps_taken
from limbeck.compare.tuning.results import place_of
from limbeck.compare.tuning.sampler import propose
from limbeck.compare.tuning.search_space import Space, Values
from limbeck.compare.tuning.trial import Trial, load_trials, run_trial
from limbeck.engine import StepReport
from limbeck.events import Callback, TrialFinished, TrialsPlanned
from limbeck.job import Job
from limbeck.processes import run_in_processes
from limbeck.teachers import Teacher


def all_trials(
    job: Job, spaces: Mapping[str, Space], starts: Mapping[str, Values], trials: int, out: Path,
    material: ComparisonData, teacher: Teacher, callback: Callback,
) -> dict[str, list[Trial]]:  # fmt: skip
    """Every arm's trials, those that an earlier go has kept among them.

    Args:
        job: What is asked.
        spaces: What is searched for each arm.
        starts: Each arm's first values.
        trials: How many for each.
        out: The search's folder.
        material: The data, without their test part.
        teacher: Who teaches.
        callback: A function that receives each event.
    """
    searches = {
        arm: partial(_next, job, arm, spaces[arm], starts[arm], place_of(out, arm), material, teacher) for arm in spaces
    }
    trials_by_arm = {arm: load_trials(place_of(out, arm))[:trials] for arm in spaces}
    callback(TrialsPlanned(trials * len(spaces)))
    for arm, done in trials_by_arm.items():
        for trial in done:
            callback(TrialFinished(arm, trial.number, trial.accuracy))
    for arm, trial in _run_all(job, searches, trials_by_arm, trials, callback):
        trials_by_arm[arm].append(trial)
        callback(TrialFinished(arm, trial.number, trial.accuracy))
    return trials_by_arm


def _run_all(
    job: Job,
    searches: Mapping[str, Callable[..., Trial]],
    trials_by_arm: Mapping[str, list[Trial]],
    trials: int,
    callback: Callback,
) -> Iterator[tuple[str, Trial]]:
    if job.workers == 1:
        # Trial by trial, so that every arm of a search that was stopped has had as many.
        for number in range(trials):
            for arm, search in searches.items():
                if len(trials_by_arm[arm]) == number:
                    yield arm, search(trials_by_arm[arm], partial(_report_steps, callback, arm, number))
        return
    each = [(arm, search, trials_by_arm[arm], trials) for arm, search in searches.items()]
    for arm, more in run_in_processes(_rest, each, workers=job.workers):
        for trial in more:
            yield arm, trial


def _rest(arm: str, search: Callable[..., Trial], done: list[Trial], trials: int) -> tuple[str, list[Trial]]:
    """All that is left of one arm's search, for a process beside others."""
    more: list[Trial] = []
    while len(done) + len(more) < trials:
        more.append(search([*done, *more], None))
    return arm, more


def _next(
    job: Job, arm: str, space: Space, start: Values, place: Path, material: ComparisonData, teacher: Teacher,
    done: list[Trial], callback: Callable[[StepReport], None] | None,
) -> Trial:  # fmt: skip
    values = propose(arm, space, start, done)
    return run_trial(job, arm, len(done), values, place, material, teacher, callback)


def _report_steps(callback: Callback, arm: str, number: int, report: StepReport) -> None:
    callback(steps_taken(f"{arm}, trial {number}", report))
