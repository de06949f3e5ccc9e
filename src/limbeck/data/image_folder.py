"""`ImageFolder`: a folder of images with one folder per class, as a data set."""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Callable, Iterable
from functools import cached_property, partial
from pathlib import Path
from typing import final

import numpy as np
import torch
from jaxtyping import Int
from torch import Tensor

from limbeck.batch import Batch
from limbeck.data.damage import raise_damaged
from limbeck.data.dataset import Dataset
from limbeck.data.image_file import GRAY, WIDE, Header, check_whole, decode, open_pillow, read_header, value_range
from limbeck.data.image_folder_files import (
    SUFFIXES,
    class_folders,
    find_files,
    notes_on_classes,
    notes_on_files,
    notes_on_images,
)
from limbeck.data.prefetch import check_num_workers, default_num_workers, prefetch
from limbeck.errors import DataError, LimbeckError

_MIN_LEVELS = 64
"""Of 16 bits a channel the upper 8 are read: 14 bits or fewer would leave less than this many levels."""


@final
class ImageFolder(Dataset):
    """The pictures ``folder/CLASS/**/*.png`` (or .jpg, .tif, .gif, .webp, ...), decoded when they are taken.

    Classes are numbered in the order of their sorted names, pictures in the order of their sorted paths. Inputs are
    bytes: ``[batch, h, w]`` for one channel, ``[batch, 3, h, w]`` for three. As in torchvision's set of this name,
    pictures in folders inside a class's folder belong to that class, transparency is left out, of several frames the
    first is read, and an EXIF orientation is not applied. Pixels of 16 bits are scaled to 8. Of each of these, `notes`
    says how many there are.

    Args:
        folder: The folder with one folder for each class.
        size: Height and width in pixels, to which every picture is resized (bilinear); None means they are all the
            same, which is checked here, from the files' headers.
        channels: 1 for gray, 3 for red, green, blue; None takes 1 where every picture is gray, else 3.
        class_names: The classes by number, where another set has fixed them (a test folder); else the sorted folders.
        bit_depth: How many bits pixels of more than 8 bits use, 8 to 16: the value ``2^bit_depth - 1`` becomes 255.
            None takes the least that holds every value in these pictures.
        num_workers: How many threads decode ahead of the steps that use the pictures (`ShuffledLoader`); None takes
            one for each processor, at most 4. What is decoded does not depend on it.

    Raises:
        DataError: If there is no such folder, it has no class folders, one of them has no pictures or is none of
            `class_names`, a header is damaged, pixels are floating-point numbers, or sizes differ and `size` is None.
        LimbeckError: If `channels` is neither 1 nor 3, another option makes no sense, or Pillow is not installed.
    """

    def __init__(
        self,
        folder: str | Path,
        *,
        size: tuple[int, int] | None = None,
        channels: int | None = None,
        class_names: tuple[str, ...] | None = None,
        bit_depth: int | None = None,
        num_workers: int | None = None,
    ) -> None:
        open_pillow()
        _check_options(size, channels, bit_depth, num_workers)
        self.folder = Path(folder)
        self._names = class_folders(self.folder, class_names)
        files = find_files(self.folder, self._names)
        self.paths = [path for paths in files.pictures for path in paths]
        counts = torch.tensor([len(paths) for paths in files.pictures])
        self._labels = torch.arange(len(counts)).repeat_interleave(counts)
        _check_classes(self.folder, self._names, files.pictures, fixed=class_names is not None)
        self._num_workers = default_num_workers() if num_workers is None else num_workers
        headers = _read_headers(self.paths, read_header)
        self.size = size or _common_size(self.paths, headers)
        self.channels = channels or (1 if all(header.mode in GRAY for header in headers) else 3)
        self.bit_depth = self._depth(headers) if bit_depth is None else bit_depth
        self.notes = (
            *notes_on_files(files),
            *notes_on_classes(self._names if class_names is None else ()),
            *notes_on_images(headers, size=self.size, channels=self.channels, bit_depth=self.bit_depth),
        )
        """What a reader should know of how the files were read, in sentences with counts."""

    def __len__(self) -> int:
        return len(self.paths)

    def take(self, index: Int[Tensor, " n"]) -> Batch:
        """The pictures at the positions `index`, decoded.

        Raises:
            DataError: If a file cannot be decoded.
        """
        read = partial(decode, size=self.size, channels=self.channels, bit_depth=self.bit_depth)
        images = [read(self.paths[i]) for i in index.tolist()]
        return Batch(torch.from_numpy(np.stack(images)), index, None, self._labels[index])

    def find_damaged(
        self, index: Int[Tensor, " n"], *, progress: Callable[[int], None] = lambda count: None
    ) -> list[DataError]:
        """Decode the pictures at the positions `index` once, with `num_workers` threads: an error for each that fails.

        Every pixel is decoded, and every checksum compared that the format has. (A JPEG has none: of a bit that changed
        in it only what makes it undecodable is found.)
        """

        def check(path: Path) -> DataError | None:
            try:
                check_whole(path, bit_depth=self.bit_depth)
            except DataError as error:
                return error
            return None

        failed = []
        for error in prefetch(check, [self.paths[i] for i in index.tolist()], num_workers=self._num_workers):
            failed += [] if error is None else [error]
            progress(1)
        return failed

    @cached_property
    def fingerprint(self) -> str:
        """SHA-256 of every file's name, length and bytes, and of how they are decoded."""
        total = hashlib.sha256(f"images/2|{self.size}|{self.channels}|{self.bit_depth}|{self._names}|".encode())

        def hashed(path: Path) -> tuple[Path, int, bytes]:
            content = path.read_bytes()
            return path, len(content), hashlib.sha256(content).digest()

        for path, length, content in prefetch(hashed, self.paths, num_workers=self._num_workers):
            total.update(f"{path.relative_to(self.folder).as_posix()}|{length}|".encode())
            total.update(content)
        return total.hexdigest()

    @property
    def reads_files(self) -> bool:
        """True."""
        return True

    @property
    def num_workers(self) -> int:
        """How many threads decode ahead."""
        return self._num_workers

    @property
    def labels(self) -> Tensor:
        """The number of each picture's folder."""
        return self._labels

    @property
    def class_names(self) -> tuple[str, ...]:
        """The folders' names."""
        return self._names

    def _depth(self, headers: list[Header]) -> int:
        """The bits that the greatest value of all wide pictures needs; 8 where there are none."""
        highest = self._highest([header.mode in WIDE for header in headers])
        truncated = [header.upper_bits for header in headers]
        if any(truncated) and (upper := self._highest(truncated)) < _MIN_LEVELS:
            raise DataError(
                f"{self.folder} has pictures of 16 bits a channel with no value above {256 * upper + 255}. Only the "
                "upper 8 bits can be read, so they would be nearly black. Save them with 8 bits a channel; or, if they "
                "are as dark as that, give bit_depth=16. In a job: --set data.bit_depth=16."
            )
        return max(highest.bit_length(), 8)

    def _highest(self, chosen: list[bool]) -> int:
        """The greatest value in these pictures; 0 where there are none."""
        paths = [path for path, is_one in zip(self.paths, chosen, strict=True) if is_one]
        highest = 0
        ranges = prefetch(value_range, paths, num_workers=self._num_workers)
        for path, (low, high) in zip(paths, ranges, strict=True):
            if low < 0 or high > 65535:
                raise DataError(f"The picture {path} has values from {low} to {high}: save it with 8 or 16 bits.")
            highest = max(highest, high)
        return highest


def _check_options(size: tuple[int, int] | None, channels: int | None, depth: int | None, workers: int | None) -> None:
    if channels not in (None, 1, 3):
        raise LimbeckError(f"channels={channels} is neither 1 (gray) nor 3 (red, green, blue).")
    if size is not None and (len(size) != 2 or min(size) < 1):
        raise LimbeckError(f"size={size} is not a height and a width in pixels.")
    if depth is not None and (isinstance(depth, bool) or not isinstance(depth, int) or not 8 <= depth <= 16):
        raise LimbeckError(f"bit_depth={depth!r} is no number of bits from 8 to 16.")
    check_num_workers(workers)


def _check_classes(folder: Path, names: tuple[str, ...], files: list[list[Path]], *, fixed: bool) -> None:
    for name, paths in zip(names, files, strict=True):
        # A test folder may lack a class that the training folder has.
        if not paths and (not fixed or (folder / name).is_dir()):
            raise DataError(f"{folder / name} has no pictures ({', '.join(SUFFIXES)}); fill it or remove it.")


def _read_headers(paths: Iterable[Path], read: Callable[[Path], Header]) -> list[Header]:
    """The header of every picture; all that are damaged are told at once."""
    headers, failed, count = [], [], 0
    for path in paths:
        count += 1
        try:
            headers.append(read(path))
        except DataError as error:
            failed.append(error)
    raise_damaged(failed, count)
    return headers


def _common_size(paths: list[Path], headers: list[Header]) -> tuple[int, int]:
    first = headers[0].size
    for path, header in zip(paths, headers, strict=True):
        if header.size != first:
            sizes = Counter(other.size for other in headers)
            raise DataError(
                f"{path} is {header.size[0]}x{header.size[1]} pixels and {paths[0].name} is {first[0]}x{first[1]}; "
                f"give size=({first[0]}, {first[1]}) to resize all of them. The pictures have {len(sizes)} sizes; in a "
                f"job: --set data.size=[{first[0]},{first[1]}]."
            )
    return first
