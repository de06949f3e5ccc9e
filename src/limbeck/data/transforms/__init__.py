"""Image transforms that are pure functions of (example id, view number, seed)."""

from __future__ import annotations

from limbeck.data.transforms.color import ColorJitter
from limbeck.data.transforms.geometry import Crop, Cutout, Flip, ResizedCrop
from limbeck.data.transforms.mixup import CutMix, Mixup
from limbeck.data.transforms.rand_augment import RandAugment
from limbeck.data.transforms.registry import Chain, make_mix, make_transform

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
