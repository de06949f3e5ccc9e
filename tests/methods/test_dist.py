"""DIST: two Pearson correlations, of the classes of an example and of the examples of a class."""

from __future__ import annotations

import math

import pytest
import torch

from limbeck.methods.logits.dist import inter_class_distance, intra_class_distance, pearson_distance
from methods.row_math import like, pearson, softmax, to_rows

DRAW = torch.Generator().manual_seed(0)
Z, V = (3 * torch.randn(6, 5, generator=DRAW, dtype=torch.float64) for _ in range(2))


def live_pairs(z, v):
    return [i for i, pair in enumerate(zip(z, v, strict=True)) if max(pair) > -math.inf]


def brute_force_inter_class_distance(student, teacher, *, temperature=1.0):
    values = []
    for z, v in zip(to_rows(student), to_rows(teacher), strict=True):
        live = live_pairs(z, v)
        q, p = softmax(z, temperature), softmax(v, temperature)
        correlation = pearson([q[c] for c in live], [p[c] for c in live]) if live else 1.0
        values.append(temperature**2 * (1 - correlation))
    return like(student, values)


def brute_force_intra_class_distance(student, teacher, *, mask=None, temperature=1.0):
    counts = [True] * student[..., 0].numel() if mask is None else mask.flatten().tolist()
    rows = [pair for pair, one in zip(zip(to_rows(student), to_rows(teacher), strict=True), counts, strict=True) if one]
    q, p = ([softmax(pair[side], temperature) for pair in rows] for side in (0, 1))
    distances = []
    for c in range(student.shape[-1]):
        live = [i for i, (z, v) in enumerate(rows) if max(z[c], v[c]) > -math.inf]
        if live:
            distances.append(1 - pearson([q[i][c] for i in live], [p[i][c] for i in live]))
    return torch.tensor(temperature**2 * sum(distances) / max(len(distances), 1), dtype=torch.float64)


@pytest.mark.parametrize("temperature", [1.0, 4.0])
def test_the_kernels_are_the_formulas(temperature):
    hyper = {"temperature": temperature}
    z, v = (rows.masked_fill(torch.arange(5) == 3, -torch.inf) for rows in (Z, V))
    for ours, theirs in ((Z, V), (z, v)):
        torch.testing.assert_close(
            inter_class_distance(ours, theirs, **hyper), brute_force_inter_class_distance(ours, theirs, **hyper)
        )
        torch.testing.assert_close(
            intra_class_distance(ours, theirs, **hyper), brute_force_intra_class_distance(ours, theirs, **hyper)
        )


def test_positions_are_examples_and_masked_ones_are_none():
    z, v = Z.reshape(2, 3, 5), V.reshape(2, 3, 5)
    mask = torch.tensor([[True, False, True], [True, True, False]])
    value = intra_class_distance(z, v, mask=mask)
    torch.testing.assert_close(value, intra_class_distance(z[mask], v[mask]))
    torch.testing.assert_close(value, brute_force_intra_class_distance(z, v, mask=mask))


def test_a_linear_relation_is_enough():
    x, y = Z[:, 0], 3 * Z[:, 0] + 1
    every = torch.ones(6, dtype=torch.bool)
    assert pearson_distance(x, y, every).abs() < 1e-14
    torch.testing.assert_close(pearson_distance(x, -y, every), torch.tensor(2.0, dtype=torch.float64))


def test_constants_have_no_relation():
    x, flat, every = Z[:, 0], torch.full((6,), 0.1, dtype=torch.float64), torch.ones(6, dtype=torch.bool)
    assert pearson_distance(x, flat, every) == 0
    assert pearson_distance(flat, x, every) == 1
    assert intra_class_distance(Z[:1], V[:1]) == 0  # one example has no relation to others


def test_probabilities_whose_squares_underflow_still_correlate():
    v = torch.zeros(3, 2)
    v[:, 0] = torch.tensor([50.0, 51.0, 52.0])  # the other class has probabilities of 1e-22
    z = v.flip(0)
    assert intra_class_distance(v, v) == 0
    assert intra_class_distance(z, v) > 0.5
