"""Runs tasks in parallel on a joblib backend, with dependencies."""

from __future__ import annotations

import hashlib
import inspect
import os
import sys
import threading
import time
import warnings
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import cache, partial
from pathlib import Path
from types import ModuleType
from typing import Any

from limbeck.errors import LimbeckError, LimbeckWarning
from limbeck.optional_imports import install_command, is_installed

_POLL_SECONDS = 0.5
# A task that is sent just when loky's idle processes end never runs, and its result never arrives. Idle processes
# therefore live much longer than joblib's 300 seconds; they still end with their parent.
_IDLE_SECONDS = 6 * 3600
_WAIT_SECONDS = 0.1


@dataclass(frozen=True)
class WorkItem:
    """A call that runs once.

    Attributes:
        name: A unique name.
        function: A function of a module, or a partial of one: it is pickled. `run_tasks` calls it without arguments.
        requires: The names of tasks that must finish first. Results are passed between tasks on disk.
        seconds: The estimated time. Of several tasks that can start, the one with the longest chain of tasks after it
            starts first.
    """

    name: str
    function: Callable[..., Any]
    requires: tuple[str, ...] = ()
    seconds: float | int = 1.0


def run_tasks(
    tasks: Sequence[WorkItem],
    *,
    workers: int,
    ordered: bool = False,
    on_start: Callable[[WorkItem], None] = lambda _: None,
) -> Iterator[tuple[WorkItem, Any]]:
    """Run tasks, and yield each with its result as soon as it is finished.

    One worker is this process. Several run on the active backend of joblib: loky, which starts processes on this
    machine, unless the caller chose another one with ``joblib.parallel_config``. Processes that this one started have
    one thread, work in its folder, and end within a second after it, even if it is killed.

    Without joblib the tasks run in this process, one after another, with a warning.

    When a task fails, the tasks that are running are stopped. Results that were yielded stay valid.

    Args:
        tasks: The tasks. Requirements that are not among them count as finished.
        workers: How many tasks run at a time.
        ordered: Yield in the order of the tasks, for tasks without `requires`.
        on_start: Called before each task is sent, perhaps in another thread.

    Raises:
        LimbeckError: If a worker process was killed.

    Example:
        >>> tasks = [WorkItem(str(number), partial(pow, number, 2)) for number in range(3)]
        >>> [result for _, result in run_tasks(tasks, workers=1)]
        [0, 1, 4]
    """
    queue = _Queue(tasks, on_start)
    if workers > 1 and not is_installed("joblib"):
        _warn_one_process(workers)
        workers = 1
    if workers == 1 or len(tasks) < 2:
        for task in queue:
            result = task.function()
            queue.finished.add(task.name)
            yield task, result
        return
    by_name = {task.name: task for task in tasks}
    for name, result in _run_on_backend(queue, workers, ordered=ordered):
        if name:
            queue.finished.add(name)
            yield by_name[name], result


def check_backend(workers: int) -> None:
    """Check that the active joblib backend can train models side by side.

    Raises:
        LimbeckError: If it runs tasks in threads. They share the random state of PyTorch, so that initial weights and
            dropout would depend on timing.
    """
    if workers == 1 or not is_installed("joblib"):
        return
    from joblib.parallel import SequentialBackend, get_active_backend

    backend = get_active_backend()[0]
    if isinstance(backend, SequentialBackend):  # it shares memory, but runs one task after another
        return
    if getattr(backend, "supports_sharedmem", False):  # the base class of joblib does not define it
        raise LimbeckError(
            f"The joblib backend {type(backend).__name__} runs tasks in threads, which share one random state, so runs "
            "could not be repeated. Choose a backend with processes, such as joblib.parallel_config('loky'), or "
            "workers=1."
        )


@cache  # once per program
def _warn_one_process(workers: int) -> None:
    warnings.warn(
        f"joblib is not installed, so tasks run one after another. For {workers} processes, type: "
        f"{install_command('cli')}",
        LimbeckWarning,
        stacklevel=3,
    )


class _Queue:
    """Tasks that have not started, the most urgent first."""

    def __init__(self, tasks: Sequence[WorkItem], on_start: Callable[[WorkItem], None]) -> None:
        chains = chain_seconds(tasks)
        self.finished: set[str] = set()
        self._waiting = sorted(tasks, key=lambda task: -chains[task.name])
        self._names = {task.name for task in tasks}
        self._on_start = on_start

    def __iter__(self) -> Iterator[WorkItem]:
        """Yield every task when it can start, and None as a pause if none can."""
        while self._waiting:
            # joblib takes tasks in a callback of its pool, which must not block. An idle worker sleeps instead.
            yield self.take() or WorkItem("", partial(time.sleep, _WAIT_SECONDS))

    def take(self) -> WorkItem | None:
        """Take the next task that can start; None if all of them need one that is running."""
        missing = self._names - self.finished
        task = next((one for one in self._waiting if missing.isdisjoint(one.requires)), None)
        if task is not None:
            self._waiting.remove(task)
            self._on_start(task)
        return task


def _run_on_backend(queue: _Queue, workers: int, *, ordered: bool) -> Iterator[tuple[str, Any]]:
    from joblib import Parallel, delayed
    from joblib.externals.loky.process_executor import TerminatedWorkerError
    from joblib.parallel import LokyBackend, get_active_backend

    backend = get_active_backend()[0]
    idle = {"idle_worker_timeout": _IDLE_SECONDS} if isinstance(backend, LokyBackend) else {}
    call = delayed(partial(_call, os.getpid(), os.getcwd()))
    try:
        if backend.supports_return_generator:
            return_as = "generator" if ordered else "generator_unordered"
            pool = Parallel(n_jobs=workers, return_as=return_as, pre_dispatch=workers, batch_size=1, **idle)
            yield from pool(call(task.name, task.function) for task in queue)
            return
        pool = Parallel(n_jobs=workers, batch_size=1)
        while tasks := list(iter(queue.take, None)):  # multiprocessing and ray return the results of a call together
            yield from pool(call(task.name, task.function) for task in tasks)
    except TerminatedWorkerError as error:
        raise LimbeckError(
            f"One of {workers} worker processes was killed, perhaps because memory ran out. Finished results are "
            "saved: repeat the same command, or run `limbeck resume` on its folder, to continue. One worker "
            "(workers=1) needs less memory."
        ) from error


def _call(parent: int, folder: str, name: str, function: Callable[[], Any]) -> tuple[str, Any]:
    if os.getppid() == parent:  # a process that the backend started on this machine
        _end_with(parent)
        _allow_growth()
        os.chdir(folder)  # a reused process may have another working folder
        _use_one_thread()
    return name, function()


def _allow_growth() -> None:
    """Keep this process when its memory grows.

    Where psutil is installed, loky ends a process that has grown by 300 MB since its first task, and a task that is
    sent to it at that moment never runs. A first large model is no leak.
    """
    executor = sys.modules.get("joblib.externals.loky.process_executor")
    if executor is not None:
        vars(executor)["_USE_PSUTIL"] = False


def _use_one_thread() -> None:
    """One thread for PyTorch, which is not imported for tasks that do without it."""
    if "torch" in sys.modules:
        import torch

        torch.set_num_threads(1)
    else:  # PyTorch reads these when it is imported
        os.environ["OMP_NUM_THREADS"] = os.environ["MKL_NUM_THREADS"] = "1"


@cache  # a process runs several tasks
def _end_with(parent: int) -> None:
    """End this process when its parent ends, so that its memory and its output folder are released.

    A process gets another parent as soon as its own has ended. The signal that Linux can send (PR_SET_PDEATHSIG) is
    sent when the parent's *thread* ends that started the process, which is too early.
    """

    def watch() -> None:
        while os.getppid() == parent:
            time.sleep(_POLL_SECONDS)
        os._exit(1)

    threading.Thread(target=watch, daemon=True).start()


def sort_tasks(tasks: Sequence[WorkItem]) -> list[WorkItem]:
    """Put every task after those that it requires. Tasks with the same name are one task.

    Raises:
        LimbeckError: If a required task does not exist, or tasks need each other in a cycle.
    """
    by_name = {task.name: task for task in tasks}
    done: dict[str, WorkItem] = {}

    def add(name: str, above: tuple[str, ...]) -> None:
        if name in above:
            raise LimbeckError(f"The tasks {' -> '.join((*above, name))} need each other.")
        if name not in by_name:
            raise LimbeckError(f"The task {above[-1]!r} needs {name!r}, which is not a task.")
        for need in by_name[name].requires:
            if need not in done:
                add(need, (*above, name))
        done[name] = by_name[name]

    for name in by_name:
        if name not in done:
            add(name, ())
    return list(done.values())


def chain_seconds(tasks: Sequence[WorkItem]) -> dict[str, float | int]:
    """Compute the seconds of each task plus those of the longest chain of tasks that need it.

    Args:
        tasks: The tasks, in the order of `sort_tasks`.
    """
    after: dict[str, float | int] = {}
    chains: dict[str, float | int] = {}
    for task in reversed(tasks):
        chains[task.name] = task.seconds + after.get(task.name, 0.0)
        for name in task.requires:
            after[name] = max(after.get(name, 0.0), chains[task.name])
    return chains


def hash_tasks(tasks: Sequence[WorkItem]) -> dict[str, str]:
    """Hash the function, the settings, the code and the requirements of each task, so that a changed task is noticed.

    The code is that of the function's file and of all files of the same package that it imports functions or classes
    from, directly or indirectly. The rest of limbeck and the data are not included.

    Args:
        tasks: The tasks, in the order of `sort_tasks`.
    """
    hashes: dict[str, str] = {}
    for task in tasks:
        call = task.function if isinstance(task.function, partial) else partial(task.function)
        # The text of a function has its address, which is another one in each process.
        values = tuple(_describe_function(one) if inspect.isfunction(one) else one for one in call.args)
        function, settings = call.func, (values, call.keywords)
        text = f"{function.__module__}.{function.__qualname__} {settings} {[hashes[name] for name in task.requires]}"
        hashes[task.name] = hashlib.sha256(f"{text} {hash_code(function.__module__)}".encode()).hexdigest()
    return hashes


def _describe_function(function: Callable[..., Any]) -> str:
    return f"{function.__module__}.{function.__qualname__} {hash_code(function.__module__)}"


def hash_code(module: str) -> str:
    """Hash the file of a module and the files of its package that it imports functions or classes from."""
    package, seen, queue = module.rpartition(".")[0], set[str](), [module]
    while queue:
        name = queue.pop()
        if name not in seen and name in sys.modules:
            seen.add(name)
            queue += [other for other in _imported_modules(sys.modules[name]) if other.rpartition(".")[0] == package]
    return hashlib.sha256(b"".join(_read_source(sys.modules[name]) for name in sorted(seen))).hexdigest()


def _imported_modules(module: ModuleType) -> set[str]:
    values = vars(module).values()
    return {value.__module__ for value in values if inspect.isfunction(value) or inspect.isclass(value)}


def _read_source(module: ModuleType) -> bytes:
    file = module.__dict__.get("__file__")  # a built-in module has none
    return Path(file).read_bytes() if file is not None and Path(file).is_file() else b""
