"""The training and the development part of a job's data, and its batches."""

from __future__ import annotations

from limbeck.data import Dataset, DataSplits, ShuffledLoader, split, subsample
from limbeck.errors import LimbeckError
from limbeck.job.budget import Budget
from limbeck.job.schema import CacheSettings, Job


def train_and_development(job: Job, data: DataSplits) -> tuple[Dataset, Dataset]:
    """The examples that a job's arms learn from, and its development data: the same ones whenever it is asked.

    Data that bring a development part with them keep it; of others `Job.development` is carved from the training part.

    Args:
        job: The job.
        data: Its data.

    Raises:
        LimbeckError: If there are fewer to learn from than `Job.train_examples` says, with what to type.
    """
    if data.development is not None:
        train, development = data.train, data.development
    else:
        train, development = split(data.train, fraction=job.development, seed=0)
    if job.train_examples is None:
        return train, development
    if job.train_examples > len(train):
        raise LimbeckError(
            f"train_examples={job.train_examples}, and there are {len(train)} to learn from. "
            f"Type --set train_examples={len(train)} or fewer."
        )
    return subsample(train, job.train_examples, 0), development


def train_loader(
    examples: Dataset, budget: Budget, *, seed: int, cache: CacheSettings | None = None, mixed: bool = False
) -> ShuffledLoader:
    """The training batches of a budget; `mixed` with its mix, which only what reads no labels can learn from.

    With a cache, all seeds see the same views, each in an order of its own: the teacher is asked about them once.
    """
    view_seed = seed if cache is None else 0
    return ShuffledLoader(
        examples, batch_size=budget.batch_size, seed=seed, drop_last=budget.drop_last,
        augment=budget.make_transform(seed=view_seed), mix=budget.make_mix(seed=view_seed) if mixed else None,
        views=None if cache is None else cache.views,
    )  # fmt: skip
