"""Files of a comparison: outcomes, the shipped student, and the checks of a folder."""

from __future__ import annotations

import math
import shutil
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext, suppress
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from limbeck.atomic_io import folder_lock, remove, replace_folder, write_bytes, write_text
from limbeck.checksums import append_line, read_lines
from limbeck.compare.arms import Outcome, metadata_of
from limbeck.compare.comparison_data import ComparisonData
from limbeck.compare.costs import Combined, ShippedCost
from limbeck.compare.estimator_student import save_student
from limbeck.compare.student_start import find_stored_size, make_student
from limbeck.compare.trackers import is_rank_zero
from limbeck.errors import LimbeckError
from limbeck.job import (
    SHRINK,
    Job,
    Recommendation,
    RunLayout,
    copy_search,
    make_job,
    read_run_job,
    run_job_texts,
    trust_option,
    with_absolute_paths,
)
from limbeck.job.run_layout import PREDICTIONS
from limbeck.metrics import load_tensors
from limbeck.models import save
from limbeck.teachers import Teacher
from limbeck.teachers.estimators import EstimatorModule

_MAY_DIFFER = ("out", "workers", "track", "search")
"""The keys that may differ when a job continues, because they do not change its results."""
_BEFORE_A_JOB = ("student", "tuned.json", "job.yaml.partial", ".places.json")
"""The files that are written before the job."""


def check_folder(job: Job, *, resume: bool, changed: bool = False) -> Path | None:
    """Check that the job's folder is free, or holds this job if it continues; returns the folder.

    If `changed`, the folder may hold the job with other settings.

    Raises:
        LimbeckError: If it is a file, or holds something else or another job; the content is not changed.
    """
    if job.out is None:
        return None
    out = Path(job.out)
    if out.exists() and not out.is_dir():
        raise LimbeckError(f"{out} is a file; a run needs a folder: give another --out.")
    if RunLayout(out).job.is_file() and resume:
        if not changed:
            _check_same_job(job, out)
    elif out.is_dir() and any(out.iterdir()) and not _died_early(out) and is_rank_zero(job):
        again = f"`limbeck resume {out}{trust_option(out)}` (in Python run_job(job, resume=True))"
        then = f"Continue a run with {again}, or give" if not resume else "It is no run's folder; give"
        raise LimbeckError(f"{out} already holds something. {then} another --out.")
    return out


def initialize_folder(job: Job, out: Path, leave_student: Callable[[], None], *, changed: bool = False) -> None:
    """Write a student and then the resolved job, so that a folder with a job always has a valid student.

    An existing job file is not replaced, unless `changed` or to add the size that a limit was found to be.

    Raises:
        LimbeckError: If the folder cannot be written to.
    """
    if not is_rank_zero(job):
        return
    new = not RunLayout(out).job.exists()
    try:
        if new:
            _clear(out)
        leave_student()
        # A folder that began with the teacher of another run has no size yet.
        found = job.student.model == SHRINK and job.student.arguments.get("size") != find_stored_size(job)
        if changed or found or not RunLayout(out).job.exists():
            # So that the job can be resumed from any working directory.
            copy_search(job, out)
            for name, text in run_job_texts(job, out).items():
                write_text(text, out / name)
    except BaseException as error:
        # A folder without its job cannot be resumed, so its content is removed.
        if new and not RunLayout(out).job.exists():
            with suppress(OSError):
                _clear(out)
        if isinstance(error, OSError) and not isinstance(error, LimbeckError):
            raise _unwritable(out, error) from error
        raise


def _died_early(out: Path) -> bool:
    """Whether the folder holds only the files of a run that was killed before it wrote its job."""
    names = {one.name for one in out.iterdir()}
    return ".lock" in names and all(name.startswith(".") or name in _BEFORE_A_JOB for name in names)


def _clear(out: Path) -> None:
    """Remove the files of such a run. The caller must hold the lock of the folder."""
    for path in [*(out / name for name in _BEFORE_A_JOB), *out.glob(".*.partial")]:
        remove(path)


def lock_folder(job: Job, out: Path) -> AbstractContextManager[None]:
    """A context in which no other run uses this folder.

    Raises:
        LimbeckError: If another run does.
    """
    return folder_lock(out) if is_rank_zero(job) else nullcontext()


@contextmanager
def create_and_lock(job: Job, out: Path) -> Iterator[None]:
    """Create the folder, and lock it before anything is written to it.

    Raises:
        LimbeckError: If the folder cannot be created, or another run has written to it meanwhile.
    """
    try:
        if is_rank_zero(job):
            out.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise _unwritable(out, error) from error
    with lock_folder(job, out):
        if is_rank_zero(job) and any(one.name != ".lock" for one in out.iterdir()):
            raise LimbeckError(f"{out} was free when this run began, and another has taken it: give another --out.")
        yield


def remove_partial_files(out: Path) -> None:
    """Remove the partial files that killed processes left."""
    for part in RunLayout(out).partial_files():
        remove(part)


def seed_folder(out: Path | None, arm: str, seed: int) -> Path | None:
    """The folder of one arm with one seed; None without a folder."""
    return RunLayout(out).seed(arm, seed) if out is not None else None


def load_outcomes(out: Path | None) -> Iterator[Outcome]:
    """Read the outcomes that were written before an interruption."""
    path = RunLayout(out).outcomes if out is not None else None
    for line in [] if path is None else read_lines(path).values:
        # A damaged line, or one that was not complete when the run was killed, is skipped: its arm is run again.
        with suppress(ValueError, TypeError, KeyError, AttributeError):
            yield _outcome(line)


def with_scores(outcome: Outcome, out: Path | None, material: ComparisonData) -> Outcome:
    """Add the scores of the test examples to an outcome, from its saved predictions."""
    folder = seed_folder(out, outcome.arm, outcome.seed)
    if outcome.scores is not None or folder is None:
        return outcome
    try:
        outputs = load_tensors(folder / PREDICTIONS)["test"]
        targets = material.task.stored_targets(material.data.test)
        return outcome._replace(scores=material.task.scores(outputs, targets))
    except (LimbeckError, KeyError):  # missing, damaged or of an earlier version: the verdict names what is missing
        return outcome


def append_outcome(job: Job, out: Path | None, outcome: Outcome) -> None:
    """Add an outcome to ``metrics.jsonl``."""
    if out is None or not is_rank_zero(job):
        return
    append_line(to_json_safe(_outcome_as_dict(outcome)), RunLayout(out).outcomes)


def to_json_safe(value: Any) -> Any:
    """Replace NaN and infinite numbers by None, because JSON has none.

    Example:
        >>> to_json_safe({"nll": float("inf"), "values": [1.0, float("nan")]})
        {'nll': None, 'values': [1.0, None]}
    """
    if isinstance(value, float) and not math.isfinite(value):
        return None
    if isinstance(value, Mapping):
        return {key: to_json_safe(inner) for key, inner in value.items()}
    if isinstance(value, (list, tuple)):
        return [to_json_safe(inner) for inner in value]
    return value


def _unwritable(out: Path, error: OSError) -> LimbeckError:
    return LimbeckError(f"{out} cannot be written to: {error.strerror or error}.")


def _outcome(line: Mapping[str, Any]) -> Outcome:
    measures = {name: _number(value) for name, value in line["measures"].items()}
    return Outcome(
        line["arm"],
        line["seed"],
        measures,
        _number(line["development"]),
        line.get("seconds"),
        line.get("steps"),
        Combined.read(line.get("combined")),
        line.get("parameters"),
        ShippedCost.read(line.get("cost")),
        reports=line.get("reports"),
        teacher_weights=line.get("teacher_weights"),
    )


def _outcome_as_dict(outcome: Outcome) -> dict[str, Any]:
    nested = {"combined": outcome.combined, "cost": outcome.cost}
    values = {name: value for name, value in outcome._asdict().items() if name != "scores"}  # restored from predictions
    return {**values, **{name: None if one is None else one._asdict() for name, one in nested.items()}}


def _number(value: float | None) -> float:
    return float("nan") if value is None else float(value)


def _without_added_order(stored: Any, current: Any) -> Any:
    """The data of a stored job without the class order that the run added."""
    if (
        not isinstance(stored, dict)
        or "class_names" not in stored
        or (isinstance(current, dict) and "class_names" in current)
    ):
        return stored
    rest = {key: value for key, value in stored.items() if key != "class_names"}
    return rest["name"] if isinstance(current, str) and set(rest) == {"name"} else rest


def without_workers(data: Any) -> Any:
    """The data without `num_workers`, which does not change the examples."""
    return without_keys(data, "num_workers")


def without_keys(data: Any, *keys: str) -> Any:
    """The data without some of their options."""
    if not isinstance(data, dict) or not {*keys} & data.keys():
        return data
    rest = {key: value for key, value in data.items() if key not in keys}
    return rest["name"] if set(rest) == {"name"} else rest


def _check_same_job(job: Job, out: Path) -> None:
    stored = with_absolute_paths(make_job(read_run_job(out))).model_dump(mode="json")
    current = with_absolute_paths(job).model_dump(mode="json")
    stored["data"], current["data"] = without_workers(stored.get("data")), without_workers(current["data"])
    stored["data"] = _without_added_order(stored["data"], current["data"])
    student, size = current["student"], stored["student"].get("size")
    if size is not None and student.get("size") is None and not {"latency", "bytes"}.isdisjoint(student):
        # The size that a limit was found to be is written into the job.
        student["size"] = size
    for key, value in current.items():
        if key not in _MAY_DIFFER and stored.get(key) != value:
            raise LimbeckError(
                f"{out} holds another job: its {key} is {stored.get(key)!r}, not {value!r}. Use "
                f"another --out, or change the job and reuse its results: `limbeck resume {out} --set {key}=..."
                f"{trust_option(out)}`."
            )


def leave_student(job: Job, material: ComparisonData, teacher: Teacher, out: Path) -> None:
    """Save an untrained student, so that the folder has a valid student from the start."""
    if not RunLayout(out).student.exists():
        student = make_student(job, material, seed=0, teacher=teacher)
        metadata = metadata_of(job, job.first_arm, material)
        if isinstance(student, EstimatorModule):
            save_student(student, RunLayout(out).student, metadata=metadata)
        else:
            save(student, RunLayout(out).student, metadata=metadata)


def ship(
    job: Job, material: ComparisonData, advice: Recommendation, outcomes: Sequence[Outcome], out: Path | None
) -> dict[str, Any]:
    """Choose the student that is shipped, and copy it to its place.

    With one method, the first seed's student is shipped. With several methods, the verdict is about the method that is
    best on development data, and the best of its students there is shipped. The test data play no part in the choice.
    """
    arm = advice.arm or job.first_arm
    own = [outcome for outcome in outcomes if outcome.arm == arm]
    score = material.task.primary
    best = max(own, key=lambda one: (score.rank(one.development), -one.seed))
    chosen = best if job.methods else min(own, key=lambda one: one.seed)
    student_folder = seed_folder(out, arm, chosen.seed)
    if out is not None and student_folder is not None and is_rank_zero(job):
        _keep_first(job, arm, out)
        if RunLayout(student_folder).student.is_dir():
            _replace(RunLayout(student_folder).student, RunLayout(out).student)
        if material.data.tokenizer is not None:
            _add_tokenizer(material.data.tokenizer, RunLayout(out).student)
    return {
        "arm": arm,
        "seed": chosen.seed,
        score.name: chosen.measures[score.name],
        "path": None if out is None else str(RunLayout(out).student),
        "ready": advice.ready,
        "why": advice.why,
        "others": list(advice.others),
    }


def _keep_first(job: Job, arm: str, out: Path) -> None:
    """Move the first seed's student from the shipped place to its own folder, if another one is shipped."""
    first = job.first_arm
    home = seed_folder(out, first, 0)
    if job.methods or arm == first or home is None or RunLayout(home).student.exists():
        return
    _replace(RunLayout(out).student, RunLayout(home).student)


def _add_tokenizer(tokenizer: Any, student: Path) -> None:
    """Save the tokenizer beside a student, so that it can read texts."""
    with TemporaryDirectory() as folder:
        tokenizer.save_pretrained(folder)
        for file in sorted(Path(folder).iterdir()):
            write_bytes(file.read_bytes(), student / file.name)


def _replace(source: Path, target: Path) -> None:
    """Replace a folder by a copy of another one."""
    new = target.with_name(f".{target.name}.new")
    remove(new)
    shutil.copytree(source, new)
    replace_folder(new, target)
