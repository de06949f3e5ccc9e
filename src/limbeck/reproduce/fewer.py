"""What is a data set at quick scale?"""

from __future__ import annotations

import torch

from limbeck.sources import Arrays, DataSet, Examples, subsample


def fewer(data: DataSet, *, train: int, test: int) -> DataSet:
    """The same few examples of a data set each time, as data of their own: numbered from 0, in memory."""
    first, second = renumbered(subsample(data.train, train, seed=0)), renumbered(subsample(data.test, test, seed=0))
    return DataSet(data.name, first, second, data.reads, data.class_names)


def renumbered(part: Examples) -> Arrays:
    """Some of a data set's examples as data of their own: numbered from 0, in memory."""
    batch = part.take(torch.arange(len(part)))
    return Arrays(batch.inputs, batch.labels, class_names=part.class_names)
