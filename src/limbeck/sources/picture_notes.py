"""Sentences about how a folder of pictures was read: what was left out, converted, scaled or resized, and how many."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence

from limbeck.sources.picture import GREY, WIDE, Header
from limbeck.sources.picture_files import Files

_KINDS = {
    "1": "black and white", "L": "grey", "LA": "grey with alpha", "P": "palette", "PA": "palette with alpha",
    "RGB": "RGB", "RGBA": "RGBA",
}  # fmt: skip


def notes_on_files(files: Files) -> Iterator[str]:
    """What of the files in the folder is read under the class of a folder above it, and what is not read."""
    total = sum(map(len, files.pictures))
    if files.nested:
        yield f"{_of(files.nested, total)} lie in sub-folders, and are read as the class whose folder they are in."
    if files.parted:
        yield (
            f"{_of(files.parted, total)} lie in folders called as a part is, inside a class folder, and are no part of "
            "their own: put the parts outside, train/CLASS and test/CLASS, to have them read so."
        )
    if files.loose:
        yield f"Left out: {_number(files.loose, 'picture')} beside the class folders."
    if others := +files.others:
        kinds = ", ".join(f"{suffix or 'no suffix'}: {count:,}" for suffix, count in others.most_common(5))
        yield f"Left out: {_number(others.total(), 'file')} that are no pictures ({kinds})."


def notes_on_classes(names: Sequence[str]) -> Iterator[str]:
    """How class folders that are numbers are ordered, where that is not the order of the numbers."""
    if names and all(name.isdecimal() for name in names) and list(names) != sorted(names, key=int):
        yield (
            "The class folders are numbers in the order of their names, as in torchvision: "
            f"{', '.join(names[:4])}, ... "
            "For another order say class_names=[...]."
        )


def notes_on_pictures(
    headers: Sequence[Header], *, size: tuple[int, int], channels: int, bit_depth: int
) -> Iterator[str]:
    """What is done to pictures that are not of the size, the channels and the bits that come out."""
    total = len(headers)
    modes = Counter(header.mode for header in headers)
    if wide := sum(modes[mode] for mode in WIDE):
        yield f"{_of(wide, total)} have more than 8 bits a pixel: their {bit_depth} bits are scaled to 8."
    if upper := sum(header.upper_bits for header in headers):
        yield f"{_of(upper, total)} have 16 bits a channel, of which the upper 8 are read."
    own = GREY if channels == 1 else ("RGB",)
    if other := Counter({mode: count for mode, count in modes.items() if mode not in own}):
        kinds = ", ".join(f"{_KINDS.get(mode, mode)}: {count:,}" for mode, count in other.most_common())
        yield f"{_of(other.total(), total)} are converted to {'grey' if channels == 1 else 'RGB'} ({kinds})."
    if transparent := sum(header.transparent for header in headers):
        yield f"{_of(transparent, total)} have transparency, which is left out."
    if frames := sum(header.frames for header in headers):
        yield f"{_of(frames, total)} have several frames or pages, of which the first is read."
    if rotated := sum(header.rotated for header in headers):
        yield f"{_of(rotated, total)} have an EXIF orientation, which is not applied."
    if resized := [header.size for header in headers if header.size != size]:
        low, high = min(resized, key=_area), max(resized, key=_area)
        span = f"from {low[0]}x{low[1]}" + (f" to {high[0]}x{high[1]}" if high != low else "")
        yield f"{_of(len(resized), total)} are resized to {size[0]}x{size[1]} pixels ({span})."


def _area(size: tuple[int, int]) -> int:
    return size[0] * size[1]


def _of(count: int, total: int) -> str:
    return f"{count:,} of {_number(total, 'picture')}"


def _number(count: int, name: str) -> str:
    return f"{count:,} {name}" + ("s" if count != 1 else "")
