"""`limbeck doctor`: opens a job and checks it within two minutes."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, TypeVar

from torch import nn

from limbeck.compare.adversarial_teacher import find_largest_pixel, make_attacks
from limbeck.compare.arm_recipes import is_taught, recipe_of
from limbeck.compare.comparison_data import (
    ComparisonData,
    arms_of_task,
    load_comparison_data,
    make_train_config,
    new_model,
)
from limbeck.compare.dry_run import rehearse_arms, rehearse_teacher, verify_some_files
from limbeck.compare.estimator import is_estimator
from limbeck.compare.extra_metrics import check_also
from limbeck.compare.language import describe_vocabulary, has_no_answers, is_untrained
from limbeck.compare.prompt_texts import answer_prompts
from limbeck.compare.result import MetricContext
from limbeck.compare.run_storage import check_folder
from limbeck.compare.served_teacher import describe_served, listed_outside
from limbeck.compare.student_start import check_student, make_student
from limbeck.compare.teacher import equally_trained, open_teacher, teachers_recipe, without_weights
from limbeck.compare.teacher_cache import folder_of, make_cache_loader, open_cached_teacher, views_of
from limbeck.compare.trackers import check_tracker
from limbeck.data import Dataset, subsample
from limbeck.doctor import (
    ACCURACY,
    NEWS,
    CheckContext,
    CheckedArm,
    Finding,
    examine,
    finding_from_job_error,
    passed,
    warn,
)
from limbeck.engine import Fabric, open_fabric
from limbeck.events import Event, Message, ignore_events
from limbeck.job import Job, train_loader
from limbeck.teachers import Teacher
from limbeck.teachers.estimators import EstimatorModule

_EXAMPLES = 2000
_PROMPTS = 40
"""The number of prompts without answers that the teacher answers for the checks."""


def subset_for_check(job: Job, material: ComparisonData) -> ComparisonData:
    """The data with fewer training examples: about 2,000, and at least two batches.

    The last batch of an epoch has the same size as with all data, because BatchNorm fails on a batch of one.
    """
    batch = job.budget.batch_size * job.budget.accumulate
    size = max(_EXAMPLES // batch, 2) * batch + len(material.train) % job.budget.batch_size
    if size >= len(material.train):
        return material
    return material._replace(train=subsample(material.train, size, 0))


def open_check_context(
    job: Job,
    material: ComparisonData,
    less: ComparisonData,
    teacher: Teacher,
    networks: Mapping[str, nn.Module],
    *,
    fabric: Fabric,
) -> CheckContext:
    """Build the context of the checks from a job's opened data and teacher.

    Args:
        job: The job.
        material: The job's data.
        less: The subset of the data for the checks.
        teacher: The teacher.
        networks: The modules of the teacher.
        fabric: Device and precision.
    """
    trained = tuple(name for name, one in without_weights(job, networks).items() if not is_estimator({name: one}))
    ready = not trained
    groups = [names for _, names in equally_trained(job, trained)]
    titles = ["teacher"] if len(groups) == 1 else [f"teacher {', '.join(names)}" for names in groups]
    arms = [_teachers_arm(job, material, less, names, title=title) for names, title in zip(groups, titles, strict=True)]
    arms += _arms(job, material, less, teacher)
    stored = None
    if job.cache is not None and (job.cache.folder is not None or job.out is not None):
        caches = open_cached_teacher(job, teacher, material.task, folder_of(job))
        stored = (tuple(caches.values()), make_cache_loader(job, material, shuffled=0))
    return CheckContext(
        tuple(arms), teacher, networks, ready, material.train, material.development,
        material.classes, material.data.class_names, material.data.preprocess, fabric,
        min(job.workers, os.cpu_count() or 1), stored, views_of(job), material.task, material.data.test,
    )  # fmt: skip


def _arms(job: Job, material: ComparisonData, less: ComparisonData, teacher: Teacher) -> Iterator[CheckedArm]:
    for name in job.all_arms:
        if name == "teacher" or is_untrained(job, name):
            continue
        budget = job.budget_of(name)
        loader = train_loader(less.train, budget, seed=0, cache=job.cache, mixed=is_taught(job, name))
        whole = train_loader(material.train, budget, seed=0)
        recipe = recipe_of(
            job, name, teacher, task=material.task, development=material.development,
            largest_pixel=find_largest_pixel(material),
        )  # fmt: skip
        yield CheckedArm(
            name, partial(_students, job, material, teacher), recipe, loader,
            make_train_config(job, budget, material, seed=0), job.seeds, len(whole) / len(loader),
            whole.examples_per_epoch % budget.batch_size, name in job.method_arms,
        )  # fmt: skip


def _students(job: Job, material: ComparisonData, teacher: Teacher) -> dict[str, nn.Module]:
    return {"student": make_student(job, material, seed=0, teacher=teacher)}


def _teachers_arm(
    job: Job, material: ComparisonData, less: ComparisonData, members: Sequence[str], *, title: str
) -> CheckedArm:
    """The training of models of the teacher that have one budget, for the estimate of its time."""
    budget = job.teacher_budgets[members[0]]
    loader, whole = train_loader(less.train, budget, seed=0), train_loader(material.train, budget, seed=0)

    def untrained() -> dict[str, nn.Module]:
        parts = job.teacher.parts
        return {name: new_model(parts[name], material, seed=0, who="teacher") for name in members}

    return CheckedArm(
        title, untrained, teachers_recipe(members, material.task, make_attacks(job, material, members)), loader,
        make_train_config(job, budget, material, seed=0), 1,
        len(whole) / len(loader), check_stages=False, first=True,
    )  # fmt: skip


T = TypeVar("T")


def checkup(job: Job, *, seconds: float = 120.0) -> Iterator[Finding]:
    """Run every check of a job, in the order in which the job would meet the problems; nothing is written.

    Args:
        job: The job.
        seconds: The time limit; checks after it are reported as skipped.

    Yields:
        One finding per check, as soon as it is known. If the device, the data, the teacher or the first step fails,
        this finding is the last, as the other checks need these.
    """
    until = time.perf_counter() + seconds
    yield _try("folder", lambda: _check_folder(job), _describe_folder)[1]
    fabric, finding = _try("device", lambda: open_fabric(precision=job.precision), partial(_describe_device, job))
    yield finding
    if fabric is None:
        return
    loaded, finding = _try("data", partial(_load, job), _describe_data)
    yield finding
    if loaded is None:
        return
    job, material = loaded[0], loaded[1]
    job = arms_of_task(job, material.task)
    less = subset_for_check(job, material)
    opened, finding = _try("teacher", lambda: open_teacher(job, less), partial(_describe_teacher, job, less.train))
    yield finding
    if opened is None:
        return
    single_device = job.model_copy(update={"devices": "auto", "strategy": "auto"})
    teacher, networks = opened
    arms, finding = _try(
        "first step", partial(_rehearse, single_device, material, less, teacher, networks), _describe_step
    )
    yield finding
    if arms is not None and isinstance(make_student(job, less, seed=0, teacher=teacher), EstimatorModule):
        return  # the other checks are about gradient steps
    if arms is not None:
        files = verify_some_files(material, seconds=seconds / 4)
        if files is not None:
            yield files
        extra, finding = _try(
            "extra metrics",
            partial(_check_extra_metrics, single_device, material, teacher, networks),
            partial(passed, "", None),
        )
        if extra != "":
            yield finding
        context = open_check_context(single_device, material, less, teacher, networks, fabric=fabric)
        yield from (
            _apply_teacher_check(job, checked) for checked in examine(context, seconds=until - time.perf_counter())
        )


def _try(name: str, action: Callable[[], T], describe: Callable[[Any], Finding]) -> tuple[T | None, Finding]:
    """The result of an action and its finding; None and the finding of the error if it fails."""
    try:
        result = action()
        return result, describe(result)._replace(name=name)
    except Exception as error:  # a user's model may raise anything
        return None, finding_from_job_error(name, error)


def _apply_teacher_check(job: Job, finding: Finding) -> Finding:
    """With ``teacher.check=false`` a teacher that is no better than chance is not an error."""
    if finding.name in (ACCURACY, NEWS) and finding.state == "wrong" and not job.teacher.check:
        return finding._replace(state="look", sentence=f"{finding.sentence} The job continues (teacher.check=false).")
    return finding


def _check_folder(job: Job) -> str:
    out = check_folder(job, resume=False)
    job.check_user_methods()
    check_tracker(job)
    return "The job names no folder; the first free one under runs/ is used." if out is None else f"{out} is free."


def _describe_folder(sentence: str) -> Finding:
    return passed("", None, sentence)


def _describe_device(job: Job, fabric: Fabric) -> Finding:
    kind = str(fabric.device)
    if (str(job.devices), job.strategy) in (("auto", "auto"), ("1", "auto")):
        return passed("", kind, f"Precision {job.precision}.", kind)
    return warn(
        "", kind, f"Only one device was checked; the job has devices={job.devices}, strategy={job.strategy}.", kind
    )


def _load(job: Job) -> tuple[Job, ComparisonData]:
    """The job and its data. Of prompts without answers, the teacher answers some, which are not kept."""
    with TemporaryDirectory() as folder:
        job = answer_prompts(job, ignore_events, folder=Path(folder), most=_PROMPTS)
        return job, load_comparison_data(job)


def _describe_data(loaded: tuple[Job, ComparisonData]) -> Finding:
    job, material = loaded
    count = len(material.train)
    sentence = (
        f"{count:,} training, {len(material.development):,} development and {len(material.data.test):,} test examples, "
        f"{material.task.describe()}."
    )
    if has_no_answers(job):
        sentence += f" The teacher wrote answers to at most {_PROMPTS} prompts of each file, and times are for these."
    summary = material.data.summary
    if summary is None:
        return passed("", count, sentence, f"{count:,}")
    value, make_finding = {"train": count, **summary.as_dict()}, warn if summary.warnings else passed
    if summary.warnings:
        sentence = f"{sentence} {len(summary.warnings)} warning{'s' * (len(summary.warnings) > 1)} below."
    return make_finding("", value, sentence, f"{count:,}")._replace(details=summary.lines())


_MUCH = 0.1
"""The probability of tokens that a server does not list, beyond which a finding says so."""


def _describe_teacher(job: Job, data: Dataset, opened: tuple[Teacher, dict[str, nn.Module]]) -> Finding:
    numbers = sum(parameter.numel() for model in opened[1].values() for parameter in model.parameters())
    origin = f"Loaded from {job.teacher.title}" if job.teacher.has_weights else "Trained by the job"
    vocabulary = describe_vocabulary(opened[0], data)
    details = () if vocabulary is None else (vocabulary,)
    if (served := describe_served(opened[0])) is not None:
        mass = listed_outside(opened[0]) or 0.0
        make_finding = warn if mass > _MUCH else passed
        more = " That is much: a larger top_k teaches more." if mass > _MUCH else ""
        return make_finding("", mass, f"{served}{more}", "served")._replace(details=details)
    sentence = f"{origin}; it has the outputs that the task needs."
    return passed("", numbers, sentence, f"{numbers:,} weights")._replace(details=details)


def _rehearse(
    job: Job, material: ComparisonData, less: ComparisonData, teacher: Teacher, networks: Mapping[str, nn.Module]
) -> int:
    check_student(job, less, teacher)
    rehearse_arms(job, less, rehearse_teacher(job, material, teacher, networks))
    return len([arm for arm in job.all_arms if arm != "teacher"])


def _check_extra_metrics(
    job: Job, material: ComparisonData, teacher: Teacher, networks: Mapping[str, nn.Module]
) -> str:
    """Check the job's extra metrics and describe them; an empty string if there are none."""
    messages: list[str] = []
    with_folder = job.model_copy(update={"out": job.out or "runs"})  # a job without a folder gets one

    def collect(event: Event) -> None:
        if isinstance(event, Message):
            messages.append(event.text)

    check_also(MetricContext(with_folder, material, teacher, networks), collect)
    return " ".join(messages)


def _describe_step(arms: int) -> Finding:
    return passed(
        "",
        arms,
        "Every stage of every arm took one step, with the job's models, input shapes and layers.",
        f"{arms} arms",
    )
