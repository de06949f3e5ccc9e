"""A run that is killed at any moment ends with the same bits."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

STORY = Path(__file__).parent / "kill_story.py"


@pytest.mark.slow
def test_a_run_killed_again_and_again(tmp_path):
    """Eight kills in three stages, at random moments; the metrics, too, are those of the unbroken run."""
    done = subprocess.run(
        [sys.executable, str(STORY), str(tmp_path)],
        capture_output=True,
        text=True,
        timeout=300,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
    )
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout.splitlines()[-1])
    assert found["error"] is None
    assert found["last"] == 0
    assert found["opened"] == [True] * 8
    assert "1 second" in found["stages"]
    assert found["killed"]["metrics"] == found["whole"]["metrics"]
    assert found["killed"]["weights"] == found["whole"]["weights"]
