"""Worker processes end with a parent that is killed, and one that is killed itself ends in a sentence."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from limbeck.errors import LimbeckError
from limbeck.processes import run_in_processes

PARENT = """
import sys
sys.path.insert(0, {tests!r})
from test_processes import wait
from limbeck.processes import run_in_processes
list(run_in_processes(wait, [({folder!r},), ({folder!r},)], workers=2))
"""


def wait(folder: str) -> None:
    (Path(folder) / str(os.getpid())).touch()
    time.sleep(60)


def die_or_double(number: int) -> int:
    if number < 0:
        os.kill(os.getpid(), signal.SIGKILL)
    return 2 * number


def is_alive(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0] != "Z"
    except OSError:
        return False


def waited(until, seconds: float) -> bool:
    end = time.monotonic() + seconds
    while not until() and time.monotonic() < end:
        time.sleep(0.05)
    return bool(until())


@pytest.mark.skipif(not Path("/proc/self/stat").exists(), reason="It looks at processes in /proc, which is not here.")
def test_workers_end_with_a_parent_that_is_killed(tmp_path):
    script = PARENT.format(tests=str(Path(__file__).parent), folder=str(tmp_path))
    parent = subprocess.Popen([sys.executable, "-c", script])
    assert waited(lambda: len(list(tmp_path.iterdir())) == 2, 100)
    workers = [int(one.name) for one in tmp_path.iterdir()]
    assert all(map(is_alive, workers))
    parent.kill()
    parent.wait()
    assert waited(lambda: not any(map(is_alive, workers)), 5)


def test_a_worker_that_is_killed_is_said():
    assert list(run_in_processes(die_or_double, [(1,), (2,), (3,)], workers=2, ordered=True)) == [2, 4, 6]
    with pytest.raises(LimbeckError, match="worker"):
        list(run_in_processes(die_or_double, [(1,), (-1,), (2,)], workers=2))


def test_idle_processes_do_not_end_while_a_task_is_sent():
    # loky loses a task that is sent in the moment when idle processes end: seen as a run that waited without end.
    from joblib.externals.loky import reusable_executor

    assert list(run_in_processes(abs, [(-1,), (-2,)], workers=2, ordered=True)) == [1, 2]
    assert reusable_executor._executor._timeout > 3600
