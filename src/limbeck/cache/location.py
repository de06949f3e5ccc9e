"""`Location`: the folder or remote address of a cache, and its file operations."""

from __future__ import annotations

import hashlib
import os
import shutil
import tempfile
from pathlib import Path
from typing import Any, final

from limbeck.atomic_io import publish_file, sync_folder, write_bytes
from limbeck.errors import DataError, LimbeckError


@final
class Location:
    """A folder on this machine, or one that fsspec reaches (``s3://...``, ``memory://...``).

    Remote files are fetched one by one into a folder on this machine and mapped into memory from there. Files are first
    written here and then uploaded. That folder is in the user's cache directory, or in ``LIMBECK_CACHE``.

    Args:
        where: A path or an address.

    Raises:
        LimbeckError: If fsspec does not support the address.
    """

    def __init__(self, where: str | os.PathLike[str]) -> None:
        text = os.fspath(where)
        self.name = text.rstrip("/") if "://" in text else text
        self._remote: Any = None
        self._root = ""
        if "://" in text and not text.startswith("file://"):
            self._remote, self._root = _remote(self.name)
            self.local = _mirror() / hashlib.sha256(self.name.encode()).hexdigest()[:16]
        else:
            self.local = Path(text.removeprefix("file://"))

    def read(self, file: str) -> bytes | None:
        """The current content of a small file; None if there is none."""
        try:
            if self._remote is not None:
                content: bytes = self._remote.cat_file(f"{self._root}/{file}")
                return content
            return (self.local / file).read_bytes()
        except (FileNotFoundError, NotADirectoryError):
            return None
        except OSError as error:
            raise DataError(f"{self.name}/{file} cannot be read: {error}.") from error

    def fetch(self, file: str, size: int) -> Path:
        """The local path of a file that never changes once it exists.

        Raises:
            DataError: If it is missing.
            LimbeckError: If it cannot be fetched now.
        """
        path = self.local / file
        if self._remote is not None and not (path.is_file() and path.stat().st_size == size):
            path.parent.mkdir(parents=True, exist_ok=True)
            # Two processes may fetch the same file: each writes its own, and publish_file is atomic.
            partial = path.with_name(f".{path.name}.{os.getpid()}")
            try:
                self._remote.get_file(f"{self._root}/{file}", str(partial))
                publish_file(partial, path)
            except FileNotFoundError as error:
                raise DataError(f"{self.name}/{file} is missing.") from error
            except OSError as error:
                # A DataError would say that the file itself is damaged, and it would be dropped.
                raise LimbeckError(f"{self.name}/{file} cannot be fetched: {error}.") from error
            finally:
                partial.unlink(missing_ok=True)
        if not path.is_file():
            raise DataError(f"{self.name}/{file} is missing.")
        return path

    def forget(self, file: str) -> bool:
        """Drop the fetched copy of a file, so that it is fetched again; False where there is no remote copy."""
        if self._remote is None:
            return False
        (self.local / file).unlink(missing_ok=True)
        return True

    def open(self) -> None:
        """Make the folder if it does not exist.

        Raises:
            LimbeckError: If it cannot be written to.
        """
        try:
            self.local.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise LimbeckError(f"{self.name} cannot be written to: {error.strerror}.") from error

    def put(self, file: str, data: bytes) -> None:
        """Write a file atomically, and wait until it is on disk.

        Raises:
            LimbeckError: If the disk is full, or cannot be written to.
        """
        path = self.local / file
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            write_bytes(data, path)
            if self._remote is not None:
                self._remote.put_file(str(path), f"{self._root}/{file}")
        except OSError as error:
            raise self.refusal(error) from error

    def remove(self, file: str) -> None:
        """Remove a file if it exists."""
        (self.local / file).unlink(missing_ok=True)
        if self._remote is not None and self._remote.exists(f"{self._root}/{file}"):
            self._remote.rm_file(f"{self._root}/{file}")

    def adopt(self, other: Location, file: str, name: str) -> None:
        """Take over a file that never changes from another location in the same storage, as a link where possible.

        Raises:
            LimbeckError: If the disk is full, or cannot be written to.
        """
        try:
            if self._remote is not None:
                self._remote.copy(f"{other._root}/{file}", f"{self._root}/{name}")
                return
            path = self.local / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.unlink(missing_ok=True)  # of a call that was killed
            try:
                os.link(other.local / file, path)
                sync_folder(path.parent)
            except OSError:  # a file system without links
                write_bytes((other.local / file).read_bytes(), path)
        except OSError as error:
            raise self.refusal(error) from error

    def remove_all(self) -> None:
        """Remove the folder with all its files."""
        if self._remote is not None and self._remote.exists(self._root):
            self._remote.rm(self._root, recursive=True)
        shutil.rmtree(self.local, ignore_errors=True)

    def files(self, folder: str) -> list[str]:
        """The names in a subfolder."""
        if self._remote is not None:
            if not self._remote.exists(f"{self._root}/{folder}"):
                return []
            return sorted(str(path).rpartition("/")[2] for path in self._remote.ls(f"{self._root}/{folder}", False))
        path = self.local / folder
        return sorted(entry.name for entry in path.iterdir()) if path.is_dir() else []

    def refusal(self, error: OSError) -> LimbeckError:
        """The error for a failed write."""
        import errno

        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            free = shutil.disk_usage(self.local).free / 1e6
            return LimbeckError(
                f"The disk is full at {self.name} ({free:.0f} MB free). The outputs so far are complete. Free "
                "some space; the same command then continues."
            )
        return LimbeckError(f"{self.name} cannot be written to: {error.strerror or error}.")


def _remote(address: str) -> tuple[Any, str]:
    import fsspec

    try:
        system, root = fsspec.core.url_to_fs(address)
    except (ValueError, ImportError) as error:
        raise LimbeckError(f"{address} is no address that fsspec can open: {error}") from error
    return system, str(root).rstrip("/")


def _mirror() -> Path:
    folder = os.environ.get("LIMBECK_CACHE")
    if folder:
        return Path(folder)
    home = os.environ.get("XDG_CACHE_HOME") or os.path.join(os.path.expanduser("~"), ".cache")
    default = Path(home) / "limbeck" / "answers"
    return default if os.access(Path(home).parent, os.W_OK) else Path(tempfile.gettempdir()) / "limbeck-answers"
