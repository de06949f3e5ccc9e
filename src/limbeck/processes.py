"""Running tasks in worker processes that end with their parent, and whose death is said in a sentence."""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from functools import cache
from typing import Any

from limbeck.errors import LimbeckError

_POLL_SECONDS = 0.5


def run_in_processes(
    function: Callable[..., Any], tasks: Iterable[tuple[Any, ...]], *, workers: int, ordered: bool = False
) -> Iterator[Any]:
    """What a function returns for each task, worked out by several processes of one thread each.

    The processes have this one's working folder, and end within a second after it has ended, however that was.

    Args:
        function: What is called; it and the tasks are pickled.
        tasks: The arguments of each call.
        workers: How many processes.
        ordered: Whether results come in the order of the tasks, or else as they are ready.

    Raises:
        LimbeckError: If a process was killed.
    """
    from joblib import Parallel, delayed
    from joblib.externals.loky.process_executor import TerminatedWorkerError

    # By name: another backend's processes may be nobody's children, or on another machine.
    pool = Parallel(n_jobs=workers, backend="loky", return_as="generator" if ordered else "generator_unordered")
    parent, folder = os.getpid(), os.getcwd()
    try:
        yield from pool(delayed(_call)(function, task, parent, folder) for task in tasks)
    except TerminatedWorkerError as error:
        raise LimbeckError(
            f"One of {workers} worker processes was killed, perhaps for want of memory. What is done is kept: the same "
            "command, or `limbeck resume` on its folder, goes on. With workers: 1 less memory is needed."
        ) from error


def _call(function: Callable[..., Any], task: tuple[Any, ...], parent: int, folder: str) -> Any:
    if os.getpid() != parent:  # joblib may decide for the process itself
        import torch

        _end_with(parent)
        os.chdir(folder)  # a process may have been kept since another working folder
        torch.set_num_threads(1)
    return function(*task)


@cache  # a process does several tasks
def _end_with(parent: int) -> None:
    """Let this process end when its parent has: its memory and the folder that it writes to are free then.

    The process's parent is another as soon as its own has ended. The signal that Linux can send (PR_SET_PDEATHSIG)
    comes when the parent's thread ends that started the process, which is too early.
    """

    def callback() -> None:
        while os.getppid() == parent:
            time.sleep(_POLL_SECONDS)
        os._exit(1)

    threading.Thread(target=callback, daemon=True).start()
