"""A run that is killed again and again, as a script of its own: prints what became of it, as JSON.

It is started by test_kill. Its children are forked after all was imported, so a life costs next to nothing.
"""

from __future__ import annotations

import contextlib
import copy
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

import torch

from engine.stories import SGD, everything, make_loader, network
from limbeck.engine import distill
from limbeck.functional import cross_entropy, kl_divergence
from limbeck.losses import Loss
from limbeck.models import load
from limbeck.recipe import Optimizer, Recipe, Stage
from limbeck.schedule import ramp
from limbeck.teachers import ModelTeacher, MovingAverage

KILLS = 8


def student() -> torch.nn.Module:
    return network(norm=True, dropout=0.3)


def frozen_past(models: Any) -> Stage:
    """A stage made from what the student is when it begins: taken up in its midst, it must be made from the same."""
    teacher = ModelTeacher(copy.deepcopy(models["student"]))
    objective = Loss(cross_entropy) + (1.0 + torch.rand(()).item()) * Loss(kl_divergence)
    return Stage(objective, teacher=teacher, epochs=4, optimizer=SGD, name="third")


def recipe() -> Recipe:
    """Three stages: heads that two of them share, a moving average on data of its own, one that a function makes."""
    first = everything(network(seed=7), epochs=4, optimizer=SGD, name="first")
    second = Stage(
        ramp(1.0) * Loss(kl_divergence, temperature=2.0) + first.objective,
        teacher=MovingAverage(decay=0.9),
        epochs=4,
        optimizer=Optimizer("adam", warmup=3, clip=1.0),
        loader=make_loader(24, seed=3),
        name="second",
    )
    return Recipe(first >> second >> frozen_past)


def train(out: Path) -> None:
    """One life: the whole run, or what is left of it."""
    torch.set_num_threads(1)
    setting = {"log_every": 2, "checkpoint_seconds": 0.0, "parameter_norms": True}
    distill(student(), recipe(), make_loader(30), out=out, resume=True, **setting).finish()


def life(out: Path) -> int:
    """The process of one life."""
    child = os.fork()
    if child == 0:
        code = 1
        try:
            train(out)
            code = 0
        except BaseException as error:
            (out.parent / "error.txt").write_text(f"{type(error).__name__}: {error}")
        finally:
            os._exit(code)
    return child


def kill_after(target: int, out: Path, draw: random.Random) -> None:
    """One life that ends some random time after so many reports, in the midst of whatever it does."""
    child = life(out)
    while lines(out) < target and os.waitpid(child, os.WNOHANG) == (0, 0):
        time.sleep(0.0002)
    time.sleep(draw.random() * 0.01)
    with contextlib.suppress(ProcessLookupError):
        os.kill(child, signal.SIGKILL)
    with contextlib.suppress(ChildProcessError):
        os.waitpid(child, 0)


def lines(out: Path) -> int:
    """How many reports there are by now."""
    file = out / "metrics.jsonl"
    return file.read_bytes().count(b"\n") if file.exists() else 0


def student_opens(out: Path) -> bool:
    """Whether the student on disk loads; a run that was killed before it had begun has none."""
    return not (out / "run.json").exists() or load(out / "student", build=student) is not None


def stage_of(out: Path) -> str:
    """In which stage the last report was."""
    file = out / "metrics.jsonl"
    said = [line for line in file.read_text().splitlines() if line.endswith("}")] if file.exists() else []
    return json.loads(said[-1])["stage"] if said else ""


def result(out: Path) -> dict[str, Any]:
    """What a run left: its weights, bit for bit, and what it said, but for the clock."""
    state = load(out / "student", build=student).state_dict()
    said = [json.loads(line) for line in (out / "metrics.jsonl").read_text().splitlines()]
    return {
        "weights": hashlib.sha256(b"".join(value.numpy().tobytes() for value in state.values())).hexdigest(),
        "metrics": [{k: v for k, v in line.items() if k not in ("rate", "seconds", "crc32")} for line in said],
    }


def main(folder: Path) -> None:
    whole, killed = folder / "whole", folder / "killed"
    train(whole)
    draw = random.Random(time.time_ns())
    stages, opened = [], []
    # One of them in the second stage for certain: after its second report, of 8, 6 and 8.
    targets = [10, *draw.sample([n for n in range(lines(whole) - 1) if n != 10], KILLS - 1)]
    for target in sorted(targets):
        kill_after(target, killed, draw)
        opened.append(student_opens(killed))
        stages.append(stage_of(killed))
    _, last = os.waitpid(life(killed), 0)
    error = folder / "error.txt"
    told = error.read_text() if error.exists() else None
    found = {"whole": result(whole), "killed": result(killed), "opened": opened, "stages": stages}
    print(json.dumps({**found, "last": last, "error": told}))


if __name__ == "__main__":
    main(Path(sys.argv[1]))
