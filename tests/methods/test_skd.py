"""SKD: the Mahalanobis distance of Gram matrices is that of plain linear algebra."""

from __future__ import annotations

import math

import pytest
import torch
from torch import nn

from limbeck.errors import LimbeckError
from limbeck.methods import make
from limbeck.methods.logits.skd import gram_mahalanobis
from methods.row_math import to_rows

DRAW = torch.Generator().manual_seed(0)
Z, V = (3 * torch.randn(6, 5, generator=DRAW, dtype=torch.float64) for _ in range(2))


def solve(matrix, right):
    """The solution of a linear system by Gauss-Jordan elimination with pivots."""
    rows = [[*row, value] for row, value in zip(matrix, right, strict=True)]
    size = len(rows)
    for i in range(size):
        pivot = max(range(i, size), key=lambda k: abs(rows[k][i]))
        rows[i], rows[pivot] = rows[pivot], rows[i]
        for k in range(size):
            if k != i:
                factor = rows[k][i] / rows[i][i]
                rows[k] = [a - factor * b for a, b in zip(rows[k], rows[i], strict=True)]
    return [rows[i][-1] / rows[i][i] for i in range(size)]


def normalized(row):
    finite = [0.0 if x == -math.inf else x for x in row]
    length = math.sqrt(sum(x * x for x in finite)) or 1.0
    return [x / length for x in finite]


def brute_force_gram_mahalanobis(student, teacher, *, ridge=0.1):
    z, v = to_rows(student), to_rows(teacher)
    there = [[min(a, b) > -math.inf for a, b in zip(*rows, strict=True)] for rows in zip(z, v, strict=True)]
    classes = sum(any(row[c] for row in there) for c in range(len(z[0])))
    z, v = (
        [[x if ok else 0.0 for x, ok in zip(*r, strict=True)] for r in zip(side, there, strict=True)] for side in (z, v)
    )
    z, v = [normalized(row) for row in z], [normalized(row) for row in v]
    n = len(z)

    def dot(x, y):
        return sum(a * b for a, b in zip(x, y, strict=True))

    apart = [[(dot(z[i], z[j]) - dot(v[i], v[j])) / classes for j in range(n)] for i in range(n)]
    mean = [sum(row[j] for row in apart) / n for j in range(n)]
    apart_from_mean = [[x - m for x, m in zip(row, mean, strict=True)] for row in apart]
    covariance = [
        [sum(row[a] * row[b] for row in apart_from_mean) / max(n - 1, 1) + (a == b) * ridge for b in range(n)]
        for a in range(n)
    ]
    distances = [math.sqrt(max(0.0, dot(row, solve(covariance, row)))) for row in apart]
    return torch.tensor(sum(distances) / n, dtype=torch.float64)


@pytest.mark.parametrize("ridge", [0.1, 1e-4])
def test_the_kernel_is_the_formula(ridge):
    torch.testing.assert_close(
        gram_mahalanobis(Z, V, ridge=ridge), brute_force_gram_mahalanobis(Z, V, ridge=ridge), rtol=1e-6, atol=1e-9
    )


def test_lengths_and_a_common_rotation_do_not_matter():
    factors = torch.rand(6, 1, generator=DRAW, dtype=torch.float64) + 0.5
    turn = torch.linalg.qr(torch.randn(5, 5, generator=DRAW, dtype=torch.float64)).Q
    torch.testing.assert_close(gram_mahalanobis(factors * Z @ turn, V), gram_mahalanobis(Z, V))


def test_the_distance_is_the_euclidean_one_for_a_large_ridge():
    z, v = (nn.functional.normalize(rows, dim=1) for rows in (Z, V))
    apart = (z @ z.T - v @ v.T) / 5
    torch.testing.assert_close(gram_mahalanobis(Z, V, ridge=1e6) * 1e3, apart.norm(dim=1).mean(), rtol=1e-5, atol=0)


def test_a_ridge_of_0_is_refused():
    with pytest.raises(LimbeckError, match="ridge=0"):
        make("skd", teacher=nn.Linear(2, 3), ridge=0.0)


def test_maps_are_refused():
    with pytest.raises(LimbeckError, match="a row for each example"):
        make("skd", teacher=nn.Linear(2, 3), task="segmentation")


def test_a_class_that_one_side_lacks_is_none():
    v = V.clone()
    v[:, 4] = -torch.inf
    z = Z.clone().requires_grad_()
    value = gram_mahalanobis(z, v)
    torch.testing.assert_close(value, gram_mahalanobis(Z[:, :4], V[:, :4]))
    assert torch.autograd.grad(value, z)[0].isfinite().all()
