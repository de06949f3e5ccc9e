"""Built-in image datasets: MNIST, Fashion-MNIST and CIFAR from files or the Hugging Face hub, digits, drawn digits."""

from __future__ import annotations

import math
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from limbeck.data.arrays import ArrayDataset
from limbeck.data.dataset import Dataset, split
from limbeck.data.npz import read_arrays, split_arrays
from limbeck.data.options import DataOptions
from limbeck.data.preprocess import NormalizeImages, fit_normalization
from limbeck.data.splits import DataSplits
from limbeck.errors import DataError
from limbeck.optional_imports import import_optional, install_command, is_installed

_FASHION = "T-shirt/top Trouser Pullover Dress Coat Sandal Shirt Sneaker Bag"
_CIFAR10 = "airplane automobile bird cat deer dog frog horse ship truck"
_DIGITS = tuple("0123456789")
DRAWN_DIGITS = "drawn_digits"


@dataclass(frozen=True)
class ImageDatasetInfo:
    """Properties of a built-in image dataset.

    Attributes:
        shape: Shape of one stored image: (h, w) or (h, w, c).
        classes: Number of classes.
        names: The class names; None if they are read from the file.
        mean: Mean of each channel of the training part, in [0, 1].
        std: Standard deviation of each channel.
        counts: Number of training and test examples.
        hub: The dataset's name on the Hugging Face hub, its image column and its label column.
        subset: Name of a file with a subset of the dataset.
    """

    shape: tuple[int, ...]
    classes: int
    names: tuple[str, ...] | None
    mean: tuple[float, ...]
    std: tuple[float, ...]
    counts: tuple[int, int]
    hub: tuple[str, str, str]
    subset: str | None = None

    @property
    def preprocess(self) -> NormalizeImages:
        """Preprocessing with the mean and std of the training part."""
        return NormalizeImages(self.mean, self.std)


IMAGE_DATASETS = {
    "mnist": ImageDatasetInfo(
        (28, 28), 10, _DIGITS, (0.1307,), (0.3081,), (60_000, 10_000), ("ylecun/mnist", "image", "label")
    ),
    "fashion_mnist": ImageDatasetInfo(
        (28, 28),
        10,
        (*_FASHION.split(" "), "Ankle boot"),
        (0.2860,),
        (0.3530,),
        (60_000, 10_000),
        ("zalando-datasets/fashion_mnist", "image", "label"),
    ),
    "cifar10": ImageDatasetInfo(
        (32, 32, 3),
        10,
        tuple(_CIFAR10.split(" ")),
        (0.4914, 0.4822, 0.4465),
        (0.2470, 0.2435, 0.2616),
        (50_000, 10_000),
        ("uoft-cs/cifar10", "img", "label"),
    ),
    "cifar100": ImageDatasetInfo(
        (32, 32, 3),
        100,
        None,
        (0.5071, 0.4866, 0.4409),
        (0.2673, 0.2564, 0.2762),
        (50_000, 10_000),
        ("uoft-cs/cifar100", "img", "fine_label"),
        subset="cifar100_subset",
    ),
}
"""The built-in image datasets by name."""


def load_digits(name: str, options: DataOptions) -> DataSplits:
    """Load scikit-learn's digits, or drawn ones: 797 for training and 1000 for testing, stratified, with seed 0.

    Raises:
        MissingPackageError: If scikit-learn is needed and not installed.
    """
    if name == DRAWN_DIGITS:
        images, labels = draw_digits(1797)
        note = "drawn by limbeck.data.draw_digits"
    else:
        source = import_optional("sklearn.datasets", extra="sklearn", purpose=f"data={name!r}").load_digits()
        images, labels = source.images, source.target
        note = "scikit-learn's digits (UCI, optical recognition of handwritten digits, the test part)"
    whole = ArrayDataset(images.astype(np.uint8), labels.astype(np.int64), class_names=_DIGITS)
    train, test = (_copy_arrays(part) for part in split(whole, fraction=1000 / 1797, seed=0))
    return DataSplits(name, train, test, fit_normalization(train, scale=1 / LEVELS), _DIGITS, note=note)


def load_image_dataset(name: str, options: DataOptions) -> DataSplits:
    """Load a built-in image dataset.

    The search order is: ``NAME.npz`` in ``options.folder`` (without one: in the folder of the environment variable
    ``LIMBECK_DATA``, then in ``./data``), then the Hugging Face hub, if ``datasets`` is installed.

    Raises:
        DataError: If the dataset is not available, or the file has other content.
    """
    info = IMAGE_DATASETS[name]
    train, test, note = _find_image_dataset(name, info, data_folders(options.folder))
    return DataSplits(name, train, test, info.preprocess, train.class_names, note=note)


def _find_image_dataset(
    name: str, info: ImageDatasetInfo, folders: list[Path]
) -> tuple[ArrayDataset, ArrayDataset, str]:
    """The training part, the test part, and a note on their origin."""
    for directory in folders:
        for stem in (name, info.subset):
            path = directory / f"{stem}.npz"
            if stem is not None and path.is_file():
                train, test = _from_file(path, info)
                part = f"a subset of {name}: " if stem != name else ""
                return train, test, f"{part}{path.name}, {len(train)} + {len(test)} examples"
    splits = _from_hub(name, info)
    if splits is None:
        raise DataError(_missing_message(name, info, folders[0]))
    return *splits, f"{info.hub[0]} from the Hugging Face hub"


def _copy_arrays(part: Dataset) -> ArrayDataset:
    rows = part.take(torch.arange(len(part)))
    return ArrayDataset(rows.inputs, rows.labels, class_names=part.class_names)


def data_folders(folder: str | Path | None = None) -> list[Path]:
    """The folders that are searched for data, in order."""
    if folder is not None:
        return [Path(folder)]
    named = os.environ.get("LIMBECK_DATA")
    return [*([Path(named)] if named else []), Path("data")]


def _channels_first(images: np.ndarray) -> np.ndarray:
    """Convert ``[n, h, w, c]`` to ``[n, c, h, w]``, and drop a single channel; other shapes stay."""
    if images.ndim == 4 and images.shape[-1] in (1, 3, 4) and images.shape[1] not in (1, 3, 4):
        images = np.ascontiguousarray(images.transpose(0, 3, 1, 2))
    return images[:, 0] if images.ndim == 4 and images.shape[1] == 1 else images


def _from_file(path: Path, info: ImageDatasetInfo) -> tuple[ArrayDataset, ArrayDataset]:
    arrays = read_arrays(path)
    for name in ("x_train", "x_test"):
        if name in arrays:
            arrays[name] = _channels_first(arrays[name])
            _check_images(path, name, arrays[name], info)
    names = arrays.get("class_names", info.names)
    arrays["class_names"] = np.array([str(i) for i in range(info.classes)] if names is None else names)
    train, test = split_arrays(path, arrays)
    if test is None or train.labels is None:
        raise DataError(f"{path} must contain x_train, y_train, x_test and y_test; it contains {', '.join(arrays)}.")
    return train, test


def _check_images(path: Path, name: str, images: np.ndarray, info: ImageDatasetInfo) -> None:
    shape = info.shape if len(info.shape) == 2 else (info.shape[2], *info.shape[:2])
    if images.dtype != np.uint8 or images.shape[1:] != shape:
        raise DataError(
            f"{path}: {name} is {images.dtype} {list(images.shape)}; expected uint8 [n, {', '.join(map(str, shape))}]."
        )


def _from_hub(name: str, info: ImageDatasetInfo) -> tuple[ArrayDataset, ArrayDataset] | None:
    if not is_installed("datasets"):
        return None
    import datasets

    path, image, label = info.hub
    try:
        whole = datasets.load_dataset(path)
    except Exception as error:  # the client raises different types without network, dataset or permission
        raise DataError(f"{name} is not on this machine, and downloading {path} failed: {error}.") from error
    return _from_rows(whole["train"], image, label, info), _from_rows(whole["test"], image, label, info)


def _from_rows(part: Any, image: str, label: str, info: ImageDatasetInfo) -> ArrayDataset:
    images = np.stack([np.asarray(image_data, dtype=np.uint8) for image_data in part[image]])
    names = info.names or part.features[label].names
    return ArrayDataset(_channels_first(images), np.asarray(part[label]), class_names=names)


def _missing_message(name: str, info: ImageDatasetInfo, directory: Path) -> str:
    size = ", ".join(str(n) for n in info.shape)
    train, test = info.counts
    return (
        f"{name} is not on this machine. Put {name}.npz into {directory}/ (or set LIMBECK_DATA to its folder) with the "
        f"uint8 arrays x_train [{train}, {size}], y_train [{train}], x_test [{test}, {size}], y_test [{test}]. "
        f"Or download it: {install_command('hf')}."
    )


_SIDE = 8
"""Height and width of an image."""
LEVELS = 16
"""The value of white. The images have the size and the 17 shades of scikit-learn's digits."""

_SAMPLES = 3  # points in each direction within a pixel
_RING = ((0.5, 0.1), (0.8, 0.3), (0.8, 0.7), (0.5, 0.9), (0.2, 0.7), (0.2, 0.3), (0.5, 0.1))
_STROKES: tuple[tuple[tuple[tuple[float, float], ...], ...], ...] = (
    (_RING,),
    (((0.35, 0.3), (0.55, 0.1), (0.55, 0.9)),),
    (((0.2, 0.3), (0.45, 0.1), (0.75, 0.25), (0.7, 0.5), (0.2, 0.9), (0.8, 0.9)),),
    (((0.2, 0.15), (0.7, 0.1), (0.75, 0.3), (0.45, 0.48), (0.78, 0.65), (0.65, 0.9), (0.2, 0.85)),),
    (((0.6, 0.9), (0.6, 0.1), (0.2, 0.6), (0.85, 0.6)),),
    (((0.75, 0.1), (0.3, 0.1), (0.25, 0.45), (0.65, 0.45), (0.78, 0.7), (0.55, 0.9), (0.2, 0.85)),),
    (((0.7, 0.1), (0.3, 0.4), (0.22, 0.75), (0.5, 0.9), (0.75, 0.72), (0.55, 0.52), (0.25, 0.65)),),
    (((0.2, 0.1), (0.8, 0.1), (0.4, 0.9)),),
    (((0.5, 0.48), (0.25, 0.28), (0.5, 0.1), (0.75, 0.28), (0.5, 0.48)),
     ((0.5, 0.48), (0.78, 0.7), (0.5, 0.9), (0.22, 0.7), (0.5, 0.48))),
    (((0.75, 0.35), (0.5, 0.5), (0.25, 0.3), (0.5, 0.1), (0.75, 0.3), (0.65, 0.9)),),
)  # fmt: skip
"""The strokes of each digit: corners in (x, y) from 0 to 1, y downwards."""


def draw_digits(count: int, *, seed: int = 0) -> tuple[NDArray[np.float32], NDArray[np.int64]]:
    """Draw digits, each with its own slant, size, place, thickness, and unsteady corners.

    Image i depends on the seed and i alone; its label is i modulo 10.

    Args:
        count: The number of images.
        seed: The seed.

    Returns:
        Images ``[count, 8, 8]`` with whole numbers from 0 to 16, and labels ``[count]``.

    Example:
        >>> images, labels = draw_digits(30)
        >>> images.shape, float(images.max()), labels[:3].tolist()
        ((30, 8, 8), 16.0, [0, 1, 2])
    """
    labels = np.arange(count, dtype=np.int64) % 10
    images = np.stack([_draw(int(label), np.random.default_rng((seed, i))) for i, label in enumerate(labels)])
    return images, labels


def _draw(digit: int, random: np.random.Generator) -> NDArray[np.float32]:
    """Draw one digit: ink where a point is near a stroke, averaged over each pixel."""
    angle, shear = random.normal(0.0, 0.2), random.normal(0.0, 0.2)
    scale, place = random.normal(0.85, 0.08, 2), random.normal(0.5, 0.05, 2)
    thickness = random.uniform(0.05, 0.11)
    turn = np.array([[math.cos(angle), -math.sin(angle)], [math.sin(angle), math.cos(angle)]])
    matrix = turn @ np.array([[scale[0], shear], [0.0, scale[1]]])
    side = (np.arange(_SIDE * _SAMPLES) + 0.5) / (_SIDE * _SAMPLES)
    points = np.stack(np.meshgrid(side, side), -1).reshape(-1, 1, 2)
    distance = np.full(len(points), np.inf)
    for stroke in _STROKES[digit]:
        corners = (np.array(stroke) - 0.5 + random.normal(0.0, 0.045, (len(stroke), 2))) @ matrix.T + place
        distance = np.minimum(distance, _distance(points, corners[:-1], corners[1:]))
    ink = np.clip(1.5 - distance / thickness, 0.0, 1.0).reshape(_SIDE, _SAMPLES, _SIDE, _SAMPLES).mean((1, 3))
    ink = ink * random.uniform(0.8, 1.1) + random.normal(0.0, 0.03, ink.shape)
    return np.rint(np.clip(ink, 0.0, 1.0) * LEVELS).astype(np.float32)


def _distance(
    points: NDArray[np.float64], starts: NDArray[np.float64], ends: NDArray[np.float64]
) -> NDArray[np.float64]:
    """Compute the distance of each point ``[n, 1, 2]`` from the nearest of the line segments."""
    along = ends - starts
    share = np.clip(((points - starts) * along).sum(-1) / (along**2).sum(-1), 0.0, 1.0)
    nearest: NDArray[np.float64] = np.linalg.norm(points - starts - share[..., None] * along, axis=-1).min(-1)
    return nearest
