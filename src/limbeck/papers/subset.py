"""Subsets of data for the quick scale."""

from __future__ import annotations

import torch

from limbeck.data import ArrayDataset, Dataset, DataSplits, subsample


def fewer(data: DataSplits, *, train: int, test: int) -> DataSplits:
    """Take a fixed subset of a data set, in memory and numbered from 0."""
    first, second = renumbered(subsample(data.train, train, seed=0)), renumbered(subsample(data.test, test, seed=0))
    return DataSplits(data.name, first, second, data.preprocess, data.class_names)


def renumbered(part: Dataset) -> ArrayDataset:
    """Copy some examples of a data set into memory, numbered from 0."""
    batch = part.take(torch.arange(len(part)))
    return ArrayDataset(batch.inputs, batch.labels, class_names=part.class_names)
