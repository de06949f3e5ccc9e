"""Runs of two ranks that are killed again and again, as a script of its own: prints what became of them, as JSON.

It is forked by test_rank_kill, with a folder and, for each run, a method's name and the reports after which both ranks
die, or after which the second dies alone, as negative numbers. The ranks are forked after all was imported, so a life
costs little.
"""

from __future__ import annotations

import hashlib
import json
import os
import sys
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import torch

from engine.stories import SGD, arrays, network
from forked_ranks import fork_ranks
from limbeck.engine import distill, open_fabric
from limbeck.methods import make
from limbeck.recipe import Recipe

RANKS = 2


def recipe(name: str) -> Recipe:
    """A method in which something reads the student's buffers between steps, or that draws dropout masks."""
    if name == "born_again":
        return Recipe(make(name, teacher=network(seed=7), generations=2))
    return Recipe(make(name, teacher=network(seed=7)) if name == "hinton" else make(name))


def models(name: str) -> Any:
    """Students with dropout and BatchNorm."""
    if name == "mutual":
        return {peer: network(norm=True, dropout=0.3, seed=i) for i, peer in enumerate(("student", "peer"))}
    return network(norm=True, dropout=0.3)


def digest(module: torch.nn.Module) -> str:
    """The SHA-256 of all that a model learns and counts."""
    return hashlib.sha256(b"".join(v.numpy().tobytes() for v in module.state_dict().values())).hexdigest()


def train(rank: int, out: Path, name: str, last: int | None) -> None:
    """One life of one rank, which ends without a word after report number `last`."""
    torch.set_num_threads(1)
    fabric = open_fabric(accelerator="cpu", devices=RANKS, strategy="ddp")
    setting: dict[str, Any] = {"batch_size": 8, "epochs": 2, "log_every": 1, "checkpoint_seconds": 0.0}
    run = distill(
        models(name), recipe(name), (arrays(32).inputs, arrays(32).labels), optimizer=SGD, out=out, resume=True,
        fabric=fabric, **setting,
    )  # fmt: skip
    for number, _ in enumerate(run, start=1):
        if number == last:
            os._exit(9)
    result = {"models": [digest(model) for model in run.models.existing.values()], "student": digest(run.student)}
    Path(f"{out}.rank{rank}.json").write_text(json.dumps(result))


def live(rank: int, out: Path, name: str, last: int | None, alone: bool) -> None:
    """One life of one rank; with `alone` only the second dies after report `last`."""
    train(rank, out, name, None if alone and rank == 0 else last)


def life(out: Path, name: str, last: int | None, *, alone: bool = False) -> None:
    """Both ranks, until they end."""
    for child in fork_ranks(RANKS, live, out, name, last, alone, errors=out):
        os.waitpid(child, 0)


def play(folder: Path, name: str, kills: list[int]) -> dict[str, Any]:
    """A run that nobody kills, and one that is killed and resumed: what each rank ends with."""
    folder.mkdir()
    life(folder / "whole", name, None)
    for number in kills:
        life(folder / "killed", name, abs(number), alone=number < 0)
    life(folder / "killed", name, None)
    found: dict[str, Any] = {
        run: [json.loads(Path(f"{folder / run}.rank{rank}.json").read_text()) for rank in range(RANKS)]
        for run in ("whole", "killed")
    }
    error = Path(f"{folder / 'killed'}.rank0.error")
    return {**found, "error": error.read_text() if error.exists() else None}


def main(folder: Path, runs: list[tuple[str, list[int]]]) -> None:
    print(json.dumps([play(folder / str(number), *run) for number, run in enumerate(runs)]))


if __name__ == "__main__":
    main(Path(sys.argv[1]), json.loads(sys.argv[2]))
