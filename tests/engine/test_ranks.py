"""Two processes give the result of one on the same global batches."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from engine.ranks_story import SCENARIOS, play
from small_jobs import forked

STORY = Path(__file__).parent / "ranks_story.py"
TOLERANCE = 1e-10


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    return tmp_path_factory.mktemp("ranks")


@pytest.fixture(scope="module")
def one(tmp_path_factory) -> dict[str, Any]:
    return play(tmp_path_factory.mktemp("one"), 1)


@pytest.fixture(scope="module")
def two(folder) -> list[dict[str, Any]]:
    """What each of two ranks ends with."""
    done = forked(STORY, folder, 2, cwd=folder)
    assert done.code == 0, done.err[-3000:]
    return [json.loads((folder / f"rank{rank}.json").read_text()) for rank in range(2)]


@pytest.mark.slow
@pytest.mark.parametrize("scenario", SCENARIOS)
def test_two_processes_end_in_the_weights_of_one(scenario, one, two):
    wanted = one[scenario]["weights"]
    for rank in two:
        assert rank[scenario]["weights"] == pytest.approx(wanted, abs=TOLERANCE)


@pytest.mark.slow
@pytest.mark.parametrize("scenario", SCENARIOS)
def test_two_processes_report_what_one_does(scenario, one, two):
    for rank in two:
        assert len(rank[scenario]["said"]) == len(one[scenario]["said"])
        for theirs, mine in zip(rank[scenario]["said"], one[scenario]["said"], strict=True):
            assert theirs[0] == pytest.approx(mine[0], rel=1e-5)
            for found, wanted in zip(theirs[1:], mine[1:], strict=True):
                assert found == pytest.approx(wanted, rel=1e-4, abs=1e-9)


@pytest.mark.slow
@pytest.mark.usefixtures("two")
def test_only_the_first_rank_writes(folder):
    """The story itself fails if another rank writes; here every line is written once."""
    steps = [json.loads(line)["step"] for line in (folder / "run" / "metrics.jsonl").read_text().splitlines()]
    assert steps == list(range(1, 7))
    assert {file.name for file in (folder / "run").iterdir()} == {
        "run.json",
        "metrics.jsonl",
        "checkpoint.safetensors",
        "student",
    }
