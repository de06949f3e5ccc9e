"""What a comparison stores on disk, and reads when it is resumed."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager, nullcontext, suppress
from pathlib import Path
from typing import Any

from torch import Tensor

from limbeck.atomic_io import folder_lock, remove, write_text
from limbeck.checksums import append_line, read_lines
from limbeck.compare.arms import PREDICTIONS, Outcome
from limbeck.compare.rank_zero import is_rank_zero
from limbeck.compare.specialist_teacher import Combined
from limbeck.compare.student_cost import ShippedCost
from limbeck.errors import LimbeckError
from limbeck.job import Job, arm_folder, copy_search, make_job, read_run_job, run_job_texts, with_absolute_paths
from limbeck.metrics import Predictions, correctness, load_tensors

_MAY_DIFFER = ("out", "workers", "track", "search")
"""What may change between two goes at a job: none is part of what is asked."""
_BEFORE_A_JOB = ("student", "tuned.json", "job.yaml.partial", ".places.json")
"""What is written before the job."""


def checked_folder(job: Job, *, resume: bool, changed: bool = False) -> Path | None:
    """The job's folder, once it is known to be free, or to hold this very job if it is taken up again.

    If it is `changed`, it may hold the job with other settings.

    Raises:
        LimbeckError: If it is a file, holds something, or holds another job; nothing in it is touched.
    """
    if job.out is None:
        return None
    out = Path(job.out)
    if out.exists() and not out.is_dir():
        raise LimbeckError(f"{out} is a file; a run needs a folder: give another --out.")
    if (out / "job.yaml").is_file() and resume:
        if not changed:
            _check_same_job(job, out)
    elif out.is_dir() and any(out.iterdir()) and not _died_early(out) and is_rank_zero(job):
        then = f"Continue a run with `limbeck resume {out}`, or give" if not resume else "It is no run's folder; give"
        raise LimbeckError(f"{out} already holds something. {then} another --out.")
    return out


def initialize_folder(job: Job, out: Path, leave_student: Callable[[], None], *, changed: bool = False) -> None:
    """Leave a student in the folder and then the resolved job: who finds a job finds a valid student.

    A job that is there already stays, unless it is `changed`.

    Raises:
        LimbeckError: If it cannot be written to.
    """
    if not is_rank_zero(job):
        return
    new = not (out / "job.yaml").exists()
    try:
        if new:
            _clear(out)
        leave_student()
        if changed or not (out / "job.yaml").exists():
            # So that it can be taken up from any working folder.
            copy_search(job, out)
            for name, text in run_job_texts(job, out).items():
                write(out / name, text)
    except BaseException as error:
        # Without its job nobody could take the folder up: it is left as free as it was.
        if new and not (out / "job.yaml").exists():
            with suppress(OSError):
                _clear(out)
        if isinstance(error, OSError) and not isinstance(error, LimbeckError):
            raise _unwritable(out, error) from error
        raise


def _died_early(out: Path) -> bool:
    """Whether all that is there is what a run leaves that is killed before its job is written: its lock, and parts."""
    names = {one.name for one in out.iterdir()}
    return ".lock" in names and all(name.startswith(".") or name in _BEFORE_A_JOB for name in names)


def _clear(out: Path) -> None:
    """Remove what such a run left; whoever holds the folder's lock knows that nobody is at it."""
    for path in [*(out / name for name in _BEFORE_A_JOB), *out.glob(".*.partial")]:
        remove(path)


def lock_folder(job: Job, out: Path) -> AbstractContextManager[None]:
    """A block in which no other process, nor another run of this one, does a job in this folder.

    Raises:
        LimbeckError: If one does.
    """
    return folder_lock(out) if is_rank_zero(job) else nullcontext()


@contextmanager
def create_and_lock(job: Job, out: Path) -> Iterator[None]:
    """The same for a folder that was not there a moment ago: it is made, and locked before anything is written to it.

    Raises:
        LimbeckError: If it cannot be made, or another run has written to it meanwhile.
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
    """Remove the parts of files that kills have left in a job whose arms are all done."""
    parts = [*out.glob(".*.partial")]
    parts += [one for name in ("arms", "teacher", "student") for one in (out / name).rglob(".*.partial")]
    for part in parts:
        remove(part)


def seed_folder(out: Path | None, arm: str, seed: int) -> Path | None:
    """The run's folder of one arm with one seed."""
    return arm_folder(out, arm) / f"seed-{seed}" if out is not None else None


def load_outcomes(out: Path | None) -> Iterator[Outcome]:
    """The outcomes that an earlier, interrupted go has written."""
    path = out / "metrics.jsonl" if out is not None else None
    for line in [] if path is None else read_lines(path).values:
        # A line that is damaged, or was being written when the run was killed, is not there: its arm is run again.
        with suppress(ValueError, TypeError, KeyError, AttributeError):
            yield _outcome(line)


def with_correct(outcome: Outcome, out: Path | None, labels: Tensor | None) -> Outcome:
    """An outcome with the test examples that its student got right, from the predictions that its run has left.

    Args:
        outcome: Of this go, or of an earlier one.
        out: The run's folder.
        labels: Of the test data.
    """
    folder = seed_folder(out, outcome.arm, outcome.seed)
    if outcome.correct is not None or folder is None or labels is None:
        return outcome
    try:
        logits = load_tensors(folder / PREDICTIONS)["test"]
        return outcome._replace(correct=correctness(Predictions(logits, labels=labels.flatten())).numpy())
    except (LimbeckError, KeyError):  # missing, damaged, or an earlier version's: the verdict says what it lacks
        return outcome


def append_outcome(job: Job, out: Path | None, outcome: Outcome) -> None:
    """Add an outcome to ``metrics.jsonl``."""
    if out is None or not is_rank_zero(job):
        return
    append_line(to_json_safe(_outcome_as_dict(outcome)), out / "metrics.jsonl")


def write(path: Path, text: str) -> None:
    """Write a file whole or not at all."""
    write_text(text, path)


def to_json_safe(value: Any) -> Any:
    """`value` as JSON has it: there is no infinity and no NaN, only null.

    Example:
        >>> plain({"nll": float("inf"), "values": [1.0, float("nan")]})
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
    )


def _outcome_as_dict(outcome: Outcome) -> dict[str, Any]:
    nested = {"combined": outcome.combined, "cost": outcome.cost}
    values = {name: value for name, value in outcome._asdict().items() if name != "correct"}  # the predictions say that
    return {**values, **{name: None if one is None else one._asdict() for name, one in nested.items()}}


def _number(value: float | None) -> float:
    return float("nan") if value is None else float(value)


def _without_added_order(stored: Any, current: Any) -> Any:
    """The data of a job that lies in a folder, without the order of the classes that the run has added to them."""
    if (
        not isinstance(stored, dict)
        or "class_names" not in stored
        or (isinstance(current, dict) and "class_names" in current)
    ):
        return stored
    rest = {key: value for key, value in stored.items() if key != "class_names"}
    return rest["name"] if isinstance(current, str) and set(rest) == {"name"} else rest


def without_workers(data: Any) -> Any:
    """The data without the number of threads that decode them: what comes out does not depend on it."""
    if not isinstance(data, dict) or "num_workers" not in data:
        return data
    rest = {key: value for key, value in data.items() if key != "num_workers"}
    return rest["name"] if set(rest) == {"name"} else rest


def _check_same_job(job: Job, out: Path) -> None:
    stored = with_absolute_paths(make_job(read_run_job(out))).model_dump(mode="json")
    current = with_absolute_paths(job).model_dump(mode="json")
    stored["data"], current["data"] = without_workers(stored.get("data")), without_workers(current["data"])
    stored["data"] = _without_added_order(stored["data"], current["data"])
    for key, value in current.items():
        if key not in _MAY_DIFFER and stored.get(key) != value:
            raise LimbeckError(
                f"{out} holds another job: its {key} is {stored.get(key)!r}, this one's is {value!r}. Give "
                f"another --out, or change it and keep what can be kept: `limbeck resume {out} --set {key}=...`."
            )
