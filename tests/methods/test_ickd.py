"""Inter-channel correlation: the formula with plain loops, cells of a grid, refusals, and learning."""

from __future__ import annotations

import math

import pytest
import torch
from torch import nn

from limbeck.data import ArrayDataset
from limbeck.engine import distill
from limbeck.errors import LimbeckError
from limbeck.methods import make
from limbeck.methods.relations.ickd import channel_correlation_squared_error
from limbeck.random_seeds import fork_rng, make_rng_state
from limbeck.recipe import Optimizer


def brute_force_channel_correlation_squared_error(student, teacher, mask=None, *, normalize=True, grid=1):
    values = []
    for i in range(len(student)):
        cells = []
        for row in range(grid):
            for column in range(grid):
                ours, theirs = (
                    _correlate(_channels(features[i], mask, i, grid, row, column), normalize)
                    for features in (student, teacher)
                )
                pairs = [(a - b) ** 2 for x, y in zip(ours, theirs, strict=True) for a, b in zip(x, y, strict=True)]
                cells.append(sum(pairs) / len(pairs))
        values.append(sum(cells) / len(cells))
    return torch.tensor(values, dtype=torch.float64)


def _channels(example, mask, i, grid, row, column):
    """A list of numbers for each channel: those of one cell of a map, or of the tokens that count."""
    example = example.double()
    if example.ndim == 3:
        height, width = example.shape[1] // grid, example.shape[2] // grid
        rows, columns = range(row * height, (row + 1) * height), range(column * width, (column + 1) * width)
        return [[float(channel[y, x]) for y in rows for x in columns] for channel in example]
    tokens = example.tolist() if example.ndim == 2 else [example.tolist()]
    counted = [True] * len(tokens) if mask is None or mask.ndim < 2 else mask[i].tolist()
    return [[token[c] for token, counts in zip(tokens, counted, strict=True) if counts] for c in range(len(tokens[0]))]


def _correlate(channels, normalize):
    products = [[sum(a * b for a, b in zip(x, y, strict=True)) for y in channels] for x in channels]
    lengths = [(math.sqrt(sum(value * value for value in row)) or 1.0) if normalize else 1.0 for row in products]
    return [[value / length for value in row] for row, length in zip(products, lengths, strict=True)]


def draw(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


@pytest.mark.parametrize("normalize", [True, False])
@pytest.mark.parametrize(
    ("ours", "theirs", "grid"),
    [((2, 3, 4, 4), (2, 3, 2, 2), 1), ((2, 3, 4, 4), (2, 3, 2, 6), 2), ((2, 5, 3), (2, 4, 3), 1), ((2, 3), (2, 3), 1)],
)
def test_it_is_the_formula(ours, theirs, grid, normalize):
    s, t, hyper = draw(*ours), draw(*theirs, seed=1), {"normalize": normalize, "grid": grid}
    expected = brute_force_channel_correlation_squared_error(s, t, **hyper)
    torch.testing.assert_close(channel_correlation_squared_error(s, t, **hyper), expected)


def test_without_normalization_it_is_the_mean_squared_difference_of_inner_products():
    s, t = draw(2, 3, 4, 4), draw(2, 3, 4, 4, seed=1)
    ours, theirs = (torch.einsum("bchw,bdhw->bcd", x, x) for x in (s, t))
    expected = (ours - theirs).square().sum((1, 2)) / 9
    torch.testing.assert_close(channel_correlation_squared_error(s, t, normalize=False), expected)


def test_a_channel_that_is_always_0_has_no_gradient():
    s = draw(2, 3, 4, 4)
    s[:, 1] = 0
    (slope,) = torch.autograd.grad(
        channel_correlation_squared_error(s.requires_grad_(), draw(2, 3, 4, 4, seed=1)).sum(), s
    )
    assert slope.isfinite().all()
    assert slope.abs().max() < 100


def test_what_cannot_be_compared_is_refused():
    with pytest.raises(LimbeckError, match="Connector"):
        channel_correlation_squared_error(draw(2, 3, 4, 4), draw(2, 5, 4, 4))
    with pytest.raises(LimbeckError, match="grid=3"):
        channel_correlation_squared_error(draw(2, 3, 4, 4), draw(2, 3, 4, 4), grid=3)
    with pytest.raises(LimbeckError, match="shape"):
        channel_correlation_squared_error(draw(2, 3, 4, 4, 4), draw(2, 3, 4, 4, 4))


def network(width, *, seed):
    with fork_rng(make_rng_state(seed)):
        body = nn.Sequential(nn.Conv2d(1, width, 3, padding=1), nn.ReLU())
        return nn.Sequential(body, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(width, 3))


def test_correlations_of_a_wider_teacher_are_learned_and_the_connector_is_dropped():
    teacher, student = network(12, seed=1).eval(), network(6, seed=2)
    keys = list(student.state_dict())
    images = torch.randn(32, 1, 8, 8, generator=torch.Generator().manual_seed(0))
    recipe = make("ickd", teacher=teacher, at="0", student_at="0", labels=False)
    run = distill(
        student, recipe, ArrayDataset(images, torch.zeros(32, dtype=torch.int64)), batch_size=8, epochs=10, seed=0,
        log_every=1, optimizer=Optimizer("adam", lr=2e-2),
    ).finish()  # fmt: skip
    assert list(run.student.state_dict()) == keys
    assert run.history[-1].loss < 0.6 * run.history[0].loss
