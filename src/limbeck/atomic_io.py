"""Atomic file writes that never follow a planted link, and folder locks."""

from __future__ import annotations

import ctypes
import json
import os
import shutil
import socket
import stat
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from limbeck.errors import DataError, LimbeckError, WriteError

_NOFOLLOW = getattr(os, "O_NOFOLLOW", 0)  # Windows has none; links need a privilege there

_CLOEXEC = getattr(os, "O_CLOEXEC", 0)

_HERE = -100

"""AT_FDCWD of Linux, whose libraries alone have renameat2: paths are relative to the working folder."""

_EXCHANGE = 2

"""RENAME_EXCHANGE, see man 2 renameat2."""


@contextmanager
def atomic_write(path: Path) -> Iterator[Path]:
    """A block that writes a file beside `path`, which gets that name when the block ends well.

    Whoever looks sees the old file or the new one, whole, also after a kill or a power cut. What lies where the new
    file is written (a link that somebody planted, what a killed process left) is removed first, never written through;
    so is a link at `path`.

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
    # What a person's umask allows: some libraries make files that only their owner may read.
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
    """Write a small file in one go: whoever looks sees the old one or the new one, also after a kill."""
    write_bytes(text.encode(errors="replace"), path)


def write_bytes(data: bytes, path: Path) -> None:
    """Write a small file in one go: whoever looks sees the old one or the new one, also after a kill."""
    with atomic_write(path) as partial:
        partial.write_bytes(data)


def append_text(text: str, path: Path) -> None:
    """Add text to a file, which is made where there is none.

    Raises:
        DataError: If it is a link, or no plain file: what it points to is not touched.
    """
    with _open_for_writing(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND) as descriptor:
        data = text.encode(errors="replace")
        try:
            while data:
                data = data[os.write(descriptor, data) :]
        except OSError as error:
            raise _write_error(path, error) from error


def truncate(path: Path, size: int) -> None:
    """Cut a file to `size` bytes.

    Raises:
        DataError: If it is a link, or no plain file.
    """
    with _open_for_writing(path, os.O_WRONLY) as descriptor:
        os.ftruncate(descriptor, size)


def open_regular_file(path: Path, flags: int) -> int:
    """A descriptor of a plain file of this name; a link that lies there, soft or hard, is removed and not followed."""
    with suppress(FileNotFoundError):
        there = path.lstat()
        if stat.S_ISLNK(there.st_mode) or (stat.S_ISREG(there.st_mode) and there.st_nlink > 1):
            path.unlink()
    try:
        # Not to wait: a pipe that lies there would hold whoever opens it.
        descriptor = os.open(path, flags | _NOFOLLOW | _CLOEXEC | getattr(os, "O_NONBLOCK", 0), 0o666)
    except IsADirectoryError as error:
        raise DataError(f"{path} is a folder, and limbeck writes a file of that name: remove it.") from error
    if not stat.S_ISREG(os.fstat(descriptor).st_mode):
        os.close(descriptor)
        raise DataError(f"{path} is no plain file: remove it.")
    return descriptor


def check_no_folder_links(folder: Path) -> None:
    """Refuse a folder in which something leads out of it: limbeck writes inside of a run's folder alone.

    Links to files are let be: they are read, and replaced where a file of that name is written. The folder itself may
    be a link: its name was typed.

    Raises:
        DataError: If a folder in it is a link, or something is neither file nor folder (a pipe, a device).
    """
    waiting = [folder]
    while waiting:
        try:
            entries = list(os.scandir(waiting.pop()))
        except OSError:  # none, or not to be read: whoever needs it says so
            continue
        for entry in entries:
            if entry.is_symlink():
                if not entry.is_file() and entry.name != ".lock":
                    raise DataError(
                        f"{entry.path} is a link to {os.readlink(entry.path)}: in the folder of a run limbeck follows "
                        "no link to a folder, so that nothing is written elsewhere. Remove the link, or put the "
                        "folder itself there."
                    )
            elif entry.is_dir(follow_symlinks=False):
                waiting.append(Path(entry.path))
            elif not entry.is_file(follow_symlinks=False):
                raise DataError(f"{entry.path} is neither a file nor a folder: remove it.")


def is_file(path: Path) -> bool:
    """Whether there is a file of this name; a name that no file can have is none."""
    try:
        return path.is_file()
    except (OSError, ValueError):
        return False


def remove(path: Path) -> None:
    """Remove what has this name, if there is anything: a file, a link (never what it points to), a folder."""
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path, ignore_errors=True)
    else:
        path.unlink(missing_ok=True)


def partial_path(path: Path) -> Path:
    """Where a file is written before it is renamed to `path`: beside it, so that renaming moves no bytes."""
    return path.with_name(f".{path.name}.partial")


def new_partial_folder(folder: Path) -> Path:
    """An empty folder beside `folder`, to be renamed to it; one that a killed process left is removed."""
    partial = partial_path(folder)
    remove(partial)
    partial.mkdir(parents=True)
    return partial


def replace_folder(new: Path, folder: Path) -> None:
    """Give a folder the name of another, which is removed.

    On Linux both change their names in one step; elsewhere a kill may for a moment leave no folder of that name.
    """
    old = folder.with_name(f".{folder.name}.old")
    remove(old)
    if not folder.exists():
        new.rename(folder)
    elif _exchange(new, folder):
        remove(new)
    else:
        folder.rename(old)
        new.rename(folder)
        remove(old)


def _exchange(one: Path, other: Path) -> bool:
    """Whether two names could be exchanged; os.replace takes no folder that holds anything."""
    call = getattr(ctypes.CDLL(None), "renameat2", None) if os.name == "posix" else None
    return call is not None and call(_HERE, os.fsencode(one), _HERE, os.fsencode(other), _EXCHANGE) == 0


def publish_file(partial: Path, path: Path) -> None:
    """Wait until a written file is on the disk, and only then give it its name."""
    with partial.open("rb+") as file:
        os.fsync(file.fileno())
    os.replace(partial, path)
    sync_folder(path.parent)


def sync_folder(folder: Path) -> None:
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
        metadata = header.pop("__metadata__", None)
        if metadata is None:
            return
        header = {"__metadata__": dict(sorted(metadata.items())), **header}
        # Neither library nor json escapes more than it must, so the texts are as long as before; spaces fill the rest.
        text = json.dumps(header, separators=(",", ":"), ensure_ascii=False).encode()
        if len(text) <= room:
            file.seek(8)
            file.write(text.ljust(room))


def _write_error(path: Path, error: OSError) -> WriteError:
    return WriteError(error.errno, error.strerror or str(error), str(path))


@contextmanager
def _open_for_writing(path: Path, flags: int) -> Iterator[int]:
    if path.is_symlink():
        raise DataError(f"{path} is a link to {os.readlink(path)}; limbeck writes through no link: remove it.")
    _break_hard_link(path)
    descriptor = open_regular_file(path, flags)
    try:
        yield descriptor
    finally:
        os.close(descriptor)


def _break_hard_link(path: Path) -> None:
    """Give a file that has a second name elsewhere (a hard link) bytes of its own before they are changed."""
    if path.is_file() and path.stat().st_nlink > 1:
        write_bytes(path.read_bytes(), path)


_NAME = ".lock"

# The system's lock is the process's: it does not tell two runs of one process apart, so they are told apart here.
_mine: dict[Path, int] = {}

_mine_guard = threading.Lock()


@contextmanager
def folder_lock(folder: Path, *, doing: str = "run") -> Iterator[None]:
    """A block in which no other run, of this process or of another, is in a folder.

    The operating system holds the lock for the process, and lets it go when the process ends, however it ends: what a
    killed run leaves is free at once. Children that were forked do not hold it. On a file system without locks, only
    the runs of one process are kept apart.

    Args:
        folder: The run's folder, which must exist.
        doing: What is done with it, for the sentence: ``run``, ``written``.

    Raises:
        LimbeckError: If another run is in the folder.
    """
    check_no_folder_links(folder)
    path = folder.resolve()
    with _mine_guard:
        # Before the file is opened: to close it again would let go of the lock that this process holds.
        if _mine.get(path) == os.getpid():
            raise LimbeckError(
                f"{folder} is being {doing} already, by another run of this process: finish that one, or stop "
                "iterating it."
            )
        _mine[path] = os.getpid()
    try:
        lock = _acquire_lock(folder / _NAME, doing)
        try:
            yield
        finally:
            # Removed while it is still held, so that the folder is plain; whoever opened it meanwhile looks again.
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
                f"{path.parent} is being {doing} already, by another process ({holder or 'not known which'}). "
                "Wait until it ends, or stop it; a run that was stopped can be resumed at once."
            )
        if _is_same_file(path, lock):
            with suppress(OSError):  # a full disk: a lock that does not say whose it is holds as well
                os.truncate(lock, 0)
                os.write(lock, f"process {os.getpid()} on {socket.gethostname()}\n".encode())
            return lock
        os.close(lock)


def _is_same_file(path: Path, descriptor: int) -> bool:
    """Whether the open file is still the one of that name: its last holder may have removed it."""
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
