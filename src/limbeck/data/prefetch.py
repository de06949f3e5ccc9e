"""Results of a function for many items, computed ahead in threads and returned in order."""

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
_PER_WORKER = 2  # items ahead for each thread, as in PyTorch's DataLoader


def prefetch(function: Callable[[Item], Result], items: Iterable[Item], *, num_workers: int) -> Iterator[Result]:
    """``function(item)`` for each item, in the order of the items, computed ahead by `num_workers` threads.

    What comes out does not depend on the number of threads. An error of the function is raised in its turn, as it is.
    When the iterator is closed, exhausted or left by an exception, the threads end, each after the item it is at.
    Threads are enough where the function decodes pictures, reads files or calls PyTorch: all release Python's lock.

    Args:
        function: Called in a thread; it must not depend on which items were asked for before.
        items: What it is called with.
        num_workers: How many threads; 0 calls it in the caller's own, when a result is asked for.

    Example:
        >>> list(prefetch(lambda number: number**2, range(4), num_workers=2))
        [0, 1, 4, 9]
    """
    if num_workers == 0:
        yield from map(function, items)
        return
    iterator, waiting, workers = iter(items), deque[_Future](), _Workers(function)
    try:
        waiting.extend(workers.ask(item) for item in islice(iterator, _PER_WORKER * num_workers))
        workers.start(num_workers)
        while waiting:
            result = workers.wait(waiting.popleft())
            waiting.extend(workers.ask(item) for item in islice(iterator, 1))
            yield result
            del result  # freed before the next is asked for, and not while a worker has just begun
    finally:
        workers.stop()


def default_num_workers() -> int:
    """How many threads decode pictures where nobody says: one for each processor of this process, at most 4."""
    return min(count_processors(), _MOST_BY_DEFAULT)


def count_processors() -> int:
    """How many processors this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def check_num_workers(num_workers: Any) -> None:
    """Refuse what is neither None nor a number of threads.

    Raises:
        LimbeckError: Saying the value.
    """
    if num_workers is None:
        return
    if isinstance(num_workers, bool) or not isinstance(num_workers, int) or num_workers < 0:
        raise LimbeckError(
            f"num_workers={num_workers!r} is no number of threads: give 0 (none), or how many decode ahead, such as 4."
        )


class _Workers:
    """Threads that call a function for one item after the other.

    An idle thread looks for work every few milliseconds, and is woken only by who has to wait for a result. Woken by
    every item that is asked for, it would take Python's lock from the caller just then, at the start of a step.
    """

    def __init__(self, function: Callable[[Any], Any]) -> None:
        self._function = function
        self._tasks = deque[tuple[Any, _Future]]()
        self._hurry = threading.Event()
        self._ended = False
        self._threads: list[threading.Thread] = []

    def start(self, count: int) -> None:
        """Begin, with one of PyTorch's threads to each: else each would start as many as there are processors."""
        before = torch.get_num_threads()
        gate = threading.Barrier(count + 1)
        for number in range(count):
            name = f"limbeck-worker-{number}"
            # Daemons, so that a program may end while somebody still holds the iterator.
            thread = threading.Thread(target=self._work, args=(gate, before > 1), name=name, daemon=True)
            try:
                thread.start()
            except BaseException:  # no more threads can be had: those that wait at the gate would wait for ever
                gate.abort()
                raise
            self._threads.append(thread)
        gate.wait()
        if before > 1:
            # PyTorch keeps the number for each thread, and besides the last one that was set, for threads to come.
            torch.set_num_threads(before)

    def ask(self, item: Any) -> _Future:
        """Where the result for an item will be."""
        answer = _Future()
        self._tasks.append((item, answer))
        return answer

    def wait(self, answer: _Future) -> Any:
        """The result, or the error that was raised in its place."""
        if answer.empty():
            self._hurry.set()
        result, error = answer.get()
        if error is not None:
            raise error
        return result

    def stop(self) -> None:
        """Let each thread end after the item that it is at."""
        self._ended = True
        self._hurry.set()
        for thread in self._threads:
            thread.join()

    def _work(self, gate: threading.Barrier, alone: bool) -> None:
        if alone:
            torch.get_num_threads()  # the first call in a thread takes over the last number that was set
            torch.set_num_threads(1)
        try:
            gate.wait()
        except threading.BrokenBarrierError:  # another thread could not be started
            return
        while not self._ended:
            try:
                item, answer = self._tasks.popleft()
            except IndexError:
                if self._hurry.wait(_PAUSE) and not self._ended:
                    self._hurry.clear()
                continue
            try:
                answer.put((self._function(item), None))
            except BaseException as error:  # raised where the result is asked for
                answer.put((None, error))
            del item, answer
