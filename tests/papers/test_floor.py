"""Are tasks done once each, in order, side by side, and taken up where they stopped?"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from concurrent.futures.process import BrokenProcessPool
from functools import partial
from pathlib import Path

import pytest

from limbeck.errors import LimbeckError
from limbeck.papers import Task
from limbeck.papers.experiment import merged
from limbeck.papers.scheduler import Scheduler, task_hash
from papers.floor_tasks import count, die, nap, refuse, stumble
from waiting import within

SUM = merged(
    [
        Task("sum", partial(count, number=1, after=("a", "b/c")), requires=("a", "b/c"), seconds=2),
        Task("a", partial(count, number=10), seconds=1),
        Task("b/c", partial(count, number=100), seconds=3),
    ]
)


def test_what_is_needed_comes_first_and_is_read(tmp_path):
    events = []
    found = Scheduler(tmp_path, workers=2).run(SUM, events.append)
    assert found["sum"] == {"number": 111}
    done = [event.task for event in events if event.kind == "done"]
    assert sorted(done[:2]) == ["a", "b/c"]
    assert done[2] == "sum"
    assert events[-1].remaining == 0


def test_what_is_done_is_not_done_again(tmp_path):
    Scheduler(tmp_path, workers=1).run({"a": SUM["a"]}, lambda _: None)
    floor = Scheduler(tmp_path, workers=1)
    assert floor.estimate(SUM) == pytest.approx(5.0)
    floor.run(SUM, lambda _: None)
    assert floor.estimate(SUM) == 0
    assert Scheduler(tmp_path, workers=1, slowness=lambda: pytest.fail("timed for nothing")).estimate(SUM) == 0
    assert (tmp_path / "a" / "calls").read_text() == "called\n"
    kept = json.loads((tmp_path / "a" / "result.json").read_text())
    assert (kept["task"], kept["figures"]) == ("a", {"number": 10})


def test_a_task_with_other_settings_is_another_and_so_are_those_that_need_it(tmp_path):
    Scheduler(tmp_path, workers=2).run(SUM, lambda _: None)
    (tmp_path / "a" / "run").mkdir()
    changed = merged([SUM["sum"], Task("a", partial(count, number=20)), SUM["b/c"]])
    found = Scheduler(tmp_path, workers=2).run(changed, lambda _: None)
    assert found["sum"] == {"number": 121}
    assert not (tmp_path / "a" / "run").exists()
    assert (tmp_path / "b" / "c" / "calls").read_text() == "called\n"


def test_a_task_that_was_killed_goes_on_in_its_folder(tmp_path):
    tasks = merged([Task("gone", die)])
    for _ in range(2):
        with pytest.raises(LimbeckError, match="killed"):
            Scheduler(tmp_path, workers=1).run(tasks, lambda _: None)
        (tmp_path / "gone" / "kept").touch()
    assert (tmp_path / "gone" / "kept").exists()


def test_two_run_side_by_side(tmp_path):
    tasks = merged([Task(name, partial(nap, seconds=1.5)) for name in "ab"])
    found = Scheduler(tmp_path, workers=2).run(tasks, lambda _: None)
    assert max(one["began"] for one in found.values()) < min(one["ended"] for one in found.values())


def test_the_estimate_is_the_longest_chain_or_the_work_of_all(tmp_path):
    assert Scheduler(tmp_path, workers=1).estimate(SUM) == 6
    assert Scheduler(tmp_path, workers=2, slowness=lambda: 2.0).estimate(SUM) == 2 * 5
    assert Scheduler(tmp_path, workers=8).estimate(SUM) == 5


def test_a_task_that_cannot_be_done_says_why_and_keeps_what_others_did(tmp_path):
    tasks = merged([SUM["a"], Task("broken", refuse, requires=("a",))])
    with pytest.raises(LimbeckError, match="broken: the data are not there"):
        Scheduler(tmp_path, workers=1).run(tasks, lambda _: None)
    assert (tmp_path / "a" / "result.json").is_file()
    assert not (tmp_path / "broken" / "result.json").exists()


def test_a_process_that_is_killed_is_told_of_in_a_sentence(tmp_path):
    with pytest.raises(LimbeckError, match=r"killed.*same command"):
        Scheduler(tmp_path, workers=1).run(merged([Task("gone", die)]), lambda _: None)


def test_a_need_that_is_no_task_and_a_circle_are_refused():
    with pytest.raises(LimbeckError, match="'b', which is not a task"):
        merged([Task("a", nap, requires=("b",))])
    with pytest.raises(LimbeckError, match="a -> b -> a"):
        merged([Task("a", nap, requires=("b",)), Task("b", nap, requires=("a",))])


_STAY = """
import sys
from functools import partial
from pathlib import Path
from limbeck.papers import Task
from limbeck.papers.scheduler import Scheduler, task_hash
from papers.floor_tasks import stay

Scheduler(Path(sys.argv[1]), workers=1).run({"stays": Task("stays", partial(stay, seconds=120))}, lambda _: None)
"""


def test_a_floor_is_alone_in_its_folder_and_its_processes_end_with_it_however_it_ends(tmp_path):
    path = os.pathsep.join([str(Path(__file__).parents[1]), *filter(None, [os.environ.get("PYTHONPATH")])])
    floor = subprocess.Popen([sys.executable, "-c", _STAY, str(tmp_path)], env={**os.environ, "PYTHONPATH": path})
    worker = None
    try:
        assert within(60, (tmp_path / "stays" / "pid").is_file)
        worker = int((tmp_path / "stays" / "pid").read_text())
        with pytest.raises(LimbeckError, match=f"being run already, by another process.*{floor.pid}"):
            Scheduler(tmp_path, workers=1).run({"a": SUM["a"]}, lambda _: None)
        floor.send_signal(signal.SIGKILL)
        floor.wait()
        assert within(20, lambda: not _lives(worker))
        worker = None
    finally:
        floor.kill()
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
    tasks = {"a": SUM["a"]}
    Scheduler(tmp_path, workers=1).run(tasks, lambda _: None)
    (tmp_path / "a" / "result.json").write_text(text)
    assert Scheduler(tmp_path, workers=1).estimate(tasks) == 1


def test_what_a_partial_holds_by_position_is_a_setting_too():
    one, other = ({"a": Task("a", partial(nap, seconds))} for seconds in (1, 2))
    assert task_hash(one) != task_hash(other)


def test_a_bug_in_a_task_comes_as_it_is_and_names_the_task(tmp_path):
    with pytest.raises(KeyError, match="a bug") as caught:
        Scheduler(tmp_path, workers=1).run({"bug": Task("bug", partial(stumble, strange=False))}, lambda _: None)
    assert any("bug" in note for note in caught.value.__notes__)


def test_a_bug_whose_error_cannot_travel_is_not_taken_for_a_killed_process(tmp_path):
    with pytest.raises(BrokenProcessPool) as caught:
        Scheduler(tmp_path, workers=1).run({"bug": Task("bug", partial(stumble, strange=True))}, lambda _: None)
    assert "StrangeError" in str(caught.value.__cause__)
