"""A job that continues with other settings: the results that stay valid, the runs to repeat, and invalid changes."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

from limbeck.atomic_io import write_text
from limbeck.compare.arm_recipes import SMOOTHED
from limbeck.compare.comparison_data import reads_groups
from limbeck.compare.run_storage import without_keys, without_workers
from limbeck.compare.student_start import LIMITS, networks_of
from limbeck.engine import read_checkpoint
from limbeck.errors import LimbeckError
from limbeck.job import (
    LIKE_FIRST_METHOD,
    SHRINK,
    Job,
    RunLayout,
    StudentSettings,
    make_job,
    read_run_job,
    with_absolute_paths,
)

_FREE = frozenset({"out", "workers", "track", "search", "seeds", "arms", "also"})
"""The keys that change no run of an arm, such as the number of runs, extra metrics and trackers."""
_OWN = frozenset({"method", "methods", "budget", "budgets"})
"""The keys that change the runs of some arms; `_arm_settings` determines which."""

_WAY_TO_SERVER = frozenset({"url", "api", "api_key_env", "concurrency", "timeout", "retries"})
"""The keys of a served teacher that change how it is asked, and not what it answers."""


class Changes(NamedTuple):
    """The changes when a job continues with other settings.

    Attributes:
        keys: The keys that differ, with dots.
        again: The arms with runs under other settings, which are run again.
        teacher: Whether the teacher's files belong to another teacher, which was loaded or not fully trained.
        student: Whether the untrained student in the folder has changed.
    """

    keys: tuple[str, ...]
    again: tuple[str, ...]
    teacher: bool
    student: bool

    def describe(self) -> str:
        """Describe the changes in a sentence."""
        again = (["the teacher"] if self.teacher else []) + list(self.again)
        done = f"Run again: {', '.join(again)}." if again else "All results stay valid."
        return f"Changed settings: {', '.join(self.keys) or 'none'}. {done}"


def changed_job(job: Job) -> tuple[Job, Changes]:
    """The job without what its folder already has, and the runs to repeat.

    A trained teacher does not change: a new ``budget`` applies to the arms, and the old one becomes ``teacher.train``.
    Before the first arm starts, the teacher can still change, for example after it failed its check; it is then trained
    again. An arm is run again if a setting that its runs depend on has changed.

    Raises:
        LimbeckError: If the folder holds no job, if the trained teacher would change, or if the job is finished and an
            evaluated run would be repeated.
    """
    out = Path(job.out or "")
    if job.out is None or not RunLayout(out).job.is_file():
        raise LimbeckError(f"{job.out} holds no job whose settings could be changed; start one with limbeck distill.")
    before = with_absolute_paths(make_job(read_run_job(out)))
    job = _with_trained_teacher(with_absolute_paths(job), before, out).model_copy(update={"out": job.out})
    job = _without_old_limit(job, before)
    mine, theirs = (one.model_dump(mode="json") for one in (job, before))
    keys = tuple(key for key in _differing(theirs, mine) if key != "out")
    trains = not before.teacher.has_weights
    another = _teacher_settings(job) != _teacher_settings(before)
    if another and trains and _is_trained(out) and _has_begun_arms(out):
        first = next(key for key in keys if key.partition(".")[0] not in _FREE | _OWN)
        raise LimbeckError(
            f"The teacher in {out} is trained, and with another {first} it would be another one: give another --out."
        )
    arms = [arm for arm in before.all_arms if arm != "teacher"]
    unchanged = [arm for arm in job.all_arms if arm in arms and _arm_settings(job, arm) == _arm_settings(before, arm)]
    again = tuple(arm for arm in arms if arm not in unchanged and RunLayout(out).arm(arm).is_dir())
    if RunLayout(out).result.is_file() and again:
        raise LimbeckError(
            f"{out} is finished and judged, and with another {keys[0]} its arms {', '.join(again)} would be others: "
            "give another --out. More seeds, arms or methods can be added to it."
        )
    first, other = job.first_arm, before.first_arm
    student = first != other or first not in unchanged
    return job, Changes(keys, again, another and RunLayout(out).teacher.is_dir(), student)


def remove_outdated(changes: Changes, out: Path) -> None:
    """Remove the runs to repeat from a job's folder.

    The record is removed first, so that the folder stays valid if the process is killed in between.

    Raises:
        LimbeckError: If the trained teacher's files are damaged; the folder is not changed then.
    """
    if not changes.teacher:
        for checkpoint in sorted(RunLayout(out).teacher.rglob("checkpoint.safetensors")):
            read_checkpoint(checkpoint)  # raises if the file is damaged
    for name in ("result.json", "report.html"):
        (out / name).unlink(missing_ok=True)
    path = RunLayout(out).outcomes
    if changes.again and path.is_file():
        lines = path.read_text(encoding="utf-8", errors="replace").splitlines()
        write_text("".join(f"{line}\n" for line in lines if _arm_in(line) not in changes.again), path)
    folders = [RunLayout(out).arm(arm) for arm in changes.again]
    folders += [RunLayout(out).teacher] if changes.teacher else []
    folders += [RunLayout(out).student] if changes.student else []
    for folder in folders:
        shutil.rmtree(folder, ignore_errors=True)


def _without_old_limit(job: Job, before: Job) -> Job:
    """The job with one size of its student: a new limit is measured, and a typed size replaces the limit.

    Beside a limit, a job has the size that was measured for it, which is that of the present teacher.
    """
    mine, theirs = (one.student.model_dump() for one in (job, before))
    sizes = mine.get("size"), theirs.get("size")
    if job.student.model != SHRINK or sizes[0] is None or all(mine.get(limit) is None for limit in LIMITS):
        return job
    if sizes[0] != sizes[1]:
        kept = {key: value for key, value in mine.items() if key not in LIMITS}
    elif mine != theirs or networks_of(job) != networks_of(before):
        kept = {key: value for key, value in mine.items() if key != "size"}
    else:
        return job
    return job.model_copy(update={"student": StudentSettings(**kept)})


def _with_trained_teacher(job: Job, before: Job, out: Path) -> Job:
    """The job with the budget that its trained teacher had."""
    budget = before.teacher.train or before.budget
    if job.teacher.train is not None or job.budget == before.budget or not _is_trained(out):
        return job
    return job.model_copy(update={"teacher": job.teacher.model_copy(update={"train": budget})})


def _is_trained(out: Path) -> bool:
    """Whether the teacher's training is finished; its outputs are written after that."""
    return RunLayout(out).teacher_outputs.is_file()


def _has_begun_arms(out: Path) -> bool:
    """Whether the training of an arm has begun."""
    return RunLayout(out).arms.is_dir() and any(RunLayout(out).arms.iterdir())


def _teacher_settings(job: Job) -> dict[str, Any]:
    """All settings that the teacher's training depends on."""
    dumped = job.model_dump(mode="json", include={"development", "train_examples", "precision"})
    data = job.model_dump(mode="json")["data"]
    # Groups are for a metric, unless routes read them.
    dumped["data"] = without_workers(data) if reads_groups(job) else without_keys(data, "num_workers", "groups")
    train = None if job.teacher.has_weights else (job.teacher.train or job.budget).model_dump(mode="json")
    # The way to a server is like a path: what its model answers does not depend on it.
    way = _WAY_TO_SERVER if job.teacher.url is not None else frozenset()
    return {**dumped, "teacher": {**job.teacher.model_dump(mode="json", exclude={"check", *way}), "train": train}}


def _arm_settings(job: Job, arm: str) -> dict[str, Any]:
    """All settings that the runs of an arm depend on."""
    dumped = job.of_arm(arm).model_dump(mode="json", exclude=set(_FREE | _OWN | {"teacher", "data"}))
    learns = job.method_arms.get(arm, job.method if arm in LIKE_FIRST_METHOD else None)
    own = job.budgets.get(arm) if arm == SMOOTHED else None
    return {
        **dumped,
        **_teacher_settings(job),
        "budget": job.budget_of(arm).model_dump(mode="json"),
        "method": None if learns is None else learns.model_dump(mode="json"),
        "smoothing": None if own is None else own.smoothing,
    }


def _differing(before: Mapping[str, Any], after: Mapping[str, Any], place: str = "") -> Iterator[str]:
    for key in {**before, **after}:
        mine, theirs, where = after.get(key), before.get(key), f"{place}{key}"
        if isinstance(mine, Mapping) and isinstance(theirs, Mapping):
            yield from _differing(theirs, mine, f"{where}.")
        elif mine != theirs:
            yield where


def _arm_in(line: str) -> str | None:
    try:
        entry = json.loads(line)
    except ValueError:
        return None
    return entry.get("arm") if isinstance(entry, dict) else None
