"""`ImageFolder`: dataset of image files in one folder per class, and its training and test parts."""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Callable, Iterable
from functools import cached_property, partial
from pathlib import Path
from typing import Any, final

import numpy as np
import torch
from jaxtyping import Int
from torch import Tensor

from limbeck.batch import Batch
from limbeck.data.dataset import Dataset
from limbeck.data.files import IMAGE_SUFFIXES
from limbeck.data.image_file import (
    GRAY,
    WIDE,
    Header,
    check_whole,
    decode,
    open_pillow,
    raise_damaged,
    read_header,
    value_range,
)
from limbeck.data.image_folder_files import (
    class_folders,
    count_files,
    find_files,
    notes_on_classes,
    notes_on_files,
    notes_on_images,
    part_folders,
)
from limbeck.data.options import DataOptions
from limbeck.data.prefetch import check_num_workers, default_num_workers, prefetch
from limbeck.data.preprocess import fit_normalization
from limbeck.data.splits import HELD_OUT, DataSplits, hold_out, summarize
from limbeck.errors import DataError, LimbeckError

_MIN_LEVELS = 64
"""Pillow reads the upper 8 of 16 bits per channel; with 14 bits or fewer, less than this many levels remain."""


@final
class ImageFolder(Dataset):
    """Dataset of the images ``folder/CLASS/**/*.png`` (or .jpg, .tif, .gif, .webp, ...), decoded on access.

    Classes are numbered by sorted name, images by sorted path. Inputs are bytes: ``[batch, h, w]`` for one channel,
    ``[batch, 3, h, w]`` for three. As in torchvision's ``ImageFolder``, images in subfolders of a class folder belong
    to that class, transparency is ignored, only the first of several frames is read, and an EXIF orientation is not
    applied. Pixels of 16 bits are scaled to 8. `notes` has the number of images for each of these cases.

    Args:
        folder: The folder with one folder for each class.
        size: Height and width in pixels; every image is resized to it (bilinear). None requires all images to have
            the same size.
        channels: 1 for gray, 3 for RGB; None means 1 if all images are gray, else 3.
        class_names: The classes in order, for a test folder with the classes of a training folder; by default the
            sorted folder names.
        bit_depth: Bits per pixel of images with more than 8, from 8 to 16: the value ``2^bit_depth - 1`` becomes 255.
            None means the fewest bits that hold all values.
        num_workers: Number of threads that prefetch images in a `ShuffledLoader`; None means one per processor, at
            most 4. The results do not depend on it.

    Raises:
        DataError: If the folder does not exist or has no class folders, a class folder has no images or is not in
            `class_names`, a header is damaged, pixels are floating-point numbers, or sizes differ and `size` is None.
        LimbeckError: If an option is not valid, or Pillow is not installed.
    """

    reads_files = True
    labels: Tensor
    class_names: tuple[str, ...]

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
        self.class_names = class_folders(self.folder, class_names)
        files = find_files(self.folder, self.class_names)
        self.paths = [path for paths in files.images for path in paths]
        counts = torch.tensor([len(paths) for paths in files.images])
        self.labels = torch.arange(len(counts)).repeat_interleave(counts)
        _check_classes(self.folder, self.class_names, files.images, fixed=class_names is not None)
        self.num_workers = default_num_workers() if num_workers is None else num_workers
        headers = _read_headers(self.paths, read_header)
        self.size = size or _common_size(self.paths, headers)
        self.channels = channels or (1 if all(header.mode in GRAY for header in headers) else 3)
        self.bit_depth = self._depth(headers) if bit_depth is None else bit_depth
        self.notes = (
            *notes_on_files(files),
            *notes_on_classes(self.class_names if class_names is None else ()),
            *notes_on_images(headers, size=self.size, channels=self.channels, bit_depth=self.bit_depth),
        )
        """How the files were read, as sentences with counts."""

    def __len__(self) -> int:
        return len(self.paths)

    def take(self, index: Int[Tensor, " n"]) -> Batch:
        """Decode and return the images at the positions `index`.

        Raises:
            DataError: If a file cannot be decoded.
        """
        read = partial(decode, size=self.size, channels=self.channels, bit_depth=self.bit_depth)
        images = [read(self.paths[i]) for i in index.tolist()]
        return Batch(torch.from_numpy(np.stack(images)), index, None, self.labels[index])

    def find_damaged(
        self, index: Int[Tensor, " n"], *, progress: Callable[[int], None] = lambda count: None
    ) -> list[DataError]:
        """Decode the images at `index` once, with `num_workers` threads, and return an error for each that fails.

        Every pixel is decoded, and checksums are compared if the format has any. JPEG has none, so a changed bit is
        found only if it makes the image undecodable.
        """

        def check(path: Path) -> DataError | None:
            try:
                check_whole(path, bit_depth=self.bit_depth)
            except DataError as error:
                return error
            return None

        failed = []
        for error in prefetch(check, [self.paths[i] for i in index.tolist()], num_workers=self.num_workers):
            failed += [] if error is None else [error]
            progress(1)
        return failed

    @cached_property
    def fingerprint(self) -> str:
        """SHA-256 of the name, length and bytes of every file and of the decoding options."""
        total = hashlib.sha256(f"images/2|{self.size}|{self.channels}|{self.bit_depth}|{self.class_names}|".encode())

        def hashed(path: Path) -> tuple[Path, int, bytes]:
            content = path.read_bytes()
            return path, len(content), hashlib.sha256(content).digest()

        for path, length, content in prefetch(hashed, self.paths, num_workers=self.num_workers):
            total.update(f"{path.relative_to(self.folder).as_posix()}|{length}|".encode())
            total.update(content)
        return total.hexdigest()

    def _depth(self, headers: list[Header]) -> int:
        """Bits needed for the largest value of all images with more than 8 bits; 8 if there are none."""
        highest = self._highest([header.mode in WIDE for header in headers])
        truncated = [header.upper_bits for header in headers]
        if any(truncated) and (upper := self._highest(truncated)) < _MIN_LEVELS:
            raise DataError(
                f"{self.folder} has images of 16 bits per channel with no value above {256 * upper + 255}. Only the "
                "upper 8 bits can be read, so the images would be almost black. Save them with 8 bits per channel. If "
                "they are meant to be that dark, set bit_depth=16. In a job: --set data.bit_depth=16."
            )
        return max(highest.bit_length(), 8)

    def _highest(self, chosen: list[bool]) -> int:
        """The largest value in the chosen images; 0 if there are none."""
        paths = [path for path, is_one in zip(self.paths, chosen, strict=True) if is_one]
        highest = 0
        ranges = prefetch(value_range, paths, num_workers=self.num_workers)
        for path, (low, high) in zip(paths, ranges, strict=True):
            if low < 0 or high > 65535:
                raise DataError(
                    f"The image {path} has values from {low} to {high}; save it with 8 or 16 bits per pixel."
                )
            highest = max(highest, high)
        return highest


def _check_options(size: tuple[int, int] | None, channels: int | None, depth: int | None, workers: int | None) -> None:
    if channels not in (None, 1, 3):
        raise LimbeckError(f"channels={channels} must be 1 (gray) or 3 (RGB).")
    if size is not None and (len(size) != 2 or min(size) < 1):
        raise LimbeckError(f"size={size} must be (height, width) in pixels.")
    if depth is not None and (isinstance(depth, bool) or not isinstance(depth, int) or not 8 <= depth <= 16):
        raise LimbeckError(f"bit_depth={depth!r} must be a number of bits from 8 to 16.")
    check_num_workers(workers)


def _check_classes(folder: Path, names: tuple[str, ...], files: list[list[Path]], *, fixed: bool) -> None:
    for name, paths in zip(names, files, strict=True):
        # With fixed class names (a test folder), the folder of a class may be missing, but not empty.
        if not paths and (not fixed or (folder / name).is_dir()):
            raise DataError(
                f"{folder / name} has no images ({', '.join(IMAGE_SUFFIXES)}); add some or remove the folder."
            )


def _read_headers(paths: Iterable[Path], read: Callable[[Path], Header]) -> list[Header]:
    """Read all headers; raise one error for all damaged files."""
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
                f"set size=({first[0]}, {first[1]}) to resize all images ({len(sizes)} sizes). In a job: "
                f"--set data.size=[{first[0]},{first[1]}]."
            )
    return first


def load_image_folder(name: str, options: DataOptions) -> DataSplits:
    """Load the parts of an image folder.

    A folder of class folders is a training part only. If there are ``train/`` and ``val/`` but no ``test/``, then
    ``val/`` is the test part, as in ImageNet. All parts have the classes, size, channels and bit depth of the training
    part.

    Raises:
        DataError: If a part cannot be read, has a class that is not in the training part, or folder names are
            ambiguous.
    """
    images, sources, notes = _open_parts(Path(name), options)
    first = images["train"]
    train, test, note = hold_out(first, images.get("test"))
    if "test" not in images:
        sources["test"] = f"held out ({HELD_OUT:.0%})"
    parts = {"train": train, "development": images.get("development"), "test": test}
    facts = {"size": f"{first.size[0]}x{first.size[1]} pixels, {'gray' if first.channels == 1 else 'RGB'}"}
    return DataSplits(
        name, train, test, fit_normalization(train, scale=1 / 255), train.class_names, note=note,
        development=images.get("development"), held_out="test" not in images,
        summary=summarize("images", parts, sources=sources, facts=facts, notes=notes),
    )  # fmt: skip


def _open_parts(folder: Path, options: DataOptions) -> tuple[dict[str, ImageFolder], dict[str, str], list[str]]:
    """The parts, the folder of each part, and notes about how the files were read."""
    parts, beside = part_folders(folder)
    if options.val or options.test:
        named = {"development": options.val, "test": options.test}
        parts = {"train": folder, **parts, **{part: Path(path) for part, path in named.items() if path}}
    own: dict[str, Any] = {
        "size": options.size, "channels": options.channels, "bit_depth": options.bit_depth,
        "class_names": options.class_names or None, "num_workers": options.num_workers,
    }  # fmt: skip
    train = ImageFolder(parts.get("train", folder), **own)
    if not parts:
        return {"train": train}, {"train": str(folder)}, list(train.notes)
    own |= {name: getattr(train, name) for name in ("size", "channels", "class_names", "bit_depth")}
    read = {"train": train}
    read |= {part: ImageFolder(parts[part], **own) for part in ("development", "test") if part in parts}
    notes = [f"{parts[part].name}/: {note}" for part, images in read.items() for note in images.notes]
    if "test" not in read and "development" in read:
        read["test"], parts["test"] = read.pop("development"), parts["development"]
        notes.insert(
            0,
            f"There is no test/, so {parts['test'].name}/ is the test part, and the development part is taken from "
            f"{parts['train'].name}/.",
        )
    for path in beside:
        notes.append(f"Left out: {path.name}/, which is not a known part ({count_files(path):,} files).")
    return read, {part: str(parts[part]) for part in read}, notes
