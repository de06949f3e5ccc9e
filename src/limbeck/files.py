"""How is a file written so that it is at any moment either the old one or the new one, whole?"""

from __future__ import annotations

import json
import os
from pathlib import Path


def write_text(text: str, path: Path) -> None:
    """Write a small file in one go: whoever looks sees the old one or the new one, also after a kill."""
    partial = partial_of(path)
    partial.write_text(text, encoding="utf-8")
    settle(partial, path)


def partial_of(path: Path) -> Path:
    """Where a file is written before it is renamed to `path`: beside it, so that renaming moves no bytes."""
    return path.with_name(f".{path.name}.partial")


def settle(partial: Path, path: Path) -> None:
    """Wait until a written file is on the disk, and only then give it its name."""
    with partial.open("rb+") as file:
        os.fsync(file.fileno())
    os.replace(partial, path)
    settle_folder(path.parent)


def settle_folder(folder: Path) -> None:
    """Wait until the names in a folder are on the disk, where the system can tell."""
    if os.name == "posix":
        descriptor = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)


def sort_header(path: Path) -> None:
    """Put the texts in the header of a safetensors file in the order of their names, in place.

    The library writes them in a random order, so that two files of the same tensors would differ.
    """
    with path.open("rb+") as file:
        room = int.from_bytes(file.read(8), "little")
        header = json.loads(file.read(room))
        told = header.pop("__metadata__", None)
        if told is None:
            return
        header = {"__metadata__": dict(sorted(told.items())), **header}
        # Neither library nor json escapes more than it must, so the texts are as long as before; spaces fill the rest.
        text = json.dumps(header, separators=(",", ":"), ensure_ascii=False).encode()
        if len(text) <= room:
            file.seek(8)
            file.write(text.ljust(room))
