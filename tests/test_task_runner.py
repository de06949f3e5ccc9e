"""Tests of the task runner."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from functools import partial
from pathlib import Path

import joblib
import pytest
from joblib.parallel import LokyBackend

from limbeck.compare import run_job
from limbeck.errors import LimbeckError
from limbeck.job import make_job
from limbeck.task_runner import WorkItem, chain_seconds, check_backend, run_tasks, sort_tasks
from small_jobs import blobs, forked, small_job
from worker_tasks import die_or_double, process_id, sum_files, threads_and_folder

PARENT = """
import sys
sys.path.insert(0, {tests!r})
from functools import partial
from worker_tasks import wait
from limbeck.task_runner import WorkItem, check_backend, run_tasks
list(run_tasks([WorkItem(name, partial(wait, {folder!r})) for name in 'ab'], workers=2))
"""


def is_alive(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0] != "Z"
    except OSError:
        return False


def waited(until, seconds: float) -> bool:
    end = time.monotonic() + seconds
    while not until() and time.monotonic() < end:
        time.sleep(0.05)
    return bool(until())


@pytest.mark.skipif(not Path("/proc/self/stat").exists(), reason="It looks at processes in /proc, which is not here.")
def test_workers_end_with_a_parent_that_is_killed(tmp_path):
    script = PARENT.format(tests=str(Path(__file__).parent), folder=str(tmp_path))
    parent = subprocess.Popen([sys.executable, "-c", script])
    assert waited(lambda: len(list(tmp_path.iterdir())) == 2, 100)
    workers = [int(one.name) for one in tmp_path.iterdir()]
    assert all(map(is_alive, workers))
    parent.kill()
    parent.wait()
    assert waited(lambda: not any(map(is_alive, workers)), 5)


def results(function, *arguments, workers=2, **options):
    tasks = [WorkItem(str(number), partial(function, argument)) for number, argument in enumerate(arguments)]
    return [result for _, result in run_tasks(tasks, workers=workers, **options)]


def test_a_worker_that_is_killed_is_an_error():
    assert results(die_or_double, 1, 2, 3, ordered=True) == [2, 4, 6]
    with pytest.raises(LimbeckError, match="workers=1"):
        results(die_or_double, 1, -1, 2)


def test_idle_processes_do_not_end_while_a_task_is_sent():
    # loky loses a task that is sent in the moment when idle processes end: seen as a run that waited without end.
    from joblib.externals.loky import reusable_executor

    assert results(abs, -1, -2, ordered=True) == [1, 2]
    assert reusable_executor._executor._timeout > 3600


GROWTH = """
from functools import partial
from limbeck.task_runner import WorkItem, run_tasks
from worker_tasks import hold

def pids(*sizes):
    tasks = [WorkItem(str(number), partial(hold, size)) for number, size in enumerate(sizes)]
    return {pid for _, pid in run_tasks(tasks, workers=2)}

before = pids(0, 0) | pids(320, 0)
print(pids(0, 0) <= before)
"""


def test_a_worker_whose_memory_grows_is_kept(tmp_path):
    """A script of its own, because otherwise it may wait forever."""
    pytest.importorskip("psutil", reason="loky looks at the memory of its workers only where psutil is installed")
    assert forked("-c", GROWTH, cwd=tmp_path, seconds=120).out == "True\n"


def test_a_worker_has_one_thread_and_the_folder_of_its_parent(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert set(results(threads_and_folder, 0, 1)) == {(1, str(tmp_path))}


@pytest.mark.parametrize("backend", ["threading", "multiprocessing", "sequential"])
def test_the_backend_of_the_caller_is_used(backend):
    with joblib.parallel_config(backend=backend):
        pids = results(process_id, 0, 1, 2)
    assert (set(pids) == {os.getpid()}) == (backend != "multiprocessing")


class CountingBackend(LokyBackend):
    """Loky that counts the tasks it gets."""

    calls = 0

    def submit(self, func, callback=None):
        CountingBackend.calls += 1
        return super().submit(func, callback)


def test_a_registered_backend_trains_the_arms_of_a_job(tmp_path, monkeypatch):
    monkeypatch.setattr(CountingBackend, "calls", 0)
    joblib.register_parallel_backend("counting", CountingBackend)
    job = make_job(small_job(blobs(tmp_path / "blobs.npz"), seeds=1, workers=2, out=str(tmp_path / "job")))
    with joblib.parallel_config(backend="counting"):
        run_job(job)
    assert CountingBackend.calls >= len(job.all_arms) - 1


def test_a_backend_of_threads_is_refused_before_training(tmp_path):
    job = make_job(small_job(blobs(tmp_path / "blobs.npz"), seeds=1, workers=2, out=str(tmp_path / "job")))
    with joblib.parallel_config(backend="threading"), pytest.raises(LimbeckError, match="ThreadingBackend"):
        run_job(job)
    assert not (tmp_path / "job").exists()
    with joblib.parallel_config(backend="threading"):
        check_backend(workers=1)
    with joblib.parallel_config(backend="sequential"):
        check_backend(workers=2)


@pytest.mark.parametrize(("backend", "workers"), [("loky", 1), ("loky", 2), ("threading", 3), ("multiprocessing", 2)])
def test_a_task_starts_after_the_tasks_that_it_requires(backend, workers, tmp_path):
    tasks = [
        WorkItem("sum", partial(sum_files, tmp_path, "sum", ("a", "b")), ("a", "b")),
        WorkItem("a", partial(sum_files, tmp_path, "a", ())),
        WorkItem("b", partial(sum_files, tmp_path, "b", ("a",)), ("a",)),
        WorkItem("alone", partial(sum_files, tmp_path, "alone", ())),
    ]
    with joblib.parallel_config(backend=backend):
        found = {task.name: result for task, result in run_tasks(sort_tasks(tasks), workers=workers)}
    assert found == {"a": 1, "b": 2, "sum": 4, "alone": 1}


def test_the_task_with_the_longest_chain_starts_first():
    started, one = [], partial(abs, 1)
    tasks = [WorkItem("short", one), WorkItem("long", one), WorkItem("end", one, requires=("long",), seconds=9.0)]
    list(run_tasks(tasks, workers=1, on_start=lambda task: started.append(task.name)))
    assert started == ["long", "end", "short"]
    assert chain_seconds(tasks) == {"short": 1.0, "long": 10.0, "end": 9.0}


def test_results_before_a_failure_are_yielded_and_tasks_that_need_it_do_not_run(tmp_path):
    tasks = [
        WorkItem("good", partial(abs, -1)),
        WorkItem("bad", partial(int, "no number"), ("good",)),
        WorkItem("after", partial((tmp_path / "after").touch), ("bad",)),
    ]
    done = []
    with pytest.raises(ValueError, match="no number"):
        done.extend(task.name for task, _ in run_tasks(tasks, workers=2))
    assert not (tmp_path / "after").exists()


def test_a_requirement_that_is_no_task_and_a_cycle_are_refused():
    with pytest.raises(LimbeckError, match="'b', which is not a task"):
        sort_tasks([WorkItem("a", abs, requires=("b",))])
    with pytest.raises(LimbeckError, match="a -> b -> a"):
        sort_tasks([WorkItem("a", abs, requires=("b",)), WorkItem("b", abs, requires=("a",))])
