"""Scheduler of tasks in parallel processes, with resume."""

from __future__ import annotations

import json
import multiprocessing
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple

from limbeck.atomic_io import folder_lock
from limbeck.errors import LimbeckError
from limbeck.papers.experiment import RESULT, Figures, Task
from limbeck.papers.task_hash import task_hash
from limbeck.papers.worker import do, settle

_POLL = 1.0  # seconds between checks of progress


class Event(NamedTuple):
    """An event of the scheduler.

    Attributes:
        kind: ``begun``, ``done``, or ``tick`` about once a second.
        task: The name of the task; empty for a tick.
        figures: The results of a finished task.
        seconds: The duration of a finished task.
        remaining: The estimated seconds of all remaining tasks.
    """

    kind: str
    task: str
    figures: Figures
    seconds: float
    remaining: float


Callback = Callable[[Event], None]


class Scheduler:
    """Runs tasks in processes of one thread each. Results are saved, and finished tasks are not repeated.

    Args:
        root: The folder of the reproduction.
        workers: The number of parallel tasks.
        slowness: Returns the seconds on this machine per second of a task's estimate. It is called at most once.
    """

    def __init__(self, root: Path, *, workers: int, slowness: Callable[[], float] = lambda: 1.0) -> None:
        self.root = root
        self.workers = workers
        self._slowness = cache(slowness)
        self._spent: dict[str, tuple[float, float]] = {}  # task -> seconds, estimate

    def estimate(self, tasks: Mapping[str, Task]) -> float:
        """Estimate the seconds of all unfinished tasks, at least those of their longest chain."""
        stamps = task_hash(tasks)
        remaining = {name: task for name, task in tasks.items() if self._read_result(name, stamps[name]) is None}
        if not remaining:
            return 0.0
        return self._pace() * max(
            sum(task.seconds for task in remaining.values()) / self.workers, *_chains(remaining).values()
        )

    def run(self, tasks: Mapping[str, Task], callback: Callback) -> dict[str, Figures]:
        """Run all unfinished tasks, longest chain first, and return the results of all tasks by name.

        Raises:
            LimbeckError: If a task fails (results of others are saved), or another process uses the folder.
        """
        results = self._read_results(tasks)
        if len(results) < len(tasks):
            self.root.mkdir(parents=True, exist_ok=True)
            with folder_lock(self.root):
                results = self._read_results(tasks)  # another process may have finished some meanwhile
                self._run_rest(tasks, results, callback)
        return results

    def _read_results(self, tasks: Mapping[str, Task]) -> dict[str, Figures]:
        results: dict[str, Figures] = {}
        for name, stamp in task_hash(tasks).items():
            if (result := self._read_result(name, stamp)) is not None:
                results[name] = result["figures"]
                self._spent[name] = (result["seconds"], tasks[name].seconds)
        return results

    def _run_rest(self, tasks: Mapping[str, Task], results: dict[str, Figures], callback: Callback) -> None:
        context = multiprocessing.get_context("spawn")
        pool = ProcessPoolExecutor(self.workers, mp_context=context, initializer=settle)
        try:
            for event in self._events(pool, tasks, task_hash(tasks), results):
                callback(event)
        except BaseException:
            for process in list((pool._processes or {}).values()):
                process.terminate()
            raise
        finally:
            pool.shutdown(wait=False, cancel_futures=True)

    def _events(
        self,
        pool: ProcessPoolExecutor,
        tasks: Mapping[str, Task],
        stamps: Mapping[str, str],
        results: dict[str, Figures],
    ) -> Iterator[Event]:
        chains = _chains(tasks)
        running: dict[Future[dict[str, Any]], Task] = {}
        while len(results) < len(tasks):
            busy = {task.name for task in running.values()}
            ready = [
                t
                for t in tasks.values()
                if t.name not in results | dict.fromkeys(busy) and set(t.requires) <= set(results)
            ]
            for task in sorted(ready, key=lambda t: -chains[t.name])[: self.workers - len(running)]:
                running[pool.submit(do, self.root, task, stamps[task.name])] = task
                yield Event("begun", task.name, {}, 0.0, self._estimate_rest(tasks, results, running))
            done, _ = wait(running, timeout=_POLL, return_when=FIRST_COMPLETED)
            for future in done:
                task = running.pop(future)
                result = _result(future, task)
                results[task.name] = result["figures"]
                self._spent[task.name] = (result["seconds"], task.seconds)
                seconds = self._estimate_rest(tasks, results, running)
                yield Event("done", task.name, result["figures"], result["seconds"], seconds)
            yield Event("tick", "", {}, 0.0, self._estimate_rest(tasks, results, running))

    def _estimate_rest(
        self, tasks: Mapping[str, Task], results: Mapping[str, Figures], running: Mapping[Any, Task]
    ) -> float:
        fractions = {task.name: _fraction(self.root / task.name) for task in running.values()}
        still = {n: t.seconds * (1 - fractions.get(n, 0.0)) for n, t in tasks.items() if n not in results}
        return self._pace() * max(sum(still.values()) / self.workers, *still.values()) if still else 0.0

    def _pace(self) -> float:
        """Seconds on this machine per second of the estimates, from finished tasks if they took more than a minute."""
        spent = sum(seconds for seconds, _ in self._spent.values())
        planned = sum(estimate for _, estimate in self._spent.values())
        return spent / planned if spent > 60 and planned > 0 else self._slowness()

    def _read_result(self, name: str, stamp: str) -> dict[str, Any] | None:
        """Read the result of a task, if it has the same hash and its file is complete."""
        try:
            result: Any = json.loads((self.root / name / RESULT).read_text(encoding="utf-8"))
        except (FileNotFoundError, NotADirectoryError, ValueError):
            return None
        return result if isinstance(result, dict) and result.get("stamp") == stamp else None


def _result(future: Future[dict[str, Any]], task: Task) -> dict[str, Any]:
    from concurrent.futures.process import BrokenProcessPool

    try:
        return future.result()
    except BrokenProcessPool as error:
        if error.__cause__ is not None:  # a bug: the error could not be unpickled
            raise
        raise LimbeckError(
            f"{task.name}: its process was killed, perhaps because memory ran out (then use --workers 1). Finished "
            "tasks are saved; run the same command again to continue."
        ) from error


def _chains(tasks: Mapping[str, Task]) -> dict[str, float]:
    """Compute the seconds of each task plus the longest chain of tasks that depend on it."""
    chains: dict[str, float] = {}
    for name in reversed(list(tasks)):
        after = [chains[n] for n, task in tasks.items() if name in task.requires and n in chains]
        chains[name] = tasks[name].seconds + max(after, default=0.0)
    return chains


def _fraction(folder: Path) -> float:
    """Read the progress of a task from the last line of its metrics."""
    file = folder / "run" / "metrics.jsonl"
    try:
        with file.open("rb") as lines:
            lines.seek(max(0, file.stat().st_size - 4096))
            last = json.loads(lines.read().splitlines()[-1])
        return min(last["step"] / last["steps"], 1.0)
    except (OSError, IndexError, ValueError, KeyError, ZeroDivisionError):
        return 0.0
