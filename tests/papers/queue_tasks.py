"""Tasks for tests: they run in other processes, so they are functions of a module."""

from __future__ import annotations

import json
import os
import signal
import time

from limbeck.errors import LimbeckError
from limbeck.papers import TaskFolder
from limbeck.papers.experiment import RESULT


def count(desk: TaskFolder, *, number: int, after: tuple[str, ...] = ()) -> dict[str, float]:
    """The number plus what the tasks before it found; every call leaves a line."""
    with (desk.folder / "calls").open("a") as calls:
        calls.write("called\n")
    before = [json.loads((desk.of(name) / RESULT).read_text())["figures"]["number"] for name in after]
    return {"number": number + sum(before)}


def nap(desk: TaskFolder, *, seconds: float) -> dict[str, float]:
    """When it began and ended."""
    began = time.time()
    time.sleep(seconds)
    return {"began": began, "ended": time.time()}


def refuse(desk: TaskFolder) -> dict[str, float]:
    """It cannot be done."""
    raise LimbeckError("the data are not there.")


def stay(desk: TaskFolder, *, seconds: float) -> dict[str, float]:
    """It says which process it is in, and stays there."""
    (desk.folder / "pid.new").write_text(str(os.getpid()))
    os.replace(desk.folder / "pid.new", desk.folder / "pid")
    time.sleep(seconds)
    return {}


class StrangeError(Exception):
    """An error that cannot be taken out of a pickle again."""

    def __init__(self, *, what: str) -> None:
        super().__init__(what)


def stumble(desk: TaskFolder, *, strange: bool) -> dict[str, float]:
    """A bug."""
    raise StrangeError(what="a bug that is no user's mistake") if strange else KeyError("a bug")


def die(desk: TaskFolder) -> dict[str, float]:
    """Killed, as by a machine that is short of memory."""
    os.kill(os.getpid(), signal.SIGKILL)
    return {}
