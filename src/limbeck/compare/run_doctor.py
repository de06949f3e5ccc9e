"""`limbeck doctor`: a job opened and checked within two minutes."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterator, Mapping
from functools import partial
from typing import Any, TypeVar

from torch import nn

from limbeck.compare.arms import is_taught, recipe_of
from limbeck.compare.build_cache import make_cache_loader
from limbeck.compare.comparison_data import ComparisonData, load_comparison_data, new_model, setting_of, student_of
from limbeck.compare.dry_run import rehearse_arms, rehearse_teacher
from limbeck.compare.estimator import is_estimator
from limbeck.compare.extra_metrics import MetricContext, check_also
from limbeck.compare.model_checks import check_student
from limbeck.compare.run_storage import checked_folder
from limbeck.compare.teacher_cache import cached, folder_of, views_of
from limbeck.compare.teacher_training import has_weights, open_teacher, teachers_recipe
from limbeck.compare.trackers import check_tracker
from limbeck.compare.verify_images import look_at_files
from limbeck.data import subsample
from limbeck.doctor import ACCURACY, CheckContext, CheckedArm, Finding, examine, fail, passed, warn
from limbeck.engine import open_fabric
from limbeck.engine.train_config import Fabric
from limbeck.errors import LimbeckError
from limbeck.events import Event, Message
from limbeck.job import Job, train_loader
from limbeck.teachers import Teacher

_EXAMPLES = 2000


def subset_for_check(job: Job, material: ComparisonData) -> ComparisonData:
    """The material with fewer examples to learn from: two batches, or some thousands for methods that ask about all.

    The last batch of an epoch is as small as that of the whole data.
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
    """A job whose data and teacher are open.

    Args:
        job: What is asked.
        material: Its data.
        less: The part of them that is enough to look at.
        teacher: Who teaches.
        networks: What the teacher is made of.
        fabric: Device and precision.
    """
    ready = has_weights(job.teacher) or is_estimator(networks)
    arms = [] if ready else [_teachers_arm(job, material, less, tuple(networks))]
    arms += _arms(job, material, less, teacher)
    stored = None
    if job.cache is not None and (job.cache.folder is not None or job.out is not None):
        stored = cached(job, teacher, folder_of(job)), make_cache_loader(job, material, shuffled=0)
    return CheckContext(
        tuple(arms), teacher, networks, ready, material.train, material.development,
        material.classes, material.data.class_names, material.data.preprocess, fabric,
        min(job.workers, os.cpu_count() or 1), stored, views_of(job),
    )  # fmt: skip


def _arms(job: Job, material: ComparisonData, less: ComparisonData, teacher: Teacher) -> Iterator[CheckedArm]:
    for name in job.all_arms:
        if name == "teacher":
            continue
        budget = job.budget_of(name)
        loader = train_loader(less.train, budget, seed=0, cache=job.cache, mixed=is_taught(job, name))
        whole = train_loader(material.train, budget, seed=0)
        yield CheckedArm(
            name, partial(_students, job, material, teacher), recipe_of(job, name, teacher), loader,
            setting_of(job, budget, material, seed=0), job.seeds, len(whole) / len(loader),
            whole.examples_per_epoch % budget.batch_size, name in job.method_arms,
        )  # fmt: skip


def _students(job: Job, material: ComparisonData, teacher: Teacher) -> dict[str, nn.Module]:
    return {"student": student_of(job, material, seed=0, teacher=teacher)}


def _teachers_arm(job: Job, material: ComparisonData, less: ComparisonData, members: tuple[str, ...]) -> CheckedArm:
    """The teacher's own training, for its time alone."""
    budget = job.teacher.train or job.budget
    loader, whole = train_loader(less.train, budget, seed=0), train_loader(material.train, budget, seed=0)

    def untrained() -> dict[str, nn.Module]:
        return {name: new_model(job.teacher, material, seed=0, who="teacher") for name in members}

    return CheckedArm(
        "teacher", untrained, teachers_recipe(members), loader, setting_of(job, budget, material, seed=0), 1,
        len(whole) / len(loader), judged=False, first=True,
    )  # fmt: skip


T = TypeVar("T")


def checkup(job: Job, *, seconds: float = 120.0) -> Iterator[Finding]:
    """Every check of a job, in the order in which the job would meet what it finds; nothing is written.

    Args:
        job: What is asked.
        seconds: How long it may take; checks for which there is no time are said to be left out.

    Yields:
        One finding a check, as soon as it is made. Where the device, the data, the teacher or the first step is wrong,
        it is the last: without these there is nothing to look at.
    """
    until = time.perf_counter() + seconds
    yield _tried("folder", lambda: _free(job), _said_of_folder)[1]
    fabric, found = _tried("device", lambda: open_fabric(precision=job.precision), partial(_said_of_device, job))
    yield found
    if fabric is None:
        return
    material, found = _tried("data", partial(load_comparison_data, job), _said_of_data)
    yield found
    if material is None:
        return
    less = subset_for_check(job, material)
    taught, found = _tried("teacher", lambda: open_teacher(job, less), partial(_said_of_teacher, job))
    yield found
    if taught is None:
        return
    alone = job.model_copy(update={"devices": "auto", "strategy": "auto"})
    teacher, networks = taught
    stepped, found = _tried("first step", partial(_stepped, alone, material, less, teacher, networks), _said_of_step)
    yield found
    if stepped is not None:
        files = look_at_files(material, seconds=seconds / 4)
        if files is not None:
            yield files
        besides, found = _tried(
            "besides", partial(_besides, alone, material, teacher, networks), partial(passed, "", None)
        )
        if besides != "":
            yield found
        patient = open_check_context(alone, material, less, teacher, networks, fabric=fabric)
        yield from (_allowed(job, one) for one in examine(patient, seconds=until - time.perf_counter()))


def _tried(name: str, do: Callable[[], T], say: Callable[[Any], Finding]) -> tuple[T | None, Finding]:
    """What comes of it and what is said of that; None and why, where it cannot be done."""
    try:
        done = do()
        return done, say(done)._replace(name=name)
    except LimbeckError as error:
        return None, fail(name, None, str(error))
    except Exception as error:  # a person's own model may raise anything
        return None, fail(name, None, f"{type(error).__name__}: {' '.join(str(error).split())}")


def _allowed(job: Job, found: Finding) -> Finding:
    """A teacher that may be no better than chance, because the job says so, is looked at and not refused."""
    if found.name == ACCURACY and found.state == "wrong" and not job.teacher.check:
        return found._replace(state="look", sentence=f"{found.sentence} The job goes on (teacher.check=false).")
    return found


def _free(job: Job) -> str:
    out = checked_folder(job, resume=False)
    job.check_user_methods()
    check_tracker(job)
    return "The job names none: the first free one under runs/ is taken." if out is None else f"{out} is free."


def _said_of_folder(said: str) -> Finding:
    return passed("", None, said)


def _said_of_device(job: Job, fabric: Fabric) -> Finding:
    kind = str(fabric.device)
    if (str(job.devices), job.strategy) in (("auto", "auto"), ("1", "auto")):
        return passed("", kind, f"Runs in {job.precision} there.", kind)
    return warn(
        "", kind, f"One device alone was looked at; the job wants devices={job.devices}, strategy={job.strategy}.", kind
    )


def _said_of_data(material: ComparisonData) -> Finding:
    count = len(material.train)
    said = (
        f"{count:,} to learn from, {len(material.development):,} for development, {len(material.data.test):,} to test, "
        f"{material.classes} classes."
    )
    summary = material.data.summary
    if summary is None:
        return passed("", count, said, f"{count:,}")
    value, kind = {"train": count, **summary.as_dict()}, warn if summary.warnings else passed
    if summary.warnings:
        said = f"{said} {len(summary.warnings)} thing{'s' * (len(summary.warnings) > 1)} to look at below."
    return kind("", value, said, f"{count:,}")._replace(details=summary.lines())


def _said_of_teacher(job: Job, taught: tuple[Teacher, dict[str, nn.Module]]) -> Finding:
    numbers = sum(parameter.numel() for model in taught[1].values() for parameter in model.parameters())
    whence = f"comes with its weights from {job.teacher.model}" if has_weights(job.teacher) else "is trained by the job"
    return passed("", numbers, f"It {whence}, and answers with one number for each class.", f"{numbers:,} weights")


def _stepped(
    job: Job, material: ComparisonData, less: ComparisonData, teacher: Teacher, networks: Mapping[str, nn.Module]
) -> int:
    check_student(job, less, teacher)
    rehearse_arms(job, less, rehearse_teacher(job, material, teacher, networks))
    return len([arm for arm in job.all_arms if arm != "teacher"])


def _besides(job: Job, material: ComparisonData, teacher: Teacher, networks: Mapping[str, nn.Module]) -> str:
    """What the job wants measured besides, and on how much; nothing where it wants nothing."""
    messages: list[str] = []
    kept = job.model_copy(update={"out": job.out or "runs"})  # a folder is found for a job that names none

    def collect(event: Event) -> None:
        if isinstance(event, Message):
            messages.append(event.text)

    check_also(MetricContext(kept, material, teacher, networks), collect)
    return " ".join(messages)


def _said_of_step(arms: int) -> Finding:
    return passed(
        "", arms, "Every stage of every arm takes one, with the job's own names, shapes and addresses.", f"{arms} arms"
    )
