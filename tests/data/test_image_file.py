"""Tests of images of every kind: scaled, converted, counted or refused; damaged files."""

from __future__ import annotations

import struct
import zlib

import numpy as np
import pytest
import torch

from limbeck.data import ImageFolder, load_data, verify
from limbeck.errors import DataError, LimbeckError

Image = pytest.importorskip("PIL.Image", reason="Pillow is not installed: pip install 'limbeck[image]'")
RAMP = np.arange(256, dtype=np.uint8).reshape(16, 16)


def put(path, pixels=RAMP, **options):
    path.parent.mkdir(parents=True, exist_ok=True)
    picture = pixels if isinstance(pixels, Image.Image) else Image.fromarray(pixels)
    picture.save(path, **options)
    return path


def wide(top):
    return np.round(RAMP.astype(float) * top / 255).astype(np.uint16)


@pytest.mark.parametrize("suffix", ["png", "tif", "pgm"])
@pytest.mark.parametrize("channels", [None, 3])
def test_sixteen_bits_are_scaled_to_eight(tmp_path, suffix, channels):
    put(tmp_path / f"a/1.{suffix}", wide(65535))
    images = ImageFolder(tmp_path, channels=channels)
    assert images.bit_depth == 16
    assert (
        images.take(torch.tensor([0]))
        .inputs[0]
        .equal(torch.from_numpy(RAMP) if channels is None else torch.from_numpy(RAMP).expand(3, 16, 16))
    )
    assert any("1 of 1 images" in note and "16 bits" in note for note in images.notes) or "1 of 1" in images.notes[0]


def test_the_bits_are_those_that_the_greatest_value_of_all_images_needs(tmp_path):
    put(tmp_path / "a/1.png", wide(900))
    put(tmp_path / "a/2.png", wide(4095))
    put(tmp_path / "b/3.png")
    images = ImageFolder(tmp_path)
    assert (images.bit_depth, images.channels) == (12, 1)
    found = images.take(torch.arange(3)).inputs
    assert found[1].equal(torch.from_numpy(RAMP))
    assert found[2].equal(torch.from_numpy(RAMP))
    assert int(found[0].max()) == round(900 / 4095 * 255)
    assert ImageFolder(tmp_path, bit_depth=16).take(torch.tensor([1])).inputs.max() == 16
    assert images.fingerprint != ImageFolder(tmp_path, bit_depth=16).fingerprint


def test_a_part_with_more_bits_than_the_training_part_is_refused(tmp_path):
    for label in "ab":
        for number in range(3):
            put(tmp_path / f"train/{label}/{number}.png", wide(4095))
        put(tmp_path / f"test/{label}/1.png", wide(65535))
    data = load_data(tmp_path)
    with pytest.raises(DataError, match="bit_depth=16"):
        verify([data.test])
    verify([load_data(tmp_path, bit_depth=16).test])


def sixteen_bit_png(pixels):
    """Pillow writes none with several channels."""
    height, width, channels = pixels.shape
    rows = b"".join(b"\0" + row.astype(">u2").tobytes() for row in pixels)

    def chunk(name, content):
        return struct.pack(">I", len(content)) + name + content + struct.pack(">I", zlib.crc32(name + content))

    kind = {1: 0, 2: 4, 3: 2, 4: 6}[channels]
    head = struct.pack(">IIBBBBB", width, height, 16, kind, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", head) + chunk(b"IDAT", zlib.compress(rows)) + chunk(b"IEND", b"")


@pytest.mark.parametrize("channels", [2, 3, 4])
def test_of_sixteen_bits_a_channel_the_upper_eight_are_read_and_nearly_black_ones_refused(tmp_path, channels):
    (tmp_path / "a").mkdir()
    pixels = np.repeat(wide(65535)[..., None], channels, 2)
    (tmp_path / "a/1.png").write_bytes(sixteen_bit_png(pixels))
    images = ImageFolder(tmp_path, channels=3)
    assert images.take(torch.tensor([0])).inputs[0, 0].equal(torch.from_numpy(RAMP))
    assert any("upper 8" in note for note in images.notes)
    (tmp_path / "a/1.png").write_bytes(sixteen_bit_png(pixels // 16))
    with pytest.raises(DataError, match="bit_depth=16"):
        ImageFolder(tmp_path)
    assert int(ImageFolder(tmp_path, bit_depth=16).take(torch.tensor([0])).inputs.max()) == 15


def test_floating_point_pixels_are_refused(tmp_path):
    put(tmp_path / "a/1.tif", RAMP.astype(np.float32))
    with pytest.raises(DataError, match="floating-point"):
        ImageFolder(tmp_path)


def test_one_image_in_color_makes_all_of_them_so(tmp_path):
    put(tmp_path / "a/1.png")
    put(tmp_path / "a/2.png", np.stack([RAMP, RAMP.T, RAMP], 2))
    images = ImageFolder(tmp_path)
    assert images.channels == 3
    assert any("1 of 2 images" in note and "gray: 1" in note for note in images.notes)


def sideways():
    found = Image.Exif()
    found[0x0112] = 6
    return found


KINDS = {
    "palette": (Image.fromarray(np.stack([RAMP] * 3, 2)).quantize(16), "png", {}, "palette: 1"),
    "CMYK": (Image.fromarray(np.stack([RAMP] * 3, 2)).convert("CMYK"), "jpg", {}, "CMYK: 1"),
    "RGBA": (Image.fromarray(np.stack([RAMP] * 4, 2)), "png", {}, "transparency"),
    "LA": (Image.fromarray(np.stack([RAMP] * 2, 2)), "png", {}, "transparency"),
    "P with bytes": (Image.fromarray(RAMP).convert("P"), "png", {"transparency": bytes(range(256))}, "transparency"),
    "animated": (
        Image.fromarray(RAMP), "gif", {"save_all": True, "append_images": [Image.fromarray(RAMP.T)]}, "frames",
    ),
    "rotated": (Image.fromarray(RAMP), "jpg", {"exif": sideways()}, "EXIF"),
}  # fmt: skip


@pytest.mark.parametrize("kind", KINDS)
def test_what_is_converted_is_reported(tmp_path, kind):
    picture, suffix, options, words = KINDS[kind]
    put(tmp_path / f"a/1.{suffix}", picture, **options)
    images = ImageFolder(tmp_path, channels=3)
    assert images.take(torch.tensor([0])).inputs.shape == (1, 3, 16, 16)
    assert any(words in note and note.startswith("1 of 1") for note in images.notes), images.notes


def test_black_and_white_is_gray(tmp_path):
    put(tmp_path / "a/1.png", Image.fromarray(RAMP > 99))
    found = ImageFolder(tmp_path).take(torch.tensor([0])).inputs[0]
    assert found.equal(torch.from_numpy(RAMP > 99) * torch.tensor(255, dtype=torch.uint8))


def test_files_in_sub_folders_and_of_other_kinds_are_counted(tmp_path):
    for place in ("a/1.png", "a/deep/er/2.PNG", "b/3.tif", "b/4.gif", "loose.png"):
        put(tmp_path / place)
    put(tmp_path / "b/5.jfif", format="JPEG")
    for place in ("a/notes.txt", "b/deep.svg", "b/.hidden.png", "readme.md"):
        (tmp_path / place).write_text("no picture")
    images = ImageFolder(tmp_path)
    assert [path.name for path in images.paths] == ["1.png", "2.PNG", "3.tif", "4.gif", "5.jfif"]
    assert images.labels.tolist() == [0, 0, 1, 1, 1]
    notes = " ".join(images.notes)
    for words in ("1 of 5 images are in subfolders", "1 image outside", "3 files that are not images", ".svg: 1"):
        assert words in notes


def test_images_that_are_all_alike_need_no_note(tmp_path):
    put(tmp_path / "a/1.png")
    put(tmp_path / "b/1.png")
    assert ImageFolder(tmp_path).notes == ()


def parts(home, *names, count=5):
    for name in names:
        for label in ("cat", "dog"):
            for number in range(count):
                put(home / name / label / f"{number}.png", np.full((4, 4), 10 * number, np.uint8))


@pytest.mark.parametrize("train", ["train", "Training", "TRAIN"])
@pytest.mark.parametrize("other", ["val", "Valid", "validation", "dev", "test", "Testing"])
def test_the_part_beside_the_training_part_is_tested_with(tmp_path, train, other):
    parts(tmp_path, train, count=4)
    parts(tmp_path, other, count=3)
    data = load_data(tmp_path)
    assert (len(data.train), len(data.test), data.development) == (8, 6, None)
    assert str(tmp_path / other) in {part.source for part in data.summary.parts}
    assert (f"{other}/ is the test part" in data.note) == (not other.lower().startswith("test"))


def test_of_three_parts_val_is_for_development(tmp_path):
    parts(tmp_path, "train", "val", "test", count=3)
    parts(tmp_path, "extra", count=1)
    data = load_data(tmp_path)
    assert [len(part) for part in (data.train, data.development, data.test)] == [6, 6, 6]
    assert "extra/" in data.note
    assert data.fingerprint != load_data(tmp_path, size=[2, 2]).fingerprint


def test_parts_that_are_not_clear_are_refused(tmp_path):
    parts(tmp_path / "two", "train", "Training", "val")
    with pytest.raises(DataError, match="Training/"):
        load_data(tmp_path / "two")
    parts(tmp_path / "none", "val", "test")
    with pytest.raises(DataError, match="no train/"):
        load_data(tmp_path / "none")
    parts(tmp_path / "classes", "test", "west")  # classes may be called as parts are, where none is to train on
    assert load_data(tmp_path / "classes").class_names == ("test", "west")


def damage(path, how):
    content = path.read_bytes()
    path.write_bytes({"empty": b"", "cut": content[: len(content) * 2 // 3], "text": b"hello"}[how])


def test_all_damaged_images_are_detected_and_five_are_named(tmp_path):
    for number in range(12):
        put(tmp_path / f"a/{number:02}.png", np.random.default_rng(number).integers(0, 255, (16, 16), dtype=np.uint8))
    images = ImageFolder(tmp_path)
    seen = []
    verify([images], progress=lambda done, of: seen.append((done, of)))
    assert seen[-1] == (12, 12)
    for number in range(1, 8):
        damage(tmp_path / f"a/{number:02}.png", ("empty", "cut", "text")[number % 3])
    with pytest.raises(DataError, match=r"^7 of 12 images") as caught:
        verify([images])
    assert [f"{number:02}.png" in str(caught.value) for number in range(12)] == [0 < number < 6 for number in range(12)]
    verify([images.select(torch.tensor([0, 8, 11]))])
    with pytest.raises(DataError, match=r"^4 of 12"):  # the headers of those that are empty or no pictures
        ImageFolder(tmp_path)


def test_every_bit_of_a_png_that_changes_its_pixels_is_noticed(tmp_path):
    whole = put(tmp_path / "a/1.png", np.random.default_rng(0).integers(0, 255, (8, 8), dtype=np.uint8))
    images, content = ImageFolder(tmp_path), whole.read_bytes()
    before = images.take(torch.tensor([0])).inputs
    for place in range(16, len(content)):
        whole.write_bytes(content[:place] + bytes([content[place] ^ 4]) + content[place + 1 :])
        try:
            verify([images])
        except DataError:
            continue
        assert images.take(torch.tensor([0])).inputs.equal(before), place


@pytest.mark.usefixtures("unchecked")
@pytest.mark.parametrize("options", [{"bit_depth": 7}, {"bit_depth": 12.0}, {"num_workers": -2}, {"size": (3,)}])
def test_options_that_make_no_sense_are_refused(tmp_path, options):
    put(tmp_path / "a/1.png")
    with pytest.raises(LimbeckError, match=next(iter(options))):
        ImageFolder(tmp_path, **options)


def test_what_is_decoded_does_not_depend_on_the_threads(tmp_path):
    parts(tmp_path, "train", "test", count=20)
    alone, several = load_data(tmp_path, num_workers=0), load_data(tmp_path, num_workers=3)
    assert alone.preprocess == several.preprocess
    assert alone.fingerprint == several.fingerprint
    assert several.train.num_workers == 3
