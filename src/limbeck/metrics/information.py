"""Partial information decomposition: what teacher and student say about the labels, together and alone."""

from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from limbeck.errors import ArgumentError, LimbeckError


class InformationDecomposition(NamedTuple):
    """The parts of the information that a teacher T and a student S have about the labels Y, in bits.

    ``redundant + unique_teacher = I(Y; T)``, ``redundant + unique_student = I(Y; S)``, and the sum of all four is
    ``I(Y; T, S)``.

    Attributes:
        redundant: What both say: the transferred knowledge.
        unique_teacher: What only the teacher says: the knowledge left to distill.
        unique_student: What only the student says.
        synergistic: What only both together say.
    """

    redundant: float
    unique_teacher: float
    unique_student: float
    synergistic: float


def decompose_information(
    joint: Float[Tensor, "teacher student labels"], *, iterations: int = 500, tolerance: float = 1e-7
) -> InformationDecomposition:
    r"""Decompose I(Y; T, S) of a joint distribution by the definition of Bertschinger et al. (BROJA).

    Of all distributions Q with the pairs (T, Y) and (S, Y) of P, :math:`Q^*` has the smallest :math:`I_Q(Y; T, S)`.
    Then the unique information of T is :math:`I_{Q^*}(Y; T | S)`, and the synergy is
    :math:`I_P(Y; T, S) - I_{Q^*}(Y; T, S)`. It is found by alternating two projections: the mixture of the conditional
    distributions over labels, and, for each label, iterative proportional fitting to its two marginals. Both decrease
    the divergence, whose smallest value is the global one, because the problem is convex.

    Args:
        joint: P(t, s, y), or counts; divided by the sum.
        iterations: The largest number of alternations.
        tolerance: The change of :math:`I_Q`, in bits, at which it stops.

    Raises:
        ArgumentError: If a value is negative or not finite, or all are 0.

    Example:
        >>> xor = torch.zeros(2, 2, 2)
        >>> for t, s in [(0, 0), (0, 1), (1, 0), (1, 1)]:
        ...     xor[t, s, t ^ s] = 0.25
        >>> [round(part, 3) for part in decompose_information(xor)]
        [0.0, 0.0, 0.0, 1.0]

    Source: Bertschinger, Rauh, Olbrich, Jost and Ay, Quantifying unique information, 2013, arXiv:1311.2852; as a
        measure of distillation: Dissanayake et al., 2024, arXiv:2411.07483. The alternation: Banerjee, Rauh and
        Montufar, Computing the unique information, 2017, arXiv:1709.07487.
    """
    p = joint.detach().double().cpu().numpy()
    if not np.isfinite(p).all() or (p < 0).any() or p.sum() <= 0:
        raise ArgumentError("joint holds probabilities or counts: at least 0, finite, and not all 0.", argument="joint")
    p = p / p.sum()
    smallest = _smallest_information(p, iterations, tolerance)
    by_teacher, by_student = _information(p.sum(1)), _information(p.sum(0))
    # Rounding may bring a part below 0 by 1e-16, and the search ends a little above the smallest value.
    redundant = min(max(by_teacher + by_student - smallest, 0.0), by_teacher, by_student)
    together = _information(p.reshape(-1, p.shape[2]))
    synergy = max(together - (by_teacher + by_student - redundant), 0.0)
    return InformationDecomposition(redundant, by_teacher - redundant, by_student - redundant, synergy)


def _smallest_information(p: np.ndarray, iterations: int, tolerance: float) -> float:
    """The smallest I_Q(Y; T, S) of all Q with the marginals (T, Y) and (S, Y) of P, in bits."""
    rows, columns, labels = p.sum(1), p.sum(0), p.sum((0, 1))
    share = np.divide(rows * 1.0, labels, where=labels > 0, out=np.zeros_like(rows))
    q = share[:, None, :] * columns[None]  # independent given the label: it has the marginals
    before = math.inf
    for _ in range(iterations):
        value = _information(q.reshape(-1, len(labels)))
        if before - value < tolerance:
            break
        before = value
        q = _fit(np.repeat(q.sum(2, keepdims=True), len(labels), 2), rows, columns)
    return min(before, value)


def _fit(q: np.ndarray, rows: np.ndarray, columns: np.ndarray, steps: int = 30) -> np.ndarray:
    """Scale rows and columns of each label until both marginals are right (iterative proportional fitting)."""
    for _ in range(steps):
        q = q * _ratio(rows, q.sum(1))[:, None]
        sums = q.sum(0)
        q = q * _ratio(columns, sums)[None]
        if np.abs(sums - columns).max() < 1e-13:
            break
    return q


def _ratio(wanted: np.ndarray, have: np.ndarray) -> np.ndarray:
    return np.divide(wanted, have, where=have > 0, out=np.zeros_like(have))


def _information(joint: np.ndarray) -> float:
    """The mutual information of rows and columns in bits."""
    independent = joint.sum(1, keepdims=True) * joint.sum(0, keepdims=True)
    some = joint > 0
    return max(float((joint[some] * np.log2(joint[some] / independent[some])).sum()), 0.0)


def estimate_information(
    teacher: Float[Tensor, "examples ..."],
    student: Float[Tensor, "examples ..."],
    labels: Int[Tensor, " examples"],
    *,
    dimensions: int = 5,
    clusters: int = 3,
    seed: int = 0,
) -> InformationDecomposition:
    """Estimate the decomposition from features and labels, as the paper does.

    The features of each model are divided by their norm, projected on their first principal components, and replaced by
    the number of their cluster (k-means). `decompose_information` gets the counts of clusters and labels.

    Args:
        teacher: Features of the teacher. Maps are flattened.
        student: Features of the student for the same examples.
        labels: Class indices; examples with -100 are left out.
        dimensions: The number of principal components; 5 in the authors' code.
        clusters: The number of clusters; 3 in the authors' code. More clusters find more information, and need more
            examples: with few of them the estimate is too high.
        seed: The seed of the clusters.

    Raises:
        LimbeckError: If the numbers of examples differ, or there are fewer labeled ones than clusters.

    Example:
        >>> labels = torch.arange(60) % 3
        >>> same = torch.nn.functional.one_hot(labels).float()
        >>> round(estimate_information(same, same, labels).redundant, 3)
        1.585

    Source: Dissanayake et al., 2024, arXiv:2411.07483, section 5.
    """
    if not len(teacher) == len(student) == len(labels):
        raise LimbeckError(f"There are {len(teacher)} features, {len(student)} features and {len(labels)} labels.")
    known = labels >= 0
    if int(known.sum()) < clusters:
        raise LimbeckError(f"There are {int(known.sum())} labeled examples, fewer than clusters={clusters}.")
    groups = [_discretize(features[known], dimensions, clusters, seed) for features in (teacher, student)]
    _, classes = labels[known].cpu().unique(return_inverse=True)
    counts = torch.zeros(clusters, clusters, int(classes.max()) + 1, dtype=torch.float64)
    counts.index_put_((*groups, classes), torch.ones(len(classes), dtype=torch.float64), accumulate=True)
    return decompose_information(counts)


def _discretize(features: Tensor, dimensions: int, clusters: int, seed: int) -> Int[Tensor, " examples"]:
    rows = torch.nn.functional.normalize(features.detach().double().cpu().flatten(1), dim=1)
    rows = rows - rows.mean(0)
    _, _, directions = torch.linalg.svd(rows, full_matrices=False)
    return _cluster(rows @ directions[:dimensions].T, clusters, seed)


def _cluster(rows: Tensor, clusters: int, seed: int, *, starts: int = 10, steps: int = 100) -> Int[Tensor, " rows"]:
    """K-means from several random starts (k-means++); the one with the smallest distances."""
    draw = torch.Generator().manual_seed(seed)
    best, smallest = torch.zeros(len(rows), dtype=torch.int64), math.inf
    for _ in range(starts):
        centers = rows[torch.randint(len(rows), (1,), generator=draw)]
        while len(centers) < clusters:
            far = torch.cdist(rows, centers).amin(1).square() + 1e-12
            centers = torch.cat([centers, rows[torch.multinomial(far, 1, generator=draw)]])
        for _ in range(steps):
            nearest = torch.cdist(rows, centers).argmin(1)
            member = torch.nn.functional.one_hot(nearest, clusters).to(rows)
            moved = (member.T @ rows) / member.sum(0).clamp_min(1)[:, None]
            moved = torch.where(member.sum(0)[:, None] > 0, moved, centers)
            if torch.equal(moved, centers):
                break
            centers = moved
        total = float(torch.cdist(rows, centers).amin(1).square().sum())
        if total < smallest:
            best, smallest = nearest, total
    return best
