"""Pictures, or arrays of numbers, as a student reads them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np


def read_inputs(paths: list[Path], metadata: dict[str, Any], shape: list[Any] | None) -> Any:
    """All files as one array: pictures (needs Pillow), or ``.npy`` arrays with the examples first."""
    expected = metadata.get("input_shape") or []
    images = np.concatenate([np.load(p) if p.suffix == ".npy" else picture(p, expected)[None] for p in paths])
    if metadata.get("reads_included"):  # bytes as the data hold them
        return images[:, None] if shape is not None and images.ndim == len(shape) - 1 else images
    preprocess = metadata.get("preprocess") or {}
    if preprocess.get("preprocess") != "pixels":
        return images.astype(np.float32)
    if preprocess.get("channels_last") and images.ndim == 4:
        images = images.transpose(0, 3, 1, 2)
    if images.ndim == 3 and (preprocess.get("channel", True) or len(preprocess["mean"]) > 1):
        images = images[:, None]
    flat = images.ndim == 3
    mean, std = (preprocess[name][0] if flat else np.array(preprocess[name])[:, None, None] for name in ("mean", "std"))
    return ((images * preprocess["scale"] - mean) / std).astype(np.float32)


def picture(path: Path, shape: list[int]) -> np.ndarray:
    """A file's pixels, of the size that the student was trained on: ``[h, w]``, or ``[3, h, w]``."""
    from PIL import Image

    gray = len(shape) < 3 or shape[0] == 1
    with Image.open(path) as file:
        if file.mode[0] in "IF":  # convert() would clip every value above 255
            raise SystemExit(f"{path} has more than 8 bits a pixel: save it with 8, scaled as the training data were.")
        opened = file.convert("L" if gray else "RGB")
    height, width = shape[-2:] if len(shape) > 1 else (opened.height, opened.width)
    if opened.size != (width, height):
        opened = opened.resize((width, height), Image.Resampling.BILINEAR)
    pixels = np.asarray(opened, dtype=np.uint8)
    return pixels if gray else pixels.transpose(2, 0, 1)
