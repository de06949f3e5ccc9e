"""`run_job`: a job from data to verdict."""

from __future__ import annotations

import json
import math
import time
from collections.abc import Iterator, Mapping
from contextlib import ExitStack
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from limbeck.batch import IGNORED
from limbeck.checksums import write_json
from limbeck.compare.arms import ArmRun, Outcome, measure_student, recipe_of, run_arm
from limbeck.compare.build_cache import ask_all, check_store
from limbeck.compare.changed_job import Changes, changed_job, forget
from limbeck.compare.class_order import ordered_job
from limbeck.compare.comparison_data import ComparisonData, lines_of, load_comparison_data
from limbeck.compare.dry_run import dry_run
from limbeck.compare.extra_metrics import MetricContext, check_also, measure_extra
from limbeck.compare.matched_label_smoothing import matched_smoothing
from limbeck.compare.rank_zero import is_rank_zero
from limbeck.compare.result import arms_rows, method_settings, verdict_of
from limbeck.compare.run_storage import (
    append_outcome,
    checked_folder,
    create_and_lock,
    initialize_folder,
    load_outcomes,
    lock_folder,
    remove_partial_files,
    seed_folder,
    to_json_safe,
    with_correct,
    write,
)
from limbeck.compare.seen_rows import find_seen_rows
from limbeck.compare.select_student import leave_student, ship
from limbeck.compare.student_init import describe_layers
from limbeck.compare.suggestions import JudgedRun, suggest
from limbeck.compare.teacher_training import (
    ask,
    check_teacher,
    describe_accuracy,
    has_weights,
    open_teacher,
    steps_taken,
    train_teacher,
)
from limbeck.compare.trackers import check_tracker
from limbeck.compare.verify_images import verify_files
from limbeck.data import Dataset
from limbeck.engine import StepReport, environment, open_fabric
from limbeck.errors import LimbeckError
from limbeck.events import ArmFinished, ArmsPlanned, Callback, Message, ignore_events
from limbeck.job import Job, hide_private_paths, plain_name, recommend, shared_path
from limbeck.metrics import Predictions, load_tensors, save_tensors
from limbeck.processes import run_in_processes
from limbeck.report import arms_picture, write_report
from limbeck.teachers import SklearnTeacher, Teacher
from limbeck.teachers.chance import most_frequent_share

_ANSWERS = "teacher/answers.safetensors"


def run_job(
    job: Job, *, callback: Callback = ignore_events, resume: bool = False, change: bool = False
) -> dict[str, Any]:
    """Do what a job asks: teacher, arms, seeds, verdict; everything is left in the job's folder.

    Args:
        job: What is asked.
        callback: A function that receives each event (`limbeck.events`).
        resume: Take up a folder that holds this job; arms that are done are not run again.
        change: Take up a folder that holds this job with other settings. What does not depend on them is kept, the
            trained teacher above all; arms that do are run again.

    Returns:
        The result, of JSON values: ``arms`` by name, ``verdict``, ``seconds``, ``run``, and what it was measured on.

    Raises:
        LimbeckError: If anything is wrong with what was asked, before anything is paid for or written where it can be
            known.
    """
    with ExitStack() as stack:
        job, changes = changed_job(job) if change else (job, None)
        out = checked_folder(job, resume=resume or change, changed=change)
        return _done(job, callback, out, stack, changes)


def _done(job: Job, callback: Callback, out: Path | None, stack: ExitStack, changes: Changes | None) -> dict[str, Any]:
    began = time.perf_counter()
    new = out is not None and not out.exists()
    if out is not None and not new:
        stack.enter_context(lock_folder(job, out))
    job.check_user_methods()
    check_tracker(job)
    open_fabric(precision=job.precision, devices=job.devices, strategy=job.strategy)
    tell: Callback = callback if is_rank_zero(job) else ignore_events
    material = load_comparison_data(job)
    job = ordered_job(job, material.data) if material.reordered else job
    tell(Message("\n".join((_described(material), *lines_of(material.data)))))
    teacher, models = open_teacher(job, material)
    dry_run(job, material, teacher, models)
    check_also(MetricContext(job, material, teacher, models), tell)
    verify_files(material, tell)
    if out is not None:
        if new:  # it is not made before all was rehearsed, and what is not there cannot be locked
            stack.enter_context(create_and_lock(job, out))
        if changes is not None:
            tell(Message(changes.said()))
            if is_rank_zero(job):
                forget(changes, out)
        initialize_folder(job, out, partial(leave_student, job, material, teacher, out), changed=changes is not None)
    seen = find_seen_rows(job, material, models)
    train_teacher(models, job, material, out, tell)
    if (begins := describe_layers(job, teacher)) is not None:
        tell(Message(begins))
    check_store(job, material, teacher)
    answers = ask(teacher, material.data.test, material)
    taught = _judge_teacher(job, teacher, material, out, tell, answers)
    if seen is not None:
        tell(Message(seen["sentence"]))
    smoothing = matched_smoothing(job, teacher, material)
    if job.cache is not None and job.workers > 1:  # side by side they could not add to one store
        ask_all(job, material, teacher, tell)
    runs = _runs(job, teacher, out, smoothing)
    outcomes = [_seen(one, tell) for one in _outcomes(runs, job, material, teacher, answers, out, tell)]
    verdict = verdict_of(job, outcomes, examples=_labeled(material))
    rows = arms_rows(job, material, outcomes, answers, models, smoothing=smoothing)
    verdict["advice"] = suggest(JudgedRun(job, rows, verdict, outcomes, out))
    advice = recommend({"arms": rows, "verdict": verdict, "data": _counted(material)})
    shipped = ship(job, material, advice, outcomes, out)
    extra = measure_extra(MetricContext(job, material, teacher, models, verdict["arm"], answers), tell)
    result: dict[str, Any] = to_json_safe({
        "arms": rows,
        "verdict": verdict,
        "shipped": shipped,
        "report": str(out / "report.html") if out else None,
        "seconds": round(time.perf_counter() - began, 3),
        "run": str(out) if out else None,
        "method": method_settings(job.method),
        "seeds": job.seeds,
        "data": _counted(material),
        "teacher_development_accuracy": taught,
        "teacher_may_have_seen": seen,
        **extra,
        "environment": environment(),
    })  # fmt: skip
    if out is not None and is_rank_zero(job):
        _write(result, out)
    return result


def _seen(outcome: Outcome, tell: Callback) -> Outcome:
    """The outcome, once it was told."""
    tell(ArmFinished(outcome.arm, outcome.seed, outcome.measures.get("accuracy", math.nan)))
    # A mean over rows: one NaN makes it one. A row that another version has written may lack it.
    if math.isnan(outcome.measures.get("confidence", 0.0)):
        tell(Message(f"{outcome.arm}, seed {outcome.seed}: some answers to test data are NaN, and count as wrong."))
    return outcome


def _counted(material: ComparisonData) -> dict[str, Any]:
    """What the result says of the data."""
    return {
        "name": plain_name(material.data.name), "train": len(material.train),
        "development": len(material.development), "test": len(material.data.test),
        "classes": material.classes, "class_names": list(material.data.class_names or ()) or None,
        "most_frequent": {"development": _share(material.development), "test": _share(material.data.test)},
        "summary": material.data.summary.as_dict() if material.data.summary else None,
    }  # fmt: skip


def _share(examples: Dataset) -> float | None:
    """The share of the most frequent class; None where nothing is labeled."""
    found = math.nan if examples.labels is None else most_frequent_share(examples.labels)
    return None if math.isnan(found) else found


def _write(result: dict[str, Any], out: Path) -> None:
    """Leave the result, its picture and its page."""
    remove_partial_files(out)
    write(out / "result.svg", arms_picture(result))
    kept = {**result, "run": shared_path(out), "report": shared_path(out / "report.html")}
    kept["shipped"] = {**result["shipped"], "path": shared_path(out / "student")}
    write_json(json.loads(hide_private_paths(json.dumps(kept, allow_nan=False), out)), out / "result.json")
    write_report([out])


def _judge_teacher(
    job: Job, teacher: Teacher, material: ComparisonData, out: Path | None, callback: Callback, answers: Tensor
) -> float:
    logits = ask(teacher, material.development, material)
    if out is not None and is_rank_zero(job):
        if isinstance(teacher, SklearnTeacher):
            _check_same_answers(answers, out)
        _keep_answers({"test": answers, "development": logits}, material, out)
    if not job.teacher.check:
        return measure_student(Predictions(logits, None, material.development.labels), ("accuracy",))["accuracy"]
    found = check_teacher(logits, material.development, classes=material.classes, loaded=has_weights(job.teacher))
    callback(Message(describe_accuracy(found, material.development.labels)))
    return found


def _check_same_answers(answers: Tensor, out: Path) -> None:
    """Refuse to go on with an estimator that was fitted again, as a resumed job does, and answers otherwise."""
    if not (out / _ANSWERS).is_file():
        return
    before = load_tensors(out / _ANSWERS).get("test")
    if before is None or before.shape != answers.shape or not torch.allclose(before, answers, atol=1e-5):
        raise LimbeckError(
            f"The estimator that teaches was fitted again, and answers otherwise than when {out} was begun: some of "
            "the arms would have another teacher. Give it a random_state, and begin anew with another --out."
        )


def _keep_answers(logits: Mapping[str, Tensor], material: ComparisonData, out: Path) -> None:
    labels = {"test": material.data.test.labels, "development": material.development.labels}
    known = {f"{part}_labels": found for part, found in labels.items() if found is not None}
    save_tensors({**logits, **known}, out / _ANSWERS)


def _outcomes(
    runs: list[ArmRun],
    job: Job,
    material: ComparisonData,
    teacher: Teacher,
    answers: Tensor,
    out: Path | None,
    callback: Callback,
) -> Iterator[Outcome]:
    wanted = {(run.arm, run.seed) for run in runs}  # a folder may hold arms that another setting left out
    found = [outcome for outcome in load_outcomes(out) if (outcome.arm, outcome.seed) in wanted]
    done = {(outcome.arm, outcome.seed) for outcome in found}
    left = [run for run in runs if (run.arm, run.seed) not in done]
    callback(ArmsPlanned(len(found) + len(left)))
    yield from (with_correct(one, out, material.data.test.labels) for one in found)
    for outcome in _run_all(left, job.workers, material, teacher, answers, callback):
        append_outcome(job, out, outcome)
        yield outcome


def _runs(job: Job, teacher: Teacher, out: Path | None, smoothing: float) -> list[ArmRun]:
    """Seed by seed, so that an interrupted comparison has whole pairs."""
    runs = []
    for seed in range(job.seeds):
        for arm in job.all_arms:
            # The only method's first student is shipped, and is in its place from the first step on, unless it is
            # another kind of model than the untrained one that was left there.
            first = out is not None and arm == "distilled" and seed == 0
            shipped = out / "student" if out and first and recipe_of(job, arm, teacher).ship == "student" else None
            if arm != "teacher":
                runs.append(ArmRun(job, arm, seed, seed_folder(out, arm, seed), shipped, smoothing))
    return runs


def _run_all(
    runs: list[ArmRun], workers: int, material: ComparisonData, teacher: Teacher, answers: Tensor, callback: Callback
) -> Iterator[Outcome]:
    if workers == 1 or len(runs) < 2:
        for run in runs:
            yield run_arm(run, material, teacher, answers, partial(_report_steps, callback, run))
        return
    yield from run_in_processes(run_arm, [(run, material, teacher, answers) for run in runs], workers=workers)


def _report_steps(callback: Callback, run: ArmRun, report: StepReport) -> None:
    callback(steps_taken(f"{run.arm}, seed {run.seed}", report))


def _labeled(material: ComparisonData) -> int:
    labels = material.data.test.labels
    return 0 if labels is None else int((labels != IGNORED).sum())


def _described(material: ComparisonData) -> str:
    data = material.data
    return (
        f"Data: {data.name}, {len(material.train):,} to learn from, {len(material.development):,} for development, "
        f"{len(data.test):,} to test, {material.classes} classes."
    )
