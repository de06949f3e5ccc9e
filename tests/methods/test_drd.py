"""Dual relation distillation: both relations with plain loops, sizes, masks, refusals, and learning."""

from __future__ import annotations

import math

import pytest
import torch
from torch import nn

from limbeck.data import ArrayDataset
from limbeck.engine import distill
from limbeck.errors import LimbeckError
from limbeck.methods import make
from limbeck.methods.relations.drd import channel_relation_squared_error, spatial_relation_squared_error
from limbeck.random_seeds import fork_rng, make_rng_state
from limbeck.recipe import Optimizer


def brute_force_spatial_relation_squared_error(student, teacher, mask=None, *, size=16):
    if student.ndim == teacher.ndim == 4:
        target = [min(a, b, size) for a, b in zip(student.shape[2:], teacher.shape[2:], strict=True)]
        student, teacher = _shrink(student, target), _shrink(teacher, target)
    values = []
    for i in range(len(student)):
        ours, theirs = (list(zip(*_channels(features[i]), strict=True)) for features in (student, teacher))
        counted = range(len(ours)) if mask is None or mask.ndim < 2 else [j for j in range(len(ours)) if mask[i, j]]
        pairs = [(_cosine(ours[j], ours[k]) - _cosine(theirs[j], theirs[k])) ** 2 for j in counted for k in counted]
        values.append(sum(pairs) / max(len(pairs), 1))
    return torch.tensor(values, dtype=torch.float64)


def brute_force_channel_relation_squared_error(student, teacher, mask=None):
    values = []
    for i in range(len(student)):
        ours, theirs = (_channels(features[i], None if mask is None else mask[i]) for features in (student, teacher))
        size = range(len(ours))
        pairs = [(_cosine(ours[m], ours[n]) - _cosine(theirs[m], theirs[n])) ** 2 for m in size for n in size]
        values.append(sum(pairs) / len(pairs))
    return torch.tensor(values, dtype=torch.float64)


def _channels(example, mask=None):
    example = example.double()
    if example.ndim == 3:
        return [channel.flatten().tolist() for channel in example]
    tokens = example.tolist() if example.ndim == 2 else [example.tolist()]
    counted = [True] * len(tokens) if mask is None or mask.ndim == 0 else mask.tolist()
    return [[token[c] for token, counts in zip(tokens, counted, strict=True) if counts] for c in range(len(tokens[0]))]


def _cosine(x, y):
    lengths = math.hypot(*x) * math.hypot(*y)
    return sum(a * b for a, b in zip(x, y, strict=True)) / lengths if lengths else 0.0


def _shrink(maps, target):
    """Adaptive average pooling, cell by cell."""
    result = maps.new_zeros(*maps.shape[:2], *target)
    for y in range(target[0]):
        for x in range(target[1]):
            rows, columns = (
                slice(place * full // part, -(-(place + 1) * full // part))
                for place, full, part in zip((y, x), maps.shape[2:], target, strict=True)
            )
            result[:, :, y, x] = maps[:, :, rows, columns].mean((2, 3))
    return result


def draw(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


@pytest.mark.parametrize(
    ("ours", "theirs", "size"),
    [((2, 3, 4, 4), (2, 5, 3, 4), 16), ((2, 3, 5, 5), (2, 4, 5, 5), 2), ((2, 4, 3), (2, 4, 6), 16)],
)
def test_the_relations_of_positions_are_those_of_plain_loops(ours, theirs, size):
    s, t = draw(*ours), draw(*theirs, seed=1)
    expected = brute_force_spatial_relation_squared_error(s, t, size=size)
    torch.testing.assert_close(spatial_relation_squared_error(s, t, size=size), expected)


@pytest.mark.parametrize(("ours", "theirs"), [((2, 3, 4, 4), (2, 3, 2, 2)), ((2, 4, 3), (2, 5, 3)), ((2, 3), (2, 3))])
def test_the_relations_of_channels_are_those_of_plain_loops(ours, theirs):
    s, t = draw(*ours), draw(*theirs, seed=1)
    expected = brute_force_channel_relation_squared_error(s, t)
    torch.testing.assert_close(channel_relation_squared_error(s, t), expected)


def test_an_orthogonal_mixing_of_channels_and_another_order_of_pixels_change_nothing():
    s, t = draw(2, 4, 3, 3), draw(2, 4, 3, 3, seed=1)
    mixed = torch.einsum("dc,bchw->bdhw", torch.linalg.qr(draw(4, 4, seed=2)).Q, s)
    shuffled = s.flatten(2)[:, :, torch.randperm(9, generator=torch.Generator().manual_seed(0))].reshape(s.shape)
    torch.testing.assert_close(spatial_relation_squared_error(mixed, t), spatial_relation_squared_error(s, t))
    torch.testing.assert_close(channel_relation_squared_error(shuffled, t), channel_relation_squared_error(s, t))
    assert float(spatial_relation_squared_error(mixed, s).max()) < 1e-25
    assert float(channel_relation_squared_error(shuffled, s).max()) < 1e-25
    assert float(spatial_relation_squared_error(shuffled, s).min()) > 1e-3
    assert float(channel_relation_squared_error(mixed, s).min()) > 1e-3


def test_tokens_that_do_not_count_change_nothing():
    s, t = draw(2, 4, 3), draw(2, 4, 3, seed=1)
    mask = torch.tensor([[1, 1, 0, 1], [0, 0, 0, 1]]).bool()
    for kernel, expected in (
        (spatial_relation_squared_error, brute_force_spatial_relation_squared_error),
        (channel_relation_squared_error, brute_force_channel_relation_squared_error),
    ):
        value = kernel(s, t, mask)
        torch.testing.assert_close(value, expected(s, t, mask))
        spoiled = s.clone()
        spoiled[~mask] = torch.nan
        torch.testing.assert_close(kernel(spoiled, t, mask), value)


def test_what_cannot_be_compared_is_refused():
    with pytest.raises(LimbeckError, match="positions"):
        spatial_relation_squared_error(draw(2, 4, 3), draw(2, 5, 3))
    with pytest.raises(LimbeckError, match="Connector"):
        channel_relation_squared_error(draw(2, 4, 3), draw(2, 4, 6))
    with pytest.raises(LimbeckError, match="spatial_weight"):
        make("drd", teacher=nn.Conv2d(1, 3, 1), at="0", student_at="0", spatial_weight=0.0, channel_weight=0.0)


def segmenter(width, *, seed):
    with fork_rng(make_rng_state(seed)):
        return nn.Sequential(nn.Conv2d(1, width, 3, padding=1), nn.ReLU(), nn.Conv2d(width, 3, 3, padding=1))


def test_a_segmentation_network_learns_both_relations():
    teacher, student = segmenter(12, seed=1).eval(), segmenter(6, seed=2)
    images = torch.randn(32, 1, 8, 8, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        labels = teacher(images).argmax(1)
    recipe = make("drd", teacher=teacher, at="0", student_at="0", labels=False, task="segmentation")
    run = distill(
        student, recipe, ArrayDataset(images, labels), batch_size=8, epochs=8, seed=0, log_every=1,
        optimizer=Optimizer("adam", lr=2e-2),
    ).finish()  # fmt: skip
    assert run.history[-1].loss < 0.7 * run.history[0].loss
