"""`run_job`: runs a job from data to verdict."""

from __future__ import annotations

import json
import math
import shutil
import time
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, suppress
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from limbeck.atomic_io import write_text
from limbeck.checksums import write_json
from limbeck.compare.arm_recipes import ALONE, matched_smoothing, recipe_of
from limbeck.compare.arms import ArmRun, Outcome, can_write, run_arm, write_samples
from limbeck.compare.changed_job import Changes, changed_job, remove_outdated
from limbeck.compare.comparison_data import (
    ComparisonData,
    arms_of_task,
    is_language,
    load_comparison_data,
    summary_lines,
    why_no_smoothing,
)
from limbeck.compare.dry_run import describe_steps, dry_run, find_seen_rows, verify_files
from limbeck.compare.extra_metrics import check_also, measure_extra
from limbeck.compare.language import describe_cut_off, describe_tokens, describe_vocabulary
from limbeck.compare.prompt_texts import answer_prompts
from limbeck.compare.result import MetricContext, arms_rows, is_control, method_settings, verdict_of
from limbeck.compare.run_storage import (
    append_outcome,
    check_folder,
    create_and_lock,
    initialize_folder,
    leave_student,
    load_outcomes,
    lock_folder,
    remove_partial_files,
    seed_folder,
    ship,
    to_json_safe,
    with_scores,
)
from limbeck.compare.served_teacher import describe_served, name_served
from limbeck.compare.student_start import describe_start, make_student, resolve_limit
from limbeck.compare.suggestions import JudgedRun, suggest
from limbeck.compare.teacher import ask, open_teacher, steps_taken, train_teacher
from limbeck.compare.teacher_cache import check_store, fill_job_cache, measure_listed_entropy
from limbeck.compare.teacher_checks import judge_teacher
from limbeck.compare.trackers import check_tracker, is_rank_zero
from limbeck.data import Dataset
from limbeck.engine import StepReport, environment, open_fabric
from limbeck.errors import DataError, LimbeckError, TextTooLongError
from limbeck.events import ArmFinished, ArmsPlanned, Callback, Message, ignore_events
from limbeck.job import Job, RunLayout, hide_private_paths, plain_name, recommend, shared_path
from limbeck.job.run_layout import STUDENT
from limbeck.metrics import load_tensors, save_tensors
from limbeck.report import result_svg, write_report
from limbeck.report.svg import NO_FIGURES, has_figures
from limbeck.task_runner import WorkItem, check_backend, run_tasks
from limbeck.tasks import Classification, Task
from limbeck.teachers import SklearnTeacher, Teacher
from limbeck.teachers.chance import most_frequent_share


def run_job(
    job: Job, *, callback: Callback = ignore_events, resume: bool = False, change: bool = False
) -> dict[str, Any]:
    """Run a job: train the teacher and all arms, compare them, and write everything to the job's folder.

    Args:
        job: The job.
        callback: A function that receives each event (`limbeck.events`).
        resume: Continue in a folder of this job; finished runs are not repeated.
        change: Continue in a folder of this job with other settings. The trained teacher and all arms that do not
            depend on the changed settings are kept; the other arms are run again.

    Returns:
        The result as JSON values: ``arms`` by name, ``verdict``, ``seconds``, ``run``, and a description of the data.

    Raises:
        LimbeckError: If the job is invalid. As far as possible this is checked before training and writing.
    """
    with ExitStack() as stack:
        job, changes = changed_job(job) if change else (job, None)
        out = check_folder(job, resume=resume or change, changed=change)
        start = time.perf_counter()
        new = out is not None and not out.exists()
        fresh = out is not None and not RunLayout(out).job.is_file()
        if out is not None and not new:
            stack.enter_context(lock_folder(job, out))
        run = _open(job, callback if is_rank_zero(job) else ignore_events, out)
        if out is not None:
            if new:  # a new folder is created only after all checks; it is locked then
                stack.enter_context(create_and_lock(run.job, out))
            _prepare_folder(run, out, changes)
        result = _train_and_judge(run, fresh=fresh)
        result["seconds"] = round(time.perf_counter() - start, 3)
        if out is not None and is_rank_zero(run.job):
            if not has_figures():
                run.tell(Message(NO_FIGURES.replace("`", "")))
            _write(result, out)
        return result


class _OpenJob(NamedTuple):
    """A job whose data and teacher are open, and that passed all checks before training."""

    job: Job
    material: ComparisonData
    teacher: Teacher
    models: Mapping[str, nn.Module]
    tell: Callback
    out: Path | None


def _open(job: Job, tell: Callback, out: Path | None) -> _OpenJob:
    job.check_user_methods()
    check_tracker(job)
    check_backend(job.workers)
    open_fabric(precision=job.precision, devices=job.devices, strategy=job.strategy)
    job = answer_prompts(job, tell)
    material = _load_data(job)
    job = job if material.options is None else job.model_copy(update={"data": material.options})
    tell(Message("\n".join((_data_message(material), *summary_lines(material.data)))))
    if (without := arms_of_task(job, material.task)) is not job:
        job = without
        tell(Message(f"Without the arm 'label smoothing': {why_no_smoothing(job, material.task)}."))
    teacher, models = open_teacher(job, material)
    job = resolve_limit(name_served(job, teacher), teacher, material, tell)
    if (vocabulary := describe_vocabulary(teacher, material.train)) is not None:
        tell(Message(vocabulary))
    dry_run(job, material, teacher, models)
    check_also(MetricContext(job, material, teacher, models), tell)
    verify_files(material, tell)
    for sentence in filter(None, (describe_tokens(job, material.train), describe_steps(job, material, teacher))):
        tell(Message(sentence))
    return _OpenJob(job, material, teacher, models, tell, out)


def _load_data(job: Job) -> ComparisonData:
    """The data of a job; models whose tokens are others are refused before texts that are too long."""
    try:
        return load_comparison_data(job)
    except TextTooLongError:
        options = job.data if isinstance(job.data, dict) else {"name": job.data}
        short = job.model_copy(update={"data": {**options, "too_long": "drop"}})
        with suppress(DataError):  # no text may be left
            open_teacher(short, load_comparison_data(short))
        raise


def _prepare_folder(run: _OpenJob, out: Path, changes: Changes | None) -> None:
    if changes is not None:
        run.tell(Message(changes.describe()))
        if is_rank_zero(run.job):
            remove_outdated(changes, out)
    leave = partial(leave_student, run.job, run.material, run.teacher, out)
    initialize_folder(run.job, out, leave, changed=changes is not None)


def _train_and_judge(run: _OpenJob, *, fresh: bool) -> dict[str, Any]:
    """Train the teacher and all arms, and return the result without its duration.

    If the job's folder is `fresh` and a loaded teacher is refused, the folder is removed: nothing was paid for it.
    """
    job, material, teacher, models, tell, out = run
    seen = find_seen_rows(job, material, models)
    train_teacher(models, job, material, out, tell)
    start = describe_start(job, teacher, partial(make_student, job, material, seed=0, teacher=teacher))
    if start is not None:
        tell(Message(start[0]))
    check_store(job, material, teacher)
    answers = ask(teacher, material.data.test, material)
    if (served := describe_served(teacher)) is not None:
        tell(Message(served))
    try:
        taught = _judge_teacher(job, teacher, material, out, tell, answers)
    except LimbeckError:
        if fresh and out is not None and job.teacher.has_weights and is_rank_zero(job):
            shutil.rmtree(out, ignore_errors=True)
        raise
    if seen is not None:
        tell(Message(seen["sentence"]))
    entropy = partial(measure_listed_entropy, job, teacher, material)
    smoothing = matched_smoothing(job, teacher, material, entropy=entropy)
    if job.cache is not None and job.workers > 1:  # several processes cannot add to one cache
        fill_job_cache(job, material, teacher, tell)
    runs = _runs(job, teacher, out, smoothing, material.task)
    outcomes = [
        _report_outcome(one, material.task, tell) for one in _outcomes(runs, job, material, teacher, answers, out, tell)
    ]
    for sentence in describe_cut_off(job, out):
        tell(Message(sentence))
    verdict = verdict_of(job, outcomes, examples=_labeled(material), task=material.task)
    rows = arms_rows(job, material, outcomes, answers, (teacher, models), smoothing=smoothing)
    verdict["advice"] = suggest(JudgedRun(job, rows, verdict, outcomes, out, material.task))
    advice = recommend(
        {"arms": rows, "verdict": verdict, "data": _data_summary(material), "task": material.task.to_dict()}
    )
    shipped = ship(job, material, advice, outcomes, out)
    extra = measure_extra(MetricContext(job, material, teacher, models, verdict["arm"], answers), tell)
    result: dict[str, Any] = to_json_safe({
        "arms": rows,
        "verdict": verdict,
        "shipped": shipped,
        "report": str(RunLayout(out).report) if out else None,
        "seconds": 0.0,
        "run": str(out) if out else None,
        "method": method_settings(job.method) if job.method_arms else None,
        "seeds": job.seeds,
        "task": material.task.to_dict(),
        "data": _data_summary(material),
        "teacher_development_accuracy": taught,
        "teacher_may_have_seen": seen,
        "student": start[1] if start is not None else None,
        **extra,
        "environment": environment(),
    })  # fmt: skip
    return result


def _report_outcome(outcome: Outcome, task: Task, tell: Callback) -> Outcome:
    """Report an outcome, and return it."""
    value = outcome.measures.get(task.primary.name, math.nan)
    tell(ArmFinished(outcome.arm, outcome.seed, value, task.primary.describe(value)))
    # One NaN among the rows makes the mean NaN. A row that another version wrote may lack the value.
    if math.isnan(outcome.measures.get("confidence", 0.0)):
        tell(Message(f"{outcome.arm}, seed {outcome.seed}: some outputs on test data are NaN; they count as wrong."))
    return outcome


def _data_summary(material: ComparisonData) -> dict[str, Any]:
    """The description of the data in the result."""
    return {
        "name": plain_name(material.data.name), "train": len(material.train),
        "development": len(material.development), "test": len(material.data.test),
        "classes": material.classes, "class_names": list(material.data.class_names or ()) or None,
        "most_frequent": {
            "development": _share(material, material.development), "test": _share(material, material.data.test),
        },
        "summary": material.data.summary.as_dict() if material.data.summary else None,
    }  # fmt: skip


def _share(material: ComparisonData, examples: Dataset) -> float | None:
    """The share of the most frequent class; None without labels, and for tasks without classes of examples."""
    if not isinstance(material.task, Classification):
        return None
    share = math.nan if examples.labels is None else most_frequent_share(examples.labels)
    return None if math.isnan(share) else share


def _write(result: dict[str, Any], out: Path) -> None:
    """Write the result, its figure and the page."""
    remove_partial_files(out)
    if has_figures():
        write_text(result_svg(result), RunLayout(out).figure)
    shared = {**result, "run": shared_path(out), "report": shared_path(RunLayout(out).report)}
    shared["shipped"] = {**result["shipped"], "path": shared_path(RunLayout(out).student)}
    write_json(json.loads(hide_private_paths(json.dumps(shared, allow_nan=False), out)), RunLayout(out).result)
    write_report([out])


def _judge_teacher(
    job: Job, teacher: Teacher, material: ComparisonData, out: Path | None, callback: Callback, answers: Tensor
) -> float:
    logits = ask(teacher, material.development, material)
    if out is not None and is_rank_zero(job):
        if isinstance(teacher, SklearnTeacher):
            _check_same_answers(answers, out)
        _keep_answers({"test": answers, "development": logits}, material, out)
        if can_write(teacher):
            write_samples(teacher, material, RunLayout(out).teacher)
    task = material.task
    if not job.teacher.check:
        if not task.check(material.development, "development"):
            return math.nan
        return task.measure(logits, task.stored_targets(material.development))[task.primary.name]
    value, sentence = judge_teacher(logits, material, loaded=job.teacher.has_weights, places=job.teacher.train_places)
    callback(Message(sentence))
    return value


def _check_same_answers(answers: Tensor, out: Path) -> None:
    """Check that an estimator that was fitted again has the same outputs as before."""
    if not RunLayout(out).teacher_outputs.is_file():
        return
    before = load_tensors(RunLayout(out).teacher_outputs).get("test")
    if before is None or before.shape != answers.shape or not torch.allclose(before, answers, atol=1e-5):
        raise LimbeckError(
            f"The teacher's estimator was fitted again, and its outputs differ from those saved in {out}, so the arms "
            "would have different teachers. Give it a random_state, and start again with another --out."
        )


def _keep_answers(logits: Mapping[str, Tensor], material: ComparisonData, out: Path) -> None:
    parts = {"test": material.data.test, "development": material.development}
    labels = {
        f"{part}_labels": material.task.stored_targets(examples)
        for part, examples in parts.items()
        # The labels of tokens are in the batches alone.
        if material.task.asks_teacher or examples.labels is not None or examples.targets is not None
    }
    save_tensors({**logits, **labels}, RunLayout(out).teacher_outputs)


def _outcomes(
    runs: list[ArmRun],
    job: Job,
    material: ComparisonData,
    teacher: Teacher,
    answers: Tensor,
    out: Path | None,
    callback: Callback,
) -> Iterator[Outcome]:
    planned = {(run.arm, run.seed) for run in runs}  # a folder may hold arms that are not in the present job
    finished = [outcome for outcome in load_outcomes(out) if (outcome.arm, outcome.seed) in planned]
    done = {(outcome.arm, outcome.seed) for outcome in finished}
    pending = [run for run in runs if (run.arm, run.seed) not in done]
    callback(ArmsPlanned(len(finished) + len(pending)))
    # A method that is the control itself is trained once, as the method: its first student may be the one to ship.
    method_arm = next((arm for arm in job.method_arms if is_control(job, arm)), None)
    copies = {run.seed: run for run in pending if run.arm == ALONE and method_arm is not None}
    trained = {run.seed: run for run in runs if run.arm == method_arm}
    left = [run for run in pending if run is not copies.get(run.seed)]
    for outcome in finished:
        yield with_scores(outcome, out, material)
        if outcome.arm == method_arm and outcome.seed in copies:
            yield _copy_outcome(
                with_scores(outcome, out, material), trained[outcome.seed], copies.pop(outcome.seed), out
            )
    for outcome in _run_all(left, job.workers, material, teacher, answers, callback):
        append_outcome(job, out, outcome)
        yield outcome
        if outcome.arm == method_arm and outcome.seed in copies:
            yield _copy_outcome(outcome, trained[outcome.seed], copies.pop(outcome.seed), out)


def _copy_outcome(outcome: Outcome, trained: ArmRun, copied: ArmRun, out: Path | None) -> Outcome:
    """The outcome and the files of a run as those of the same run under another name."""
    copy = outcome._replace(arm=copied.arm)
    if trained.out is not None and copied.out is not None and is_rank_zero(copied.job):
        shutil.copytree(trained.out, copied.out, dirs_exist_ok=True)
        if trained.student is not None:
            shutil.copytree(trained.student, copied.out / STUDENT, dirs_exist_ok=True)
    append_outcome(copied.job, out, copy)
    return copy


def _runs(job: Job, teacher: Teacher, out: Path | None, smoothing: float, task: Task) -> list[ArmRun]:
    """The runs of all arms, seed by seed, so that an interrupted comparison has complete pairs."""
    runs = []
    for seed in range(job.seeds):
        for arm in job.all_arms:
            # The only method's first student is shipped, and is in its place from the first step on, unless it is
            # another kind of model than the untrained one that was left there.
            first = out is not None and arm == "distilled" and seed == 0
            ships = recipe_of(job, arm, teacher, task=task).ship if first else None
            shipped = RunLayout(out).student if out and ships == "student" else None
            if arm != "teacher":
                runs.append(ArmRun(job, arm, seed, seed_folder(out, arm, seed), shipped, smoothing))
    return runs


def _run_all(
    runs: list[ArmRun], workers: int, material: ComparisonData, teacher: Teacher, answers: Tensor, callback: Callback
) -> Iterator[Outcome]:
    # Only in this process can a run report its steps.
    reports = [partial(_report_steps, callback, run) if workers == 1 else None for run in runs]
    tasks = [
        WorkItem(f"{run.arm}, seed {run.seed}", partial(run_arm, run, material, teacher, answers, report))
        for run, report in zip(runs, reports, strict=True)
    ]
    for _, outcome in run_tasks(tasks, workers=workers):
        yield outcome


def _report_steps(callback: Callback, run: ArmRun, report: StepReport) -> None:
    callback(steps_taken(f"{run.arm}, seed {run.seed}", report))


def _labeled(material: ComparisonData) -> int:
    return material.task.check(material.data.test, "test")


def _data_message(material: ComparisonData) -> str:
    data = material.data
    what = "windows" if is_language(material.task) else "examples"
    return (
        f"Data: {data.name}, {len(material.train):,} training, {len(material.development):,} development and "
        f"{len(data.test):,} test {what}, {material.task.describe()}."
    )
