"""A run that is killed at any moment ends with the same bits."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from small_jobs import forked

STORY = Path(__file__).parent / "kill_story.py"


@pytest.mark.slow
def test_a_run_killed_again_and_again(tmp_path):
    """Eight kills in three stages, at random moments; the metrics, too, are those of the unbroken run."""
    done = forked(STORY, tmp_path, cwd=tmp_path)
    assert done.code == 0, done.err
    found = json.loads(done.out.splitlines()[-1])
    assert found["error"] is None
    assert found["last"] == 0
    assert found["opened"] == [True] * 8
    assert "1 second" in found["stages"]
    assert found["killed"]["metrics"] == found["whole"]["metrics"]
    assert found["killed"]["weights"] == found["whole"]["weights"]
