"""Every transform is a pure function of image, id and view number."""

from __future__ import annotations

import hashlib
from dataclasses import fields, replace

import pytest
import torch

from limbeck.data import Chain, ColorJitter, Crop, Cutout, Flip, RandAugment, RandomShift, ResizedCrop, Transform
from limbeck.errors import DataError, LimbeckError
from loops import loop

IDS, VIEWS = torch.arange(40) * 7 + 3, torch.arange(40) % 5

ALL = [
    RandomShift(2), Crop(), Crop(padding=2, size=(5, 7), fill=3), ResizedCrop(), ResizedCrop((6, 12)), Flip(),
    Flip(0.7, vertical=True), ColorJitter(0.4, 0.4, 0.4, 0.1), ColorJitter(hue=0.5), Cutout(4), Cutout(3, fill=1),
    RandAugment(n=3, magnitude=20), Chain(Crop(), Flip(), RandAugment(), Cutout(2)),
]  # fmt: skip
CHANGES = {
    RandomShift: {"pixels": 3, "seed": 1},
    Crop: {"padding": 3, "size": 7, "fill": 1.0, "seed": 1},
    ResizedCrop: {"size": 5, "scale": (0.5, 1.0), "ratio": (1.0, 1.0), "seed": 1},
    Flip: {"probability": 0.25, "vertical": True, "seed": 1},
    ColorJitter: {"brightness": 0.1, "contrast": 0.1, "saturation": 0.1, "hue": 0.1, "seed": 1},
    Cutout: {"size": 3, "fill": 1.0, "seed": 1},
    RandAugment: {"n": 1, "magnitude": 3.0, "seed": 1},
}
IDENTITIES = [
    RandomShift(0), Crop(padding=0), Crop(padding=0, size=(9, 9)), ResizedCrop(scale=(1, 1), ratio=(1, 1)), Flip(0.0),
    ColorJitter(), Cutout(0), RandAugment(n=0), Chain(Crop(0), Flip(0.0)),
]  # fmt: skip


def name(view) -> str:
    return view.fingerprint if isinstance(view, Transform) else str(view)


def pictures(kind="color", dtype=torch.uint8, *, n=40, side=9):
    """Whole numbers of a fixed sequence, so that no version of a random generator can change them."""
    shape = (n, 3, side, side) if kind == "color" else (n, 1, side, side) if kind == "one" else (n, side, side)
    count = torch.Size(shape).numel()
    values = (torch.arange(count) * 2654435761 % 2**32) >> 24
    images = values.view(shape).to(torch.uint8)
    return images if dtype == torch.uint8 else (images.double() / 255).to(dtype)


@pytest.mark.parametrize("view", ALL, ids=name)
@loop("kind", ["color", "gray", "one"])
@loop("dtype", [torch.uint8, torch.float32, torch.float64, torch.float16])
def test_the_batch_does_not_matter_nor_its_order_nor_its_size(view, kind, dtype):
    images = pictures(kind, dtype)
    kept = images.clone()
    whole = view(images, IDS, VIEWS)
    assert whole.dtype == dtype
    assert whole.ndim == images.ndim
    assert torch.equal(images, kept)
    order = torch.arange(40).flip(0)
    assert torch.equal(view(images[order], IDS[order], VIEWS[order])[order], whole)
    for part in (torch.tensor([17]), torch.tensor([3, 3, 30]), torch.arange(7, 24)):
        assert torch.equal(view(images[part], IDS[part], VIEWS[part]), whole[part])


@pytest.mark.parametrize("view", ALL, ids=name)
def test_another_seed_another_view_and_another_id_are_other_images(view):
    images = pictures()[:1].expand(40, -1, -1, -1)
    zero = torch.zeros_like(IDS)
    first = view(images, IDS, zero)
    other_seed = (
        Chain(*(replace(one, seed=9) for one in view.transforms)) if isinstance(view, Chain) else replace(view, seed=9)
    )
    assert not torch.equal(first, view(images, IDS, zero + 1))
    assert not torch.equal(first, view(images, IDS + 1000, zero))
    assert not torch.equal(first, other_seed(images, IDS, zero))


@pytest.mark.parametrize("view", ALL, ids=name)
def test_memory_that_is_laid_out_otherwise_gives_the_same(view):
    images = pictures()
    last = images.permute(0, 2, 3, 1).contiguous().permute(0, 3, 1, 2)
    assert torch.equal(view(last, IDS, VIEWS), view(images, IDS, VIEWS))


@pytest.mark.parametrize("view", ALL, ids=name)
def test_nobodys_random_numbers_are_read_or_moved(view):
    before = torch.get_rng_state()
    view(pictures(), IDS, VIEWS)
    assert torch.equal(torch.get_rng_state(), before)
    assert isinstance(view, Transform)


@pytest.mark.parametrize("view", IDENTITIES, ids=name)
@pytest.mark.parametrize("kind", ["color", "gray"])
@pytest.mark.parametrize("dtype", [torch.uint8, torch.float32, torch.bfloat16])
def test_what_does_nothing_gives_the_images_back_to_the_bit(view, kind, dtype):
    images = pictures(kind, dtype)
    assert torch.equal(view(images, IDS, VIEWS), images)


@pytest.mark.parametrize("kind", CHANGES, ids=lambda kind: kind.__name__)
def test_the_fingerprint_holds_every_parameter(kind):
    base = Cutout(2) if kind is Cutout else kind(1) if kind is RandomShift else kind()
    assert {field.name for field in fields(kind)} == set(CHANGES[kind])
    found = {base.fingerprint} | {replace(base, **{key: value}).fingerprint for key, value in CHANGES[kind].items()}
    assert len(found) == 1 + len(CHANGES[kind])
    assert "/1 " in base.fingerprint


def test_one_and_one_point_nought_are_one_parameter():
    assert Flip(1).fingerprint == Flip(1.0).fingerprint
    assert ResizedCrop(scale=(1, 1)).fingerprint == ResizedCrop(scale=(1.0, 1.0)).fingerprint


FROZEN = {
    "shift": (RandomShift(2, seed=1), "f0f09328f98679cd", "9113561d6cfa3289"),
    "crop": (Crop(padding=2, size=8, seed=1), "aae2269b826559c0", "57158e25ae380a88"),
    "resized_crop": (ResizedCrop(7, seed=1), "b8b1523c5295e68b", "fa0f3e88b2a5e2e0"),
    "flip": (Flip(seed=1), "6b6afa21049a8ca0", "460f854ed58a7ee1"),
    "jitter": (ColorJitter(0.4, 0.4, 0.4, 0.1, seed=1), "25f416129330c7c9", "5108c6a819a60cbf"),
    "cut_out": (Cutout(3, seed=1), "7ea03f40e68b0ef9", "e4247444e5589fef"),
    "rand_augment": (RandAugment(n=4, magnitude=20, seed=1), "ce1e5aa40e6f481b", "16b9ec48d2b9140a"),
    "chain": (Chain(Crop(2), Crop(2), Flip()), "77192df4e0de79cf", "77229d0b7a0c77f4"),
}


@pytest.mark.parametrize("kind", FROZEN)
@pytest.mark.parametrize("dtype", [torch.uint8, torch.float32])
def test_views_are_the_bits_that_they_were_when_they_were_frozen(kind, dtype):
    """Answers are stored for views, so a view must stay what it was, whatever the version of torch."""
    view, of_bytes, of_floats = FROZEN[kind]
    found = view(pictures(dtype=dtype), IDS, VIEWS).contiguous()
    mark = hashlib.sha256(found.view(torch.uint8).numpy().tobytes()).hexdigest()[:16]
    assert mark == (of_bytes if dtype == torch.uint8 else of_floats), (
        f"{view.fingerprint} makes other bits than it did, with torch {torch.__version__}: answers stored for it no "
        f"longer hold. If {kind} was changed on purpose, raise the version in its fingerprint ({kind}/1 to {kind}/2) "
        f"and freeze {mark!r} here; if torch was, find the operation that it computes otherwise and write it in others."
    )


@pytest.mark.usefixtures("unchecked")
@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda: Crop(padding=-1), r"Crop\(padding=-1\): padding must be a whole number, 0 or more"),
        (lambda: Crop(padding=1.5), r"padding=1\.5"),
        (lambda: Crop(size=0), r"Crop\(size=0\): size must be a number of pixels"),
        (lambda: Crop(size=(3, 0)), r"size=\(3, 0\)"),
        (lambda: Crop(fill="black"), r"fill='black'.*must be a number"),
        (lambda: ResizedCrop(scale=(0.0, 1.0)), r"ResizedCrop\(scale=\(0\.0, 1\.0\)\): .* above 0 and at most 1"),
        (lambda: ResizedCrop(scale=(1.0, 0.5)), r"the first number is above the second; use \(0\.5, 1\.0\)"),
        (lambda: ResizedCrop(scale=0.5), r"scale=0\.5.*two numbers"),
        (lambda: ResizedCrop(ratio=(1.0, float("inf"))), r"ratio=\(1\.0, inf\)"),
        (lambda: Flip(1.5), r"Flip\(probability=1\.5\): probability must be a number, 0 or more and at most 1"),
        (lambda: ColorJitter(brightness=-0.1), r"ColorJitter\(brightness=-0\.1\)"),
        (lambda: ColorJitter(hue=0.6), r"ColorJitter\(hue=0\.6\).*at most 0\.5"),
        (lambda: ColorJitter(contrast=float("nan")), r"contrast=nan"),
        (lambda: Cutout(-2), r"Cutout\(size=-2\)"),
        (lambda: RandAugment(n=-1), r"RandAugment\(n=-1\)"),
        (lambda: RandAugment(magnitude=-1), r"magnitude=-1.*0 or more and at most 30"),
        (lambda: RandAugment(magnitude=31), r"magnitude=31"),
    ],
)
def test_parameters_that_make_no_sense_are_refused_when_it_is_built(make, words):
    with pytest.raises(LimbeckError, match=words):
        make()


@pytest.mark.usefixtures("unchecked")
@pytest.mark.parametrize("view", ALL, ids=name)
@pytest.mark.parametrize("inputs", [torch.zeros(2, 5), torch.zeros(2, 8, 8, 3), {"pixels": torch.zeros(2, 3, 8, 8)}])
def test_what_is_no_image_is_refused(view, inputs):
    with pytest.raises(DataError, match=r"needs (images|channels before)"):
        view(inputs, IDS[:2], VIEWS[:2])


@pytest.mark.parametrize(
    ("view", "images", "words"),
    [
        (Crop(padding=1, size=12), pictures(), r"Crop\(size=12, padding=1\) is larger than the padded images of 9x9"),
        (Cutout(10), pictures(), r"Cutout\(size=10\) is larger than the images of 9x9"),
        (Crop(fill=0.5), pictures(), r"Crop\(fill=0\.5\) is not a value of uint8 pixels.* 0 to 255"),
        (Cutout(2, fill=256), pictures(), r"Cutout\(fill=256\) is not a value"),
        (ResizedCrop(), pictures().long(), r"ResizedCrop averages pixels.*a tensor of int64"),
        (ColorJitter(0.1), pictures().long(), r"ColorJitter averages pixels.*a tensor of int64"),
        (
            ColorJitter(0.1),
            pictures(dtype=torch.float32) * 3,
            r"ColorJitter needs bytes, or floats from 0 to 1; .* to 3\..*NormalizeImages",
        ),
        (RandAugment(), pictures(dtype=torch.float32) - 0.5, r"RandAugment needs bytes.* from -0\.5 to 0\.5"),
        (ColorJitter(0.1), torch.full((40, 9, 9), float("nan")), r"from nan to nan"),
        (RandAugment(), pictures().repeat(1, 2, 1, 1), r"these have 6 channels"),
    ],
)
def test_images_that_it_cannot_take_are_refused(view, images, words):
    with pytest.raises(DataError, match=words):
        view(images, IDS, VIEWS)
