"""Where a cache lies, and how its files get there and back."""

from __future__ import annotations

import hashlib
import os
import shutil
import tempfile
from pathlib import Path
from typing import Any, final

from limbeck.atomic_io import write_bytes
from limbeck.errors import DataError, LimbeckError


@final
class Location:
    """A folder on this machine, or one that fsspec reaches (``s3://...``, ``memory://...``).

    What lies elsewhere is fetched file by file into a folder of this machine, where it is mapped into memory; files are
    written here first, whole, and then sent. That folder is in the user's cache, or in ``LIMBECK_CACHE``.

    Args:
        where: A path or an address.

    Raises:
        LimbeckError: If fsspec does not know the kind of address.
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
        """A small file as it is now; None if there is none."""
        try:
            if self._remote is not None:
                found: bytes = self._remote.cat_file(f"{self._root}/{file}")
                return found
            return (self.local / file).read_bytes()
        except (FileNotFoundError, NotADirectoryError):
            return None
        except OSError as error:
            raise DataError(f"{self.name}/{file} cannot be read: {error}.") from error

    def fetch(self, file: str, size: int) -> Path:
        """A file that never changes once it is there, as one of this machine's.

        Raises:
            DataError: If it is missing.
            LimbeckError: If it cannot be fetched now.
        """
        path = self.local / file
        if self._remote is not None and not (path.is_file() and path.stat().st_size == size):
            path.parent.mkdir(parents=True, exist_ok=True)
            # Two processes may fetch the same file: each writes its own, and the names change hands whole.
            partial = path.with_name(f".{path.name}.{os.getpid()}")
            try:
                self._remote.get_file(f"{self._root}/{file}", str(partial))
                os.replace(partial, path)
            except FileNotFoundError as error:
                raise DataError(f"{self.name}/{file} is missing.") from error
            except OSError as error:
                # No DataError, which would say that the file itself is damaged, so that it is dropped.
                raise LimbeckError(f"{self.name}/{file} cannot be fetched: {error}.") from error
            finally:
                partial.unlink(missing_ok=True)
        if not path.is_file():
            raise DataError(f"{self.name}/{file} is missing.")
        return path

    def forget(self, file: str) -> bool:
        """Drop what was fetched of a file, so that it is fetched again; whether there is anywhere to fetch it from."""
        if self._remote is None:
            return False
        (self.local / file).unlink(missing_ok=True)
        return True

    def open(self) -> None:
        """Make the folder, where there is none yet.

        Raises:
            LimbeckError: If it cannot be written to.
        """
        try:
            self.local.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise LimbeckError(f"{self.name} cannot be written to: {error.strerror}.") from error

    def put(self, file: str, data: bytes) -> None:
        """Give a file its content in one go, and wait until it is kept.

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
        """Remove a file, if it is there."""
        (self.local / file).unlink(missing_ok=True)
        if self._remote is not None and self._remote.exists(f"{self._root}/{file}"):
            self._remote.rm_file(f"{self._root}/{file}")

    def files(self, folder: str) -> list[str]:
        """The names in a folder of it."""
        if self._remote is not None:
            if not self._remote.exists(f"{self._root}/{folder}"):
                return []
            return sorted(str(path).rpartition("/")[2] for path in self._remote.ls(f"{self._root}/{folder}", False))
        found = self.local / folder
        return sorted(path.name for path in found.iterdir()) if found.is_dir() else []

    def refusal(self, error: OSError) -> LimbeckError:
        """A sentence for what the system would not write."""
        import errno

        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            free = shutil.disk_usage(self.local).free / 1e6
            return LimbeckError(
                f"The disk is full at {self.name} ({free:.0f} MB free): what was kept so far is whole; make room, and "
                "the same command goes on."
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
    told = os.environ.get("LIMBECK_CACHE")
    if told:
        return Path(told)
    home = os.environ.get("XDG_CACHE_HOME") or os.path.join(os.path.expanduser("~"), ".cache")
    found = Path(home) / "limbeck" / "answers"
    return found if os.access(Path(home).parent, os.W_OK) else Path(tempfile.gettempdir()) / "limbeck-answers"
