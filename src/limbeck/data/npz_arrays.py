"""Standardizes the arrays of .npz files: names, labels as class indices, images as bytes with channels first."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence

import numpy as np

from limbeck.data.files import PART_NAMES
from limbeck.data.name_matching import encode_classes, order_classes, sorted_classes
from limbeck.errors import DataError, LimbeckError, one_hot_labels_error

_LABELS = ("y_train", "y", "y_val", "y_test")
"""The label arrays, training part first."""
_KINDS = {
    "x": ("x", "images", "image", "data", "features", "inputs", "input"),
    "y": ("y", "labels", "label", "targets", "target", "classes"),
}
_MASK_WORD = re.compile(r"(?<![a-z0-9])masks?(?![a-z0-9])")
"""The name of labels of pixels; arrays of fewer dimensions that are called so are no labels, but hide padding."""
_PARTS = {"_train": PART_NAMES["train"], "_val": PART_NAMES["development"], "_test": PART_NAMES["test"]}

_CHANNELS = (1, 3, 4)
_MOST_CHANNELS = 16
_LEAST_SIDE = 8  # smaller arrays of whole numbers are not images, but positions, tokens or counts


def standardize_names(arrays: Mapping[str, np.ndarray]) -> tuple[dict[str, np.ndarray], list[str]]:
    """Rename arrays to standard names, such as X_train or train_images to x_train; also returns a note.

    If two arrays would get the same name, neither is renamed.

    Example:
        >>> sorted(standardize_names({"X_train": np.zeros(2), "train_labels": np.zeros(2), "note": np.zeros(1)})[0])
        ['note', 'x_train', 'y_train']
    """
    standard_names = {name: _usual(name) for name in arrays}
    labeled = set(standard_names.values())
    for name, array in arrays.items():
        usual = _usual(_MASK_WORD.sub("y", name.lower()))
        if array.ndim >= 3 and _MASK_WORD.search(name.lower()) and usual not in labeled:
            standard_names[name] = usual
    targets = [standard for standard in standard_names.values() if standard is not None]
    renamed = {
        name: standard
        for name, standard in standard_names.items()
        if standard is not None and standard != name and standard not in arrays and targets.count(standard) == 1
    }
    listed = ", ".join(f"{name} as {standard}" for name, standard in renamed.items())
    notes = [f"The arrays {listed} are used."] if renamed else []
    return {renamed.get(name, name): array for name, array in arrays.items()}, notes


def _usual(name: str) -> str | None:
    """The standard name (x, y, x_train, ...) of an array; None if the name does not show kind and part."""
    words = [word for word in re.split(r"[_. -]+", name.lower()) if word]
    if len(words) == 1 and (joined := re.fullmatch(r"([xy])(\w+)", words[0])):
        words = [joined[1], joined[2]]
    kinds = [kind for kind, names in _KINDS.items() if any(word in names for word in words)]
    parts = [part for part, names in _PARTS.items() if any(word in names for word in words)]
    if len(kinds) != 1 or len(kinds) + len(parts) != len(words):
        return None
    return kinds[0] + "".join(parts)


def number_labels(
    path: str, arrays: Mapping[str, np.ndarray], order: Sequence[str] = ()
) -> tuple[dict[str, np.ndarray], list[str]]:
    """Convert all labels of a file to class indices, and ``class_names`` to strings in class order.

    The order of classes is that of ``class_names`` in the file; without it, numbers are sorted by value and other names
    alphabetically. An empty string means no label. The other parts use the classes of the training part.

    Args:
        path: The file, for messages.
        arrays: Its arrays, under standard names.
        order: The class order set by the user; empty for the default.

    Returns:
        The arrays, and notes about labels with another spelling than in the training part.

    Raises:
        DataError: If a class of another part is not in the training part, or class names are not valid.
    """
    result = dict(arrays)
    names = _names_in(path, result)
    labels = {name: _flatten_column(result[name]) for name in _LABELS if name in result}
    for array in labels.values():
        _check_not_one_hot(array)
    texts = {name: _decode(path, name, array) for name, array in labels.items() if array.dtype.kind in "US"}
    result |= {name: array for name, array in labels.items() if name not in texts}
    if not texts and not order:
        return (result if names is None else {**result, "class_names": np.array(names)}), []
    classes = names or _training_classes(labels, texts)
    class_order = order_classes(classes, order, who=path) if names or texts else tuple(order)
    notes = list[str]()
    for name, array in labels.items():
        if name in texts:
            labels_of = [text or None for text in texts[name]]
            result[name], moved = encode_classes(labels_of, class_order, file=path, where=f"in {name}")
            notes += moved
        elif class_order != classes and array.dtype.kind in "iu":
            result[name] = _reorder_labels(path, name, array, classes, class_order)
    return {**result, "class_names": np.array(class_order)}, notes


def _names_in(path: str, arrays: Mapping[str, np.ndarray]) -> tuple[str, ...] | None:
    if "class_names" not in arrays:
        return None
    array = arrays["class_names"]
    if array.ndim != 1:
        raise DataError(f"{path}: class_names must have one name per class; its shape is {list(array.shape)}.")
    names = tuple(_decode(path, "class_names", array) if array.dtype.kind in "US" else map(str, array.tolist()))
    if double := next((name for name in names if names.count(name) > 1), None):
        raise DataError(f"{path}: class_names contains the class {double!r} twice.")
    return names


def _check_not_one_hot(array: np.ndarray) -> None:
    """Raise for one-hot labels."""
    if array.ndim != 2 or array.dtype.kind not in "biuf" or not array.size or array.shape[1] == 1:
        return
    if np.isin(array, (0, 1)).all() and (array.sum(1) == 1).all():
        raise one_hot_labels_error(array.shape)


def _flatten_column(array: np.ndarray) -> np.ndarray:
    """Flatten labels of shape ``[n, 1]`` to ``[n]``."""
    return array[:, 0] if array.ndim == 2 and array.shape[1] == 1 else array


def _decode(path: str, name: str, array: np.ndarray) -> list[str]:
    if array.ndim != 1:
        raise DataError(f"{path}: {name} must have one string per example; its shape is {list(array.shape)}.")
    try:
        read = np.char.decode(array, "utf-8") if array.dtype.kind == "S" else array
    except UnicodeDecodeError as error:
        raise DataError(f"{path}: {name} contains bytes that are not UTF-8; save it with astype(str).") from error
    return [str(text).strip() for text in read.tolist()]


def _training_classes(labels: Mapping[str, np.ndarray], texts: Mapping[str, list[str]]) -> tuple[str, ...]:
    """The classes of the training part, as strings."""
    first = next(iter(labels))
    if first in texts:
        return sorted_classes(text for text in texts[first] if text)
    array = labels[first]
    size = int(array.max()) + 1 if array.size and array.dtype.kind in "iu" else 0
    return tuple(map(str, range(size)))


def _reorder_labels(
    path: str, name: str, array: np.ndarray, old_order: tuple[str, ...], new_order: tuple[str, ...]
) -> np.ndarray:
    """Convert labels from `old_order` to `new_order`; labels of unnamed classes stay as they are."""
    if set(old_order) != set(new_order) & set(old_order):
        return array
    new_numbers = np.array([new_order.index(label) for label in old_order], dtype=np.int64)
    if array.size and int(array.max()) >= len(new_numbers):
        raise DataError(
            f"{path}: {name} goes up to {int(array.max())}, but there are only {len(new_numbers)} class names."
        )
    return np.where(array < 0, array, new_numbers[np.maximum(array, 0)])


def as_images(
    arrays: Mapping[str, np.ndarray], *, channels_last: bool | None = None
) -> tuple[dict[str, np.ndarray], tuple[str, ...]]:
    """Convert images to ``[n, c, h, w]``, or to bytes ``[n, h, w]`` for one channel.

    Whole numbers from 0 to 255 become bytes. Larger ones up to 65535 are scaled to bytes, with the same factor for all
    arrays. Other whole numbers and float64 become float32. Arrays of other shapes are not changed.

    Args:
        arrays: The inputs of each part, by the array's name.
        channels_last: Whether the layout is ``[n, h, w, c]``; None infers it from the shapes.

    Returns:
        The arrays, and notes about conversions.

    Raises:
        LimbeckError: If `channels_last` is set but no array has four dimensions.
    """
    converted, notes = dict(arrays), list[str]()
    whole = {name: array for name, array in converted.items() if array.ndim == 4}
    if channels_last is not None and not whole:
        raise LimbeckError("channels_last applies to images [n, h, w, c], but no input array has four dimensions.")
    for name, array in whole.items():
        last = has_channels_last(array.shape[1:]) if channels_last is None else channels_last
        if last:
            converted[name] = np.ascontiguousarray(array.transpose(0, 3, 1, 2))
            shape = "x".join(map(str, array.shape[1:]))
            notes.append(
                f"{name} has images of {shape}, read as height, width, channels (data.channels_last=false if not)."
            )
    notes += _integers_as_bytes(converted)
    for name, array in converted.items():
        if array.ndim == 4 and array.shape[1] == 1 and array.dtype == np.uint8:
            converted[name] = array[:, 0]  # the layout that `NormalizeImages` expects
        if array.dtype.kind == "f":
            # numpy's default is float64, but model weights are float32.
            converted[name] = array.astype(np.float32)
    return converted, tuple(notes)


def has_channels_last(shape: tuple[int, ...]) -> bool:
    """Whether the shape of one image is likely height, width, channels, and not channels, height, width.

    Example:
        >>> has_channels_last((32, 32, 3)), has_channels_last((3, 32, 32)), has_channels_last((13, 64, 64))
        (True, False, False)
    """
    if len(shape) != 3:
        return False
    first, middle, last = shape
    if first == middle != last:
        return last <= _MOST_CHANNELS
    if middle == last != first:
        return False
    return last in _CHANNELS and first not in _CHANNELS


def _integers_as_bytes(arrays: dict[str, np.ndarray]) -> Iterator[str]:
    """Convert images of whole numbers to bytes, in place; yields a note if anything changed."""
    images = {name: array for name, array in arrays.items() if _is_image(array) and array.dtype.kind in "iu"}
    if not any(array.dtype != np.uint8 for array in images.values()):
        return
    low = min(int(array.min()) for array in images.values() if array.size)
    high = max(int(array.max()) for array in images.values() if array.size)
    names, types = " and ".join(images), ", ".join(dict.fromkeys(str(array.dtype) for array in images.values()))
    if low < 0 or high > 65535:
        arrays.update({name: array.astype(np.float32) for name, array in images.items()})
        yield f"The images in {names} are {types} from {low} to {high}, read as float32."
        return
    bits = max(high.bit_length(), 8)
    top = (1 << bits) - 1
    if bits == 8:
        arrays.update({name: array.astype(np.uint8) for name, array in images.items()})
        yield f"The images in {names} are {types} from {low} to {high}, read as bytes."
        return
    for name, array in images.items():
        arrays[name] = ((array.astype(np.int64) * 510 + top) // (2 * top)).astype(np.uint8)
    yield f"The images in {names} are {types} up to {high}: their {bits} bits are scaled to 8."


def _is_image(array: np.ndarray) -> bool:
    return array.ndim == 4 or (array.ndim == 3 and min(array.shape[1:]) >= _LEAST_SIDE)
