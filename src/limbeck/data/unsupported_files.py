"""What is said of a file that is no data set, and of a path at which there is nothing."""

from __future__ import annotations

from pathlib import Path

from limbeck.data.image_folder_files import SUFFIXES
from limbeck.errors import DataError, nearest

_LINES = "write one JSON object a line, and call the file .jsonl"
_PACKED = "unpack it first"
_ARRAYS = "save its arrays with numpy.savez('data.npz', x=..., y=...)"
_SHEET = "save it as CSV in UTF-8"
_ARROW = "save it as Parquet"
_WAYS = {
    ".json": _LINES, ".ndjson": _LINES, ".yaml": "a job is named first: limbeck distill JOB.yaml",
    ".gz": _PACKED, ".zip": _PACKED, ".tar": _PACKED, ".tgz": _PACKED, ".bz2": _PACKED, ".xz": _PACKED, ".7z": _PACKED,
    ".npy": _ARRAYS, ".pt": _ARRAYS, ".pth": _ARRAYS, ".mat": _ARRAYS, ".h5": _ARRAYS, ".hdf5": _ARRAYS,
    ".pkl": _ARRAYS, ".safetensors": _ARRAYS, ".xlsx": _SHEET, ".xls": _SHEET, ".ods": _SHEET,
    ".arrow": _ARROW, ".feather": _ARROW, ".orc": _ARROW, ".avro": _ARROW, ".pq": "call it .parquet",
    ".txt": "call a table .csv, with --set data.separator=tab or another character; texts need labels, a .jsonl file",
    ".data": "call a table .csv, with --set data.separator=tab or another character, and a header in its first row",
    ".py": "name the function in it that gives the data: my.py:load",
}  # fmt: skip


def check_readable(name: str, path: Path) -> None:
    """Refuse a file of a kind that is not read, and a path at which there is nothing; any other name may pass.

    Args:
        name: What a person typed.
        path: The path that it would be.

    Raises:
        DataError: With what would make it data, or the nearest name beside it.
    """
    suffix = path.suffix.lower()
    if path.is_file():
        way = _WAYS.get(suffix, "give a .npz, .csv, .tsv, .parquet or .jsonl file, or a folder")
        if suffix in SUFFIXES:
            way = "give the folder that holds one folder of pictures for each class"
        raise DataError(f"{name} is a {suffix or 'nameless'} file, which is not read as data: {way}.")
    looks_like_path = "/" in name or "\\" in name or name.startswith("~") or suffix in {*_WAYS, *SUFFIXES}
    if not looks_like_path or name.startswith("hf:"):
        return
    beside = [folder.name for folder in path.parent.iterdir()] if path.parent.is_dir() else []
    near = nearest(path.name, beside)
    suggestion = f" Did you mean {str(path.parent / near)!r}?" if near else ""
    missing = next((folder for folder in reversed(path.parents) if not folder.exists()), None)
    where = f" There is no folder {missing}." if missing is not None else ""
    raise DataError(f"There is no folder and no file {name}.{where}{suggestion}")
