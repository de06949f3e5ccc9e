"""A run on texts that its student writes is killed at any moment, and ends with the same bits."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from small_jobs import forked

pytest.importorskip("transformers")
STORY = Path(__file__).parent / "rollout_kill_story.py"


def played(folder: Path, ranks: str, kills: int) -> list[dict[str, Any]]:
    """What became of the runs on each number of ranks."""
    done = forked(STORY, folder, ranks, kills, cwd=folder, seconds=1800)
    assert done.code == 0, done.err[-3000:]
    return [json.loads(line) for line in done.out.splitlines() if line.startswith("{")]


@pytest.mark.slow
def test_rollouts_killed_again_and_again_end_in_the_same_bits(tmp_path):
    for found, ranks in zip(played(tmp_path, "1,2", 4), (1, 2), strict=True):
        assert found["errors"] == []
        assert found["same"] == [True]
        assert len(found["ranks"]) == ranks
        assert len(set(found["ranks"])) == 1


@pytest.mark.soak
@pytest.mark.parametrize("ranks", [1, 2])
def test_rollouts_killed_at_50_instants(tmp_path, ranks):
    (found,) = played(tmp_path, str(ranks), 50)
    assert found["errors"] == []
    assert found["same"] == [True] * 10
    print(
        f"{ranks} rank(s): {found['instants']} kills, {sum(found['same'])} of 10 runs end in the bits of the whole one"
    )
