"""Atomic file writes that never follow a planted link, and folder locks."""

from __future__ import annotations

import ctypes
import json
import os
import shutil
import socket
import stat
import sys
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from limbeck.errors import DataError, LimbeckError, WriteError

if sys.platform == "win32":  # it has none of these flags, and links need a privilege there
    _NOFOLLOW = _CLOEXEC = _NONBLOCK = 0
else:
    _NOFOLLOW, _CLOEXEC, _NONBLOCK = os.O_NOFOLLOW, os.O_CLOEXEC, os.O_NONBLOCK
_HERE = -100
"""AT_FDCWD of Linux, whose libraries alone have renameat2: paths are relative to the working folder."""
_EXCHANGE = 2
"""RENAME_EXCHANGE, see man 2 renameat2."""


@contextmanager
def atomic_write(path: Path) -> Iterator[Path]:
    """Context manager that writes to a temporary file, then renames it to `path` if the block succeeds.

    Readers see either the complete old file or the complete new one, even after a crash or power loss. A link or
    leftover file at the temporary path is removed first and never followed; a link at `path` is replaced.

    Args:
        path: The file; its folder must exist.

    Example:
        >>> import tempfile
        >>> page = Path(tempfile.mkdtemp()) / "page.txt"
        >>> with atomic_write(page) as partial:
        ...     _ = partial.write_text("whole")
        >>> page.read_text()
        'whole'
    """
    partial = partial_path(path)
    remove(partial)
    opened = os.open(partial, os.O_WRONLY | os.O_CREAT | os.O_EXCL | _NOFOLLOW | _CLOEXEC, 0o666)
    # Keep the mode that the umask gives: some libraries create files that only the owner can read.
    mode = stat.S_IMODE(os.fstat(opened).st_mode)
    os.close(opened)
    try:
        yield partial
        if stat.S_IMODE(partial.stat().st_mode) != mode:
            partial.chmod(mode)
        publish_file(partial, path)
    except BaseException as error:
        with suppress(OSError):  # of a disk that was made read-only meanwhile
            partial.unlink(missing_ok=True)
        if isinstance(error, OSError):
            raise _write_error(path, error) from error
        raise


def write_text(text: str, path: Path) -> None:
    """Write a text file atomically."""
    write_bytes(text.encode(errors="replace"), path)


def write_bytes(data: bytes, path: Path) -> None:
    """Write a binary file atomically."""
    with atomic_write(path) as partial:
        partial.write_bytes(data)


def write_safetensors(tensors: Mapping[str, Any], path: Path, *, metadata: Mapping[str, str]) -> None:
    """Write a safetensors file atomically, with a sorted header: equal content gives equal files.

    Raises:
        WriteError: If it cannot be written; the old file is unchanged.
    """
    from safetensors import SafetensorError
    from safetensors.torch import save_file

    with atomic_write(path) as partial:
        try:
            save_file(dict(tensors), partial, metadata=dict(metadata))
        except SafetensorError as error:  # the library's error has no errno
            raise OSError(str(error)) from error
        sort_header(partial)


def append_text(text: str, path: Path) -> None:
    """Append text to a file, and create it if it does not exist.

    The text is not flushed to the disk: a flush for each report would slow down training, and a line that a power loss
    cuts off is noticed by its checksum (`limbeck.checksums`).

    Raises:
        DataError: If the path is a link or not a regular file. The target of a link is not changed.
    """
    with _open_for_writing(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND) as descriptor:
        data = text.encode(errors="replace")
        try:
            while data:
                data = data[os.write(descriptor, data) :]
        except OSError as error:
            raise _write_error(path, error) from error


def truncate(path: Path, size: int) -> None:
    """Truncate a file to `size` bytes.

    Raises:
        DataError: If the path is a link or not a regular file.
    """
    with _open_for_writing(path, os.O_WRONLY) as descriptor:
        os.ftruncate(descriptor, size)


def open_regular_file(path: Path, flags: int) -> int:
    """Open a regular file and return its descriptor. A soft or hard link at the path is removed, not followed."""
    with suppress(FileNotFoundError):
        there = path.lstat()
        if stat.S_ISLNK(there.st_mode) or (stat.S_ISREG(there.st_mode) and there.st_nlink > 1):
            path.unlink()
    try:
        # O_NONBLOCK: opening a named pipe would otherwise block.
        descriptor = os.open(path, flags | _NOFOLLOW | _CLOEXEC | _NONBLOCK, 0o666)
    except IsADirectoryError as error:
        raise DataError(f"{path} is a folder, but limbeck writes a file with that name. Remove the folder.") from error
    if not stat.S_ISREG(os.fstat(descriptor).st_mode):
        os.close(descriptor)
        raise DataError(f"{path} is not a regular file. Remove it.")
    return descriptor


def check_no_folder_links(folder: Path) -> None:
    """Raise an error if a folder contains a link to a folder, so that limbeck writes only inside the run's folder.

    Links to files are allowed: they are read, and replaced when a file with that name is written. `folder` itself may
    be a link, because the user chose it.

    Raises:
        DataError: If a subfolder is a link, or an entry is neither a file nor a folder (a pipe, a device).
    """
    waiting = [folder]
    while waiting:
        try:
            entries = list(os.scandir(waiting.pop()))
        except OSError:  # missing or unreadable; the code that reads it reports that
            continue
        for entry in entries:
            if entry.is_symlink():
                if not entry.is_file() and entry.name != ".lock":
                    raise DataError(
                        f"{entry.path} is a link to {os.readlink(entry.path)}. limbeck does not follow links to "
                        "folders inside a run's folder, so that nothing is written elsewhere. Remove the link, "
                        "or put the "
                        "folder itself there."
                    )
            elif entry.is_dir(follow_symlinks=False):
                waiting.append(Path(entry.path))
            elif not entry.is_file(follow_symlinks=False):
                raise DataError(f"{entry.path} is neither a file nor a folder. Remove it.")


def is_file(path: Path) -> bool:
    """Whether the path is a file; False for paths that cannot exist."""
    try:
        return path.is_file()
    except (OSError, ValueError):
        return False


def remove(path: Path) -> None:
    """Remove a file, a link (not its target) or a folder, if it exists."""
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path, ignore_errors=True)
    else:
        path.unlink(missing_ok=True)


def partial_path(path: Path) -> Path:
    """Temporary path next to `path`, on the same file system, so that renaming copies no bytes."""
    return path.with_name(f".{path.name}.partial")


def new_partial_folder(folder: Path) -> Path:
    """Create an empty temporary folder next to `folder`, without what an interrupted process left there.

    Raises:
        LimbeckError: If it cannot be made, for example because a parent is a file.
    """
    make_folder(folder.parent)
    partial = partial_path(folder)
    remove(partial)
    make_folder(partial)
    return partial


def make_folder(folder: Path) -> None:
    """Create a folder and its parents, unless it exists.

    Raises:
        LimbeckError: If it cannot be made, for example because it or a parent is a file.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        why = next((f"{path} is a file" for path in (folder, *folder.parents) if path.is_file()), error.strerror)
        raise LimbeckError(f"The folder {folder} cannot be made: {why}. Choose another folder.") from error


def replace_folder(new: Path, folder: Path) -> None:
    """Rename the folder `new` to `folder`, flush that to the disk, and remove the old folder.

    On Linux the two are exchanged in one step. Elsewhere a crash in between can leave no folder with that name.
    """
    old = folder.with_name(f".{folder.name}.old")
    remove(old)
    if folder.exists() and _exchange(new, folder):
        old = new
    elif folder.exists():
        folder.rename(old)
        new.rename(folder)
    else:
        new.rename(folder)
    sync_folder(folder.parent)
    remove(old)


def publish_folder(new: Path, folder: Path) -> None:
    """Rename the folder `new` to `folder`, which is free or empty, and flush that to the disk.

    Raises:
        OSError: If a folder with contents is there.
    """
    os.replace(new, folder)
    sync_folder(folder.parent)


def _exchange(one: Path, other: Path) -> bool:
    """Exchange two paths and return True, or return False; `os.replace` refuses folders that are not empty."""
    if os.name != "posix":
        return False
    try:
        exchange = ctypes.CDLL(None).renameat2
    except AttributeError:  # macOS, and old C libraries
        return False
    return bool(exchange(_HERE, os.fsencode(one), _HERE, os.fsencode(other), _EXCHANGE) == 0)


def publish_file(partial: Path, path: Path) -> None:
    """Flush a file to the disk, then rename it to `path`."""
    with partial.open("rb+") as file:
        os.fsync(file.fileno())
    os.replace(partial, path)
    sync_folder(path.parent)


def sync_folder(folder: Path) -> None:
    """Flush the entries of a folder to the disk, on POSIX systems."""
    if os.name == "posix":
        descriptor = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)


def sort_header(path: Path) -> None:
    """Sort the metadata in the header of a safetensors file by key, in place.

    The library writes the entries in random order, so two files with the same tensors would differ.
    """
    with path.open("rb+") as file:
        room = int.from_bytes(file.read(8), "little")
        header = json.loads(file.read(room))
        metadata = header.pop("__metadata__", None)
        if metadata is None:
            return
        header = {"__metadata__": dict(sorted(metadata.items())), **header}
        # Both the library and json escape as little as possible, so the length stays the same; spaces fill the rest.
        text = json.dumps(header, separators=(",", ":"), ensure_ascii=False).encode()
        if len(text) <= room:
            file.seek(8)
            file.write(text.ljust(room))


def _write_error(path: Path, error: OSError) -> WriteError:
    return WriteError(error.errno, error.strerror or str(error), str(path))


@contextmanager
def _open_for_writing(path: Path, flags: int) -> Iterator[int]:
    if path.is_symlink():
        raise DataError(
            f"{path} is a link to {os.readlink(path)}, and limbeck does not write through links. Remove it."
        )
    _break_hard_link(path)
    descriptor = open_regular_file(path, flags)
    try:
        yield descriptor
    finally:
        os.close(descriptor)


def _break_hard_link(path: Path) -> None:
    """Replace a file that has other hard links with a copy, so that the other names keep their content."""
    if path.is_file() and path.stat().st_nlink > 1:
        write_bytes(path.read_bytes(), path)


_NAME = ".lock"

# The system's lock belongs to the process, so two runs in one process are distinguished here.
_mine: dict[Path, int] = {}
_mine_guard = threading.Lock()


@contextmanager
def folder_lock(folder: Path, *, doing: str = "run") -> Iterator[None]:
    """Context manager that locks a folder against other runs, in this process and in others.

    The operating system releases the lock when the process ends, even if it is killed. Forked children do not hold
    it. On a file system without locks, only runs within one process exclude each other.

    Args:
        folder: The run's folder, which must exist.
        doing: The verb for the error message: ``run``, ``written``.

    Raises:
        LimbeckError: If another run uses the folder.
    """
    check_no_folder_links(folder)
    path = folder.resolve()
    with _mine_guard:
        # Check before the file is opened: closing it again would release the lock that this process holds.
        if _mine.get(path) == os.getpid():
            raise LimbeckError(
                f"{folder} is being {doing} already, by another run of this process. Finish that run, or stop "
                "iterating over it."
            )
        _mine[path] = os.getpid()
    try:
        lock = _acquire_lock(folder / _NAME, doing)
        try:
            yield
        finally:
            # Remove the file while the lock is held. A process that opened it meanwhile checks again.
            (folder / _NAME).unlink(missing_ok=True)
            os.close(lock)
    finally:
        del _mine[path]


def _acquire_lock(path: Path, doing: str) -> int:
    while True:
        try:
            lock = open_regular_file(path, os.O_RDWR | os.O_CREAT)
        except OSError as error:
            raise LimbeckError(f"{path.parent} cannot be written to: {error.strerror}.") from error
        if not _try_lock(lock):
            holder = os.read(lock, 200).decode(errors="replace").strip()
            os.close(lock)
            raise LimbeckError(
                f"{path.parent} is being {doing} already, by another process ({holder or 'unknown'}). "
                "Wait until it ends, or stop it; a run that was stopped can be resumed at once."
            )
        if _is_same_file(path, lock):
            with suppress(OSError):  # on a full disk: an anonymous lock works too
                os.truncate(lock, 0)
                os.write(lock, f"process {os.getpid()} on {socket.gethostname()}\n".encode())
            return lock
        os.close(lock)


def _is_same_file(path: Path, descriptor: int) -> bool:
    """Whether the open file is still the one at the path; its previous holder may have removed it."""
    try:
        return os.path.samestat(os.fstat(descriptor), os.stat(path))
    except FileNotFoundError:
        return False


def _try_lock(lock: int) -> bool:
    try:
        import fcntl
    except ImportError:  # Windows
        return True
    try:
        fcntl.lockf(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except (BlockingIOError, PermissionError):
        return False
    except OSError:  # a file system without locks
        return True
    return True
