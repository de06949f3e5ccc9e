"""File names: the parts of a data set, images, formats that are not supported; checks that a file exists."""

from __future__ import annotations

from pathlib import Path

from limbeck.errors import DataError, nearest

PART_NAMES = {
    "train": ("train", "training", "trn"),
    "development": ("val", "valid", "validation", "dev", "development"),
    "test": ("test", "testing", "tst"),
}
"""Common names of each part, in lower case."""
IMAGE_SUFFIXES = (
    ".png", ".jpg", ".jpeg", ".jpe", ".jfif", ".bmp", ".webp", ".tif", ".tiff", ".gif", ".ppm", ".pgm", ".pbm", ".pnm",
    ".avif", ".jp2",
)  # fmt: skip
_LINES = "write one JSON object per line and name the file .jsonl"
_PACKED = "unpack it first"
_ARRAYS = "save its arrays with numpy.savez('data.npz', x=..., y=...)"
_SHEET = "save it as CSV in UTF-8"
_ARROW = "save it as Parquet"
_CONVERSIONS = {
    ".json": _LINES, ".ndjson": _LINES, ".yaml": "to run a job: limbeck distill JOB.yaml",
    ".gz": _PACKED, ".zip": _PACKED, ".tar": _PACKED, ".tgz": _PACKED, ".bz2": _PACKED, ".xz": _PACKED, ".7z": _PACKED,
    ".npy": _ARRAYS, ".pt": _ARRAYS, ".pth": _ARRAYS, ".mat": _ARRAYS, ".h5": _ARRAYS, ".hdf5": _ARRAYS,
    ".pkl": _ARRAYS, ".safetensors": _ARRAYS, ".xlsx": _SHEET, ".xls": _SHEET, ".ods": _SHEET,
    ".arrow": _ARROW, ".feather": _ARROW, ".orc": _ARROW, ".avro": _ARROW, ".pq": "rename it to .parquet",
    ".data": "rename a table to .csv, with --set data.separator=tab or another character, and add a header row",
    ".py": "add the name of the function that returns the data: my.py:load",
}  # fmt: skip


def check_file(path: Path) -> None:
    """Check that a path is a file with content.

    Raises:
        DataError: If `path` is missing (the message suggests the nearest name), a folder, or empty.
    """
    if path.is_dir():
        raise DataError(f"{path} is a folder; a file is needed.")
    if not path.is_file():
        beside = [p.name for p in path.parent.iterdir() if p.is_file()] if path.parent.is_dir() else []
        near = nearest(path.name, beside)
        raise DataError(f"There is no file {path}." + (f" Did you mean {near!r}?" if near else ""))
    if path.stat().st_size == 0:
        raise DataError(f"{path} is empty.")


def check_readable(name: str, path: Path) -> None:
    """Raise for an unsupported file and for a path that does not exist; other names pass.

    Args:
        name: The name that the user typed.
        path: The same name as a path.

    Raises:
        DataError: With a way to convert the file, or the nearest existing name.
    """
    suffix = path.suffix.lower()
    if path.is_file():
        way = _CONVERSIONS.get(suffix, "use a .npz, .csv, .tsv, .parquet, .jsonl or .txt file, or a folder")
        if suffix in IMAGE_SUFFIXES:
            way = "use the folder that contains one folder of images per class"
        raise DataError(f"{name} is a {suffix or 'nameless'} file, which is not supported as data: {way}.")
    looks_like_path = "/" in name or "\\" in name or name.startswith("~") or suffix in {*_CONVERSIONS, *IMAGE_SUFFIXES}
    if not looks_like_path or name.startswith("hf:"):
        return
    beside = [folder.name for folder in path.parent.iterdir()] if path.parent.is_dir() else []
    near = nearest(path.name, beside)
    suggestion = f" Did you mean {str(path.parent / near)!r}?" if near else ""
    missing = next((folder for folder in reversed(path.parents) if not folder.exists()), None)
    where = f" There is no folder {missing}." if missing is not None else ""
    raise DataError(f"There is no file or folder {name}.{where}{suggestion}")
