"""Which augmentations are there?"""

from __future__ import annotations

from limbeck.sources.augment.chain import Chain
from limbeck.sources.augment.crop import Crop, ResizedCrop
from limbeck.sources.augment.cut_out import CutOut
from limbeck.sources.augment.flip import Flip
from limbeck.sources.augment.jitter import Jitter
from limbeck.sources.augment.mixup import CutMix, Mixup
from limbeck.sources.augment.named import mix_of, view_of
from limbeck.sources.augment.rand_augment import RandAugment

__all__ = [
    "Chain",
    "Crop",
    "CutMix",
    "CutOut",
    "Flip",
    "Jitter",
    "Mixup",
    "RandAugment",
    "ResizedCrop",
    "mix_of",
    "view_of",
]
