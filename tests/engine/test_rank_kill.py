"""A run of two ranks with dropout and BatchNorm that is killed and resumed ends in the bits of the unbroken one."""

from __future__ import annotations

import json
import random
from pathlib import Path
from typing import Any

import pytest

from limbeck.engine.distributed import random_of_rank
from limbeck.errors import LimbeckWarning
from small_jobs import forked

STORY = Path(__file__).parent / "rank_kill_story.py"


def played(folder: Path, *runs: tuple[str, list[int]]) -> list[dict[str, Any]]:
    """What became of runs of two ranks: for each the method, and the reports after which ranks die."""
    done = forked(STORY, folder, json.dumps(runs), cwd=folder, seconds=600)
    assert done.code == 0, done.err[-3000:]
    found: list[dict[str, Any]] = json.loads(done.out.splitlines()[-1])
    return found


@pytest.fixture(scope="module")
def two(tmp_path_factory) -> list[dict[str, Any]]:
    """Several runs in one process, because it takes longer to import than to train."""
    return played(tmp_path_factory.mktemp("ranks"), ("mean_teacher", [3]))


@pytest.mark.soak
def test_two_ranks_killed_in_each_generation(tmp_path):
    """After report 3 of 8 of the first generation, and the second rank alone after 8 more, in the second."""
    (found,) = played(tmp_path, ("born_again", [3, -8]))
    assert found["killed"] == found["whole"]
    # The first generation teaches the second, so it must be the same on all ranks.
    assert found["whole"][0] == found["whole"][1]
    # The first, left alone, ended in a sentence, and the run was resumed.
    assert found["error"].startswith("LimbeckError: Another of the 2 processes")


@pytest.mark.slow
def test_an_average_with_statistics_of_its_own_is_the_same_on_all_ranks(two):
    (found,) = two
    assert found["whole"][0] == found["whole"][1]
    assert found["killed"] == found["whole"]


@pytest.mark.soak
@pytest.mark.parametrize("name", ["hinton", "born_again", "mean_teacher", "mutual"])
def test_two_ranks_killed_at_many_reports(tmp_path, name):
    draw = random.Random(0)
    runs = [(name, draw.sample(range(1, 8), 2)) for _ in range(10)]
    for number, found in enumerate(played(tmp_path, *runs)):
        assert found["killed"] == found["whole"], number
        assert found["whole"][0] == found["whole"][1]
    print(f"{name}: 10 runs of two ranks killed twice, all end in the same bits")


class Ranks:
    """As many of a fabric's properties as are read here."""

    def __init__(self, size: int, rank: int) -> None:
        self.world_size, self.global_rank, self.is_global_zero = size, rank, rank == 0


def test_each_rank_takes_up_its_own_random_numbers():
    state = {"finished": False, "random": {"torch": 0}, "random_of_other_ranks": [{"torch": 1}, {"torch": 2}]}
    assert [random_of_rank(state, Ranks(3, rank))["torch"] for rank in range(3)] == [0, 1, 2]


def test_another_number_of_ranks_is_said():
    state = {"finished": False, "random": {"torch": 0}}
    with pytest.warns(LimbeckWarning, match="1 process"):
        assert random_of_rank(state, Ranks(2, 0)) == {"torch": 0}
    assert random_of_rank(state, Ranks(2, 1)) is None
