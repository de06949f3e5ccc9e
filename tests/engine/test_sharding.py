"""Models that are sharded over processes give the result of an unsharded one."""

from __future__ import annotations

import warnings
from pathlib import Path

import pytest
import torch

from engine.sharding_story import play
from small_jobs import forked

STORY = Path(__file__).parent / "sharding_story.py"


def _weights(folder: Path, kind: str, broken: str) -> dict:
    out = folder / kind
    if kind == "one":  # needs no process of its own
        with warnings.catch_warnings(action="ignore"):
            play(0, kind, str(out), broken)
    else:
        done = forked(STORY, kind, out, broken, cwd=folder)
        assert done.code == 0, done.err[-2000:]
    return torch.load(out / "weights.pt", weights_only=True)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("kind", "broken"),
    [
        pytest.param("fsdp", "whole", marks=pytest.mark.soak),
        pytest.param("fsdp", "broken", marks=pytest.mark.soak),
        ("fsdp2", "broken"),
    ],
)
def test_a_sharded_run_ends_in_the_weights_of_one_process(tmp_path, kind, broken):
    one, many = _weights(tmp_path, "one", "whole"), _weights(tmp_path, kind, broken)
    assert one.keys() == many.keys()
    for name, tensor in one.items():
        # Sums in another order, and AdamW divides by the root of small squares.
        assert (tensor - many[name]).abs().max() < 1e-5, name
