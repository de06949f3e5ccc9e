"""Tasks of a reproduction: run in parallel, saved, and not repeated."""

from __future__ import annotations

import json
import logging
import shutil
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import cache, partial
from pathlib import Path
from typing import Any

import torch
from torch import nn

from limbeck.atomic_io import folder_lock, write_text
from limbeck.errors import LimbeckError
from limbeck.papers.experiment import RESULT, Figures, TaskFolder
from limbeck.task_runner import WorkItem, chain_seconds, check_backend, hash_tasks, run_tasks

_REFERENCE_STEP = 0.014
"""Seconds of one step of `machine_slowness` on the reference machine (AMD EPYC, torch 2.13.0)."""
_STEPS = 25
_TICK_SECONDS = 1.0


@dataclass(frozen=True)
class TaskStarted:
    """A task of a reproduction was given to a worker.

    Attributes:
        task: The name of the task.
    """

    task: str


@dataclass(frozen=True)
class TaskFinished:
    """A task of a reproduction is finished and saved.

    Attributes:
        task: The name of the task.
        figures: Its results.
        seconds: Time in seconds.
        remaining: The estimated seconds of all tasks that are left.
    """

    task: str
    figures: Figures
    seconds: float
    remaining: float


@dataclass(frozen=True)
class TimeEstimated:
    """About once a second: the estimated seconds of all tasks that are left.

    Attributes:
        remaining: The seconds.
    """

    remaining: float


Event = TaskStarted | TaskFinished | TimeEstimated
Callback = Callable[[Event], None]


class TaskQueue:
    """Runs the tasks of a folder. Results are saved, and finished tasks are not repeated.

    Args:
        root: The folder of the reproduction.
        workers: The number of parallel tasks.
        slowness: Returns the seconds on this machine per second of a task's estimate. It is called at most once.
    """

    def __init__(self, root: Path, *, workers: int, slowness: Callable[[], float] = lambda: 1.0) -> None:
        self.root = root
        self.workers = workers
        self._slowness = cache(slowness)
        self._spent: dict[str, tuple[float, float | int]] = {}  # task -> seconds, estimate
        self._cpu_seconds: dict[str, float] = {}

    @property
    def cpu_seconds(self) -> float:
        """The seconds of the processor that the finished tasks took, each since its last start."""
        return round(sum(self._cpu_seconds.values(), 0.0), 1)

    def estimate(self, tasks: Sequence[WorkItem]) -> float:
        """Estimate the seconds of all unfinished tasks, at least those of their longest chain."""
        hashes = hash_tasks(tasks)
        remaining = [task for task in tasks if _read_result(self.root / task.name, hashes[task.name]) is None]
        if not remaining:
            return 0.0
        total = sum(task.seconds for task in remaining)
        return self._pace() * max(total / self.workers, *chain_seconds(remaining).values())

    def run(self, tasks: Sequence[WorkItem], callback: Callback = lambda _: None) -> dict[str, Figures]:
        """Run all unfinished tasks, and return the results of all tasks by name.

        Raises:
            LimbeckError: If a task fails (results of others are saved), or another process uses the folder.
        """
        check_backend(self.workers)
        results = self._read_results(tasks)
        if len(results) < len(tasks):
            self.root.mkdir(parents=True, exist_ok=True)
            with folder_lock(self.root):
                results = self._read_results(tasks)  # another process may have finished some meanwhile
                self._run_rest(tasks, results, callback)
        return results

    def _read_results(self, tasks: Sequence[WorkItem]) -> dict[str, Figures]:
        results: dict[str, Figures] = {}
        hashes = hash_tasks(tasks)
        for task in tasks:
            if (result := _read_result(self.root / task.name, hashes[task.name])) is not None:
                results[task.name] = result["figures"]
                self._count_time(task, result)
        return results

    def _count_time(self, task: WorkItem, result: Mapping[str, Any]) -> None:
        self._spent[task.name] = (result["seconds"], task.seconds)
        self._cpu_seconds[task.name] = result.get("cpu_seconds", result["seconds"])

    def _run_rest(self, tasks: Sequence[WorkItem], results: dict[str, Figures], callback: Callback) -> None:
        hashes = hash_tasks(tasks)
        saving = [
            replace(task, function=partial(run_and_save, task, self.root, hashes[task.name]))
            for task in tasks
            if task.name not in results
        ]
        running: set[str] = set()

        def remaining() -> float:
            return self._estimate_rest(tasks, results, running.copy())

        def start(task: WorkItem) -> None:
            running.add(task.name)
            callback(TaskStarted(task.name))

        with _ticking(lambda: callback(TimeEstimated(remaining()))):
            for task, result in run_tasks(saving, workers=self.workers, on_start=start):
                results[task.name] = result["figures"]
                self._count_time(task, result)
                running.discard(task.name)
                callback(TaskFinished(task.name, result["figures"], result["seconds"], remaining()))

    def _estimate_rest(self, tasks: Sequence[WorkItem], results: Mapping[str, Figures], running: set[str]) -> float:
        open_tasks = [task for task in tasks if task.name not in results]
        parts = {name: _read_fraction(self.root / name) for name in running}
        seconds = [task.seconds * (1 - parts.get(task.name, 0.0)) for task in open_tasks]
        return self._pace() * max(sum(seconds) / self.workers, *seconds) if seconds else 0.0

    def _pace(self) -> float:
        """Seconds on this machine per second of the estimates, from finished tasks if they took more than a minute."""
        spent = sum(seconds for seconds, _ in self._spent.values())
        planned = sum(estimate for _, estimate in self._spent.values())
        return spent / planned if spent > 60 and planned > 0 else self._slowness()


def run_and_save(task: WorkItem, root: Path, task_hash: str) -> dict[str, Any]:
    """Run a task on one thread, and save its results in its folder.

    Files of an interrupted task with the same hash are kept, so that the task can resume; others are removed.

    Raises:
        LimbeckError: If the task fails.
    """
    start, cpu_start = time.perf_counter(), time.process_time()
    # Fabric logs the precision of every run; events report the progress instead.
    logging.getLogger("lightning_fabric").setLevel(logging.WARNING)
    folder = TaskFolder(root, task.name)
    _clear_other(folder.folder, task_hash)
    try:
        with _one_thread():
            figures = dict(task.function(folder))
    except LimbeckError as error:
        raise LimbeckError(f"{task.name}: {error}") from error
    except Exception as error:
        error.add_note(f"in the task {task.name}")
        raise
    seconds, cpu_seconds = round(time.perf_counter() - start, 1), round(time.process_time() - cpu_start, 1)
    result = {
        "task": task.name, "stamp": task_hash, "figures": figures, "seconds": seconds, "cpu_seconds": cpu_seconds,
    }  # fmt: skip
    write_text(json.dumps(result, allow_nan=False), folder.folder / RESULT)
    shutil.rmtree(folder.folder / "run", ignore_errors=True)
    return result


def _clear_other(folder: Path, task_hash: str) -> None:
    stamp = folder / "stamp"
    if folder.is_dir() and not (stamp.is_file() and stamp.read_text(encoding="utf-8") == task_hash):
        shutil.rmtree(folder)
    folder.mkdir(parents=True, exist_ok=True)
    write_text(task_hash, stamp)


@contextmanager
def _one_thread() -> Iterator[None]:
    """One thread, so that results do not depend on the number of cores."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(threads)


@contextmanager
def _ticking(tick: Callable[[], None]) -> Iterator[None]:
    """Call a function about once a second, in another thread, inside of the block."""
    end = threading.Event()

    def repeat() -> None:
        while not end.wait(_TICK_SECONDS):
            tick()

    thread = threading.Thread(target=repeat, daemon=True)
    thread.start()
    try:
        yield
    finally:
        end.set()
        thread.join()


def _read_result(folder: Path, task_hash: str) -> dict[str, Any] | None:
    """Read the result of a task, if it has the same hash and its file is complete."""
    try:
        result: Any = json.loads((folder / RESULT).read_text(encoding="utf-8"))
    except (FileNotFoundError, NotADirectoryError, ValueError):
        return None
    return result if isinstance(result, dict) and result.get("stamp") == task_hash else None


def _read_fraction(folder: Path) -> float:
    """Read the progress of a task from the last line of its metrics."""
    file = folder / "run" / "metrics.jsonl"
    try:
        with file.open("rb") as lines:
            lines.seek(max(0, file.stat().st_size - 4096))
            last = json.loads(lines.read().splitlines()[-1])
        return min(last["step"] / last["steps"], 1.0)
    except (OSError, IndexError, ValueError, KeyError, ZeroDivisionError):
        return 0.0


def machine_slowness() -> float:
    """Measure how many times slower this machine is than the reference machine, by the median of a few steps.

    A step is forward pass, backward pass and SGD of a network 784-800-800-10 on 256 examples in bfloat16, one thread.
    """
    net = nn.Sequential(nn.Linear(784, 800), nn.ReLU(), nn.Linear(800, 800), nn.ReLU(), nn.Linear(800, 10))
    optimizer = torch.optim.SGD(net.parameters(), lr=1e-3, momentum=0.9, fused=True)
    inputs, labels = torch.zeros(256, 784), torch.zeros(256, dtype=torch.int64)
    times = []
    with _one_thread():
        for _ in range(_STEPS):
            start = time.perf_counter()
            with torch.autocast("cpu", torch.bfloat16):
                logits = net(inputs)
            nn.functional.cross_entropy(logits.float(), labels).backward()
            optimizer.step()
            optimizer.zero_grad()
            times.append(time.perf_counter() - start)
    return sorted(times)[len(times) // 2] / _REFERENCE_STEP
