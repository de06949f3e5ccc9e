"""`tune`: a search for the best settings of every arm on development data."""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import replace
from functools import partial
from typing import Any

from limbeck.atomic_io import make_folder, write_text
from limbeck.checksums import write_json
from limbeck.compare.arm_recipes import matched_smoothing
from limbeck.compare.comparison_data import ComparisonData, arms_of_task, load_comparison_data
from limbeck.compare.dry_run import dry_run, verify_files
from limbeck.compare.estimator_student import check_is_tunable
from limbeck.compare.prompt_texts import answer_prompts
from limbeck.compare.run_storage import lock_folder, remove_partial_files, to_json_safe
from limbeck.compare.teacher import ask, open_teacher, train_teacher
from limbeck.compare.teacher_cache import fill_job_cache, measure_listed_entropy
from limbeck.compare.teacher_checks import judge_teacher
from limbeck.compare.trackers import check_tracker
from limbeck.compare.tuning.results import best_job, check_search_folder, claim_search_folder, job_files, result_of
from limbeck.compare.tuning.search_space import (
    Ends,
    Space,
    check_ends,
    make_ranges,
    read_arms,
    spaces_of,
    start_of,
    with_values,
)
from limbeck.compare.tuning.trials import all_trials, import_optuna
from limbeck.engine import open_fabric
from limbeck.errors import LimbeckError
from limbeck.events import Callback, Message, ignore_events
from limbeck.job import Job, RunLayout, shared_path
from limbeck.methods.card import SearchRange
from limbeck.task_runner import check_backend
from limbeck.teachers import Teacher


def tune(
    job: Job,
    *,
    trials: int = 20,
    ranges: Mapping[str, SearchRange | Ends] | None = None,
    callback: Callback = ignore_events,
) -> dict[str, Any]:
    """Choose the settings of every arm on development data, with the same number of trials for each arm.

    Learning rate and epochs are searched for every arm; in addition, the hyper-parameters of the method for arms with
    a method, and the smoothing for label smoothing. Of an estimator as the student, its own arguments are searched in
    place of learning rate and epochs, for each arm. The teacher is trained or loaded once. The test data are not read.
    The job's folder holds every trial, and ``best.yaml``: the job with the best settings. An interrupted search
    continues at the next call, and a finished one can be continued with more trials.

    Args:
        job: The job; its ``out`` is the search's folder.
        trials: Number of trials for each arm, including the job's own settings.
        ranges: Search ranges by parameter name, in place of the defaults.
        callback: A function that receives each event (`limbeck.events`).

    Returns:
        The result as JSON values: ``arms`` by name with the trials, the best trial and the cost; ``best``, the path of
        the job file; ``teacher``; ``development``; ``seconds``.

    Raises:
        LimbeckError: If the job or an argument is invalid; this is checked before any training.
    """
    start = time.perf_counter()
    _check(job, trials)
    import_optuna()
    out = check_search_folder(job)
    search_ranges = make_ranges(job, ranges or {})
    spaces_of(job, search_ranges, smoothing=0.0)  # raises for a wrong name before data are read
    job = answer_prompts(job, callback)
    material = _without_test(load_comparison_data(job))
    _check_development(material)
    teacher, models = open_teacher(job, material)
    job = arms_of_task(job, material.task)
    check_ends(job, search_ranges, teacher, material.task)
    check_is_tunable(job, material, teacher)
    dry_run(job, material, teacher, models)
    verify_files(material, callback)
    make_folder(out)
    callback(Message(_describe_search(job, material, trials)))
    with lock_folder(job, out):
        teacher_start = time.perf_counter()
        train_teacher(models, job, material, out, callback)
        taught = _judge(job, teacher, material, callback)
        taught["seconds"] = round(time.perf_counter() - teacher_start, 3)
        entropy = partial(measure_listed_entropy, job, teacher, material)
        smoothing = matched_smoothing(job, teacher, material, entropy=entropy)
        spaces = spaces_of(job, search_ranges, smoothing=smoothing, task=material.task)
        claim_search_folder(job, spaces, out)
        starts = {arm: start_of(job, arm, smoothing, task=material.task) for arm in spaces}
        _build_answers(job, spaces, material, teacher, callback)
        trials_by_arm = all_trials(job, spaces, starts, trials, out, material, teacher, callback)
        for name, text in job_files(job, best_job(job, trials_by_arm, out, material.task.primary), out).items():
            write_text(text, out / name)
        result = to_json_safe(result_of(job, material, spaces, trials_by_arm, taught, out))
        result["seconds"] = round(time.perf_counter() - start, 3)
        shared = {key: shared_path(result[key]) for key in ("run", "best")}
        write_json({**result, **shared}, RunLayout(out).tuned)
        remove_partial_files(out)
    return dict(result)


def _check(job: Job, trials: int) -> None:
    if trials < 1:
        raise LimbeckError(f"A search tries at least one setting for each arm; got trials={trials}. Type --trials 20.")
    if job.out is None:
        raise LimbeckError("A search needs a folder, to be resumed from. Type --out runs/search (out=...).")
    if str(job.devices) not in ("auto", "1"):
        raise LimbeckError(
            f"A search runs each trial on one device; got devices={job.devices}. Type --set devices=1, and workers=2 "
            "for arms side by side."
        )
    job.check_user_methods()
    check_tracker(job)
    check_backend(job.workers)
    open_fabric(precision=job.precision, devices=1)


def _describe_search(job: Job, material: ComparisonData, trials: int) -> str:
    arms = ", ".join(read_arms(job))
    return (
        f"Search: {trials} trials for each of {arms}, on {len(material.train):,} examples of {material.data.name}, "
        f"judged on {len(material.development):,} for development."
    )


def _without_test(material: ComparisonData) -> ComparisonData:
    """The data with the development part in place of the test part, so that a search cannot read the test data."""
    return material._replace(data=replace(material.data, test=material.development))


def _check_development(material: ComparisonData) -> None:
    """Check that there are enough development data to compare settings.

    Raises:
        LimbeckError: If fewer than two examples have labels.
    """
    count = material.task.check(material.development, "development")
    if count < 2:
        raise LimbeckError(
            f"Settings are chosen on development data, and {count} of these {'has' if count == 1 else 'have'} a label: "
            "that tells no setting from another. Type --set development=0.2, or get more data."
        )


def _judge(job: Job, teacher: Teacher, material: ComparisonData, callback: Callback) -> dict[str, Any]:
    if not job.teacher.check:
        return {"accuracy": None}
    outputs = ask(teacher, material.development, material)
    value, sentence = judge_teacher(outputs, material, loaded=job.teacher.has_weights, places=job.teacher.train_places)
    callback(Message(sentence))
    return {"accuracy": value}


def _build_answers(
    job: Job, spaces: Mapping[str, Space], material: ComparisonData, teacher: Teacher, callback: Callback
) -> None:  # fmt: skip
    """Fill the cache first, because several processes cannot add to one cache."""
    if job.cache is None or job.workers == 1:
        return
    longest = job
    for arm, space in spaces.items():
        if "epochs" in space:
            longest = with_values(longest, arm, {"epochs": int(space["epochs"].high)})
    fill_job_cache(longest, material, teacher, callback)
