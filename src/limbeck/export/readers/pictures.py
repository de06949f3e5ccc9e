"""Pictures, or arrays of numbers, as a student reads them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np


def read_inputs(paths: list[Path], told: dict[str, Any], shape: list[Any] | None) -> Any:
    """All files as one array: pictures (needs Pillow), or ``.npy`` arrays with the examples first."""
    wanted = told.get("input_shape") or []
    found = np.concatenate([np.load(p) if p.suffix == ".npy" else picture(p, wanted)[None] for p in paths])
    if told.get("reads_included"):  # bytes as the data hold them
        return found[:, None] if shape is not None and found.ndim == len(shape) - 1 else found
    preprocess = told.get("preprocess") or {}
    if preprocess.get("preprocess") != "pixels":
        return found.astype(np.float32)
    if preprocess.get("channels_last") and found.ndim == 4:
        found = found.transpose(0, 3, 1, 2)
    if found.ndim == 3 and (preprocess.get("channel", True) or len(preprocess["mean"]) > 1):
        found = found[:, None]
    flat = found.ndim == 3
    mean, std = (preprocess[name][0] if flat else np.array(preprocess[name])[:, None, None] for name in ("mean", "std"))
    return ((found * preprocess["scale"] - mean) / std).astype(np.float32)


def picture(path: Path, wanted: list[int]) -> np.ndarray:
    """A file's pixels, of the size that the student was trained on: ``[h, w]``, or ``[3, h, w]``."""
    from PIL import Image

    gray = len(wanted) < 3 or wanted[0] == 1
    with Image.open(path) as file:
        if file.mode[0] in "IF":  # convert() would clip every value above 255
            raise SystemExit(f"{path} has more than 8 bits a pixel: save it with 8, scaled as the training data were.")
        opened = file.convert("L" if gray else "RGB")
    height, width = wanted[-2:] if len(wanted) > 1 else (opened.height, opened.width)
    if opened.size != (width, height):
        opened = opened.resize((width, height), Image.Resampling.BILINEAR)
    pixels = np.asarray(opened, dtype=np.uint8)
    return pixels if gray else pixels.transpose(2, 0, 1)
