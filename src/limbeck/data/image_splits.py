"""Loads an image folder as training, development and test parts."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

from limbeck.data.image_folder import ImageFolder
from limbeck.data.image_folder_files import count_files, part_folders


class ImageSplits(NamedTuple):
    """The parts of an image folder.

    Attributes:
        train: The training part.
        development: The development part; None if the folder has none.
        test: The test part; None if the folder has none.
        sources: The folder of each part.
        notes: Sentences about how the files were read.
    """

    train: ImageFolder
    development: ImageFolder | None
    test: ImageFolder | None
    sources: dict[str, str]
    notes: tuple[str, ...]


def load_image_splits(folder: Path, folders: Mapping[str, Path] | None = None, /, **options: Any) -> ImageSplits:
    """Load the parts of an image folder.

    A folder of class folders is a training part only. If there are ``train/`` and ``val/`` but no ``test/``, then
    ``val/`` is the test part, as in ImageNet. All parts have the classes, size, channels and bit depth of the training
    part.

    Args:
        folder: The folder.
        folders: Other locations of the parts ``development`` and ``test``.
        **options: Options of `ImageFolder`.

    Raises:
        DataError: If a part cannot be read, has a class that is not in the training part, or folder names are
            ambiguous.
    """
    parts, beside = part_folders(folder)
    if folders:
        parts = {"train": folder, **parts, **folders}
    if not parts:
        whole = ImageFolder(folder, **options)
        return ImageSplits(whole, None, None, {"train": str(folder)}, whole.notes)
    train = ImageFolder(parts["train"], **options)
    own = {"size": train.size, "channels": train.channels, "class_names": train.class_names}
    own |= {"bit_depth": train.bit_depth}
    read = {"train": train}
    read |= {part: ImageFolder(parts[part], **options | own) for part in ("development", "test") if part in parts}
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
    sources = {part: str(parts[part]) for part in read}
    return ImageSplits(train, read.get("development"), read.get("test"), sources, tuple(notes))
