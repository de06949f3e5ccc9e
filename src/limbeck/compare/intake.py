"""How does a job become what the doctor looks at?"""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from functools import partial

from torch import nn

from limbeck.compare.answers import source_of
from limbeck.compare.arms import is_taught, recipe_of
from limbeck.compare.asking import cached, folder_of, views_of
from limbeck.compare.estimator import is_estimator
from limbeck.compare.material import Material, new_model, setting_of, student_of
from limbeck.compare.teaching import has_weights, teachers_recipe
from limbeck.doctor import Arm, Patient
from limbeck.engine.setting import Fabric
from limbeck.job import Job, stream
from limbeck.sources import subsample
from limbeck.teachers import Teacher

_EXAMPLES = 2000


def part_of(job: Job, material: Material) -> Material:
    """The material with fewer examples to learn from: two batches, or some thousands for methods that ask about all.

    The last batch of an epoch is as small as that of the whole data.
    """
    batch = job.budget.batch_size * job.budget.accumulate
    size = max(_EXAMPLES // batch, 2) * batch + len(material.train) % job.budget.batch_size
    if size >= len(material.train):
        return material
    return material._replace(train=subsample(material.train, size, 0))


def patient_of(
    job: Job, material: Material, less: Material, teacher: Teacher, networks: Mapping[str, nn.Module], *, fabric: Fabric
) -> Patient:
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
        stored = cached(job, teacher, folder_of(job)), source_of(job, material, shuffled=0)
    return Patient(
        tuple(arms), teacher, networks, ready, material.train, material.development,
        material.classes, material.data.class_names, material.data.reads, fabric,
        min(job.workers, os.cpu_count() or 1), stored, views_of(job),
    )  # fmt: skip


def _arms(job: Job, material: Material, less: Material, teacher: Teacher) -> Iterator[Arm]:
    for name in job.competitors:
        if name == "teacher":
            continue
        budget = job.budget_of(name)
        source = stream(less.train, budget, seed=0, cache=job.cache, mixed=is_taught(job, name))
        whole = stream(material.train, budget, seed=0)
        yield Arm(
            name, partial(_students, job, material, teacher), recipe_of(job, name, teacher), source,
            setting_of(job, budget, material, seed=0), job.seeds, len(whole) / len(source),
            whole.examples_per_epoch % budget.batch_size, name in job.learners,
        )  # fmt: skip


def _students(job: Job, material: Material, teacher: Teacher) -> dict[str, nn.Module]:
    return {"student": student_of(job, material, seed=0, teacher=teacher)}


def _teachers_arm(job: Job, material: Material, less: Material, members: tuple[str, ...]) -> Arm:
    """The teacher's own training, for its time alone."""
    budget = job.teacher.train or job.budget
    source, whole = stream(less.train, budget, seed=0), stream(material.train, budget, seed=0)

    def untrained() -> dict[str, nn.Module]:
        return {name: new_model(job.teacher, material, seed=0, who="teacher") for name in members}

    return Arm(
        "teacher", untrained, teachers_recipe(members), source, setting_of(job, budget, material, seed=0), 1,
        len(whole) / len(source), judged=False, first=True,
    )  # fmt: skip
