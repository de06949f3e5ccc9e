"""Finds the files of an image folder, with their class and split."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from limbeck.data.files import IMAGE_SUFFIXES, PART_NAMES
from limbeck.data.image_file import GRAY, WIDE, Header
from limbeck.errors import DataError

_PART_FOLDERS = frozenset(name for names in PART_NAMES.values() for name in names)
_LITTER = frozenset(("__MACOSX", "@eaDir", "$RECYCLE.BIN", "System Volume Information", "lost+found"))

"""Folders created by operating systems, which are not classes."""


@dataclass
class Files:
    """The files in a folder of class folders.

    Attributes:
        images: The image paths of each class, sorted.
        nested: Number of images in subfolders of class folders.
        in_part_folders: Number of images in a subfolder named like a split: ``cat/test/``.
        loose: Number of images outside of class folders.
        others: Number of files that are not images, by suffix.
    """

    images: list[list[Path]] = field(default_factory=list)
    nested: int = 0
    in_part_folders: int = 0
    loose: int = 0
    others: Counter[str] = field(default_factory=Counter)


def find_files(folder: Path, names: Iterable[str]) -> Files:
    """Find the files of the classes `names` in `folder`, including subfolders, sorted by path."""
    files = Files()
    for path in _visible(folder):
        if path.is_file():
            files.loose += _is_image(path)
            files.others[path.suffix.lower()] += not _is_image(path)
    for name in names:
        inside = list(_walk(folder / name))
        images = sorted(path for path in inside if _is_image(path))
        files.images.append(images)
        files.nested += sum(path.parent != folder / name for path in images)
        files.in_part_folders += sum(
            path.relative_to(folder / name).parts[0].lower() in _PART_FOLDERS for path in images
        )
        files.others.update(path.suffix.lower() for path in inside if not _is_image(path))
    return files


def class_folders(folder: Path, fixed: tuple[str, ...] | None) -> tuple[str, ...]:
    """Return the class names: `fixed`, or by default the sorted folder names.

    Raises:
        DataError: If the folder does not exist, has no class folders, or has one that is not in `fixed`.
    """
    if not folder.is_dir():
        raise DataError(f"There is no folder {folder}; expected {folder}/CLASS/*.png.")
    names = tuple(path.name for path in _visible(folder) if path.is_dir())
    if not names:
        inside = sum(_is_image(path) for path in _visible(folder))
        has = f"{inside} images and no class folders" if inside else "no class folders"
        raise DataError(f"{folder} has {has}; expected one folder per class: {folder}/CLASS/*.png.")
    if fixed is not None and (strange := sorted(set(names) - set(fixed))):
        raise DataError(f"{folder} has the class folder {strange[0]!r}, which is not one of {', '.join(fixed[:12])}.")
    return fixed or names


def part_folders(folder: Path) -> tuple[dict[str, Path], list[Path]]:
    """Find the folders of the parts ``train``, ``development`` and ``test`` in `folder`, and all other folders.

    Both are empty if there is no training folder: then the folders are classes.

    Raises:
        DataError: If two folders have names of the same part, or there are other parts but no training folder.
    """
    inside = [path for path in _visible(folder) if path.is_dir()]
    parts_by_name = {name: part for part, names in PART_NAMES.items() for name in names}
    folders: dict[str, Path] = {}
    for path in inside:
        part = parts_by_name.get(path.name.lower())
        if part in folders:
            raise DataError(
                f"{folder} has {folders[part].name}/ and {path.name}/, which both mean the part {part}. Keep one."
            )
        if part is not None:
            folders[part] = path
    if "train" not in folders:
        if folders and len(folders) == len(inside):
            listed = " and ".join(f"{path.name}/" for path in folders.values())
            raise DataError(f"{folder} has {listed} but no train/. Name the training folder {folder}/train/.")
        return {}, []
    return folders, [path for path in inside if path not in folders.values()]


def count_files(folder: Path) -> int:
    """Count the files in a folder and its subfolders."""
    return sum(1 for _ in _walk(folder))


def _is_image(path: Path) -> bool:
    return path.suffix.lower() in IMAGE_SUFFIXES


def _visible(folder: Path) -> list[Path]:
    return sorted(path for path in folder.iterdir() if not path.name.startswith(".") and path.name not in _LITTER)


def _walk(folder: Path) -> Iterator[Path]:
    """Yield every visible file; links are followed, each folder is visited once."""
    seen: set[str] = set()
    for directory, inside, files in os.walk(folder, followlinks=True):
        real = os.path.realpath(directory)
        inside[:] = [] if real in seen else [name for name in inside if not name.startswith(".")]
        if real not in seen:
            yield from (Path(directory, name) for name in files if not name.startswith("."))
        seen.add(real)


_KINDS = {
    "1": "black and white", "L": "gray", "LA": "gray with alpha", "P": "palette", "PA": "palette with alpha",
    "RGB": "RGB", "RGBA": "RGBA",
}  # fmt: skip


def notes_on_files(files: Files) -> Iterator[str]:
    """Yield notes about files in subfolders and about files that are left out."""
    total = sum(map(len, files.images))
    if files.nested:
        yield f"{_of(files.nested, total)} are in subfolders, and count as images of the class folder above."
    if files.in_part_folders:
        yield (
            f"{_of(files.in_part_folders, total)} are in folders named like a split, inside a class folder. They count "
            "as images of that class. For separate splits use train/CLASS and test/CLASS."
        )
    if files.loose:
        yield f"Left out: {_number(files.loose, 'image')} outside of class folders."
    if others := +files.others:
        kinds = ", ".join(f"{suffix or 'no suffix'}: {count:,}" for suffix, count in others.most_common(5))
        yield f"Left out: {_number(others.total(), 'file')} that are not images ({kinds})."


def notes_on_classes(names: Sequence[str]) -> Iterator[str]:
    """Yield a note if class folders are numbers, but their sorted names are not in numeric order."""
    if names and all(name.isdecimal() for name in names) and list(names) != sorted(names, key=int):
        yield (
            "The class folders are numbers, sorted by name as in torchvision: "
            f"{', '.join(names[:4])}, ... "
            "For another order set class_names=[...]."
        )


def notes_on_images(
    headers: Sequence[Header], *, size: tuple[int, int], channels: int, bit_depth: int
) -> Iterator[str]:
    """Yield notes about images that are resized or converted."""
    total = len(headers)
    modes = Counter(header.mode for header in headers)
    if wide := sum(modes[mode] for mode in WIDE):
        yield f"{_of(wide, total)} have more than 8 bits per pixel: their {bit_depth} bits are scaled to 8."
    if upper := sum(header.upper_bits for header in headers):
        yield f"{_of(upper, total)} have 16 bits per channel; only the upper 8 are read."
    own = GRAY if channels == 1 else ("RGB",)
    if other := Counter({mode: count for mode, count in modes.items() if mode not in own}):
        kinds = ", ".join(f"{_KINDS.get(mode, mode)}: {count:,}" for mode, count in other.most_common())
        yield f"{_of(other.total(), total)} are converted to {'gray' if channels == 1 else 'RGB'} ({kinds})."
    if transparent := sum(header.transparent for header in headers):
        yield f"{_of(transparent, total)} have transparency, which is ignored."
    if frames := sum(header.frames for header in headers):
        yield f"{_of(frames, total)} have several frames or pages; only the first is read."
    if rotated := sum(header.rotated for header in headers):
        yield f"{_of(rotated, total)} have an EXIF orientation, which is not applied."
    if resized := [header.size for header in headers if header.size != size]:
        low, high = min(resized, key=_area), max(resized, key=_area)
        span = f"from {low[0]}x{low[1]}" + (f" to {high[0]}x{high[1]}" if high != low else "")
        yield f"{_of(len(resized), total)} are resized to {size[0]}x{size[1]} pixels ({span})."


def _area(size: tuple[int, int]) -> int:
    return size[0] * size[1]


def _of(count: int, total: int) -> str:
    return f"{count:,} of {_number(total, 'image')}"


def _number(count: int, name: str) -> str:
    return f"{count:,} {name}" + ("s" if count != 1 else "")
