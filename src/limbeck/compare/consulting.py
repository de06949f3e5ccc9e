"""What can be known to be wrong with a job, in two minutes and before anything is paid for?"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping
from functools import partial
from typing import Any, TypeVar

from torch import nn

from limbeck.compare.also import Seen, check_also
from limbeck.compare.decoding import look_at_files
from limbeck.compare.first_examples import check_student
from limbeck.compare.intake import part_of, patient_of
from limbeck.compare.ledger import checked_folder
from limbeck.compare.material import Material, gather
from limbeck.compare.rehearsal import rehearse_arms, rehearse_teacher
from limbeck.compare.teaching import has_weights, open_teacher
from limbeck.compare.tracked import check_tracker
from limbeck.doctor import ACCURACY, Finding, examine, look, ok, wrong
from limbeck.engine import open_fabric
from limbeck.engine.setting import Fabric
from limbeck.errors import LimbeckError
from limbeck.job import Job
from limbeck.teachers import Teacher

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
    material, found = _tried("data", partial(gather, job), _said_of_data)
    yield found
    if material is None:
        return
    less = part_of(job, material)
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
        besides, found = _tried("besides", partial(_besides, alone, material, teacher, networks), partial(ok, "", None))
        if besides != "":
            yield found
        patient = patient_of(alone, material, less, teacher, networks, fabric=fabric)
        yield from (_allowed(job, one) for one in examine(patient, seconds=until - time.perf_counter()))


def _tried(name: str, do: Callable[[], T], say: Callable[[Any], Finding]) -> tuple[T | None, Finding]:
    """What comes of it and what is said of that; None and why, where it cannot be done."""
    try:
        done = do()
        return done, say(done)._replace(name=name)
    except LimbeckError as error:
        return None, wrong(name, None, str(error))
    except Exception as error:  # a person's own model may raise anything
        return None, wrong(name, None, f"{type(error).__name__}: {' '.join(str(error).split())}")


def _allowed(job: Job, found: Finding) -> Finding:
    """A teacher that may be no better than chance, because the job says so, is looked at and not refused."""
    if found.name == ACCURACY and found.state == "wrong" and not job.teacher.check:
        return found._replace(state="look", sentence=f"{found.sentence} The job goes on (teacher.check=false).")
    return found


def _free(job: Job) -> str:
    out = checked_folder(job, resume=False)
    job.check_own_methods()
    check_tracker(job)
    return "The job names none: the first free one under runs/ is taken." if out is None else f"{out} is free."


def _said_of_folder(said: str) -> Finding:
    return ok("", None, said)


def _said_of_device(job: Job, fabric: Fabric) -> Finding:
    kind = str(fabric.device)
    if (str(job.devices), job.strategy) in (("auto", "auto"), ("1", "auto")):
        return ok("", kind, f"Runs in {job.precision} there.", kind)
    return look(
        "", kind, f"One device alone was looked at; the job wants devices={job.devices}, strategy={job.strategy}.", kind
    )


def _said_of_data(material: Material) -> Finding:
    count = len(material.train)
    said = (
        f"{count:,} to learn from, {len(material.development):,} for development, {len(material.data.test):,} to test, "
        f"{material.classes} classes."
    )
    summary = material.data.summary
    if summary is None:
        return ok("", count, said, f"{count:,}")
    value, kind = {"train": count, **summary.as_dict()}, look if summary.warnings else ok
    if summary.warnings:
        said = f"{said} {len(summary.warnings)} thing{'s' * (len(summary.warnings) > 1)} to look at below."
    return kind("", value, said, f"{count:,}")._replace(details=summary.lines())


def _said_of_teacher(job: Job, taught: tuple[Teacher, dict[str, nn.Module]]) -> Finding:
    numbers = sum(parameter.numel() for model in taught[1].values() for parameter in model.parameters())
    whence = f"comes with its weights from {job.teacher.model}" if has_weights(job.teacher) else "is trained by the job"
    return ok("", numbers, f"It {whence}, and answers with one number for each class.", f"{numbers:,} weights")


def _stepped(job: Job, material: Material, less: Material, teacher: Teacher, networks: Mapping[str, nn.Module]) -> int:
    check_student(job, less, teacher)
    rehearse_arms(job, less, rehearse_teacher(job, material, teacher, networks))
    return len([arm for arm in job.competitors if arm != "teacher"])


def _besides(job: Job, material: Material, teacher: Teacher, networks: Mapping[str, nn.Module]) -> str:
    """What the job wants measured besides, and on how much; nothing where it wants nothing."""
    said: list[str] = []
    kept = job.model_copy(update={"out": job.out or "runs"})  # a folder is found for a job that names none
    check_also(Seen(kept, material, teacher, networks), lambda kind, what: said.append(what))
    return " ".join(said)


def _said_of_step(arms: int) -> Finding:
    return ok(
        "", arms, "Every stage of every arm takes one, with the job's own names, shapes and addresses.", f"{arms} arms"
    )
