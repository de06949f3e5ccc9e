"""A comparison's teacher with its cache."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from tempfile import TemporaryDirectory

from limbeck.errors import LimbeckError
from limbeck.job import CacheSettings, Job, add_flag_hint
from limbeck.losses import Objective
from limbeck.methods import make, method
from limbeck.recipe import Recipe
from limbeck.teachers import CachedTeacher, Teacher

FOLDER = "answers"


def folder_of(job: Job) -> str:
    """Where a job's answers are kept.

    Raises:
        LimbeckError: If nobody said where.
    """
    cache = job.cache or CacheSettings()
    if cache.folder is None and job.out is None:
        raise LimbeckError("Nobody said where the answers are to be kept: --set cache.folder=answers/my-teacher.")
    return cache.folder if cache.folder is not None else str(Path(job.out or "") / FOLDER)


def with_cache(job: Job, teacher: Teacher, where: str | None = None) -> Teacher:
    """The teacher, in front of it the store that the job wants; the teacher itself where it wants none."""
    if job.cache is None:
        return teacher
    try:
        return cached(job, teacher, where or folder_of(job))
    except LimbeckError as error:
        raise add_flag_hint(error, "cache", CacheSettings.model_fields) from error


@contextmanager
def with_temporary_cache(job: Job, teacher: Teacher) -> Iterator[Teacher]:
    """The same in front of a store that is thrown away: a teacher that has learnt nothing yet must leave nothing."""
    with TemporaryDirectory() as folder:
        yield with_cache(job, teacher, folder)


def cached(job: Job, teacher: Teacher, where: str) -> CachedTeacher:
    """The teacher, in front of it a store that keeps what the methods of all arms read."""
    cache = job.cache or CacheSettings()
    objectives = _objectives_of(job, teacher)
    addresses = frozenset().union(*(objective.requires.teacher for objective in objectives))
    store = CachedTeacher(teacher, where, encoding=cache.encoding, through=cache.through, addresses=addresses)
    store.serve(frozenset().union(*(objective.temperatures for objective in objectives)))
    return store


def _objectives_of(job: Job, teacher: Teacher) -> list[Objective]:
    """What the stages of all arms minimize that learn from the teacher, as far as that is known before they run."""
    objectives: list[Objective] = []
    for settings in job.method_arms.values():
        with suppress(LimbeckError):  # an arm says itself, and better, what is wrong with its method
            if method(settings.name).has_teacher:
                stages = Recipe(make(settings.name, teacher=teacher, **settings.hyper)).stages()
                objectives += [stage.objective for stage in stages if stage.teacher is teacher]
    return objectives


def views_of(job: Job) -> int:
    """How many views of each example the arms see."""
    if job.budget.has_views:
        views = job.cache.views if job.cache is not None else None
        return views or max(job.budget_of(arm).epochs for arm in job.method_arms)
    return 1
