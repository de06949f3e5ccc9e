"""Data sets at quick scale."""

from __future__ import annotations

import torch

from limbeck.data import ArrayDataset, Dataset, DataSplits, subsample


def fewer(data: DataSplits, *, train: int, test: int) -> DataSplits:
    """The same few examples of a data set each time, as data of their own: numbered from 0, in memory."""
    first, second = renumbered(subsample(data.train, train, seed=0)), renumbered(subsample(data.test, test, seed=0))
    return DataSplits(data.name, first, second, data.preprocess, data.class_names)


def renumbered(part: Dataset) -> ArrayDataset:
    """Some of a data set's examples as data of their own: numbered from 0, in memory."""
    batch = part.take(torch.arange(len(part)))
    return ArrayDataset(batch.inputs, batch.labels, class_names=part.class_names)
