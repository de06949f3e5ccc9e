"""Trackers of a job, which only the first process writes to."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import final

from limbeck.engine import Run, StepReport, TensorBoard, Tracker, is_first_rank, track
from limbeck.errors import LimbeckError, unknown_name_error
from limbeck.job import Job, RunLayout
from limbeck.models import UserFile


def is_rank_zero(job: Job) -> bool:
    """Whether this process is the first one of the job's distributed strategy. Only this one writes files."""
    return is_first_rank(devices=job.devices, strategy=job.strategy)


def check_tracker(job: Job) -> None:
    """Check that the tracker exists and has a folder to write to.

    Raises:
        LimbeckError: Before training.
    """
    if job.track is None:
        return
    if job.out is None:
        raise LimbeckError(f"track: {job.track} needs a folder to write to; give the job one: out=...")
    if (own := _own(job.track)) is not None:
        own.load()
    else:
        _ = TensorBoard(RunLayout(Path(job.out)).tracked, resume=True)


def with_trackers(run: Run, job: Job, name: str) -> Iterator[StepReport]:
    """The reports of a run, which the job's tracker logs to ``OUT/tracked/NAME``."""
    reports = iter(run)  # first, or an error of the tracker would also warn of an unused run
    if job.track is None or job.out is None:
        return reports
    return track(run, _opened(job.track, RunLayout(Path(job.out)).tracked / name))


def _opened(name: str, folder: Path) -> Tracker:
    if (own := _own(name)) is None:
        return TensorBoard(folder, resume=True)  # the folder belongs to this job, so its events are this job's
    with _explain_errors(name):
        tracker = own.load()(folder)
    if not isinstance(tracker, Tracker):
        raise LimbeckError(
            f"track: {name} returned a {type(tracker).__name__}; a tracker has log(values, step) and close()."
        )
    return _Explaining(name, tracker)


@final
class _Explaining:
    """Wraps a user's tracker to explain its errors: the run can be resumed without it."""

    def __init__(self, name: str, inner: Tracker) -> None:
        self._name, self._inner = name, inner

    def log(self, values: Mapping[str, float], step: int) -> None:
        with _explain_errors(self._name):
            self._inner.log(values, step)

    def close(self) -> None:
        with _explain_errors(self._name):
            self._inner.close()


@contextmanager
def _explain_errors(name: str) -> Iterator[None]:
    try:
        yield
    except LimbeckError:
        raise
    except Exception as error:
        raise LimbeckError(
            f"track: {name} failed: {type(error).__name__}: {error}. What was trained so far is saved: `limbeck "
            "resume` continues once the tracker works."
        ) from error


def _own(name: str) -> UserFile | None:
    """The user's file and function of a tracker; None for TensorBoard."""
    own = UserFile.parse(name)
    if own is None and name != "tensorboard":
        raise unknown_name_error("tracker", name, ["tensorboard"], then="Or one of your own: my.py:function.")
    return own
