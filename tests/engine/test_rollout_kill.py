"""A run on texts that its student writes is killed at any moment, and ends with the same bits."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("transformers")
STORY = Path(__file__).parent / "rollout_kill_story.py"


def played(folder: Path, ranks: int, kills: int) -> dict[str, Any]:
    done = subprocess.run(
        [sys.executable, str(STORY), str(folder), str(ranks), str(kills)],
        capture_output=True,
        text=True,
        timeout=1800,
        env={**os.environ, "OMP_NUM_THREADS": "1", "GLOO_SOCKET_IFNAME": "lo", "TOKENIZERS_PARALLELISM": "false"},
    )
    assert done.returncode == 0, done.stderr[-3000:]
    found: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return found


@pytest.mark.slow
@pytest.mark.parametrize("ranks", [1, 2])
def test_rollouts_killed_again_and_again_end_in_the_same_bits(tmp_path, ranks):
    found = played(tmp_path, ranks, 4)
    assert found["errors"] == []
    assert found["same"] == [True]
    assert len(set(found["ranks"])) == 1


@pytest.mark.soak
@pytest.mark.parametrize("ranks", [1, 2])
def test_rollouts_killed_at_50_instants(tmp_path, ranks):
    found = played(tmp_path, ranks, 50)
    assert found["errors"] == []
    assert found["same"] == [True] * 10
    print(
        f"{ranks} rank(s): {found['instants']} kills, {sum(found['same'])} of 10 runs end in the bits of the whole one"
    )
