"""How does a folder of pictures, one folder inside it for each class, become a set of examples?"""

from __future__ import annotations

import hashlib
from functools import cached_property
from pathlib import Path
from typing import Any, final

import numpy as np
import torch
from jaxtyping import Int
from torch import Tensor

from limbeck.errors import DataError, LimbeckError
from limbeck.signal import Batch
from limbeck.sources.examples import Examples

SUFFIXES = (".png", ".jpg", ".jpeg", ".bmp", ".webp")
"""The kinds of files that are read as pictures, whatever the case of their letters."""


@final
class ImageFolder(Examples):
    """The pictures ``folder/CLASS/*.png`` (or jpg, jpeg, bmp, webp), decoded when they are taken.

    Classes are numbered in the order of their sorted names, pictures in the order of their sorted paths. Inputs are
    bytes: ``[batch, h, w]`` for one channel, ``[batch, 3, h, w]`` for three.

    Args:
        folder: The folder with one folder for each class.
        size: Height and width in pixels, to which every picture is resized (bilinear); None means they are all the
            same, which is checked here, from the files' headers.
        channels: 1 for grey, 3 for red, green, blue; None takes what the first picture has.
        class_names: The classes by number, where another set has fixed them (a test folder); else the sorted folders.

    Raises:
        DataError: If there is no such folder, it has no class folders, one of them has no pictures or is none of
            `class_names`, a header is damaged, or sizes differ and `size` is None.
        LimbeckError: If `channels` is neither 1 nor 3, `size` is not positive, or Pillow is not installed.
    """

    def __init__(
        self,
        folder: str | Path,
        *,
        size: tuple[int, int] | None = None,
        channels: int | None = None,
        class_names: tuple[str, ...] | None = None,
    ) -> None:
        _pillow()
        if channels not in (None, 1, 3):
            raise LimbeckError(f"channels={channels} is neither 1 (grey) nor 3 (red, green, blue).")
        if size is not None and min(size) < 1:
            raise LimbeckError(f"size={size} is not a height and a width in pixels.")
        self.folder = Path(folder)
        self._names = _class_names(self.folder, class_names)
        found = [_pictures(self.folder / name) for name in self._names]
        self.paths = [path for paths in found for path in paths]
        self._labels = torch.arange(len(found)).repeat_interleave(torch.tensor([len(paths) for paths in found]))
        _check_classes(self.folder, self._names, found, fixed=class_names is not None)
        self.size = size or self._common_size()
        self.channels = channels or (1 if _header(self.paths[0])[1] in ("1", "L", "I;16") else 3)

    def __len__(self) -> int:
        return len(self.paths)

    def take(self, index: Int[Tensor, " n"]) -> Batch:
        """The pictures at the positions `index`, decoded.

        Raises:
            DataError: If a file cannot be decoded, or changed its size since the set was made.
        """
        pictures = [self._decoded(self.paths[i]) for i in index.tolist()]
        return Batch(torch.from_numpy(np.stack(pictures)), index, None, self._labels[index])

    @cached_property
    def fingerprint(self) -> str:
        """SHA-256 of every file's name, length and bytes, and of how they are decoded."""
        total = hashlib.sha256(f"images|{self.size}|{self.channels}|{self._names}|".encode())
        for path in self.paths:
            content = path.read_bytes()
            total.update(f"{path.relative_to(self.folder).as_posix()}|{len(content)}|".encode())
            total.update(hashlib.sha256(content).digest())
        return total.hexdigest()

    @property
    def labels(self) -> Tensor:
        """The number of each picture's folder."""
        return self._labels

    @property
    def class_names(self) -> tuple[str, ...]:
        """The folders' names."""
        return self._names

    def _common_size(self) -> tuple[int, int]:
        first, _ = _header(self.paths[0])
        for path in self.paths[1:]:
            if (size := _header(path)[0]) != first:
                raise DataError(
                    f"{path} is {size[0]}x{size[1]} pixels and {self.paths[0].name} is {first[0]}x{first[1]}; "
                    f"give size=({first[0]}, {first[1]}) to resize all of them."
                )
        return first

    def _decoded(self, path: Path) -> np.ndarray:
        pillow = _pillow()
        try:
            with pillow.open(path) as file:
                picture = file.convert("L" if self.channels == 1 else "RGB")
        except (OSError, SyntaxError, ValueError, pillow.DecompressionBombError) as error:
            raise _damaged(path, error) from error
        height, width = self.size
        if picture.size != (width, height):
            picture = picture.resize((width, height), pillow.Resampling.BILINEAR)
        pixels = np.asarray(picture, dtype=np.uint8)
        return pixels if self.channels == 1 else pixels.transpose(2, 0, 1)


def _class_names(folder: Path, fixed: tuple[str, ...] | None) -> tuple[str, ...]:
    if not folder.is_dir():
        raise DataError(f"There is no folder {folder}; expected {folder}/CLASS/*.png.")
    found = tuple(sorted(path.name for path in folder.iterdir() if path.is_dir() and not path.name.startswith(".")))
    if not found:
        inside = len(_pictures(folder))
        has = f"{inside} pictures and no class folders" if inside else "no class folders"
        raise DataError(f"{folder} has {has}; expected one folder for each class: {folder}/CLASS/*.png.")
    if fixed is not None and (strange := sorted(set(found) - set(fixed))):
        raise DataError(f"{folder} has the class folder {strange[0]!r}, which is none of {', '.join(fixed[:12])}.")
    return fixed or found


def _check_classes(folder: Path, names: tuple[str, ...], found: list[list[Path]], *, fixed: bool) -> None:
    for name, paths in zip(names, found, strict=True):
        # A test folder may lack a class that the training folder has.
        if not paths and (not fixed or (folder / name).is_dir()):
            raise DataError(f"{folder / name} has no pictures ({', '.join(SUFFIXES)}); fill it or remove it.")


def _pictures(folder: Path) -> list[Path]:
    if not folder.is_dir():
        return []
    return sorted(p for p in folder.iterdir() if p.suffix.lower() in SUFFIXES and not p.name.startswith("."))


def _header(path: Path) -> tuple[tuple[int, int], str]:
    pillow = _pillow()
    try:
        with pillow.open(path) as file:
            return (file.height, file.width), file.mode
    except (OSError, SyntaxError, ValueError, pillow.DecompressionBombError) as error:
        raise _damaged(path, error) from error


def _damaged(path: Path, error: Exception) -> DataError:
    reason = "empty" if path.is_file() and path.stat().st_size == 0 else str(error).split(str(path))[0].strip(" '\"")
    return DataError(f"The picture {path} cannot be decoded ({reason}); mend it or remove it.")


def _pillow() -> Any:
    try:
        from PIL import Image
    except ImportError as error:
        raise LimbeckError("Reading pictures needs Pillow: pip install 'limbeck[image]'.") from error
    return Image
