"""Worker processes of the scheduler."""

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
    """Set one thread per process, and end the process with its parent."""
    import logging
    import signal

    # First, ignore Ctrl-C: the parent handles it and ends its processes.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    if (parent := parent_process()) is not None:
        threading.Thread(target=_end_with, args=(parent,), daemon=True).start()

    import lightning_fabric  # noqa: F401 - it sets its logger's level when it is imported
    import torch

    # Fabric logs the precision of every run; the parent reports progress instead.
    logging.getLogger("lightning_fabric").setLevel(logging.WARNING)
    torch.set_num_threads(1)


def _end_with(parent: BaseProcess) -> None:
    """End this process if the parent was killed. Otherwise it would keep writing to the folder."""
    parent.join()
    os._exit(1)


def do(root: Path, task: Task, stamp: str) -> dict[str, Any]:
    """Run a task and save its results in its folder.

    Args:
        root: The folder of the whole reproduction.
        task: The task.
        stamp: The hash of the task. Files of a task with another hash are not reused.

    Raises:
        LimbeckError: If the task fails.
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
    """Keep the files of an interrupted task with the same hash; remove others."""
    mark = folder / "stamp"
    if folder.is_dir() and not (mark.is_file() and mark.read_text(encoding="utf-8") == stamp):
        shutil.rmtree(folder)
    folder.mkdir(parents=True, exist_ok=True)
    mark.write_text(stamp, encoding="utf-8")
