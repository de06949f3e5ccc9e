"""Is this process the only one that works in a folder?"""

from __future__ import annotations

import os
import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from limbeck.errors import LimbeckError
from limbeck.files import check_tree, open_plain

_NAME = ".lock"
# The system's lock is the process's: it does not tell two runs of one process apart, so they are told apart here.
_mine: dict[Path, int] = {}
_mine_guard = threading.Lock()


@contextmanager
def alone(folder: Path, *, doing: str = "run") -> Iterator[None]:
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
    check_tree(folder)
    place = folder.resolve()
    with _mine_guard:
        # Before the file is opened: to close it again would let go of the lock that this process holds.
        if _mine.get(place) == os.getpid():
            raise LimbeckError(
                f"{folder} is being {doing} already, by another run of this process: finish that one, or stop "
                "iterating it."
            )
        _mine[place] = os.getpid()
    try:
        held = _acquired(folder / _NAME, doing)
        try:
            yield
        finally:
            # Removed while it is still held, so that the folder is plain; whoever opened it meanwhile looks again.
            (folder / _NAME).unlink(missing_ok=True)
            os.close(held)
    finally:
        del _mine[place]


def _acquired(path: Path, doing: str) -> int:
    while True:
        try:
            found = open_plain(path, os.O_RDWR | os.O_CREAT)
        except OSError as error:
            raise LimbeckError(f"{path.parent} cannot be written to: {error.strerror}.") from error
        if not _locked(found):
            holder = os.read(found, 200).decode(errors="replace").strip()
            os.close(found)
            raise LimbeckError(
                f"{path.parent} is being {doing} already, by another process ({holder or 'not known which'}). "
                "Wait until it ends, or stop it; a run that was stopped can be resumed at once."
            )
        if _is_there(path, found):
            with suppress(OSError):  # a full disk: a lock that does not say whose it is holds as well
                os.truncate(found, 0)
                os.write(found, f"process {os.getpid()} on {socket.gethostname()}\n".encode())
            return found
        os.close(found)


def _is_there(path: Path, opened: int) -> bool:
    """Whether the open file is still the one of that name: its last holder may have removed it."""
    try:
        return os.path.samestat(os.fstat(opened), os.stat(path))
    except FileNotFoundError:
        return False


def _locked(found: int) -> bool:
    try:
        import fcntl
    except ImportError:  # Windows
        return True
    try:
        fcntl.lockf(found, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except (BlockingIOError, PermissionError):
        return False
    except OSError:  # a file system without locks
        return True
    return True
