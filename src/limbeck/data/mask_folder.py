"""`MaskFolder`: images with a mask each, for segmentation, in folders ``images`` and ``masks``."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from functools import cached_property
from pathlib import Path
from typing import Any, final

import numpy as np
import torch
from jaxtyping import Int
from torch import Tensor

from limbeck.batch import IGNORED, Batch
from limbeck.data.dataset import Dataset
from limbeck.data.files import IMAGE_SUFFIXES, PART_NAMES
from limbeck.data.image_file import GRAY, damaged_error, decode, open_pillow, read_header
from limbeck.data.options import DataOptions
from limbeck.data.prefetch import check_num_workers, default_num_workers
from limbeck.data.preprocess import fit_normalization
from limbeck.data.splits import DataSplits, hold_out, summarize
from limbeck.errors import DataError

_NO_LABEL = 255


@final
class MaskFolder(Dataset):
    """Dataset of the images ``folder/images/*`` with the masks ``folder/masks/*`` of the same name, decoded on access.

    Inputs are bytes, ``[batch, h, w]`` for gray images and ``[batch, 3, h, w]`` for RGB. Labels are class indices
    ``[batch, h, w]``: the pixel values of masks with one channel (gray or palette). The value 255 means no label, as in
    PASCAL VOC. With a `size`, images are resized bilinearly and masks to the nearest pixel.

    Args:
        images: The folder of the images.
        masks: The folder of the masks.
        size: Height and width in pixels; None requires all images to have the same size.
        channels: 1 for gray, 3 for RGB; None means 1 if all images are gray, else 3.
        class_names: The names of the classes.
        num_workers: Number of threads that prefetch images in a `ShuffledLoader`.

    Raises:
        DataError: If there are no images, a mask is missing or has several channels, or sizes differ.
    """

    reads_files = True

    def __init__(
        self,
        images: str | Path,
        masks: str | Path,
        *,
        size: tuple[int, int] | None = None,
        channels: int | None = None,
        class_names: Sequence[str] | None = None,
        num_workers: int | None = None,
    ) -> None:
        check_num_workers(num_workers)
        self.folder = Path(images)
        self.paths = _files(self.folder)
        if not self.paths:
            raise DataError(f"{self.folder} has no images ({', '.join(IMAGE_SUFFIXES)}).")
        by_name = {path.stem: path for path in _files(Path(masks))}
        if missing := [path for path in self.paths if path.stem not in by_name]:
            count = f"{len(missing)} images have" if len(missing) > 1 else "1 image has"
            raise DataError(f"{count} no mask in {masks}, first {missing[0].name}.")
        self.masks = [by_name[path.stem] for path in self.paths]
        headers = [read_header(path) for path in self.paths]
        sizes = {header.size for header in headers}
        if size is None and len(sizes) > 1:
            first = headers[0].size
            raise DataError(
                f"{self.folder} has images of {len(sizes)} sizes; set size=({first[0]}, {first[1]}) to resize them. In "
                f"a job: --set data.size=[{first[0]},{first[1]}]."
            )
        if size is None:
            check_mask_sizes(self)
        self.size = size or headers[0].size
        self.channels = channels or (1 if all(header.mode in GRAY for header in headers) else 3)
        self.class_names = tuple(class_names) if class_names else None
        self.num_workers = default_num_workers() if num_workers is None else num_workers

    def __len__(self) -> int:
        return len(self.paths)

    def take(self, index: Int[Tensor, " n"]) -> Batch:
        """Decode and return the images and masks at the positions `index`.

        Raises:
            DataError: If a file cannot be decoded, or a mask is not an image of class indices.
        """
        images = [decode(self.paths[i], size=self.size, channels=self.channels, bit_depth=8) for i in index.tolist()]
        masks = [self._mask(i) for i in index.tolist()]
        return Batch(torch.from_numpy(np.stack(images)), index, None, torch.from_numpy(np.stack(masks)))

    def _mask(self, i: int) -> np.ndarray:
        pillow = open_pillow()
        try:
            with pillow.open(self.masks[i]) as file:
                if file.mode not in ("1", "L", "P"):
                    raise DataError(
                        f"The mask {self.masks[i]} has the mode {file.mode}; a mask has one channel of class indices "
                        "from 0 to 254, as gray values or as a palette."
                    )
                image = file if file.mode != "1" else file.convert("L").point(lambda value: value // 255)
                if image.size != self.size[::-1]:
                    image = image.resize(self.size[::-1], pillow.Resampling.NEAREST)
                pixels = np.asarray(image).astype(np.int64)
        except (OSError, SyntaxError, ValueError) as error:
            if isinstance(error, DataError):
                raise
            raise damaged_error(self.masks[i], error) from error
        return np.where(pixels == _NO_LABEL, IGNORED, pixels)

    @cached_property
    def fingerprint(self) -> str:
        """SHA-256 of the name and bytes of every image and mask and of the decoding options."""
        total = hashlib.sha256(f"masks/1|{self.size}|{self.channels}|{self.class_names}|".encode())
        for path in (*self.paths, *self.masks):
            total.update(f"{path.name}|".encode())
            total.update(hashlib.sha256(path.read_bytes()).digest())
        return total.hexdigest()

    @cached_property
    def labels(self) -> Tensor:  # type: ignore[override]
        """The masks of all images ``[n, h, w]``; reading them decodes all mask files once."""
        return torch.from_numpy(np.stack([self._mask(i) for i in range(len(self))]))


def check_mask_sizes(examples: MaskFolder) -> None:
    """Check that each mask has the size of its image. With a `size` of the user's own, both are resized to it.

    Raises:
        DataError: If one has another size; the message has its file and both sizes.
    """
    for path, mask in zip(examples.paths, examples.masks, strict=True):
        ours, theirs = read_header(path).size, read_header(mask).size
        if ours != theirs:
            raise DataError(
                f"The mask {mask} is {theirs[0]}x{theirs[1]}, its image {path.name} is {ours[0]}x{ours[1]}. Each pixel "
                f"of an image needs one class: replace the mask, or resize all with --set "
                f"data.size=[{ours[0]},{ours[1]}]."
            )


def is_mask_folder(folder: Path) -> bool:
    """Whether a folder, or its training part, has the folders ``images`` and ``masks``."""
    return any((path / "images").is_dir() and (path / "masks").is_dir() for path in (folder, _part(folder, "train")))


def load_mask_folder(name: str, options: DataOptions) -> DataSplits:
    """Load ``name/images`` and ``name/masks``, or these below ``train``, ``val`` and ``test``.

    With the option ``masks``, `name` is the folder of the images of a single part.

    Raises:
        DataError: As for `MaskFolder`.
    """
    parts = _open_parts(Path(name), options)
    first = parts["train"]
    train, test, note = hold_out(first, parts.get("test"))
    facts = {"size": f"{first.size[0]}x{first.size[1]} pixels, {'gray' if first.channels == 1 else 'RGB'}"}
    development = parts.get("development")
    return DataSplits(
        name, train, test, fit_normalization(train, scale=1 / 255), first.class_names, note=note,
        development=development, held_out="test" not in parts, task="segmentation",
        summary=summarize("images", {"train": train, "development": development, "test": test}, facts=facts),
    )  # fmt: skip


def _open_parts(folder: Path, options: DataOptions) -> dict[str, MaskFolder]:
    own: dict[str, Any] = {
        "size": options.size, "channels": options.channels, "class_names": options.class_names or None,
        "num_workers": options.num_workers,
    }  # fmt: skip
    if options.masks is not None:
        images = folder / "images" if (folder / "images").is_dir() else folder
        return {"train": MaskFolder(images, options.masks, **own)}
    folders = {part: _part(folder, part) for part in PART_NAMES}
    there = {part: path for part, path in folders.items() if (path / "images").is_dir()} or {"train": folder}
    read: dict[str, MaskFolder] = {}
    for part, path in there.items():
        read[part] = MaskFolder(path / "images", path / "masks", **own)
        if options.size is None and own["size"] is not None:  # the size of the first part, which is no resizing
            check_mask_sizes(read[part])
        own |= {"size": read[part].size, "channels": read[part].channels}
    return read


def _part(folder: Path, part: str) -> Path:
    return next((folder / name for name in PART_NAMES[part] if (folder / name).is_dir()), folder / part)


def _files(folder: Path) -> list[Path]:
    if not folder.is_dir():
        raise DataError(f"There is no folder {folder}.")
    return sorted(path for path in folder.rglob("*") if path.suffix.lower() in IMAGE_SUFFIXES)
