"""All outputs of a job's teacher, computed before training."""

from __future__ import annotations

import torch

from limbeck.cache import Location, Store, is_store, repair
from limbeck.compare.arms import recipe_of
from limbeck.compare.comparison_data import ComparisonData, load_comparison_data
from limbeck.compare.estimator import EstimatorModule
from limbeck.compare.teacher_cache import cached, folder_of, views_of, with_cache
from limbeck.compare.teacher_training import has_weights, open_teacher
from limbeck.data import ShuffledLoader
from limbeck.engine import open_fabric
from limbeck.errors import LimbeckError
from limbeck.events import Callback, Message, OutputsCached
from limbeck.job import CacheSettings, Job, train_loader
from limbeck.teachers import CacheVerification, Teacher, fill_cache, verify_cache


def build(job: Job, *, callback: Callback) -> Store:
    """Ask the job's teacher about all its training data, in every view that its arms will see.

    Stopped at any time, it goes on where it was.

    Args:
        job: What is asked; without ``cache`` it is the default one.
        callback: Receives `OutputsCached` after each batch.

    Raises:
        LimbeckError: If the teacher has no weights yet, the store was made for something else, or cannot be written.
    """
    material, teacher = load_data_and_teacher(job)
    ask_all(job, material, teacher, callback)
    return Store(folder_of(job))


def ask_all(job: Job, material: ComparisonData, teacher: Teacher, callback: Callback) -> None:
    """Ask a teacher that has learnt what it is to teach about everything that the arms will see."""
    views, where = views_of(job), folder_of(job)
    fabric = open_fabric(precision=job.precision, devices=1)
    filling = fill_cache(
        cached(job, teacher, where), make_cache_loader(job, material), preprocess=material.data.preprocess, views=views,
        device=fabric.device,
    )  # fmt: skip
    lacking = _lacking(job, material, where)
    with fabric.autocast():
        for number, done in enumerate(filling):
            if not number:  # a store that is refused has been refused by now
                callback(Message(_asking(len(material.train), views, lacking, where)))
            callback(OutputsCached(done, views * len(material.train)))


def _asking(examples: int, views: int, missing: int, where: str) -> str:
    if not missing:
        return f"All {views * examples:,} teacher outputs are in {where} already."
    views_text = f"{views} views each" if views > 1 else "one view each"
    there = "" if missing == views * examples else f", {missing:,} outputs missing"
    return (
        f"Computing the teacher's outputs for {examples:,} examples, {views_text}{there}; they are cached in {where}."
    )


def _lacking(job: Job, material: ComparisonData, where: str) -> int:
    """How many answers are not in a store, or in a shard that is damaged."""
    views = range(views_of(job)) if job.budget.has_views else [-1]
    repair(Location(where))
    if not is_store(where):
        return len(views) * len(material.train)
    store, ids = Store(where), material.train.ids.numpy()
    return sum(int((store.rows(ids, view) < 0).sum()) for view in views)


def check_store(job: Job, material: ComparisonData, teacher: Teacher) -> None:
    """Look at a store that is there already with the eyes of every arm, before the first is paid for.

    Raises:
        LimbeckError: If it belongs to other data, or lacks outputs that an arm needs.
    """
    for arm in job.method_arms if job.cache is not None else ():
        cached_teacher = with_cache(job, teacher)
        loader = train_loader(material.train, job.budget_of(arm), seed=0, cache=job.cache, mixed=True)
        for stage in recipe_of(job, arm, cached_teacher).stages():
            if stage.teacher is cached_teacher and (requires := stage.objective.requires.teacher):
                preprocess = stage.preprocess or material.data.preprocess
                cached_teacher.attach_loader(loader, preprocess)
                cached_teacher.prepare(requires, device=torch.device("cpu"), preprocess=preprocess)


def check(job: Job, *, sample: int, seed: int) -> CacheVerification:
    """Ask the job's teacher again about some examples and views, drawn by `seed`, and compare with what is stored."""
    material, teacher = load_data_and_teacher(job)
    fabric = open_fabric(precision=job.precision, devices=1)
    loader = make_cache_loader(job, material, shuffled=seed)
    with fabric.autocast():
        return verify_cache(
            cached(job, teacher, folder_of(job)), loader, preprocess=material.data.preprocess, sample=sample,
            views=range(views_of(job)), seed=seed, device=fabric.device,
        )  # fmt: skip


def make_cache_loader(job: Job, material: ComparisonData, *, shuffled: int | None = None) -> ShuffledLoader:
    """A loader of the training examples of all arms, in order or shuffled."""
    loader = train_loader(material.train, job.budget, seed=0, cache=job.cache or CacheSettings(), mixed=True)
    return ShuffledLoader(
        loader.examples, batch_size=loader.batch_size, augment=loader.augment, mix=loader.mix, seed=shuffled or 0,
        shuffle=shuffled is not None,
    )  # fmt: skip


def load_data_and_teacher(job: Job) -> tuple[ComparisonData, Teacher]:
    """The job's data, and its teacher, which must have weights."""
    material = load_comparison_data(job)
    teacher, models = open_teacher(job, material)
    fitted = any(isinstance(model, EstimatorModule) and model.fitted for model in models.values())
    if not has_weights(job.teacher) and not fitted:
        raise LimbeckError(
            f"The teacher {job.teacher.model} has no weights yet. `limbeck distill` trains it, keeps its answers as it "
            "goes if the job has a cache, and leaves it in OUT/teacher/student, which can be a job's teacher."
        )
    return material, teacher
