"""Image folders are decoded as they are; damaged files are named."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from limbeck.data import ImageFolder
from limbeck.errors import DataError, LimbeckError

Image = pytest.importorskip("PIL.Image", reason="Pillow is not installed: pip install 'limbeck[image]'")


def _picture(path, shape=(4, 6), *, seed=0):
    path.parent.mkdir(parents=True, exist_ok=True)
    pixels = np.random.default_rng(seed).integers(0, 256, shape, dtype=np.uint8)
    Image.fromarray(pixels).save(path)
    return torch.from_numpy(pixels)


def test_gray_images_are_their_pixels(tmp_path):
    pixels = {
        name: _picture(tmp_path / name, seed=seed)
        for seed, name in enumerate(["dog/b.png", "cat/z.bmp", "dog/a.PNG", "cat/y.webp"])
        if not name.endswith("webp")
    }
    (tmp_path / "readme.txt").write_text("not a class")
    (tmp_path / ".cache").mkdir()
    data = ImageFolder(tmp_path)
    assert data.class_names == ("cat", "dog")
    assert data.labels.tolist() == [0, 1, 1]
    assert (data.size, data.channels, len(data)) == ((4, 6), 1, 3)
    batch = data.take(torch.tensor([2, 0]))
    assert batch.inputs.dtype == torch.uint8
    assert torch.equal(batch.inputs[0], pixels["dog/b.png"])
    assert torch.equal(batch.inputs[1], pixels["cat/z.bmp"])
    assert batch.id.tolist() == [2, 0]
    assert batch.labels.tolist() == [1, 0]


def test_color_images_have_channels_first(tmp_path):
    pixels = _picture(tmp_path / "a/1.png", (4, 6, 3))
    data = ImageFolder(tmp_path)
    assert data.channels == 3
    assert torch.equal(data.take(torch.tensor([0])).inputs[0], pixels.permute(2, 0, 1))
    gray = ImageFolder(tmp_path, channels=1).take(torch.tensor([0])).inputs
    assert gray.shape == (1, 4, 6)


@pytest.mark.parametrize("suffix", ["jpg", "jpeg", "webp"])
def test_lossy_images_are_near(tmp_path, suffix):
    path = tmp_path / f"a/1.{suffix}"
    path.parent.mkdir()
    Image.fromarray(np.full((8, 8, 3), (200, 100, 50), np.uint8)).save(path)
    found = ImageFolder(tmp_path).take(torch.tensor([0])).inputs[0].float().mean((1, 2))
    assert float((found - torch.tensor([200.0, 100.0, 50.0])).abs().max()) < 6


def test_sizes_must_agree_or_be_given(tmp_path):
    _picture(tmp_path / "a/1.png", (4, 6))
    _picture(tmp_path / "a/2.png", (5, 6))
    with pytest.raises(DataError, match=r"2.png is 5x6 pixels and 1.png is 4x6; set size=\(4, 6\)"):
        ImageFolder(tmp_path)
    assert ImageFolder(tmp_path, size=(3, 2)).take(torch.arange(2)).inputs.shape == (2, 3, 2)


def test_the_fingerprint_is_the_content(tmp_path):
    for name in ("one", "two"):
        _picture(tmp_path / name / "a/1.png", seed=1)
        _picture(tmp_path / name / "b/1.png", seed=2)
    base = ImageFolder(tmp_path / "one").fingerprint
    assert base == ImageFolder(tmp_path / "two").fingerprint
    assert base != ImageFolder(tmp_path / "one", size=(2, 2)).fingerprint
    _picture(tmp_path / "two/b/1.png", seed=3)
    assert base != ImageFolder(tmp_path / "two").fingerprint


def test_a_damaged_image_is_named(tmp_path):
    whole = tmp_path / "a/1.png"
    _picture(whole, (40, 60))
    cut, text = tmp_path / "a/2.png", tmp_path / "a/3.png"
    cut.write_bytes(whole.read_bytes()[:400])
    data = ImageFolder(tmp_path)
    assert data.take(torch.tensor([0])).inputs.shape == (1, 40, 60)
    with pytest.raises(DataError, match=r"2.png cannot be decoded"):
        data.take(torch.tensor([0, 1]))
    text.write_text("hello")
    with pytest.raises(DataError, match=r"3.png cannot be decoded"):
        ImageFolder(tmp_path)
    text.write_bytes(b"")
    with pytest.raises(DataError, match=r"3.png cannot be decoded \(empty\)"):
        ImageFolder(tmp_path)


def test_folders_that_are_none_are_refused(tmp_path):
    with pytest.raises(DataError, match="There is no folder"):
        ImageFolder(tmp_path / "nowhere")
    with pytest.raises(DataError, match="has no class folders"):
        ImageFolder(tmp_path)
    _picture(tmp_path / "flat/1.png")
    with pytest.raises(DataError, match="1 images and no class folders"):
        ImageFolder(tmp_path / "flat")
    (tmp_path / "empty").mkdir()
    with pytest.raises(DataError, match="empty has no images"):
        ImageFolder(tmp_path)


def test_classes_can_be_fixed_by_another_folder(tmp_path):
    _picture(tmp_path / "b/1.png")
    assert ImageFolder(tmp_path, class_names=("a", "b")).labels.tolist() == [1]
    with pytest.raises(DataError, match="'b', which is not one of a, c"):
        ImageFolder(tmp_path, class_names=("a", "c"))


def test_options_are_checked(tmp_path):
    _picture(tmp_path / "b/1.png")
    with pytest.raises(LimbeckError, match="channels=2"):
        ImageFolder(tmp_path, channels=2)
    with pytest.raises(LimbeckError, match="size="):
        ImageFolder(tmp_path, size=(0, 3))
