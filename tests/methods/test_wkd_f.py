"""WKD-F: the kernel is the Wasserstein distance of Gaussians, of loops and of the general formula."""

from __future__ import annotations

import math

import pytest
import scipy.linalg
import torch
from torch import nn

from limbeck.errors import ArgumentError, LimbeckError
from limbeck.methods import make
from limbeck.methods.features.wkd_f import gaussian_transport
from methods.planted import Planted

DRAW = torch.Generator().manual_seed(0)
S, T = (torch.randn(3, 4, 5, 6, generator=DRAW, dtype=torch.float64) for _ in range(2))


def mean_and_deviation(values):
    mean = sum(values) / len(values)
    return mean, math.sqrt(sum((x - mean) ** 2 for x in values) / len(values))


def parts_of(example, grid):
    """Lists of the values of each channel, for each part of a map; tokens and rows are one part."""
    if example.ndim == 1:
        return [[[x] for x in example.tolist()]]
    if example.ndim == 2:
        return [example.T.tolist()]
    height, width = example.shape[1:]
    cut = [[(a * n // grid, math.ceil((a + 1) * n / grid)) for a in range(grid)] for n in (height, width)]
    return [[channel[r0:r1, c0:c1].flatten().tolist() for channel in example] for r0, r1 in cut[0] for c0, c1 in cut[1]]


def brute_force_gaussian_transport(student, teacher, mask=None, *, mean_weight=1.0, grid=1):
    values = []
    for n, pair in enumerate(zip(student.double(), teacher.double(), strict=True)):
        if mask is not None and pair[0].ndim == 2:
            pair = [one[mask[n].bool()] for one in pair]
            if not len(pair[0]):
                values.append(0.0)
                continue
        total, parts = 0.0, list(zip(*(parts_of(one, grid) for one in pair), strict=True))
        for ours, theirs in parts:
            for mine, its in zip(ours, theirs, strict=True):
                (m, s), (k, t) = mean_and_deviation(mine), mean_and_deviation(its)
                total += mean_weight * (m - k) ** 2 + (s - t) ** 2
        values.append(total / len(parts))
    return torch.tensor(values, dtype=torch.float64)


@pytest.mark.parametrize("hyper", [{}, {"mean_weight": 4.0, "grid": 2}, {"grid": 5}])
def test_the_kernel_is_the_formula(hyper):
    torch.testing.assert_close(gaussian_transport(S, T, **hyper), brute_force_gaussian_transport(S, T, **hyper))


def test_it_is_the_distance_of_gaussians_with_any_covariances_where_these_are_diagonal():
    (value,), sides = gaussian_transport(S[:1], T[:1]), []
    for features in (S[0], T[0]):
        rows = features.flatten(1)
        sides.append((rows.mean(1), torch.diag(rows.var(1, unbiased=False))))
    (m, a), (k, b) = sides
    root = scipy.linalg.sqrtm(a.numpy())
    cross = torch.as_tensor(scipy.linalg.sqrtm(root @ b.numpy() @ root).real)
    torch.testing.assert_close(value, (m - k).square().sum() + (a + b - 2 * cross).trace())


def test_positions_need_not_match_and_a_grid_of_single_pixels_compares_them():
    larger = T.repeat_interleave(2, 2).repeat_interleave(2, 3)
    torch.testing.assert_close(gaussian_transport(S, larger), gaussian_transport(S, T))
    square_s, square_t = S[..., :5], T[..., :5]
    pixels = (square_s - square_t).square().sum(1).flatten(1).mean(1)
    torch.testing.assert_close(gaussian_transport(square_s, square_t, grid=5), pixels)
    rows = gaussian_transport(S[..., 0, 0], T[..., 0, 0])
    torch.testing.assert_close(rows, (S - T)[..., 0, 0].square().sum(1))


def test_masked_tokens_do_not_count_and_none_gives_zero():
    s, t = (x.flatten(2).transpose(1, 2) for x in (S, T))
    mask = torch.zeros(3, 30, dtype=torch.bool)
    mask[0, :7], mask[1, 3:] = True, True
    torch.testing.assert_close(gaussian_transport(s, t, mask), brute_force_gaussian_transport(s, t, mask))
    torch.testing.assert_close(gaussian_transport(s, t, mask)[:1], gaussian_transport(s[:1, :7], t[:1, :7]))


def test_features_without_a_spread_have_a_finite_gradient():
    flat = torch.ones(2, 3, 4, 4, requires_grad=True)
    gaussian_transport(flat, torch.randn(2, 3, 4, 4, generator=DRAW)).sum().backward()
    assert bool(flat.grad.isfinite().all())


@pytest.mark.parametrize("wrong", [{"weight": -1.0}, {"mean_weight": -1.0}, {"grid": 0}])
def test_a_value_out_of_range_is_refused(wrong):
    with pytest.raises(ArgumentError, match=next(iter(wrong))):
        make("wkd_f", teacher=nn.Linear(2, 3), at="a", student_at="a", **wrong)


def test_other_channels_are_refused():
    with pytest.raises(LimbeckError, match="4 channels and the teacher 3"):
        gaussian_transport(S, T[:, :3])


def test_the_last_hidden_layer_of_the_truth_helps():
    planted = Planted()
    alone = planted.accuracy(planted.alone(epochs=30))
    recipe = make("wkd_f", teacher=planted.truth, at="layer2", student_at="layer2", weight=0.3, activation=False)
    assert planted.accuracy(planted.learn(recipe, epochs=30).student) > alone + 0.03
