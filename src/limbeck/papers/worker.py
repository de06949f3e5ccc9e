"""A worker process."""

from __future__ import annotations

import json
import os
import shutil
import threading
import time
from multiprocessing.process import BaseProcess, parent_process
from pathlib import Path
from typing import Any

from limbeck.atomic_io import write_text
from limbeck.errors import LimbeckError
from limbeck.papers.experiment import RESULT, Task, TaskFolder


def settle() -> None:
    """One thread to a process, which ends with its parent: more would fight over the cores."""
    import logging
    import signal

    # First of all: a Ctrl-C is the parent's to hear of, who ends its processes.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    if (parent := parent_process()) is not None:
        threading.Thread(target=_end_with, args=(parent,), daemon=True).start()

    import lightning_fabric  # noqa: F401 - it sets its logger's level when it is imported
    import torch

    # Fabric says of every run which precision it has; the parent's lines say what is done.
    logging.getLogger("lightning_fabric").setLevel(logging.WARNING)
    torch.set_num_threads(1)


def _end_with(parent: BaseProcess) -> None:
    """A parent that was killed cannot end its processes, and they would go on in a folder that others may take up."""
    parent.join()
    os._exit(1)


def do(root: Path, task: Task, stamp: str) -> dict[str, Any]:
    """Do a task, and keep what it found in its folder.

    Args:
        root: The folder of the whole reproduction.
        task: What to do.
        stamp: What kind of task it is: what a task of another stamp has left is not taken up.

    Raises:
        LimbeckError: If the task cannot be done.
    """
    began = time.perf_counter()
    desk = TaskFolder(root, task.name)
    _clear(desk.folder, stamp)
    try:
        figures = dict(task.work(desk))
    except LimbeckError as error:
        raise LimbeckError(f"{task.name}: {error}") from error
    except Exception as error:
        error.add_note(f"while the task {task.name} was done")
        raise
    result = {"task": task.name, "stamp": stamp, "figures": figures, "seconds": round(time.perf_counter() - began, 1)}
    write_text(json.dumps(result, allow_nan=False), desk.folder / RESULT)
    shutil.rmtree(desk.folder / "run", ignore_errors=True)
    return result


def _clear(folder: Path, stamp: str) -> None:
    """What is there goes on, if it was the same task that began it; else it goes."""
    mark = folder / "stamp"
    if folder.is_dir() and not (mark.is_file() and mark.read_text(encoding="utf-8") == stamp):
        shutil.rmtree(folder)
    folder.mkdir(parents=True, exist_ok=True)
    mark.write_text(stamp, encoding="utf-8")
