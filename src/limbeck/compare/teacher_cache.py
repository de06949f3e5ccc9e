"""The cache of a job's teacher: opened, planned, filled, checked."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from itertools import islice
from pathlib import Path
from tempfile import TemporaryDirectory

import torch

from limbeck.batch import LOGITS
from limbeck.cache import (
    CachePart,
    CacheReader,
    Location,
    is_cache,
    join_parts,
    repair,
)
from limbeck.compare.arm_recipes import recipe_of
from limbeck.compare.comparison_data import ComparisonData, load_comparison_data
from limbeck.compare.estimator import EstimatorModule
from limbeck.compare.teacher import open_teacher, without_weights
from limbeck.data import ShuffledLoader
from limbeck.engine import open_fabric
from limbeck.errors import LimbeckError
from limbeck.events import Callback, Message, OutputsCached
from limbeck.job import SEVERAL, CacheSettings, Job, RunLayout, add_flag_hint, train_loader
from limbeck.losses import Objective
from limbeck.methods import method
from limbeck.metrics.partial_teacher import measure_entropy
from limbeck.metrics.predictions import open_token_logits
from limbeck.tasks import Task
from limbeck.teachers import (
    AlignedTeacher,
    CachedTeacher,
    CacheVerification,
    Ensemble,
    ServedTeacher,
    Teacher,
    TeacherContext,
    fill_cache,
    verify_cache,
)
from limbeck.teachers.wrapper import walk_teachers


def folder_of(job: Job) -> str:
    """The folder of a job's teacher cache.

    Raises:
        LimbeckError: If the job does not name one.
    """
    cache = job.cache or CacheSettings()
    if cache.folder is None and job.out is None:
        raise LimbeckError("The cache needs a folder. Type --set cache.folder=answers/my-teacher, or set out.")
    return cache.folder if cache.folder is not None else str(RunLayout(Path(job.out or "")).cache)


def with_cache(job: Job, teacher: Teacher, task: Task, where: str | None = None) -> Teacher:
    """The teacher with the cache of the job; the teacher itself if the job has no cache."""
    if job.cache is None:
        return teacher
    try:
        stores = open_cached_teacher(job, teacher, task, where or folder_of(job))
        cached: Teacher = next(iter(stores.values()))
        if len(stores) > 1:
            cached = Ensemble(
                *stores.values(), mean=job.teacher.mean, weights=job.teacher.weights, member_names=list(stores)
            )
        return AlignedTeacher(cached, teacher.alignment) if isinstance(teacher, AlignedTeacher) else cached
    except LimbeckError as error:
        raise add_flag_hint(error, "cache", CacheSettings.model_fields) from error


@contextmanager
def with_temporary_cache(job: Job, teacher: Teacher, task: Task) -> Iterator[Teacher]:
    """The teacher with a temporary cache, for a teacher that is not trained yet.

    The cache of a teacher that asks a server, if there is one already, is used itself: its answers are paid for.
    """
    if asks_server(teacher) and _has_cache(job):
        yield with_cache(job, teacher, task)
        return
    with TemporaryDirectory() as folder:
        yield with_cache(job, teacher, task, folder)


def asks_server(teacher: Teacher) -> bool:
    """Whether a teacher, or one within it, is behind a server."""
    return any(isinstance(one, ServedTeacher) for one in walk_teachers(teacher))


def _has_cache(job: Job) -> bool:
    named = job.cache is not None and (job.cache.folder is not None or job.out is not None)
    return named and all(map(is_cache, folders_of(job)))


def open_cached_teacher(job: Job, teacher: Teacher, task: Task, where: str) -> dict[str, CachedTeacher]:
    """The teacher with a cache of all outputs that the methods of all arms need."""
    own, translate = teacher, lambda one: one
    if isinstance(teacher, AlignedTeacher):  # a cache has the teacher's own outputs, for its own ids
        own, translate = teacher.inner, teacher.translate
    if job.teacher.model != SEVERAL or not isinstance(own, Ensemble):
        own = translate(own)
        return {"": _cached(job, own, where, _objectives_of(job, own, task))}
    objectives = _objectives_of(job, teacher, task)
    named = zip(job.teacher.ensemble, own.members, strict=True)
    return {name: _cached(job, translate(member), f"{where}/{name}", objectives, name) for name, member in named}


def folders_of(job: Job) -> list[str]:
    """The folders of the caches of a job's teachers."""
    several = job.teacher.model == SEVERAL and job.teacher.routes is None  # an example with a route has one output
    names = list(job.teacher.ensemble) if several else []
    return [f"{folder_of(job)}/{name}" for name in names] or [folder_of(job)]


def _cached(
    job: Job, teacher: Teacher, where: str, objectives: Sequence[Objective], member: str | None = None
) -> CachedTeacher:
    """A teacher with a cache for what losses read of it; `member` is its name if it is one of several."""
    cache = job.cache or CacheSettings()
    addresses = frozenset().union(*(objective.requires.teacher for objective in objectives))
    if member is not None:
        addresses = frozenset().union(*(_addresses_in(member, address) for address in addresses))
    temperatures = frozenset().union(*(objective.temperatures for objective in objectives))
    return CachedTeacher(
        teacher, where, encoding=cache.encoding, through=cache.through, addresses=addresses, temperatures=temperatures,
        masks=frozenset().union(*(objective.masks for objective in objectives)), inputs=cache.inputs,
    )  # fmt: skip


def _addresses_in(member: str, address: str) -> set[str]:
    """What is read of one of several teachers for an address: nothing for an address of another one."""
    name, _, inner = address.partition(".")
    return {LOGITS} if address == LOGITS else {inner} if name == member else set()


def _objectives_of(job: Job, teacher: Teacher, task: Task) -> list[Objective]:
    """The objectives of all stages that use the teacher, as far as they are known before training."""
    objectives: list[Objective] = []
    for arm, settings in job.method_arms.items():
        with suppress(LimbeckError):  # the arm itself raises a clearer error about its method
            if method(settings.name).has_teacher:
                stages = recipe_of(job, arm, teacher, task=task).stages()
                objectives += [stage.objective for stage in stages if stage.teacher is teacher]
    return objectives


def views_of(job: Job) -> int:
    """The number of views of each example that the arms use."""
    if job.budget.has_views:
        views = job.cache.views if job.cache is not None else None
        return views or max((job.budget_of(arm).epochs for arm in job.method_arms), default=1)
    return 1


def build(job: Job, *, callback: Callback, part: CachePart | None = None) -> list[CacheReader]:
    """Fill the cache of a job: the teacher's outputs for all training data, in every view that the arms need.

    After an interruption, the next call continues.

    Args:
        job: The job.
        callback: Called with the progress.
        part: The range of batches that this process fills, while others fill the rest; None for all.

    Returns:
        The caches; without those that have no joined part yet.

    Raises:
        LimbeckError: If the teacher has no weights yet, or the cache belongs to something else or cannot be written.
    """
    material, teacher = load_data_and_teacher(job)
    fill_job_cache(job, material, teacher, callback, part=part)
    return [CacheReader(folder) for folder in folders_of(job) if part is None or is_cache(folder)]


def fill_job_cache(
    job: Job, material: ComparisonData, teacher: Teacher, callback: Callback, *, part: CachePart | None = None
) -> None:
    """Fill the cache with the outputs of a trained teacher."""
    for store in open_cached_teacher(job, teacher, material.task, folder_of(job)).values():
        _fill(job, material, store, callback, part)


def _fill(job: Job, material: ComparisonData, store: CachedTeacher, callback: Callback, part: CachePart | None) -> None:
    views, where, loader = views_of(job), store.where, make_cache_loader(job, material)
    fabric = open_fabric(precision=job.precision, devices=1)
    filling = fill_cache(
        store, loader, preprocess=material.data.preprocess, views=views, device=fabric.device, part=part
    )
    examples = views * (part or CachePart(1, 1)).count_examples(loader.examples_per_epoch, loader.batch_size)
    lacking = examples if part is not None else _count_missing(job, material, where)
    with fabric.autocast():
        for number, done in enumerate(filling):
            if not number:  # only the first step raises for a cache that does not fit
                callback(Message(_asking(examples // views, views, lacking, where)))
            callback(OutputsCached(done, examples))


def _asking(examples: int, views: int, missing: int, where: str) -> str:
    if not missing:
        return f"All {views * examples:,} teacher outputs are in {where} already."
    views_text = f"{views} views each" if views > 1 else "one view each"
    there = "" if missing == views * examples else f", {missing:,} outputs missing"
    return (
        f"Computing the teacher's outputs for {examples:,} examples, {views_text}{there}; they are cached in {where}."
    )


def _count_missing(job: Job, material: ComparisonData, where: str) -> int:
    """The number of outputs that are missing or damaged in the cache, when its parts are joined."""
    join_parts(Location(where))
    views = range(views_of(job)) if job.budget.has_views else [-1]
    repair(Location(where))
    if not is_cache(where):
        return len(views) * len(material.train)
    store, ids = CacheReader(where), material.train.ids.numpy()
    return sum(int((store.rows(ids, view) < 0).sum()) for view in views)


def check_store(job: Job, material: ComparisonData, teacher: Teacher) -> None:
    """Check an existing cache against the needs of every arm before training.

    Raises:
        LimbeckError: If it belongs to other data, or lacks outputs that an arm needs.
    """
    for arm in job.method_arms if job.cache is not None else ():
        cached_teacher = with_cache(job, teacher, material.task)
        loader = train_loader(material.train, job.budget_of(arm), seed=0, cache=job.cache, mixed=True)
        for stage in recipe_of(job, arm, cached_teacher, task=material.task).stages():
            if stage.teacher is cached_teacher and (requires := stage.objective.requires.teacher):
                preprocess = stage.preprocess or material.data.preprocess
                cached_teacher.open(TeacherContext(requires=requires, preprocess=preprocess, loader=loader))


def check(job: Job, *, sample: int, seed: int) -> list[CacheVerification]:
    """Compute some outputs again, chosen at random by `seed`, and compare them with the cache.

    Several teachers with a cache each are compared one by one.
    """
    material, teacher = load_data_and_teacher(job)
    fabric = open_fabric(precision=job.precision, devices=1)
    loader = make_cache_loader(job, material, shuffled=seed)
    with fabric.autocast():
        return [
            verify_cache(
                store, loader, preprocess=material.data.preprocess, sample=sample,
                views=range(views_of(job)), seed=seed, device=fabric.device,
            )
            for store in open_cached_teacher(job, teacher, material.task, folder_of(job)).values()
        ]  # fmt: skip


def make_cache_loader(job: Job, material: ComparisonData, *, shuffled: int | None = None) -> ShuffledLoader:
    """A loader of the training examples of all arms, in order or shuffled."""
    loader = train_loader(material.train, job.budget, seed=0, cache=job.cache or CacheSettings(), mixed=True)
    return ShuffledLoader(
        loader.examples, batch_size=loader.batch_size, augment=loader.augment, mix=loader.mix, seed=shuffled or 0,
        shuffle=shuffled is not None,
    )  # fmt: skip


def load_data_and_teacher(job: Job) -> tuple[ComparisonData, Teacher]:
    """Load the job's data, and its teacher, which must be trained."""
    material = load_comparison_data(job)
    teacher, models = open_teacher(job, material)
    untrained = without_weights(job, models).values()
    if not all(isinstance(model, EstimatorModule) and model.fitted for model in untrained):
        raise LimbeckError(
            f"The teacher {job.teacher.title} has no weights yet. `limbeck distill` trains it, keeps its answers as it "
            "goes if the job has a cache, and leaves it in OUT/teacher/student, which can be a job's teacher."
        )
    return material, teacher


def measure_listed_entropy(job: Job, teacher: Teacher, material: ComparisonData, examples: int) -> float:
    """The mean entropy of a served teacher on training examples, with the rest spread evenly over the other tokens.

    With a cache, the answers are stored and used again by the arms.
    """
    loader, total, count = make_cache_loader(job, material, shuffled=0), 0.0, 0
    cached = with_cache(job, teacher, material.task)
    with open_token_logits(cached, preprocess=material.data.preprocess, partial=True, loader=loader) as logits:
        for batch in islice(loader.batches(0, 0), -(-examples // (loader.batch_size or 1))):
            entropy = measure_entropy(logits(batch)).cpu()
            counted = torch.ones_like(entropy, dtype=torch.bool) if batch.mask is None else batch.mask.cpu()
            total, count = total + float(entropy[counted].sum()), count + int(counted.sum())
    return total / max(count, 1)
