"""Arrays of images in a file: channels come first, and whole numbers become bytes, whatever they were kept as."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

import numpy as np

from limbeck.errors import LimbeckError

_CHANNELS = (1, 3, 4)
_MOST_CHANNELS = 16
_LEAST_SIDE = 8  # rows of fewer whole numbers are no image: positions, tokens, counts


def as_images(
    arrays: Mapping[str, np.ndarray], *, channels_last: bool | None = None
) -> tuple[dict[str, np.ndarray], tuple[str, ...]]:
    """Arrays of inputs, with images of any number type as ``[n, c, h, w]``, or as bytes ``[n, h, w]`` of one channel.

    Whole numbers from 0 to 255 become bytes, and larger ones up to 65535 are scaled to bytes, all arrays alike; other
    whole numbers become float32, as float64 does. Arrays of other shapes are left as they are.

    Args:
        arrays: The inputs of each part, by the array's name.
        channels_last: Whether ``[n, h, w, c]`` is how they lie; None looks at the shapes.

    Returns:
        The arrays, and sentences about what was done to them.

    Raises:
        LimbeckError: If `channels_last` is given and there is no array of four dimensions.
    """
    found, notes = dict(arrays), list[str]()
    whole = {name: array for name, array in found.items() if array.ndim == 4}
    if channels_last is not None and not whole:
        raise LimbeckError("channels_last is for images [n, h, w, c], and no array of inputs has four dimensions.")
    for name, array in whole.items():
        last = has_channels_last(array.shape[1:]) if channels_last is None else channels_last
        if last:
            found[name] = np.ascontiguousarray(array.transpose(0, 3, 1, 2))
            shape = "x".join(map(str, array.shape[1:]))
            notes.append(
                f"{name} holds images of {shape}, read as height, width, channels (data.channels_last=false if not)."
            )
    notes += _integers_as_bytes(found)
    for name, array in found.items():
        if array.ndim == 4 and array.shape[1] == 1 and array.dtype == np.uint8:
            found[name] = array[:, 0]  # as `Pixels` reads them
        if array.dtype.kind == "f":
            # numpy's own default is float64, a network's weights are float32.
            found[name] = array.astype(np.float32)
    return found, tuple(notes)


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


def _integers_as_bytes(found: dict[str, np.ndarray]) -> Iterator[str]:
    """Make images of whole numbers bytes, in place; a sentence about it."""
    images = {name: array for name, array in found.items() if _is_image(array) and array.dtype.kind in "iu"}
    if not any(array.dtype != np.uint8 for array in images.values()):
        return
    low = min(int(array.min()) for array in images.values() if array.size)
    high = max(int(array.max()) for array in images.values() if array.size)
    names, types = " and ".join(images), ", ".join(dict.fromkeys(str(array.dtype) for array in images.values()))
    if low < 0 or high > 65535:
        found.update({name: array.astype(np.float32) for name, array in images.items()})
        yield f"The images in {names} are {types} from {low} to {high}, read as float32."
        return
    bits = max(high.bit_length(), 8)
    top = (1 << bits) - 1
    if bits == 8:
        found.update({name: array.astype(np.uint8) for name, array in images.items()})
        yield f"The images in {names} are {types} from {low} to {high}, read as bytes."
        return
    for name, array in images.items():
        found[name] = ((array.astype(np.int64) * 510 + top) // (2 * top)).astype(np.uint8)
    yield f"The images in {names} are {types} up to {high}: their {bits} bits are scaled to 8."


def _is_image(array: np.ndarray) -> bool:
    return array.ndim == 4 or (array.ndim == 3 and min(array.shape[1:]) >= _LEAST_SIDE)
