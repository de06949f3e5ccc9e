"""Groups of classes that a generalist confuses, one for each specialist."""

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
from limbeck.optional_imports import import_optional
from limbeck.teachers import Groups, Preprocess, TeacherContext, as_teacher

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
    """Find groups of classes that a generalist often predicts together, one for each specialist, without labels.

    Runs K-means on the columns of the covariance matrix of the predicted probabilities. A group is the `size` classes
    whose columns are nearest to a center. Groups may overlap. A class may be in no group; then the generalist predicts
    it.

    Args:
        generalist: A teacher, or anything that can be converted to one.
        data: The inputs: a loader (one epoch; its position is not changed), examples, arrays, or batches.
        clusters: The number of groups. By default each class is in 1.25 groups on average, close to the paper's 61
            groups of 300 of 15,000 classes.
        size: The number of classes in each group, m in the paper, at least 2. By default the square root of the number
            of classes.
        scaled: Whether to use the correlation matrix. False uses the covariance matrix, as the paper does. There the
            variance of a class dominates its column, and the classes of smallest variance are nearest to every center.
        cover: Whether to add each class without a group to the nearest group, even beyond `size`, as long as one class
            is left for the dustbin.
        seed: The seed of K-means.
        preprocess: Maps a batch to inputs, for a generalist that declares no preprocessing.
        device: The device of the generalist.

    Returns:
        The sorted groups. The result is deterministic.

    Raises:
        DataError: If the data hold no examples.
        LimbeckError: If there are more clusters than classes, or a group would have one class or all classes.

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
    """Compute the covariance matrix of the predicted probabilities over examples, in float64.

    It needs one pass over the data and memory for ``[classes, classes]`` values.

    Raises:
        DataError: If the data hold no examples.
        LimbeckError: If the logits are not ``[batch, classes]``.
    """
    teacher = as_teacher(generalist)
    count, first, second = 0, torch.zeros(()), torch.zeros(())
    with teacher.open(TeacherContext(device=device, preprocess=preprocess)) as answer:
        for batch in as_batches(data):
            logits = answer(batch.to(device))[LOGITS].double()
            if logits.ndim != 2:
                raise LimbeckError(
                    f"Grouping classes needs logits of shape [batch, classes]; got {list(logits.shape)}."
                )
            p = logits.softmax(-1).cpu()
            count, first, second = count + len(p), first + p.sum(0), second + p.T @ p
    if not count:
        raise DataError("The transfer set is empty, so there are no predictions to group classes by.")
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
            "A group needs at least two classes; got size=1. Try size=2.",
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
        raise ArgumentError(f"clusters={number} is more than the {classes} classes.", argument="clusters")
    return group_size, number


def _distances(columns: np.ndarray, clusters: int, seed: int) -> np.ndarray:
    """Compute the distances from each center of K-means to the column of each class, [clusters, classes]."""
    cluster = import_optional("sklearn.cluster", extra="sklearn", purpose="Grouping classes by K-means")
    exceptions = import_optional("sklearn.exceptions", extra="sklearn")
    with warnings.catch_warnings():
        # Equal columns can leave fewer distinct points than clusters. Then two groups are equal.
        warnings.simplefilter("ignore", exceptions.ConvergenceWarning)
        centers = cluster.KMeans(clusters, n_init=10, random_state=seed).fit(columns).cluster_centers_
    return np.linalg.norm(centers[:, None] - columns[None], axis=-1)
