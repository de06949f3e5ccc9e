"""Tests of the tasks of a reproduction: order, parallel runs, resume, failures."""

from __future__ import annotations

import json
import os
import signal
from functools import partial
from pathlib import Path

import pytest

from fork_server import fork_command, poll_command
from limbeck.errors import LimbeckError
from limbeck.papers.task_queue import TaskFinished, TaskQueue, TaskStarted, TimeEstimated
from limbeck.task_runner import WorkItem, hash_tasks, sort_tasks
from papers.queue_tasks import count, die, nap, refuse, stumble
from small_jobs import environment
from waiting import within

TOTAL = WorkItem("sum", partial(count, number=1, after=("a", "b/c")), requires=("a", "b/c"), seconds=2)
A = WorkItem("a", partial(count, number=10), seconds=1)
BC = WorkItem("b/c", partial(count, number=100), seconds=3)
SUM = sort_tasks([TOTAL, A, BC])
KILLED, SLOW = WorkItem("gone", die), WorkItem("slow", partial(nap, seconds=60.0))


def test_what_is_needed_comes_first_and_is_read(tmp_path):
    events = []
    found = TaskQueue(tmp_path, workers=2).run(SUM, events.append)
    assert found["sum"] == {"number": 111}
    done = [event.task for event in events if isinstance(event, TaskFinished)]
    assert sorted(done[:2]) == ["a", "b/c"]
    assert done[2] == "sum"
    assert events[-1].remaining == 0
    assert sorted(event.task for event in events if isinstance(event, TaskStarted)) == sorted(done)
    assert all(event.remaining >= 0 for event in events if isinstance(event, TimeEstimated))


def test_what_is_done_is_not_done_again(tmp_path):
    TaskQueue(tmp_path, workers=1).run([A])
    queue = TaskQueue(tmp_path, workers=1)
    assert queue.estimate(SUM) == pytest.approx(5.0)
    queue.run(SUM)
    assert queue.estimate(SUM) == 0
    assert TaskQueue(tmp_path, workers=1, slowness=lambda: pytest.fail("timed for nothing")).estimate(SUM) == 0
    assert (tmp_path / "a" / "calls").read_text() == "called\n"
    kept = json.loads((tmp_path / "a" / "result.json").read_text())
    assert (kept["task"], kept["figures"]) == ("a", {"number": 10})


def test_a_task_with_other_settings_is_another_and_so_are_those_that_need_it(tmp_path):
    TaskQueue(tmp_path, workers=2).run(SUM)
    (tmp_path / "a" / "run").mkdir()
    changed = sort_tasks([TOTAL, WorkItem("a", partial(count, number=20)), BC])
    found = TaskQueue(tmp_path, workers=2).run(changed)
    assert found["sum"] == {"number": 121}
    assert not (tmp_path / "a" / "run").exists()
    assert (tmp_path / "b" / "c" / "calls").read_text() == "called\n"


def test_two_run_side_by_side(tmp_path):
    tasks = sort_tasks([WorkItem(name, partial(nap, seconds=1.5)) for name in "ab"])
    found = TaskQueue(tmp_path, workers=2).run(tasks)
    assert max(one["began"] for one in found.values()) < min(one["ended"] for one in found.values())


def test_the_estimate_is_the_longest_chain_or_the_work_of_all(tmp_path):
    assert TaskQueue(tmp_path, workers=1).estimate(SUM) == 6
    assert TaskQueue(tmp_path, workers=2, slowness=lambda: 2.0).estimate(SUM) == 2 * 5
    assert TaskQueue(tmp_path, workers=8).estimate(SUM) == 5


def test_a_task_that_cannot_be_done_explains_why_and_keeps_what_others_did(tmp_path):
    tasks = sort_tasks([A, WorkItem("broken", refuse, requires=("a",))])
    with pytest.raises(LimbeckError, match="broken: the data are not there"):
        TaskQueue(tmp_path, workers=1).run(tasks)
    assert (tmp_path / "a" / "result.json").is_file()
    assert not (tmp_path / "broken" / "result.json").exists()


_STAY = """
import sys
from functools import partial
from pathlib import Path
from limbeck.papers.task_queue import TaskQueue
from limbeck.task_runner import WorkItem
from papers.queue_tasks import stay

tasks = [WorkItem(name, partial(stay, seconds=120)) for name in ("stays", "stays2")]
TaskQueue(Path(sys.argv[1]), workers=2).run(tasks)
"""


def test_a_queue_is_alone_in_its_folder_and_its_processes_end_with_it(tmp_path):
    words, nowhere = ["-c", _STAY, str(tmp_path)], Path(os.devnull)
    queue = fork_command(words, cwd=tmp_path, env=environment(), out=nowhere, err=nowhere)
    worker = None
    try:
        assert within(60, (tmp_path / "stays" / "pid").is_file)
        worker = int((tmp_path / "stays" / "pid").read_text())
        with pytest.raises(LimbeckError, match=f"being run already, by another process.*{queue}"):
            TaskQueue(tmp_path, workers=1).run([A])
        os.kill(queue, signal.SIGKILL)
        assert within(20, lambda: not _lives(worker))
        worker = None
    finally:
        os.kill(queue, signal.SIGKILL)
        poll_command(queue, wait=True)
        if worker is not None and _lives(worker):
            os.kill(worker, signal.SIGKILL)


def _lives(process):
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    state = Path(f"/proc/{process}/stat")  # one that nobody has waited for is no process any more
    return not state.is_file() or state.read_text().rsplit(")", 1)[1].split()[0] != "Z"


@pytest.mark.parametrize("text", ["", "{", "[]", '{"stamp": '])
def test_a_result_that_is_damaged_is_no_result(tmp_path, text):
    tasks = [A]
    TaskQueue(tmp_path, workers=1).run(tasks)
    (tmp_path / "a" / "result.json").write_text(text)
    assert TaskQueue(tmp_path, workers=1).estimate(tasks) == 1


def test_what_a_partial_holds_by_position_is_a_setting_too():
    one, other = ([WorkItem("a", partial(nap, seconds))] for seconds in (1, 2))
    assert hash_tasks(one) != hash_tasks(other)


@pytest.mark.parametrize("workers", [1, 2])
def test_a_bug_in_a_task_is_raised_as_it_is_and_names_the_task(tmp_path, workers):
    with pytest.raises(KeyError, match="a bug") as caught:
        TaskQueue(tmp_path, workers=workers).run([WorkItem("bug", partial(stumble, strange=False)), A])
    if workers == 1:  # a note does not travel between processes before Python 3.11's pickle protocol of exceptions
        assert any("bug" in note for note in caught.value.__notes__)


def test_a_bug_whose_error_cannot_be_sent_is_not_taken_for_a_killed_process(tmp_path):
    with pytest.raises(Exception) as caught:
        TaskQueue(tmp_path, workers=2).run([WorkItem("bug", partial(stumble, strange=True)), SLOW])
    assert not isinstance(caught.value, LimbeckError)
    assert "StrangeError" in str(caught.value.__cause__)


def test_a_task_whose_process_was_killed_goes_on_in_its_folder(tmp_path, monkeypatch):
    with pytest.raises(LimbeckError, match=r"killed.*same command"):
        TaskQueue(tmp_path, workers=2).run([KILLED, SLOW])
    (tmp_path / "gone" / "kept").touch()
    monkeypatch.setattr(os, "kill", lambda process, how: None)
    assert TaskQueue(tmp_path, workers=1).run([KILLED]) == {"gone": {}}
    assert (tmp_path / "gone" / "kept").exists()
