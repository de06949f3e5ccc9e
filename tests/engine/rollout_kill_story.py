"""Runs on texts that the student writes, on one rank and on two, killed again and again: a script of its own.

It is forked by test_rollout_kill, with a folder, numbers of ranks such as ``1,2`` and the number of kills, and prints
for each number of ranks what became of the runs, as JSON. Ranks are forked after all was imported, so a life costs
little.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import random
import signal
import sys
import time
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
os.environ["TOKENIZERS_PARALLELISM"] = "false"  # it cannot be had after a fork

import torch

from engine.rollout_stories import Own, loader, rollouts, stable, stage
from forked_ranks import fork_ranks
from limbeck.engine import distill, open_fabric
from limbeck.recipe import Optimizer, Recipe, Stage

STEPS = 12


def recipe() -> Recipe:
    """A stage with given, new and replayed texts, and one in which the student writes all, without a label."""
    mixed = stage(0.7, replay=True, steps=STEPS)
    alone = Stage(
        stage(1.0, supervised=False).objective, teacher=mixed.teacher, steps=STEPS // 2, loader=rollouts(1.0),
        optimizer=Optimizer("adam", lr=0.02),
    )  # fmt: skip
    return Recipe(mixed >> alone)


def train(rank: int, out: Path, ranks: int) -> None:
    """One life: the whole run, or what is left of it."""
    torch.set_num_threads(1)
    options = {"devices": ranks, "strategy": "ddp"} if ranks > 1 else {}
    fabric = open_fabric(accelerator="cpu", **options)
    # 11 prompts in batches of 5: the last batch has one, and a second rank none.
    setting = {"log_every": 1, "checkpoint_seconds": 0.0, "fabric": fabric}
    run = distill(Own(), recipe(), loader(batch_size=5, count=11), out=out, resume=True, **setting)
    run.finish()
    state = b"".join(value.numpy().tobytes() for value in run.student.state_dict().values())
    Path(f"{out}.rank{rank}.json").write_text(json.dumps(hashlib.sha256(state).hexdigest()))


def life(out: Path, ranks: int) -> list[int]:
    """The processes of one life."""
    return fork_ranks(ranks, train, out, ranks, errors=out)


def lines(out: Path) -> int:
    """How many reports there are by now."""
    file = out / "metrics.jsonl"
    return file.read_bytes().count(b"\n") if file.exists() else 0


def kill_after(target: int, out: Path, ranks: int, draw: random.Random) -> None:
    """One life that ends some random time after so many reports, in the midst of whatever it does."""
    children = life(out, ranks)
    while lines(out) < target and os.waitpid(children[0], os.WNOHANG) == (0, 0):
        time.sleep(0.0005)
    time.sleep(draw.random() * 0.03)
    for child in children:
        with contextlib.suppress(ProcessLookupError):
            os.kill(child, signal.SIGKILL)
    for child in children:
        with contextlib.suppress(ChildProcessError):
            os.waitpid(child, 0)


def result(out: Path, ranks: int) -> dict[str, Any]:
    """What a run left: its weights on each rank, bit for bit, and its reports, but for the clock."""
    said = [json.loads(line) for line in (out / "metrics.jsonl").read_text().splitlines()]
    weights = [json.loads(Path(f"{out}.rank{rank}.json").read_text()) for rank in range(ranks)]
    return {"weights": weights, "reports": stable(said)}


def main(folder: Path, ranks: int, kills: int) -> None:
    loader().peek()  # once here, not in every life: the first tokens are slow
    whole = folder / "whole"
    for child in life(whole, ranks):
        os.waitpid(child, 0)
    expected = result(whole, ranks)
    draw = random.Random(time.time_ns())
    same, errors, instants = [], [], 0
    for number in range(max(1, kills // 5)):  # each run is killed up to five times
        out = folder / f"killed{number}"
        for target in sorted(draw.sample(range(lines(whole) - 1), min(5, kills))):
            kill_after(target, out, ranks, draw)
            instants += 1
        for child in life(out, ranks):
            os.waitpid(child, 0)
        ends = [(Path(f"{out}.rank{rank}.error"), Path(f"{out}.rank{rank}.json")) for rank in range(ranks)]
        errors += [error.read_text() for error, end in ends if error.exists() and not end.exists()]
        same.append(not errors and result(out, ranks) == expected)
    print(json.dumps({"instants": instants, "same": same, "errors": errors, "ranks": expected["weights"]}))


if __name__ == "__main__":
    for number in sys.argv[2].split(","):
        (place := Path(sys.argv[1], number)).mkdir()
        main(place, int(number), int(sys.argv[3]))
