"""Run tasks in worker processes that end with their parent."""

from __future__ import annotations

import os
import threading
import time
import warnings
from collections.abc import Callable, Iterable, Iterator
from functools import cache
from typing import Any

from limbeck.errors import LimbeckError, LimbeckWarning
from limbeck.optional_imports import install_command, is_installed

_POLL_SECONDS = 0.5
# A task that is sent just when loky's idle processes end is never run, and its result is waited for without end. So
# idle processes are kept much longer than joblib's 300 seconds; they still end with their parent.
_IDLE_SECONDS = 6 * 3600


def run_in_processes(
    function: Callable[..., Any], tasks: Iterable[tuple[Any, ...]], *, workers: int, ordered: bool = False
) -> Iterator[Any]:
    """Yield a function's result for each task, computed by several processes with one thread each.

    The processes use the working folder of the parent, and end within a second after it, even if it is killed. Without
    joblib the tasks run in this process, one after another, with a warning.

    Args:
        function: The function; it and the tasks are pickled.
        tasks: The arguments of each call.
        workers: Number of processes.
        ordered: Whether results come in the order of the tasks; otherwise as soon as they are ready.

    Raises:
        LimbeckError: If a process was killed.
    """
    if not is_installed("joblib"):
        _warn_one_process(workers)
        yield from (function(*task) for task in tasks)
        return
    from joblib import Parallel, delayed
    from joblib.externals.loky.process_executor import TerminatedWorkerError

    # The backend is set by name: the processes of others may not be children of this one, or run elsewhere.
    pool = Parallel(
        n_jobs=workers, backend="loky", return_as="generator" if ordered else "generator_unordered",
        idle_worker_timeout=_IDLE_SECONDS,
    )  # fmt: skip
    parent, folder = os.getpid(), os.getcwd()
    try:
        yield from pool(delayed(_call)(function, task, parent, folder) for task in tasks)
    except TerminatedWorkerError as error:
        raise LimbeckError(
            f"One of {workers} worker processes was killed, perhaps because memory ran out. Finished results are "
            "saved: repeat the command, or run `limbeck resume` on its folder, to continue. Set workers: 1 to use less "
            "memory."
        ) from error


@cache  # once a program
def _warn_one_process(workers: int) -> None:
    warnings.warn(
        f"joblib is not installed, so tasks run one after another. For {workers} processes, type: "
        f"{install_command('cli')}",
        LimbeckWarning,
        stacklevel=3,
    )


def _call(function: Callable[..., Any], task: tuple[Any, ...], parent: int, folder: str) -> Any:
    if os.getpid() != parent:  # joblib may decide for the process itself
        import torch

        _end_with(parent)
        os.chdir(folder)  # a reused process may have another working folder
        torch.set_num_threads(1)
    return function(*task)


@cache  # a process does several tasks
def _end_with(parent: int) -> None:
    """End this process when its parent ends, so that its memory and its output folder are released.

    A process gets another parent as soon as its own has ended. The signal that Linux can send (PR_SET_PDEATHSIG) is
    sent when the parent's *thread* ends that started the process, which is too early.
    """

    def callback() -> None:
        while os.getppid() == parent:
            time.sleep(_POLL_SECONDS)
        os._exit(1)

    threading.Thread(target=callback, daemon=True).start()
