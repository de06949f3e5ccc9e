"""Which classes does a generalist confuse, so that a specialist would pay?"""

from __future__ import annotations

import math
import warnings
from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from limbeck.batch import LOGITS, Batch, Inputs
from limbeck.errors import ArgumentError, DataError, LimbeckError
from limbeck.metrics.predictions import as_batches
from limbeck.teachers import Groups, Preprocess, as_teacher

_CPU = torch.device("cpu")


def _inputs(batch: Batch) -> Inputs:
    return batch.inputs


def confusion_groups(
    generalist: Any,
    data: Any,
    *,
    clusters: int | None = None,
    size: int | None = None,
    scaled: bool = True,
    cover: bool = False,
    seed: int = 0,
    preprocess: Preprocess = _inputs,
    device: torch.device = _CPU,
) -> Groups:
    """Groups of classes that a generalist often predicts together, one for each specialist; no labels are read.

    K-means on the columns of the covariance matrix of its predicted probabilities; the `size` classes whose columns are
    nearest to a center are a group. So groups may overlap, and a class may be in none: the generalist answers for it.

    Args:
        generalist: A teacher, or anything that becomes one.
        data: What it is asked: a source (one epoch; its position stays), examples, arrays, a loader, batches.
        clusters: How many groups. By default as many as hold each class 1.25 times, near the paper's 61 groups of 300
            of 15,000 classes.
        size: How many classes each has, m in the paper, from 2; by default the square root of their number.
        scaled: Each class in units of its own standard deviation, which makes it the correlation matrix. False is the
            paper's covariance: there the variance of a class, which is large where it is rarely confused, outweighs all
            else in its column, and the nearest columns are those of the few classes with the least.
        cover: Put each class that would be in no group into the group whose center is nearest, beyond its `size`, as
            long as that leaves a class for the dustbin.
        seed: Of K-means.
        preprocess: The way from a batch to inputs, for a generalist that declares none.
        device: Where the generalist is asked.

    Returns:
        The groups, sorted; the same for the same arguments.

    Raises:
        DataError: If the data hold no examples.
        LimbeckError: If there are more clusters than classes, or groups of a single class or of all of them.

    Example:
        >>> logits = torch.tensor([[9.0, 7, 0, 0], [7, 9, 0, 0], [0, 0, 9, 7], [0, 0, 7, 9]])
        >>> confusion_groups(torch.nn.Identity(), logits, clusters=2, size=2)
        ((0, 1), (2, 3))

    Source: Hinton, Vinyals and Dean, 2015, arXiv:1503.02531, section 5.2.
    """
    matrix = prediction_covariance(generalist, data, preprocess=preprocess, device=device).numpy()
    size, clusters = _checked(len(matrix), size, clusters)
    if scaled:
        deviation = np.sqrt(np.diag(matrix).clip(1e-30))
        matrix = matrix / np.outer(deviation, deviation)
    distances = _distances(matrix.T, clusters, seed)
    groups = [set(row.argsort(kind="stable")[:size].tolist()) for row in distances]
    if cover:
        for missing in sorted(set(range(len(matrix))) - set().union(*groups)):
            room = [number for number in distances[:, missing].argsort() if len(groups[number]) < len(matrix) - 1]
            if room:
                groups[room[0]].add(missing)
    return tuple(sorted(tuple(sorted(group)) for group in groups))


def prediction_covariance(
    generalist: Any, data: Any, *, preprocess: Preprocess = _inputs, device: torch.device = _CPU
) -> Float[Tensor, "classes classes"]:
    """The covariance matrix over examples of the probabilities that a model gives the classes, in float64.

    One pass over the data, in memory of ``[classes, classes]``.

    Raises:
        DataError: If the data hold no examples.
        LimbeckError: If its logits are not ``[batch, classes]``.
    """
    teacher = as_teacher(generalist)
    count, first, second = 0, torch.zeros(()), torch.zeros(())
    with teacher.prepare(frozenset({LOGITS}), device=device, preprocess=preprocess) as answer:
        for batch in as_batches(data):
            logits = answer(batch.to(device))[LOGITS].double()
            if logits.ndim != 2:
                raise LimbeckError(f"Classes are grouped by logits [batch, classes]; these are {list(logits.shape)}.")
            p = logits.softmax(-1).cpu()
            count, first, second = count + len(p), first + p.sum(0), second + p.T @ p
    if not count:
        raise DataError("The transfer set holds no examples, so there are no predictions to group classes by.")
    mean = first / count
    return second / count - torch.outer(mean, mean)


def _checked(classes: int, size: int | None, clusters: int | None) -> tuple[int, int]:
    group_size = max(2, round(math.sqrt(classes))) if size is None else size
    number = min(classes, math.ceil(1.25 * classes / max(group_size, 1))) if clusters is None else clusters
    for name, value in (("size", group_size), ("clusters", number)):
        if isinstance(value, bool) or not isinstance(value, int) or value < 1:
            raise ArgumentError(
                f"{name} is a whole number of at least {2 if name == 'size' else 1}; got {value!r}.", argument=name
            )
    if group_size < 2:
        raise ArgumentError(
            "size=1 makes groups of one class, and a specialist tells at least two apart: try size=2.",
            argument="size",
            example="2",
        )
    if group_size >= classes:
        raise ArgumentError(
            f"size={group_size} of {classes} classes leaves no class for the dustbin of a specialist. "
            f"Choose at most {classes - 1}.",
            argument="size",
        )
    if number > classes:
        raise ArgumentError(
            f"clusters={number} is more than the {classes} classes that there are to group.", argument="clusters"
        )
    return group_size, number


def _distances(columns: np.ndarray, clusters: int, seed: int) -> np.ndarray:
    """How far each class's column is from each center of K-means, [clusters, classes]."""
    from sklearn.cluster import KMeans
    from sklearn.exceptions import ConvergenceWarning

    with warnings.catch_warnings():
        # Classes that are predicted alike make fewer distinct columns than clusters, and then two groups equal.
        warnings.simplefilter("ignore", ConvergenceWarning)
        centers = KMeans(clusters, n_init=10, random_state=seed).fit(columns).cluster_centers_
    return np.linalg.norm(centers[:, None] - columns[None], axis=-1)
