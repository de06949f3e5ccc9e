"""Image transforms that are pure functions of (example id, view number, seed)."""

from __future__ import annotations

from limbeck.data.transforms.chain import Chain
from limbeck.data.transforms.color import ColorJitter
from limbeck.data.transforms.crop import Crop, ResizedCrop
from limbeck.data.transforms.cutout import Cutout
from limbeck.data.transforms.flip import Flip
from limbeck.data.transforms.mixup import CutMix, Mixup
from limbeck.data.transforms.rand_augment import RandAugment
from limbeck.data.transforms.registry import make_mix, make_transform

__all__ = [
    "Chain",
    "ColorJitter",
    "Crop",
    "CutMix",
    "Cutout",
    "Flip",
    "Mixup",
    "RandAugment",
    "ResizedCrop",
    "make_mix",
    "make_transform",
]
