"""Names in a job stand for the right transforms."""

from __future__ import annotations

import pytest

from limbeck.data import Chain, ColorJitter, Crop, CutMix, Cutout, Flip, Mixup, RandAugment, RandomShift, ResizedCrop
from limbeck.data.transforms.registry import make_mix, make_transform
from limbeck.errors import LimbeckError, UnknownNameError


@pytest.mark.parametrize(
    ("given", "view"),
    [
        ("crop", Crop(seed=5)),
        ({"crop": {"padding": 2, "size": [24, 32]}}, Crop(2, (24, 32), seed=5)),
        ({"flip": {"seed": 8}}, Flip(seed=8)),
        ({"flip": None}, Flip(seed=5)),
        ({"shift": {"pixels": 2}}, RandomShift(2, seed=5)),
        ({"cut_out": {"size": 3}}, Cutout(3, seed=5)),
        ({"resized_crop": {"scale": [0.25, 1], "ratio": [1, 1]}}, ResizedCrop(None, (0.25, 1), (1, 1), seed=5)),
        (["crop", "flip"], Chain(Crop(seed=5), Flip(seed=5))),
        ([{"jitter": {"hue": 0.1}}, "rand_augment"], Chain(ColorJitter(hue=0.1, seed=5), RandAugment(seed=5))),
        (["flip"], Flip(seed=5)),
    ],
)
def test_a_view_by_name(given, view):
    assert make_transform(given, seed=5) == view


def test_a_mix_by_name():
    assert make_mix("mixup", seed=2) == Mixup(seed=2)
    assert make_mix({"cut_mix": {"alpha": 0.5, "seed": 1}}, seed=2) == CutMix(0.5, seed=1)


@pytest.mark.usefixtures("unchecked")
@pytest.mark.parametrize(
    ("given", "kind", "words"),
    [
        ("filp", UnknownNameError, r"Unknown augmentation 'filp'\. Did you mean 'flip'\? Known: crop, "),
        ({"crop": {"paddin": 2}}, UnknownNameError, r"Unknown option of crop 'paddin'\. Did you mean 'padding'"),
        ("cut_out", LimbeckError, r"cut_out needs size: \{cut_out: \{size: \.\.\.\}\}"),
        ({"crop": {"padding": "wide"}}, LimbeckError, r"Crop\(padding='wide'\)"),
        ({"shift": {"pixels": "far"}}, LimbeckError, r"Shift\(pixels='far'\): pixels must be a whole number"),
        ({"flip": {"vertical": "no"}}, LimbeckError, r"Flip\(vertical='no'\)"),
        ({"flip": {"seed": "x"}}, LimbeckError, r"seed='x' of flip must be a whole number"),
        ("mixup", LimbeckError, r"mixup is not valid as augmentation; use mix"),
        ([], LimbeckError, "list of augmentations is empty"),
        (3, LimbeckError, r"An augmentation is a name, such as crop.*got 3"),
        ({"crop": 4}, LimbeckError, r"with options, such as \{crop: \{padding: 4\}\}; got"),
        ({"crop": {}, "flip": {}}, LimbeckError, "An augmentation is a name"),
    ],
)
def test_what_is_no_view_is_refused(given, kind, words):
    with pytest.raises(kind, match=words):
        make_transform(given)


@pytest.mark.usefixtures("unchecked")
@pytest.mark.parametrize(
    ("given", "kind", "words"),
    [
        ("mixpu", UnknownNameError, r"Unknown mix 'mixpu'\. Did you mean 'mixup'"),
        ({"mixup": {"alhpa": 1}}, UnknownNameError, r"'alhpa'\. Did you mean 'alpha'"),
        ({"mixup": {"alpha": 0}}, LimbeckError, r"alpha=0"),
        ("flip", LimbeckError, r"flip is not valid as mix; use augment"),
        (["mixup"], LimbeckError, r"A mix is a name, such as mixup.*got \['mixup'\]"),
    ],
)
def test_what_is_no_mix_is_refused(given, kind, words):
    with pytest.raises(kind, match=words):
        make_mix(given)
