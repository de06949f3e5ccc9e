"""Split a job's data into training and development parts, and make training batches."""

from __future__ import annotations

from typing import Any

from limbeck.data import (
    BalancedLoader,
    Dataset,
    DataSplits,
    ShuffledLoader,
    TokenDataset,
    TokenPairDataset,
    group_by_superclass,
    split,
    split_texts,
    subsample,
)
from limbeck.data.loader import DatasetLoader
from limbeck.errors import LimbeckError
from limbeck.job.budget import Budget
from limbeck.job.schema import Job
from limbeck.job.settings import CacheSettings


def train_and_development(job: Job, data: DataSplits) -> tuple[Dataset, Dataset]:
    """The training and the development data of a job; always the same split.

    Data with a development part keep it. Otherwise the fraction `Job.development` of the training part is held out.

    Args:
        job: The job.
        data: Its data.

    Raises:
        LimbeckError: If there are fewer training examples than `Job.train_examples`, with the flag to type.
    """
    if data.development is not None:
        train, development = data.train, data.development
    else:
        train, development = _split(data.train, job.development)
    if job.train_examples is None:
        return train, development
    if job.train_examples > len(train):
        raise LimbeckError(
            f"train_examples={job.train_examples}, but there are only {len(train)} training examples. "
            f"Type --set train_examples={len(train)} or fewer."
        )
    return subsample(train, job.train_examples, 0), development


def _split(train: Dataset, fraction: float) -> tuple[Dataset, Dataset]:
    """Split off the development part; by text, where examples are windows of texts."""
    if isinstance(train, (TokenDataset, TokenPairDataset)):
        return split_texts(train, fraction=fraction, seed=0)
    return split(train, fraction=fraction, seed=0)


def train_loader(
    examples: Dataset, budget: Budget, *, seed: int, cache: CacheSettings | None = None, mixed: bool = False
) -> DatasetLoader:
    """The training batches of a budget; with its mix if `mixed`, which only losses without labels can use.

    With a cache, all seeds use the same views in different orders, so the teacher's outputs are computed only once.

    Raises:
        DataError: If batches are to have classes in equal parts, and the examples do not have as many classes.
    """
    view_seed = seed if cache is None else 0
    options: dict[str, Any] = {
        "batch_size": budget.batch_size,
        "seed": seed,
        "drop_last": budget.drop_last,
        "augment": budget.make_transform(seed=view_seed),
        "mix": budget.make_mix(seed=view_seed) if mixed else None,
        "views": None if cache is None else cache.views,
    }
    if budget.examples_per_class is None:
        return ShuffledLoader(examples, **options)
    groups = None if budget.superclasses is None else group_by_superclass(examples, budget.superclasses)
    return BalancedLoader(examples, examples_per_class=budget.examples_per_class, groups=groups, **options)
