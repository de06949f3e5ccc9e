"""Two processes end with the same weights as one, however the batches are split."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("transformers", reason="transformers is not installed (extra hf)")
pytest.importorskip("lightning", reason="lightning is not installed (extra lightning)")

STORY = Path(__file__).parent / "ranks_story.py"
SCENARIOS = ("one batch a step", "two batches", "pairs")


def started(bridge: str, folder: Path, processes: int, **environment: str) -> subprocess.Popen[str]:
    told = {name: value for name, value in os.environ.items() if name not in ("RANK", "LOCAL_RANK", "WORLD_SIZE")}
    return subprocess.Popen(
        [sys.executable, str(STORY), bridge, str(folder), str(processes)],
        env={**told, "OMP_NUM_THREADS": "1", "PYTHONWARNINGS": "ignore", **environment},
        stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
    )  # fmt: skip


def ended(folder: Path, *processes: subprocess.Popen[str]) -> list[dict[str, Any]]:
    for process in processes:
        said, _ = process.communicate(timeout=240)
        assert process.returncode == 0, said[-3000:]
    return [json.loads(file.read_text()) for file in sorted(folder.glob("*.json"))]


def free_port() -> str:
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        return str(found.getsockname()[1])


@pytest.fixture(scope="module", params=["trainer", "lightning"])
def both(request, tmp_path_factory) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    """What one process ends with, and what each of two does."""
    bridge, alone, apart = request.param, tmp_path_factory.mktemp("one"), tmp_path_factory.mktemp("two")
    (one,) = ended(alone, started(bridge, alone, 1))
    port = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": free_port()}
    ranks = [{"RANK": str(rank), "LOCAL_RANK": str(rank), "WORLD_SIZE": "2", **port} for rank in range(2)]
    told = ranks if bridge == "trainer" else [{}]
    return one, ended(apart, *(started(bridge, apart, 2, **given) for given in told))


@pytest.mark.soak
@pytest.mark.parametrize("scenario", SCENARIOS)
def test_two_processes_take_the_steps_of_one(scenario, both):
    one, two = both
    assert len(two) == 2
    for rank in two:
        assert rank[scenario]["weights"] == pytest.approx(one[scenario]["weights"], abs=1e-10)


@pytest.mark.soak
@pytest.mark.parametrize("scenario", SCENARIOS)
def test_what_is_logged_is_the_mean_over_all_processes(scenario, both):
    one, two = both
    for rank in two:
        assert rank[scenario]["said"] == pytest.approx(one[scenario]["said"], abs=1e-4)
