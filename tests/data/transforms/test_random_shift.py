"""A shifted image does not depend on the batch."""

from __future__ import annotations

import pytest
import torch

from limbeck.data import RandomShift, Transform
from limbeck.errors import DataError, LimbeckError


def _shifted_by_hand(image: torch.Tensor, down: int, right: int) -> torch.Tensor:
    out = torch.zeros_like(image)
    height, width = image.shape[-2:]
    for y in range(height):
        for x in range(width):
            if 0 <= y - down < height and 0 <= x - right < width:
                out[..., y, x] = image[..., y - down, x - right]
    return out


@pytest.mark.parametrize("shape", [(12, 7, 5), (12, 3, 7, 5), (12, 1, 4, 9)])
@pytest.mark.parametrize("dtype", [torch.uint8, torch.float32, torch.int64, torch.bool])
@pytest.mark.parametrize("pixels", [0, 1, 3, 10])
def test_shift_is_the_loop_over_pixels(shape, dtype, pixels):
    images = torch.randint(0, 2 if dtype == torch.bool else 200, shape).to(dtype)
    id, view = torch.arange(12) * 7, torch.arange(12) % 3
    shift = RandomShift(pixels, seed=4)
    found = shift(images, id, view)
    assert found.dtype == dtype
    for row, (down, right) in enumerate(shift.offsets(id, view).tolist()):
        assert torch.equal(found[row], _shifted_by_hand(images[row], down, right))


def test_offsets_are_uniform_over_the_whole_range():
    offsets = RandomShift(2).offsets(torch.arange(50_000), torch.zeros(50_000, dtype=torch.int64))
    for axis in (0, 1):
        values, counts = offsets[:, axis].unique(return_counts=True)
        assert values.tolist() == [-2, -1, 0, 1, 2]
        assert float((counts / 50_000 - 0.2).abs().max()) < 0.01
    assert abs(float(torch.corrcoef(offsets.T.double())[0, 1])) < 0.03


def test_a_view_does_not_depend_on_the_batch_it_is_met_in():
    images = torch.randint(0, 256, (20, 8, 8), dtype=torch.uint8)
    id, view = torch.arange(20), torch.full((20,), 3)
    some = torch.tensor([13, 2, 7])
    shift = RandomShift(3)
    assert torch.equal(shift(images, id, view)[some], shift(images[some], id[some], view[some]))


def test_views_and_seeds_differ():
    id = torch.arange(100)
    zero, one = torch.zeros_like(id), torch.ones_like(id)
    base = RandomShift(4).offsets(id, zero)
    assert not torch.equal(base, RandomShift(4).offsets(id, one))
    assert not torch.equal(base, RandomShift(4, seed=1).offsets(id, zero))


def test_the_inputs_are_left_alone():
    images = torch.ones(4, 3, 3)
    RandomShift(2)(images, torch.arange(4), torch.zeros(4, dtype=torch.int64))
    assert torch.equal(images, torch.ones(4, 3, 3))


def test_fingerprints_tell_parameters_apart():
    assert isinstance(RandomShift(2), Transform)
    assert len({RandomShift(2).fingerprint, RandomShift(3).fingerprint, RandomShift(2, seed=1).fingerprint}) == 3


def test_what_is_no_image_is_refused():
    one = torch.arange(2)
    with pytest.raises(LimbeckError, match="pixels=-1"):
        RandomShift(-1)
    with pytest.raises(DataError, match=r"\[batch, h, w\]"):
        RandomShift(1)(torch.zeros(2, 5), one, one)
    with pytest.raises(DataError, match=r"transpose\(0, 3, 1, 2\)"):
        RandomShift(1)(torch.zeros(2, 8, 8, 3), one, one)
