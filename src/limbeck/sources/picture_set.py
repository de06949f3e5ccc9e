"""A folder of pictures as the parts of a data set: what to train on, what to choose by, what to test with."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from limbeck.sources.images import ImageFolder
from limbeck.sources.picture_files import count_files, part_folders


def load_pictures(folder: Path, **options: Any) -> tuple[ImageFolder, ImageFolder | None, ImageFolder | None, str]:
    """The training part, the development part and the test part of a folder, and a note on how they were read.

    A folder of classes is a training part alone. Of ``train/`` and ``val/`` without ``test/`` the second is the test
    part, as ImageNet has it: the part that results are reported on. Every part is read as the training part is: its
    classes, size, channels and bits.

    Args:
        folder: The folder.
        **options: Of `ImageFolder`.

    Raises:
        DataError: If a part cannot be read, has a class that the training part has not, or it is not clear which folder
            is which part.
    """
    parts, beside = part_folders(folder)
    if not parts:
        whole = ImageFolder(folder, **options)
        return whole, None, None, "; ".join(whole.notes)
    train = ImageFolder(parts["train"], **options)
    own = {"size": train.size, "channels": train.channels, "class_names": train.class_names}
    own |= {"bit_depth": train.bit_depth if options.get("bit_depth") is None else options["bit_depth"]}
    others = {
        part: ImageFolder(parts[part], **options | own) for part in ("development", "test") if part in parts
    }  # fmt: skip
    notes = [
        f"{parts[part].name}/: {said}" for part, read in [("train", train), *others.items()] for said in read.notes
    ]
    if "test" not in others and "development" in others:
        others["test"] = others.pop("development")
        notes.insert(0, f"{parts['development'].name}/ is the test part, as there is no test/")
    elif "development" in others:
        notes.insert(0, f"{parts['development'].name}/ is the development part")
    notes += [f"{path.name}/ is no part that is known, and its {count_files(path):,} files left out" for path in beside]
    return train, others.get("development"), others.get("test"), "; ".join(notes)
