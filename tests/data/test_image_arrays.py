"""Images in .npz files: channels last are put first, whole numbers become bytes, whatever type they were kept in."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from limbeck.data import NormalizeImages, load_data
from limbeck.data.npz import as_images
from limbeck.errors import DataError, LimbeckError
from limbeck.models import open_model

PIXELS = np.random.default_rng(0).integers(0, 256, (30, 10, 10, 3), dtype=np.uint8)
FIRST = PIXELS.transpose(0, 3, 1, 2)


def saved(path, x, **more):
    np.savez(path, x=x, y=np.arange(len(x)) % 3, **more)
    return path


@pytest.mark.parametrize("dtype", ["f2", "f4", "f8", "u1", "i2", "u2", "i4", "i8"])
@pytest.mark.parametrize("channels", [1, 3])
def test_channels_last_are_put_first(tmp_path, dtype, channels):
    scale = 255 if dtype[0] == "f" else 1
    data = load_data(saved(tmp_path / "a.npz", (PIXELS[..., :channels] / scale).astype(dtype)))
    batch = data.train.take(torch.arange(4))
    shape = tuple(data.preprocess(batch).shape[1:])
    assert shape == (channels, 10, 10)
    open_model("resnet8", input_shape=shape, classes=3)
    assert "height, width, channels" in data.note
    wanted = torch.from_numpy(np.ascontiguousarray(FIRST[batch.id.numpy()][:, :channels]))
    found = batch.inputs.reshape(wanted.shape)
    assert (found.double() * scale - wanted.double()).abs().max() < 0.2
    assert isinstance(data.preprocess, NormalizeImages) == (dtype[0] != "f")


def test_channels_first_are_left(tmp_path):
    data = load_data(saved(tmp_path / "a.npz", FIRST / 255))
    assert tuple(data.train.take(torch.arange(2)).inputs.shape) == (2, 3, 10, 10)
    assert "channels" not in data.note


@pytest.mark.parametrize(
    ("shape", "last"),
    [
        ((16, 16, 3), True), ((30, 40, 3), True), ((64, 64, 13), True), ((28, 28, 1), True), ((3, 16, 16), False),
        ((13, 64, 64), False), ((1, 28, 28), False), ((4, 4, 3), True), ((3, 4, 4), False), ((3, 30, 4), False),
        ((20, 20, 20), False), ((7, 7, 512), False),
    ],
)  # fmt: skip
def test_which_shapes_have_channels_last(shape, last):
    x = np.zeros((2, *shape), np.float32)
    found, notes = as_images({"x": x})
    assert found["x"].shape[1:] == ((shape[2], *shape[:2]) if last else shape)
    assert bool(notes) == last


def test_the_layout_can_be_given(tmp_path):
    path = saved(tmp_path / "a.npz", np.zeros((6, 3, 30, 4)))
    assert load_data(path, channels_last=True).train.take(torch.tensor([0])).inputs.shape == (1, 4, 3, 30)
    path = saved(tmp_path / "b.npz", np.zeros((6, 9, 9, 3)))
    assert load_data(path, channels_last=False).train.take(torch.tensor([0])).inputs.shape == (1, 9, 9, 3)
    with pytest.raises(LimbeckError, match="channels_last"):
        load_data(saved(tmp_path / "c.npz", np.zeros((6, 9))), channels_last=True)


def test_wide_whole_numbers_are_scaled_alike_in_both_parts():
    train, test = PIXELS.astype(np.uint16) * 16, PIXELS.astype(np.uint16) * 8
    found, notes = as_images({"x_train": train, "x_test": test})
    assert found["x_train"].dtype == found["x_test"].dtype == np.uint8
    assert np.abs(found["x_train"].astype(int) - 2 * found["x_test"].astype(int)).max() <= 1
    assert any("12 bits" in note for note in notes)


def test_other_whole_numbers_are_left_or_read_as_floats():
    tokens = np.arange(60).reshape(10, 6)
    assert as_images({"x": tokens})[0]["x"].dtype == tokens.dtype
    windows = np.arange(240).reshape(10, 6, 4)
    assert as_images({"x": windows})[0]["x"].dtype == windows.dtype
    found, notes = as_images({"x": FIRST.astype(np.int32) - 300})
    assert found["x"].dtype == np.float32
    assert "-300" in notes[0]


@pytest.mark.parametrize("name", ["resnet8", "cnn"])
def test_a_network_is_not_built_for_channels_that_come_last(name):
    with pytest.raises(LimbeckError, match="channels_last=True"):
        open_model(name, input_shape=(16, 16, 3), classes=3)


def test_damaged_files_are_refused_as_before(tmp_path):
    with pytest.raises(DataError):
        load_data(saved(tmp_path / "a.npz", np.full((6, 9, 9, 3), np.nan)))
