"""Computes results for many items ahead of time in threads, and returns them in order."""

from __future__ import annotations

import os
import threading
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from itertools import islice
from queue import SimpleQueue
from typing import Any, TypeVar

import torch

from limbeck.errors import LimbeckError

Item = TypeVar("Item")
Result = TypeVar("Result")

_Future = SimpleQueue[tuple[Any, BaseException | None]]
_PAUSE = 0.005  # seconds
_MOST_BY_DEFAULT = 4
_PER_WORKER = 2  # items per thread, as in PyTorch's DataLoader


def prefetch(function: Callable[[Item], Result], items: Iterable[Item], *, num_workers: int) -> Iterator[Result]:
    """Yield ``function(item)`` for each item, in order, computed ahead of time by `num_workers` threads.

    The results do not depend on the number of threads. An exception of the function is raised unchanged, at the
    position of its item. When the iterator is closed, exhausted or left by an exception, each thread ends after its
    current item. Threads are sufficient to decode images, read files or call PyTorch, which all release the GIL.

    Args:
        function: Called in a thread; it must not depend on earlier calls.
        items: The arguments of the calls.
        num_workers: Number of threads; 0 calls the function in the caller's thread, when a result is needed.

    Example:
        >>> list(prefetch(lambda number: number**2, range(4), num_workers=2))
        [0, 1, 4, 9]
    """
    if num_workers == 0:
        yield from map(function, items)
        return
    iterator, waiting, workers = iter(items), deque[_Future](), _Workers(function)
    try:
        waiting.extend(workers.submit(item) for item in islice(iterator, _PER_WORKER * num_workers))
        workers.start(num_workers)
        while waiting:
            result = workers.wait(waiting.popleft())
            waiting.extend(workers.submit(item) for item in islice(iterator, 1))
            yield result
            del result  # free it before the next result, not while a worker is starting
    finally:
        workers.stop()


def default_num_workers() -> int:
    """Default number of threads that decode images: one per processor of this process, at most 4."""
    return min(count_processors(), _MOST_BY_DEFAULT)


def count_processors() -> int:
    """Number of processors that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def check_num_workers(num_workers: Any) -> None:
    """Check a number of threads; None is allowed.

    Raises:
        LimbeckError: If it is not a whole number, 0 or more.
    """
    if num_workers is None:
        return
    if isinstance(num_workers, bool) or not isinstance(num_workers, int) or num_workers < 0:
        raise LimbeckError(f"num_workers={num_workers!r} must be a number of threads: 0 for none, or for example 4.")


class _Workers:
    """Threads that call a function for items from a shared queue.

    An idle thread polls for work every few milliseconds and is woken only when the caller waits for a result. If every
    submitted item woke a thread, it would take the GIL from the caller at the start of a training step.
    """

    def __init__(self, function: Callable[[Any], Any]) -> None:
        self._function = function
        self._tasks = deque[tuple[Any, _Future]]()
        self._hurry = threading.Event()
        self._ended = False
        self._threads: list[threading.Thread] = []

    def start(self, count: int) -> None:
        """Start the threads, each limited to one PyTorch thread (the default is one per processor)."""
        before = torch.get_num_threads()
        gate = threading.Barrier(count + 1)
        for number in range(count):
            name = f"limbeck-worker-{number}"
            # Daemon threads, so that the program can exit while an iterator still exists.
            thread = threading.Thread(target=self._work, args=(gate, before > 1), name=name, daemon=True)
            try:
                thread.start()
            except BaseException:  # no more threads available: release those that wait at the gate
                gate.abort()
                raise
            self._threads.append(thread)
        gate.wait()
        if before > 1:
            # PyTorch stores the number per thread, and the last one that was set is the default of new threads.
            torch.set_num_threads(before)

    def submit(self, item: Any) -> _Future:
        """Submit an item; returns the queue that will receive its result."""
        future = _Future()
        self._tasks.append((item, future))
        return future

    def wait(self, future: _Future) -> Any:
        """Wait for a result; raises the exception of the function, if there was one."""
        if future.empty():
            self._hurry.set()
        result, error = future.get()
        if error is not None:
            raise error
        return result

    def stop(self) -> None:
        """End each thread after its current item."""
        self._ended = True
        self._hurry.set()
        for thread in self._threads:
            thread.join()

    def _work(self, gate: threading.Barrier, alone: bool) -> None:
        if alone:
            torch.get_num_threads()  # the first call in a thread copies the last number that was set
            torch.set_num_threads(1)
        try:
            gate.wait()
        except threading.BrokenBarrierError:  # another thread could not be started
            return
        while not self._ended:
            try:
                item, future = self._tasks.popleft()
            except IndexError:
                if self._hurry.wait(_PAUSE) and not self._ended:
                    self._hurry.clear()
                continue
            try:
                future.put((self._function(item), None))
            except BaseException as error:  # raised in wait()
                future.put((None, error))
            del item, future
