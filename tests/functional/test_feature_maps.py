"""Layouts, pooling and scales of features, and connectors between channels."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from limbeck.errors import LimbeckError
from limbeck.functional.connectors import Connector, Pointwise, as_maps, channels
from limbeck.functional.feature_maps import (
    match_positions,
    pool_to,
    position_mask,
    safe_normalize,
    safe_root,
    to_positions,
    unit_scale,
)
from limbeck.testing import check_head


def draw(*shape):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(0))


def test_the_pixels_of_a_map_are_its_positions():
    maps = draw(2, 3, 4, 5)
    rows = to_positions(maps)
    assert rows.shape == (2, 20, 3)
    assert torch.equal(rows[1, 7], maps[1, :, 1, 2])
    with pytest.raises(LimbeckError):
        to_positions(torch.zeros(3))


def test_rows_are_maps_of_one_pixel_and_empty_batches_have_shapes():
    maps, rows = match_positions(draw(2, 3, 4, 4), draw(2, 5))
    torch.testing.assert_close(maps[:, 0], draw(2, 3, 4, 4).mean((2, 3)))
    assert rows.shape == (2, 1, 5)
    assert pool_to(torch.zeros(0, 3, 4, 4, requires_grad=True), (2, 2)).shape == (0, 3, 2, 2)
    assert pool_to(draw(1, 1, 4, 4), (2, 2), largest=True).max() == draw(1, 1, 4, 4).max()


def test_tokens_match_a_map_with_as_many_pixels():
    ours, theirs = match_positions(draw(2, 16, 3), draw(2, 5, 4, 4))
    assert (ours.shape, theirs.shape) == ((2, 16, 3), (2, 16, 5))
    with pytest.raises(LimbeckError, match="class token"):
        match_positions(draw(2, 17, 3), draw(2, 5, 4, 4))


def test_a_mask_is_of_tokens_alone():
    mask = torch.ones(2, 4, dtype=torch.bool)
    assert position_mask(mask, draw(2, 4, 3)).shape == (2, 4, 1)
    assert position_mask(mask, draw(2, 3, 2, 2)) is None
    assert position_mask(None, draw(2, 4, 3)) is None


def test_roots_and_norms_of_zeros_have_a_gradient_of_0():
    for function in (safe_root, safe_normalize, unit_scale):
        zeros = torch.zeros(2, 3, requires_grad=True)
        (slope,) = torch.autograd.grad(function(zeros).sum(), zeros)
        assert bool(slope.isfinite().all())
    torch.testing.assert_close(safe_normalize(draw(4, 5)), nn.functional.normalize(draw(4, 5), dim=-1))


@pytest.mark.parametrize("options", [{}, {"norm": True}, {"norm": True, "activation": True}])
@pytest.mark.parametrize("shapes", [((4, 3), (4, 5)), ((4, 7, 3), (4, 7, 5)), ((4, 3, 6, 6), (4, 5, 2, 2))])
def test_a_connector_changes_the_channels_alone(shapes, options):
    student, teacher = (draw(*shape) for shape in shapes)
    head = Connector(**options)
    with pytest.raises(LimbeckError, match="no parameters yet"):
        head(student)
    head.shape(student, teacher)
    mapped = head(student)
    assert channels(mapped) == channels(teacher)
    assert to_positions(mapped).shape[:2] == to_positions(student).shape[:2]
    if not options:
        convolution = nn.functional.linear(to_positions(student), head.map.layers[0].weight, head.map.layers[0].bias)
        torch.testing.assert_close(to_positions(mapped), convolution)
    with pytest.raises(LimbeckError, match="already maps 3 to 5"):
        head.shape(torch.zeros(2, 4), torch.zeros(2, 5))


def test_a_connector_keeps_the_laws_of_heads():
    check_head(Connector, draw(4, 3, 6, 6), draw(4, 5, 6, 6))


def test_pointwise_layers_have_their_norms_and_activations():
    kinds = [type(module).__name__ for module in Pointwise([3, 4, 5], norm=True).layers]
    assert kinds == ["Linear", "BatchNorm1d", "ReLU", "Linear", "BatchNorm1d"]
    assert as_maps(draw(2, 3)).shape == (2, 3, 1, 1)
    with pytest.raises(LimbeckError):
        as_maps(draw(2, 4, 3))
