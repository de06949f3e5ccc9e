"""A comparison of several students of one teacher: a run for each, a page about all, and which of them to ship."""

from __future__ import annotations

import shutil
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext, suppress
from pathlib import Path
from typing import Any, NamedTuple

from limbeck.atomic_io import make_folder, write_text
from limbeck.checksums import read_json, write_json
from limbeck.compare.experiment import run_job
from limbeck.compare.run_storage import check_folder
from limbeck.errors import DataError, LimbeckError
from limbeck.events import Callback, Message, ignore_events
from limbeck.job import Job, RunLayout, read_run_job, run_job_texts, with_absolute_paths
from limbeck.job.result import read_result, read_task
from limbeck.report import write_report
from limbeck.report.summary import Headline
from limbeck.tasks import Score

STUDENTS = "students.json"
"""The file with the rows of all students, in the folder of their runs."""
_PLAN = ".students.json"
"""The file with the jobs of all students. It holds absolute paths, so it is private, as ``.places.json`` of a run."""


class StudentRow(NamedTuple):
    """The student that one run ships.

    Attributes:
        name: The name of the run's folder.
        arm: The arm of the student.
        asked: The size that was asked for, or None.
        size: Its share of the teacher's parameters.
        parameters: Its parameters.
        development: Its primary metric on development data.
        test: Its primary metric on test data, the mean over seeds.
        milliseconds: Milliseconds per example on the CPU.
        ready: Whether it is better than guessing.
    """

    name: str
    arm: str
    asked: float | str | None
    size: float
    parameters: int
    development: float
    test: float
    milliseconds: float
    ready: bool

    def as_dict(self) -> dict[str, Any]:
        """The row as JSON values; a score that is no number, of a student that diverged, is None."""
        return {key: None if one != one else one for key, one in self._asdict().items()}


def run_students(
    jobs: Mapping[str, Job],
    out: str | Path,
    *,
    margin: float,
    change: bool = False,
    callback: Callback = ignore_events,
) -> dict[str, Any]:
    """Run a job for each student, write a page about all, and choose the student to ship.

    The teacher is trained once, by the first run. Finished runs are kept: the same call continues later, and so does
    one with the jobs that `read_students` finds in the folder.

    Args:
        jobs: The jobs by name; they differ in the student alone.
        out: A new folder, or the folder of an interrupted call.
        margin: See `choose_student`.
        change: Continue with other settings, as `run_job` does in each folder.
        callback: A function that receives each event.

    Returns:
        ``students``: a row for each; ``ship``: the name of the student to ship, or None; ``sentence``; ``report``.

    Raises:
        LimbeckError: If a job is invalid, or the folder holds something else, or these runs with other settings.
    """
    out = Path(out)
    if out.is_file() or RunLayout(out).job.is_file():
        raise LimbeckError(f"{out} holds something else; several students need a folder of their own: --out NEW.")
    with nullcontext() if change else _written_plan(jobs, margin, out):
        results = _run_all(jobs, out, change=change, callback=callback)
    if change:
        _write_plan(jobs, margin, out)
    score = read_task(next(iter(results.values()))).primary
    rows = [_read_row(name, result, score) for name, result in results.items()]
    first = next(iter(results.values()))
    teacher = first.get("teacher_development_accuracy")
    ship, sentence = choose_student(rows, teacher if isinstance(teacher, float) else None, score, margin=margin)
    headline = Headline("unsure" if ship is None else "yes", f"Ship {ship or 'none of them yet'}", sentence)
    report = write_report([out / name for name in jobs], out / "report.html", advice=headline)
    whole = {"students": [row.as_dict() for row in rows], "ship": ship, "sentence": sentence, "margin": margin}
    write_json({**whole, "teacher": teacher}, out / STUDENTS)
    return {**whole, "teacher": teacher, "report": str(report), "run": str(out)}


def _run_all(jobs: Mapping[str, Job], out: Path, *, change: bool, callback: Callback) -> dict[str, dict[str, Any]]:
    """Run the jobs one after the other, as far as they are not finished, and return their results."""
    results: dict[str, dict[str, Any]] = {}
    for name, job in jobs.items():
        folder = out / name
        own = _with_shared_cache(job, out).model_copy(update={"out": str(folder)})
        begun = RunLayout(folder).job.is_file()
        if RunLayout(folder).result.is_file() and not change:
            check_folder(own, resume=True)
        else:
            callback(Message(f"\n{name} ({len(results) + 1} of {len(jobs)})"))
            if results and not begun:
                _take_teacher(own, out / next(iter(results)), folder)
            resume = RunLayout(folder).job.is_file()
            run_job(own, callback=callback, resume=resume and not (change and begun), change=change and begun)
        results[name] = read_result(folder)
    return results


def _write_plan(jobs: Mapping[str, Job], margin: float, out: Path) -> None:
    dumped = {name: with_absolute_paths(job).model_dump(mode="json") for name, job in jobs.items()}
    make_folder(out)
    write_json({"margin": margin, "jobs": dumped}, out / _PLAN)


@contextmanager
def _written_plan(jobs: Mapping[str, Job], margin: float, out: Path) -> Iterator[None]:
    """Write the jobs of all students before the first runs; if that is refused, nothing is left."""
    _write_plan(jobs, margin, out)
    try:
        yield
    except BaseException:
        if not any(RunLayout(out / name).job.is_file() for name in jobs):
            (out / _PLAN).unlink(missing_ok=True)
            with suppress(OSError):  # there is more in it
                out.rmdir()
        raise


def read_students(out: str | Path) -> tuple[dict[str, dict[str, Any]], float] | None:
    """Read the jobs of several students, by name, and the margin of the choice; None if the folder has no such plan.

    A run that has begun has the settings of its own folder.

    Raises:
        DataError: If a file is damaged.
    """
    out = Path(out)
    if not (out / _PLAN).is_file():
        return None
    plan = read_json(out / _PLAN)
    jobs, margin = plan.get("jobs"), plan.get("margin")
    # The folder may come from somebody else: a name must not lead out of it.
    if (
        not isinstance(jobs, dict)
        or not isinstance(margin, (int, float))
        or any(Path(name).name != name for name in jobs)
    ):
        raise DataError(f"{out / _PLAN} is damaged: it holds no jobs by name and margin.")
    begun = {name: read_run_job(out / name) for name in jobs if RunLayout(out / name).job.is_file()}
    return {name: begun[name] if name in begun else dict(values) for name, values in jobs.items()}, margin


def _with_shared_cache(job: Job, out: Path) -> Job:
    """The job with one cache of the teacher's outputs for all runs, if it has one."""
    if job.cache is None or job.cache.folder is not None:
        return job
    return job.model_copy(update={"cache": job.cache.model_copy(update={"folder": str(out / "answers")})})


def _take_teacher(job: Job, first: Path, folder: Path) -> None:
    """Begin a run's folder with the trained teacher of the first run, so that it is not trained again."""
    if job.teacher.has_weights or not RunLayout(first).teacher.is_dir():
        return
    partial = folder.with_name(f".{folder.name}.partial")
    shutil.rmtree(partial, ignore_errors=True)
    shutil.copytree(RunLayout(first).teacher, RunLayout(partial).teacher)
    for name, text in run_job_texts(job, folder).items():
        write_text(text, partial / name)
    check_folder(job, resume=False)
    shutil.rmtree(folder, ignore_errors=True)  # what a run has left that was killed before its job was written
    partial.rename(folder)


def _read_row(name: str, result: Mapping[str, Any], score: Score) -> StudentRow:
    shipped = result.get("shipped") or {}
    arm = str(shipped.get("arm"))
    row, made = result["arms"][arm], result.get("student") or {}
    teacher = next(one for one in result["arms"].values() if one.get("role") == "teacher")
    return StudentRow(
        name, arm, made.get("asked"), row["parameters"] / max(teacher["parameters"], 1), row["parameters"],
        _mean(row.get("development")), _mean(row.get(score.name)), row["milliseconds"], bool(shipped.get("ready")),
    )  # fmt: skip


def _mean(statistic: Any) -> float:
    mean = statistic.get("mean") if isinstance(statistic, Mapping) else None
    return float("nan") if mean is None else float(mean)


def choose_student(
    rows: Sequence[StudentRow], teacher: float | None, score: Score, *, margin: float
) -> tuple[str | None, str]:
    """Choose the smallest student that is at most a margin worse than the teacher on development data.

    Args:
        rows: The students.
        teacher: The teacher's primary metric on development data; None if it is not known.
        score: The primary metric of the task.
        margin: The margin, in units of the metric: 0.01 is one point of accuracy.

    Returns:
        The name of the student, and the choice in a sentence. Without a student within the margin, the name is None.

    Example:
        >>> from limbeck.tasks import Classification
        >>> small = StudentRow("size-0.1", "distilled", 0.1, 0.1, 100, 0.90, 0.89, 0.1, True)
        >>> large = StudentRow("size-0.5", "distilled", 0.5, 0.5, 500, 0.95, 0.94, 0.3, True)
        >>> choose_student([small, large], 0.955, Classification.primary, margin=0.01)[0]
        'size-0.5'
    """
    ready = [row for row in rows if row.ready and row.development == row.development]
    if not ready or teacher is None or teacher != teacher:
        why = "no student is better than guessing" if not any(row.ready for row in rows) else (
            "no scores on development data are known"
        )  # fmt: skip
        return None, f"Ship none of them yet: {why}."
    near = score.format_difference(margin).lstrip("+")
    at_most = f"within {near} of the teacher on development data"
    # Differences of shares are rounded: 0.95 is one point below 0.96.
    within = [row for row in ready if score.gain(row.development, teacher) >= -margin - 1e-9]
    best = max(ready, key=lambda row: score.rank(row.development))
    if not within:
        return None, (
            f"None of the {len(rows)} students is {at_most} (teacher {score.format(teacher)}). The best is "
            f"{best.name}, {_describe(best, score)}. Try larger sizes, more epochs or another method, or ship it if "
            "that is enough."
        )
    chosen = min(within, key=lambda row: (row.parameters, row.milliseconds))
    return chosen.name, (
        f"Ship {chosen.name}: it is the smallest of {len(rows)} students that is {at_most} (teacher "
        f"{score.format(teacher)}), {_describe(chosen, score)}."
    )


def _describe(row: StudentRow, score: Score) -> str:
    return (
        f"with {score.format(row.development)} there and {score.format(row.test)} on test data, {row.parameters:,} "
        f"parameters ({100 * row.size:.3g} % of the teacher's) and {row.milliseconds:.3g} ms per example"
    )
