"""An image folder as training, development and test data."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

from limbeck.data.image_folder import ImageFolder
from limbeck.data.image_folder_files import count_files, part_folders


class ImageSplits(NamedTuple):
    """The parts of a folder of pictures.

    Attributes:
        train: What to train on.
        development: What to choose by; None where the folder has no such part.
        test: What to test with; None where the folder has no such part.
        sources: The folder of each part, by the part's name.
        notes: Sentences about how the files were read.
    """

    train: ImageFolder
    development: ImageFolder | None
    test: ImageFolder | None
    sources: dict[str, str]
    notes: tuple[str, ...]


def load_image_splits(folder: Path, folders: Mapping[str, Path] | None = None, /, **options: Any) -> ImageSplits:
    """The parts of a folder of pictures.

    A folder of classes is a training part alone. Of ``train/`` and ``val/`` without ``test/`` the second is the test
    part, as ImageNet has it: the part that results are reported on. Every part is read as the training part is: its
    classes, size, channels and bits.

    Args:
        folder: The folder.
        folders: Folders of classes elsewhere that are the parts ``development`` and ``test``.
        **options: Of `ImageFolder`.

    Raises:
        DataError: If a part cannot be read, has a class that the training part has not, or it is not clear which folder
            is which part.
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
        notes.insert(0, f"There is no test/: {parts['test'].name}/ is the test part, and choices are made on a part of "
                     f"{parts['train'].name}/.")  # fmt: skip
    for path in beside:
        notes.append(f"Left out: {path.name}/, which is no part that is known (files in it: {count_files(path):,}).")
    sources = {part: str(parts[part]) for part in read}
    return ImageSplits(train, read.get("development"), read.get("test"), sources, tuple(notes))
