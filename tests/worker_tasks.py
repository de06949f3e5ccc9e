"""Tasks for the tests of the task runner. Worker processes import this file, so it imports almost nothing."""

from __future__ import annotations

import os
import signal
import time
from pathlib import Path


def wait(folder: str) -> None:
    (Path(folder) / str(os.getpid())).touch()
    time.sleep(60)


def die_or_double(number: int) -> int:
    if number < 0:
        os.kill(os.getpid(), signal.SIGKILL)
    return 2 * number


def process_id(number: int) -> int:
    time.sleep(0.2)
    return os.getpid()


_HELD = bytearray()


def hold(megabytes: int) -> int:
    """Hold so much memory from now on."""
    _HELD[:] = b"x" * (megabytes << 20)
    time.sleep(1.1 if megabytes else 0.2)  # loky looks once a second
    return os.getpid()


def threads_and_folder(number: int) -> tuple[int, str]:
    import torch

    time.sleep(0.2)
    return torch.get_num_threads(), os.getcwd()


def sum_files(folder: Path, name: str, requires: tuple[str, ...]) -> int:
    """One more than the sum of the numbers that the required tasks left."""
    number = 1 + sum(int((folder / one).read_text()) for one in requires)
    (folder / name).write_text(str(number))
    return number
