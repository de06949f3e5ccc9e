"""A run that is killed again and again, as a script of its own: prints what became of it, as JSON.

It is started by test_kill. Its children are forked after PyTorch was imported, so a life costs next to nothing.
"""

from __future__ import annotations

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

from engine.stories import SGD, everything, network, source
from limbeck.engine import distill
from limbeck.functional import cross_entropy, kl_divergence
from limbeck.models import load
from limbeck.objective import Loss
from limbeck.recipe import Optimiser, Recipe, Stage
from limbeck.schedule import ramp
from limbeck.teachers import Live, MovingAverage


def snapshot_teacher(models: Any) -> Stage:
    """A stage made from what the student is when it begins: resumed in its midst, it must be made from the same."""
    import copy

    kept = copy.deepcopy(models["student"])
    noise = torch.randn(()).item()
    objective = Loss(cross_entropy) + (1.0 + abs(noise)) * Loss(kl_divergence)
    return Stage(objective, teacher=Live(kept), epochs=5, optimiser=SGD, name="third")


def recipe() -> Recipe:
    shared = everything(network(seed=7), epochs=5, optimiser=SGD, name="first")
    average = Loss(cross_entropy) + ramp(1.0) * Loss(kl_divergence, temperature=2.0)
    second = Stage(
        average + shared.objective,
        teacher=MovingAverage(decay=0.9),
        epochs=5,
        optimiser=Optimiser("adam", warmup=3, clip=1.0),
        source=source(24, seed=3),
        name="second",
    )
    return Recipe(shared >> second >> snapshot_teacher)


def train(out: Path) -> None:
    """One life: the whole run, or what is left of it."""
    torch.set_num_threads(1)
    distill(
        network(norm=True, dropout=0.3), recipe(), source(30), out=out, resume=True,
        log_every=2, checkpoint_seconds=0.0, parameter_norms=True,
    ).finish()  # fmt: skip


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


def lines(out: Path) -> int:
    """How many reports there are by now."""
    file = out / "metrics.jsonl"
    return file.read_bytes().count(b"\n") if file.exists() else 0


def result(out: Path) -> dict[str, Any]:
    """What a run left: its weights, bit for bit, and what it said, but for the clock."""
    state = load(out / "student", build=network_like).state_dict()
    digest = hashlib.sha256(b"".join(value.numpy().tobytes() for value in state.values())).hexdigest()
    said = [json.loads(line) for line in (out / "metrics.jsonl").read_text().splitlines()]
    return {
        "weights": digest,
        "metrics": [{k: v for k, v in line.items() if k not in ("rate", "seconds")} for line in said],
    }


def network_like() -> torch.nn.Module:
    return network(norm=True, dropout=0.3)


def main(folder: Path) -> None:
    whole, killed = folder / "whole", folder / "killed"
    if os.waitpid(life(whole), 0)[1] != 0:
        raise SystemExit((folder / "error.txt").read_text())
    total = lines(whole)
    draw = random.Random(int(time.time()))
    targets = sorted(draw.sample(range(total - 1), 10))
    stages, opened, exits = [], [], []
    for target in [*targets, None]:
        child = life(killed)
        if target is None:
            exits.append(os.waitpid(child, 0)[1])
            break
        while lines(killed) < target and os.waitpid(child, os.WNOHANG) == (0, 0):
            time.sleep(0.0002)
        time.sleep(draw.random() * 0.02)
        os.kill(child, signal.SIGKILL)
        exits.append(os.waitpid(child, 0)[1])
        opened.append(student_opens(killed))
        stages.append(stage_of(killed))
    error = folder / "error.txt"
    print(
        json.dumps(
            {
                "whole": result(whole),
                "killed": result(killed),
                "exits": exits,
                "opened": opened,
                "stages": stages,
                "error": error.read_text() if error.exists() else None,
            }
        )
    )


def student_opens(out: Path) -> bool:
    """Whether the student on disk loads; before the first save there is none."""
    if not (out / "run.json").exists():
        return True
    load(out / "student", build=network_like)
    return True


def stage_of(out: Path) -> str:
    """In which stage the last report was."""
    said = (out / "metrics.jsonl").read_text().splitlines() if (out / "metrics.jsonl").exists() else []
    return json.loads(said[-1])["stage"] if said else ""


if __name__ == "__main__":
    main(Path(sys.argv[1]))
