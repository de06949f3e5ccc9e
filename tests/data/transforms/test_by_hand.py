"""Each image operation equals a loop over pixels in double precision."""

from __future__ import annotations

import colorsys
import math

import numpy as np
import pytest
import torch

from limbeck.data import ColorJitter, Crop, Cutout, Flip, RandAugment, ResizedCrop
from limbeck.data.transforms.rand_augment import OPERATIONS
from limbeck.data.transforms.resampling import Matrix, _resize_on_any_device, resize_boxes, rotation_matrix, warp

N = 24
IDS, VIEWS = torch.arange(N) * 11, torch.arange(N) % 3
SHAPES = [(N, 3, 8, 6), (N, 7, 9)]
KINDS = [torch.uint8, torch.float32]


def pictures(shape, dtype=torch.uint8):
    images = torch.randint(0, 256, shape, dtype=torch.uint8)
    return images if dtype == torch.uint8 else images.float() / 255


def planes(image):
    """[c, h, w] in double precision, 0 to 1."""
    found = image.double().numpy() / (255 if image.dtype == torch.uint8 else 1)
    return found if found.ndim == 3 else found[None]


def close(found, wanted, *, levels=0):
    """Floats agree to rounding; of bytes a few may fall on the other side of a half."""
    wanted = wanted.reshape(found.shape)
    if found.dtype == torch.uint8:
        apart = np.abs(found.double().numpy() - np.clip(wanted * 255, 0, 255))
        assert apart.max() <= 0.5 + 1e-3 + levels
    else:
        np.testing.assert_allclose(found.double().numpy(), wanted, atol=2e-6)


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize(("padding", "size", "fill"), [(2, None, 0), (3, (4, 5), 7), (0, 3, 0), (1, (9, 8), 1)])
def test_crop(shape, padding, size, fill):
    images = pictures(shape)
    crop = Crop(padding, size, fill)
    found = crop(images, IDS, VIEWS)
    height, width = shape[-2:]
    rows, columns = size if isinstance(size, tuple) else (size, size) if size else (height, width)
    places = (height + 2 * padding - rows + 1, width + 2 * padding - columns + 1)
    for number, (top, left) in enumerate(crop.corners(IDS, VIEWS, counts=places).tolist()):
        for y in range(rows):
            for x in range(columns):
                down, right = top + y - padding, left + x - padding
                inside = 0 <= down < height and 0 <= right < width
                wanted = images[number, ..., down, right] if inside else torch.full(shape[1:-2], fill)
                assert torch.equal(found[number, ..., y, x], wanted.to(torch.uint8))


def test_every_place_of_a_crop_is_equally_likely():
    ids = torch.arange(30_000)
    corners = Crop(2).corners(ids, ids * 0, counts=(5, 3))
    for axis, count in enumerate((5, 3)):
        shares = corners[:, axis].bincount().double() / 30_000
        assert len(shares) == count
        assert float((shares - 1 / count).abs().max()) < 0.01


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("dtype", KINDS)
@pytest.mark.parametrize("size", [None, 5, (12, 4)])
def test_resized_crop(shape, dtype, size):
    images = pictures(shape, dtype)
    crop = ResizedCrop(size)
    found = crop(images, IDS, VIEWS)
    boxes = crop.boxes(IDS, VIEWS, height=shape[-2], width=shape[-1]).tolist()
    for number, (top, left, tall, wide) in enumerate(boxes):
        box = planes(images[number])[:, top : top + tall, left : left + wide]
        rows, columns = found.shape[-2:]
        wanted = np.zeros((box.shape[0], rows, columns))
        for y in range(rows):
            for x in range(columns):
                down = min(max((y + 0.5) * tall / rows - 0.5, 0), tall - 1)
                right = min(max((x + 0.5) * wide / columns - 0.5, 0), wide - 1)
                up, near = int(down), int(right)
                under, far = min(up + 1, tall - 1), min(near + 1, wide - 1)
                part, share = down - up, right - near
                upper = (1 - share) * box[:, up, near] + share * box[:, up, far]
                lower = (1 - share) * box[:, under, near] + share * box[:, under, far]
                wanted[:, y, x] = (1 - part) * upper + part * lower
        # Positions are whole numbers of 1/2048 of a pixel.
        apart = np.abs(planes(found[number]) - wanted)
        assert apart.max() <= (0.5 / 255 if dtype == torch.uint8 else 0) + 2 / 2048


@pytest.mark.parametrize("size", [(1, 1), (5, 9), (40, 24), (224, 224)])
@pytest.mark.parametrize("shape", [(9, 3, 31, 20), (9, 1, 7, 50), (9, 4, 30, 30), (9, 2, 1, 1)])
def test_bytes_are_resized_on_a_processor_as_on_any_device(shape, size):
    images = pictures(shape)
    ids = torch.arange(9)
    boxes = ResizedCrop().boxes(ids, ids, height=shape[2], width=shape[3])
    found, wanted = resize_boxes(images, boxes, size), _resize_on_any_device(images, boxes, size)
    assert found.dtype == torch.uint8
    assert found.equal(wanted)
    # Whatever else is in the batch, and however it lies in memory.
    assert resize_boxes(images.flip(0), boxes.flip(0), size).flip(0).equal(wanted)
    last = images.permute(0, 2, 3, 1).contiguous().permute(0, 3, 1, 2)
    assert resize_boxes(last[4:5], boxes[4:5], size).equal(wanted[4:5])


def test_boxes_have_the_area_and_shape_that_were_requested():
    ids = torch.arange(20_000)
    boxes = ResizedCrop(scale=(0.2, 0.8), ratio=(0.5, 2.0)).boxes(ids, ids * 0, height=200, width=200).double()
    top, left, tall, wide = boxes.unbind(1)
    assert bool(((top >= 0) & (left >= 0) & (top + tall <= 200) & (left + wide <= 200)).all())
    area, shape = tall * wide / 200**2, (wide / tall).log2()
    assert 0.195 < float(area.min()) < 0.21
    assert 0.79 < float(area.max()) < 0.81
    assert -1.02 < float(shape.min()) < -0.98
    assert abs(float(shape.mean())) < 0.01
    for draw in (top / (200 - tall).clamp(min=1), left / (200 - wide).clamp(min=1)):
        assert abs(float(draw.mean()) - 0.5) < 0.01


@pytest.mark.parametrize(("height", "width", "middle"), [(10, 40, [0, 13, 10, 13]), (40, 10, [13, 0, 13, 10])])
def test_where_no_draw_fits_the_box_is_the_largest_in_the_middle(height, width, middle):
    boxes = ResizedCrop(scale=(1.0, 1.0)).boxes(IDS, VIEWS, height=height, width=width)
    assert boxes.tolist() == [middle] * N


@pytest.mark.parametrize("vertical", [False, True])
@pytest.mark.parametrize("shape", SHAPES)
def test_flip(shape, vertical):
    images = pictures(shape)
    flip = Flip(vertical=vertical)
    found = flip(images, IDS, VIEWS)
    swapped = flip.flipped(IDS, VIEWS).tolist()
    assert 0 < sum(swapped) < N
    for number, is_swapped in enumerate(swapped):
        image = images[number].numpy()
        mirrored = image[..., ::-1, :] if vertical else image[..., ::-1]
        np.testing.assert_array_equal(found[number].numpy(), mirrored if is_swapped else image)
    always = Flip(1.0, vertical=vertical)
    once = always(images, IDS, VIEWS)
    assert not torch.equal(once, images)
    assert torch.equal(always(once, IDS, VIEWS), images)
    even = (images.int() + images.flip(-2 if vertical else -1).int()).float()
    assert torch.equal(flip(even, IDS, VIEWS), even)


def test_the_share_that_is_flipped_is_the_probability():
    ids = torch.arange(20_000)
    assert abs(float(Flip(0.3).flipped(ids, ids * 0).double().mean()) - 0.3) < 0.01
    both = Flip().flipped(ids, ids * 0) == Flip(vertical=True).flipped(ids, ids * 0)
    assert abs(float(both.double().mean()) - 0.5) < 0.015


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize(("size", "fill"), [(1, 0), (4, 0), (5, 9)])
def test_cut_out(shape, size, fill):
    images = pictures(shape)
    cut = Cutout(size, fill)
    found, hidden = cut(images, IDS, VIEWS), cut.covered(IDS, VIEWS, height=shape[-2], width=shape[-1])
    for number in range(N):
        rows, columns = hidden[number].any(1).nonzero()[:, 0].tolist(), hidden[number].any(0).nonzero()[:, 0].tolist()
        for run, length in ((rows, shape[-2]), (columns, shape[-1])):
            assert run == list(range(run[0], run[-1] + 1))
            # A whole side, unless a border cuts it off, and never less than half of it.
            assert len(run) == size or (run[0] == 0 or run[-1] == length - 1)
            assert size // 2 <= len(run) <= size
        for y in range(shape[-2]):
            for x in range(shape[-1]):
                wanted = torch.full(shape[1:-2], fill) if y in rows and x in columns else images[number, ..., y, x]
                assert torch.equal(found[number, ..., y, x], wanted.to(torch.uint8))


def luma(plane):
    return plane if len(plane) == 1 else np.tensordot([0.299, 0.587, 0.114], plane, 1)[None]


def mix(plane, other, factor):
    return np.clip(factor * plane + (1 - factor) * other, 0, 1)


def turned(plane, turns):
    if len(plane) == 1:
        return plane
    out = np.zeros_like(plane)
    for y in range(plane.shape[1]):
        for x in range(plane.shape[2]):
            hue, full, value = colorsys.rgb_to_hsv(*plane[:, y, x])
            out[:, y, x] = colorsys.hsv_to_rgb((hue + turns) % 1.0, full, value)
    return out


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("dtype", KINDS)
@pytest.mark.parametrize(
    "amounts", [(0.5, 0, 0, 0), (0, 0.9, 0, 0), (0, 0, 2.0, 0), (0, 0, 0, 0.5), (0.4, 0.4, 0.4, 0.1)]
)
def test_jitter(shape, dtype, amounts):
    images = pictures(shape, dtype)
    jitter = ColorJitter(*amounts)
    found = jitter(images, IDS, VIEWS)
    for number, (bright, contrast, color, turns) in enumerate(jitter.amounts(IDS, VIEWS).tolist()):
        plane = np.clip(planes(images[number]) * bright, 0, 1)
        plane = mix(plane, luma(plane).mean(), contrast)
        plane = mix(plane, luma(plane), color)
        close(found[number], turned(plane, turns))


def test_amounts_are_uniform_within_what_was_requested():
    ids = torch.arange(20_000)
    found = ColorJitter(0.4, 2.0, 0.1, 0.25).amounts(ids, ids * 0)
    for column, (low, high) in zip(found.unbind(1), [(0.6, 1.4), (0.0, 3.0), (0.9, 1.1), (-0.25, 0.25)], strict=True):
        wanted = torch.linspace(low, high, 20_000, dtype=torch.float64)
        assert float((column.sort().values - wanted).abs().max()) < 0.02 * (high - low)
    apart = torch.corrcoef(found.T) - torch.eye(4)
    assert float(apart.abs().max()) < 0.03


def test_a_hue_of_a_third_moves_the_channels_round():
    images = pictures((4, 3, 5, 5), torch.float32)
    from limbeck.data.transforms.color import adjust_hue

    found = adjust_hue(images, torch.full((4,), 1 / 3))
    torch.testing.assert_close(found, images.roll(1, 1), atol=2e-6, rtol=0)


def auto_contrast(plane):
    out = plane.copy()
    for channel in range(len(plane)):
        low, high = plane[channel].min(), plane[channel].max()
        if high > low:
            out[channel] = (plane[channel] - low) / (high - low)
    return out


def equalize(plane):
    """Pillow's: as many pixels in each step as 1/255 of all but the lightest."""
    out = plane.copy()
    for channel in range(len(plane)):
        bytes_ = np.rint(plane[channel] * 255).astype(int)
        count = np.bincount(bytes_.ravel(), minlength=256)
        step = (count.sum() - count[count.nonzero()[0][-1]]) // 255
        if step:
            table = [min((count[:level].sum() + step // 2) // step, 255) for level in range(256)]
            out[channel] = np.array(table)[bytes_] / 255
    return out


def sharpened(plane, factor):
    smooth = plane.copy()
    for y in range(1, plane.shape[1] - 1):
        for x in range(1, plane.shape[2] - 1):
            around = plane[:, y - 1 : y + 2, x - 1 : x + 2].sum((1, 2))
            smooth[:, y, x] = (around + 4 * plane[:, y, x]) / 13
    return mix(plane, smooth, factor)


def moved(plane, source):
    """Each pixel from where `source(x, y)` says, from the image's middle, to the nearest."""
    _, height, width = plane.shape
    out = np.zeros_like(plane)
    for y in range(height):
        for x in range(width):
            right, down = source(x - (width - 1) / 2, y - (height - 1) / 2)
            column, row = math.floor(right + width / 2), math.floor(down + height / 2)
            if 0 <= column < width and 0 <= row < height:
                out[:, y, x] = plane[:, row, column]
    return out


def by_hand(name, plane, up, strength):
    factor, sign = (1 + 0.9 * strength if up else 1 - 0.9 * strength), 1 if up else -1
    height, width = plane.shape[1:]
    bits = 8 - round(4 * strength)
    angle, shear = math.radians(30 * strength * sign), 0.3 * strength * sign
    across, along = (int(150 / 331 * side * strength) * sign for side in (width, height))
    return {
        "identity": lambda: plane,
        "auto-contrast": lambda: auto_contrast(plane),
        "equalize": lambda: equalize(plane),
        "rotate": lambda: moved(
            plane,
            lambda x, y: (math.cos(angle) * x - math.sin(angle) * y, math.sin(angle) * x + math.cos(angle) * y),
        ),
        "solarize": lambda: np.where(plane * 255 >= 256 * (1 - strength) - 1e-4, 1 - plane, plane),
        "color": lambda: mix(plane, luma(plane), factor),
        "posterize": lambda: plane if bits == 8 else (np.rint(plane * 255) // 2 ** (8 - bits)) * 2 ** (8 - bits) / 255,
        "contrast": lambda: mix(plane, luma(plane).mean(), factor),
        "brightness": lambda: np.clip(plane * factor, 0, 1),
        "sharpness": lambda: sharpened(plane, factor),
        "shear x": lambda: moved(plane, lambda x, y: (x + shear * y, y)),
        "shear y": lambda: moved(plane, lambda x, y: (x, y + shear * x)),
        "translate x": lambda: moved(plane, lambda x, y: (x - across, y)),
        "translate y": lambda: moved(plane, lambda x, y: (x, y - along)),
    }[name]()


@pytest.mark.parametrize("name", OPERATIONS)
@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("dtype", KINDS)
@pytest.mark.parametrize("strength", [0.0, 0.3, 1.0])
def test_operation(name, channels, dtype, strength):
    images = pictures((8, channels, 24, 25), dtype)
    images[1] = images[1, 0, 0, 0]  # of one level
    images[2, :, :, 12:] = 0  # and a dark half
    up = torch.arange(8) % 2 == 0
    found = OPERATIONS[name](images, up, strength)
    assert found.dtype == dtype
    for number in range(8):
        close(found[number], by_hand(name, planes(images[number]), bool(up[number]), strength))
    if strength == 0 and name not in ("auto-contrast", "equalize"):
        torch.testing.assert_close(found, images, atol=1e-6, rtol=0)
    if dtype == torch.uint8 and strength == 0 and name not in ("auto-contrast", "equalize"):
        assert torch.equal(found, images)


def test_equalize_is_pillows():
    pillow = pytest.importorskip("PIL.ImageOps", reason="Pillow is not installed")
    from PIL import Image

    images = pictures((5, 1, 40, 40))
    images[1] = images[1] // 8
    images[2, :, :30] = 7
    found = OPERATIONS["equalize"](images, torch.ones(5, dtype=torch.bool), 0.5)
    for number in range(5):
        wanted = np.asarray(pillow.equalize(Image.fromarray(images[number, 0].numpy())))
        np.testing.assert_array_equal(found[number, 0].numpy(), wanted)


def test_quarter_turns_are_exact():
    images = pictures((3, 2, 9, 9))
    found = warp(images, torch.tensor([True, False, True]), rotation_matrix(90.0), rotation_matrix(-90.0))
    wanted = [torch.rot90(image, k, (1, 2)) for image, k in zip(images, (1, -1, 1), strict=True)]
    assert torch.equal(found, torch.stack(wanted))
    assert torch.equal(warp(images, torch.ones(3, dtype=torch.bool), Matrix(), Matrix()), images)


@pytest.mark.parametrize("dtype", KINDS)
def test_operations_follow_each_other_as_they_were_drawn(dtype):
    images = pictures((N, 3, 16, 16), dtype)
    augment = RandAugment(n=3, magnitude=15)
    found = augment(images, IDS, VIEWS)
    which, up = augment.draw_operations(IDS, VIEWS)
    operations = list(OPERATIONS.values())
    for number in range(N):
        image = images[number : number + 1]
        for place, forth in zip(which[number].tolist(), up[number].tolist(), strict=True):
            image = operations[place](image, torch.tensor([forth]), 0.5)
        assert torch.equal(found[number], image[0])


def test_every_operation_and_direction_is_equally_likely():
    ids = torch.arange(30_000)
    which, up = RandAugment(n=2).draw_operations(ids, ids * 0)
    for column in which.unbind(1):
        shares = column.bincount(minlength=14).double() / 30_000
        assert len(shares) == 14
        assert float((shares - 1 / 14).abs().max()) < 0.006
    assert abs(float(up.double().mean()) - 0.5) < 0.01
