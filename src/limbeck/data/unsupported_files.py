"""Error messages for unsupported data files and for paths that do not exist."""

from __future__ import annotations

from pathlib import Path

from limbeck.data.image_folder_files import SUFFIXES
from limbeck.errors import DataError, nearest

_LINES = "write one JSON object per line and name the file .jsonl"
_PACKED = "unpack it first"
_ARRAYS = "save its arrays with numpy.savez('data.npz', x=..., y=...)"
_SHEET = "save it as CSV in UTF-8"
_ARROW = "save it as Parquet"
_WAYS = {
    ".json": _LINES, ".ndjson": _LINES, ".yaml": "to run a job: limbeck distill JOB.yaml",
    ".gz": _PACKED, ".zip": _PACKED, ".tar": _PACKED, ".tgz": _PACKED, ".bz2": _PACKED, ".xz": _PACKED, ".7z": _PACKED,
    ".npy": _ARRAYS, ".pt": _ARRAYS, ".pth": _ARRAYS, ".mat": _ARRAYS, ".h5": _ARRAYS, ".hdf5": _ARRAYS,
    ".pkl": _ARRAYS, ".safetensors": _ARRAYS, ".xlsx": _SHEET, ".xls": _SHEET, ".ods": _SHEET,
    ".arrow": _ARROW, ".feather": _ARROW, ".orc": _ARROW, ".avro": _ARROW, ".pq": "rename it to .parquet",
    ".txt": "rename a table to .csv, with --set data.separator=tab or another character; labeled texts: .jsonl",
    ".data": "rename a table to .csv, with --set data.separator=tab or another character, and add a header row",
    ".py": "add the name of the function that returns the data: my.py:load",
}  # fmt: skip


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
        way = _WAYS.get(suffix, "use a .npz, .csv, .tsv, .parquet or .jsonl file, or a folder")
        if suffix in SUFFIXES:
            way = "use the folder that contains one folder of images per class"
        raise DataError(f"{name} is a {suffix or 'nameless'} file, which is not supported as data: {way}.")
    looks_like_path = "/" in name or "\\" in name or name.startswith("~") or suffix in {*_WAYS, *SUFFIXES}
    if not looks_like_path or name.startswith("hf:"):
        return
    beside = [folder.name for folder in path.parent.iterdir()] if path.parent.is_dir() else []
    near = nearest(path.name, beside)
    suggestion = f" Did you mean {str(path.parent / near)!r}?" if near else ""
    missing = next((folder for folder in reversed(path.parents) if not folder.exists()), None)
    where = f" There is no folder {missing}." if missing is not None else ""
    raise DataError(f"There is no file or folder {name}.{where}{suggestion}")
