"""Are tasks done once each, in order, side by side, and taken up where they stopped?"""

from __future__ import annotations

import json
from functools import partial

import pytest

from limbeck.errors import LimbeckError
from limbeck.reproduce import Task
from limbeck.reproduce.experiment import merged
from limbeck.reproduce.floor import Floor
from reproduce.floor_tasks import count, die, nap, refuse

SUM = merged(
    [
        Task("sum", partial(count, number=1, after=("a", "b/c")), needs=("a", "b/c"), seconds=2),
        Task("a", partial(count, number=10), seconds=1),
        Task("b/c", partial(count, number=100), seconds=3),
    ]
)


def test_what_is_needed_comes_first_and_is_read(tmp_path):
    events = []
    found = Floor(tmp_path, workers=2).run(SUM, events.append)
    assert found["sum"] == {"number": 111}
    done = [event.task for event in events if event.kind == "done"]
    assert sorted(done[:2]) == ["a", "b/c"]
    assert done[2] == "sum"
    assert events[-1].left == 0


def test_what_is_done_is_not_done_again(tmp_path):
    Floor(tmp_path, workers=1).run({"a": SUM["a"]}, lambda _: None)
    floor = Floor(tmp_path, workers=1)
    assert floor.estimate(SUM) == pytest.approx(5.0)
    floor.run(SUM, lambda _: None)
    assert floor.estimate(SUM) == 0
    assert (tmp_path / "a" / "calls").read_text() == "called\n"
    kept = json.loads((tmp_path / "a" / "result.json").read_text())
    assert (kept["task"], kept["figures"]) == ("a", {"number": 10})


def test_a_task_with_other_settings_is_another_and_so_are_those_that_need_it(tmp_path):
    Floor(tmp_path, workers=2).run(SUM, lambda _: None)
    (tmp_path / "a" / "run").mkdir()
    changed = merged([SUM["sum"], Task("a", partial(count, number=20)), SUM["b/c"]])
    found = Floor(tmp_path, workers=2).run(changed, lambda _: None)
    assert found["sum"] == {"number": 121}
    assert not (tmp_path / "a" / "run").exists()
    assert (tmp_path / "b" / "c" / "calls").read_text() == "called\n"


def test_a_task_that_was_killed_goes_on_in_its_folder(tmp_path):
    tasks = merged([Task("gone", die)])
    for _ in range(2):
        with pytest.raises(LimbeckError, match="killed"):
            Floor(tmp_path, workers=1).run(tasks, lambda _: None)
        (tmp_path / "gone" / "kept").touch()
    assert (tmp_path / "gone" / "kept").exists()


def test_two_run_side_by_side(tmp_path):
    tasks = merged([Task(name, partial(nap, seconds=1.5)) for name in "ab"])
    found = Floor(tmp_path, workers=2).run(tasks, lambda _: None)
    assert max(one["began"] for one in found.values()) < min(one["ended"] for one in found.values())


def test_the_estimate_is_the_longest_chain_or_the_work_of_all(tmp_path):
    assert Floor(tmp_path, workers=1).estimate(SUM) == 6
    assert Floor(tmp_path, workers=2, slowness=2.0).estimate(SUM) == 2 * 5
    assert Floor(tmp_path, workers=8).estimate(SUM) == 5


def test_a_task_that_cannot_be_done_says_why_and_keeps_what_others_did(tmp_path):
    tasks = merged([SUM["a"], Task("broken", refuse, needs=("a",))])
    with pytest.raises(LimbeckError, match="broken: the data are not there"):
        Floor(tmp_path, workers=1).run(tasks, lambda _: None)
    assert (tmp_path / "a" / "result.json").is_file()
    assert not (tmp_path / "broken" / "result.json").exists()


def test_a_process_that_is_killed_is_told_of_in_a_sentence(tmp_path):
    with pytest.raises(LimbeckError, match=r"killed.*same command"):
        Floor(tmp_path, workers=1).run(merged([Task("gone", die)]), lambda _: None)


def test_a_need_that_is_no_task_and_a_circle_are_refused():
    with pytest.raises(LimbeckError, match="'b', which is no task"):
        merged([Task("a", nap, needs=("b",))])
    with pytest.raises(LimbeckError, match="a -> b -> a"):
        merged([Task("a", nap, needs=("b",)), Task("b", nap, needs=("a",))])
