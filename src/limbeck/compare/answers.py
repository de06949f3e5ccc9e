"""How are all answers of a job's teacher built before anyone learns, and checked?"""

from __future__ import annotations

import time

from limbeck.compare.asking import cached, folder_of, views_of
from limbeck.compare.material import Material, gather, stream
from limbeck.compare.teaching import Watch, has_weights, open_teacher
from limbeck.engine import open_fabric
from limbeck.errors import LimbeckError
from limbeck.job import Cache, Job
from limbeck.sources import Shuffled
from limbeck.store import Store
from limbeck.teachers import Recheck, Teacher, fill, recheck


def build(job: Job, *, watch: Watch) -> Store:
    """Ask the job's teacher about all its training data, in every view that its arms will see.

    Stopped at any time, it goes on where it was.

    Args:
        job: What is asked; without ``cache`` it is the default one.
        watch: Told ``("answers", (done, all))`` after each batch.

    Raises:
        LimbeckError: If the teacher has no weights yet, the store was made for something else, or cannot be written.
    """
    material, teacher = with_teacher(job)
    ask_all(job, material, teacher, watch)
    return Store(folder_of(job))


def ask_all(job: Job, material: Material, teacher: Teacher, watch: Watch) -> None:
    """Ask a teacher that has learnt what it is to teach about everything that the arms will see."""
    views, where = views_of(job), folder_of(job)
    shown = f"{views} views each" if views > 1 else "one view each"
    watch("say", f"Asking the teacher about {len(material.train):,} examples, {shown}; the answers go to {where}.")
    fabric = open_fabric(precision=job.precision, devices=1)
    filling = fill(
        cached(job, teacher, where), source_of(job, material), reads=material.data.reads, views=views,
        device=fabric.device,
    )  # fmt: skip
    with fabric.autocast():
        for done in filling:
            watch("answers", (done, views * len(material.train)))


def check(job: Job, *, sample: int) -> Recheck:
    """Ask the job's teacher again about some examples, drawn at random, and compare with what is stored."""
    material, teacher = with_teacher(job)
    fabric = open_fabric(precision=job.precision, devices=1)
    seed = time.time_ns() % 2**31
    source = source_of(job, material, shuffled=seed)
    with fabric.autocast():
        return recheck(
            cached(job, teacher, folder_of(job)), source, reads=material.data.reads, sample=sample,
            device=fabric.device,
        )  # fmt: skip


def source_of(job: Job, material: Material, *, shuffled: int | None = None) -> Shuffled:
    """What the arms learn from, in the order of the examples, or in a random one."""
    found = stream(material.train, job.budget, seed=0, cache=job.cache or Cache(), mixed=True)
    return Shuffled(
        found.examples, batch_size=found.batch_size, augment=found.augment, mix=found.mix, seed=shuffled or 0,
        shuffle=shuffled is not None,
    )  # fmt: skip


def with_teacher(job: Job) -> tuple[Material, Teacher]:
    """The job's data, and its teacher, which must have weights."""
    if not has_weights(job.teacher):
        raise LimbeckError(
            f"The teacher {job.teacher.model} has no weights yet. `limbeck distill` trains it, keeps its answers as it "
            "goes if the job has a cache, and leaves it in OUT/teacher/student, which can be a job's teacher."
        )
    material = gather(job)
    return material, open_teacher(job, material)[0]
