"""The same runs on one process or on several, as a script of its own: writes what became of them, as JSON.

It is forked by test_ranks, with a folder and a number of processes, and forks those.
"""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import pytest
import torch
from torch import nn

from engine.language_stories import Language, Tokens
from engine.memory_losses import Contrast, Variational
from engine.stories import SGD, arrays, everything, hint, network, weights
from forked_ranks import run_ranks
from limbeck.data import ShuffledLoader
from limbeck.engine import Run, distill, open_fabric, run_folder
from limbeck.engine import run as run_module
from limbeck.errors import LimbeckError
from limbeck.functional import cross_entropy, kernel, kl_divergence
from limbeck.losses import Loss, SelectiveLoss
from limbeck.methods import make
from limbeck.recipe import Optimizer, Recipe, Stage
from limbeck.teachers import MovingAverage


@kernel(per="pair")
def gram(student, teacher):
    return (student @ student.T - teacher @ teacher.T).square()


@kernel(per="pair")
def by_label(student, *, labels):
    same = (labels[:, None] == labels[None]).to(student.dtype)
    return (student @ student.T - same).square()


@kernel(per="batch")
def spread(student, teacher):
    return (student.mean(0) - teacher.mean(0)).square().sum()


def double(**options: Any) -> nn.Sequential:
    return network(**options).double()


def data(batch_size: int = 12, *, uneven: bool = True) -> ShuffledLoader:
    """25 examples, so that with 12 to a batch the last one has a single row: fewer than there are ranks."""
    return ShuffledLoader(arrays(25, uneven=uneven, dtype=torch.float64), batch_size=batch_size)


def uneven(fabric: Any, out: Path) -> Run:
    return distill(double(), everything(double(hidden=6, seed=7), epochs=2), data(), fabric=fabric, **SETTING)


def clipped(fabric: Any, out: Path) -> Run:
    plan = Optimizer("adam", clip=0.05, warmup=2)
    stage = everything(double(hidden=6, seed=7), epochs=2, optimizer=plan)
    return distill(double(), stage, data(uneven=False), fabric=fabric, **SETTING)


def accumulated(fabric: Any, out: Path) -> Run:
    stage = everything(double(hidden=6, seed=7), epochs=2)
    return distill(double(), stage, data(5), accumulate=3, fabric=fabric, **SETTING)


def lower_only(fabric: Any, out: Path) -> Run:
    """A stage that reaches the lower layers alone, as FitNets' first does, then one that reaches all."""
    first = Stage(hint(), teacher=double(hidden=6, seed=7), epochs=2)
    return distill(double(), first >> Stage(Loss(cross_entropy), epochs=1), data(), fabric=fabric, **SETTING)


def compared(fabric: Any, out: Path) -> Run:
    """Losses that compare examples see the batch of all ranks, uneven as the shares are."""
    objective = Loss(cross_entropy) + 0.1 * Loss(gram) + 0.5 * Loss(spread) + 0.1 * Loss(by_label)
    stage = Stage(objective, teacher=double(seed=7), epochs=2)
    return distill(double(), stage, data(), fabric=fabric, **SETTING)


def peers(fabric: Any, out: Path) -> Run:
    objective = [Loss(cross_entropy) + Loss(kl_divergence) for _ in range(2)]
    one = Stage(objective[0], trains="one", teacher="two", epochs=2)
    two = Stage(objective[1], trains="two", teacher="one")
    models = {"one": double(seed=1), "two": double(seed=2)}
    return distill(models, one & two, data(), fabric=fabric, **SETTING)


def weighted_peers(fabric: Any, out: Path) -> Run:
    """The weights of peers are learned from the gradients of all ranks, on held-out examples that few ranks have."""
    models = {"student": double(seed=1), "peer_1": double(hidden=6, seed=2)}
    recipe = make("weighted_mutual", peers=2, every=1, held_out=0.3, eta=2.0, epochs=2)
    return distill(models, recipe, data(), fabric=fabric, **SETTING)


def queued(fabric: Any, out: Path) -> Run:
    """A queue of features, and thresholds, are those of all ranks; the last of three steps is of one row."""
    first = next(
        make(
            "hanjabridge", teacher=double(hidden=6, seed=7), at="1", student_at="1", size=64, task="classification"
        ).stages()
    )
    second = make("llkd", teacher=double(seed=7), smallest=0.3, epochs=2)
    return distill(double(), replace(first, epochs=2) >> second, data(uneven=False), fabric=fabric, **SETTING)


def related(fabric: Any, out: Path) -> Run:
    """The relations of all examples of a batch, of which a rank has few or none."""
    weights_of: dict[str, dict[str, Any]] = {
        "similarity_preserving": {"weight": 3.0}, "rkd": {"distance_weight": 1.0, "angle_weight": 2.0},
        "pkt": {"weight": 3.0}, "correlation_congruence": {"weight": 3.0},
        "crd": {"weight": 0.1, "memory": False, "size": 4},
    }  # fmt: skip
    teacher, places = double(hidden=6, seed=7), {"at": "1", "student_at": "1", "epochs": 1}
    recipes = [make(name, teacher=teacher, **places, **weights) for name, weights in weights_of.items()]
    return distill(double(), Recipe(*(next(one.stages()) for one in recipes)), data(), fabric=fabric, **SETTING)


def contrasted(fabric: Any, out: Path) -> Run:
    """The memories of crd have the rows of all ranks, and all ranks draw the same negatives."""
    teacher, places = double(hidden=6, seed=7), {"at": "1", "student_at": "1"}
    recipe = make("crd", teacher=teacher, **places, weight=0.1, size=4, negatives=16, epochs=3)
    return distill(double(), recipe, data(), fabric=fabric, **SETTING)


def averaged(fabric: Any, out: Path) -> Run:
    stage = Stage(Loss(cross_entropy) + Loss(kl_divergence), teacher=MovingAverage(decay=0.7), epochs=2)
    return distill(double(), stage, data(), fabric=fabric, **SETTING)


class Bank(nn.Module):
    """What was last seen of each example, and a running mean of all."""

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("rows", torch.zeros(25, 3, dtype=torch.float64))
        self.register_buffer("mean", torch.zeros(3, dtype=torch.float64))

    def forward(self, logits: torch.Tensor) -> torch.Tensor:
        return logits

    def recalled(self, student, teacher, *, id):
        self.rows[id] = 0.5 * self.rows[id] + teacher
        return (student - self.rows[id].clone()).square().mean(-1)

    def centered(self, student, teacher):
        self.mean.mul_(0.9).add_(teacher.mean(0), alpha=0.1)
        return (student - teacher + self.mean.clone()).square().mean()


def remembering(fabric: Any, out: Path) -> Run:
    """A memory of the whole batch is the same on all ranks; one of each rank's own examples is refused."""
    bank = Bank()
    apart = Loss(kernel(per="example")(bank.recalled), head=bank)
    if fabric.world_size > 1:
        with pytest.raises(LimbeckError, match="rows"):
            distill(double(), Stage(apart, teacher=double(seed=1), epochs=1), data(), fabric=fabric).finish()
        assert not bank.rows.any()
    whole = Loss(kernel(per="batch")(bank.centered), head=bank)
    return distill(double(), Stage(whole, teacher=double(seed=1), epochs=2), data(), fabric=fabric, **SETTING)


class Forgetful(Contrast):
    """A memory to which each rank writes its own rows alone."""

    def after_step(self, student, teacher, batch, progress) -> None:
        self.bank[self.rows(batch.id)] = 1.0 + fabric_rank()


def fabric_rank() -> int:
    return torch.distributed.get_rank() if torch.distributed.is_initialized() else 0


def banked(fabric: Any, out: Path) -> Run:
    """A memory of all examples is written from the rows of all ranks; one of each rank's own is refused by name."""
    teacher = double(hidden=6, seed=7)
    if fabric.world_size > 1:
        with pytest.raises(LimbeckError, match="bank"):
            distill(double(), Stage(Forgetful(), teacher=teacher, epochs=1), data(), fabric=fabric).finish()
    objective = Loss(cross_entropy) + 0.5 * Contrast() + 0.1 * Variational(lr=0.01)
    return distill(double(), Stage(objective, teacher=teacher, epochs=2), data(), fabric=fabric, **SETTING)


def trap_24_tied_without_logits(fabric: Any, out: Path) -> Run:
    """Tied embeddings without logits, uneven masks, and a last batch of one text (trap 24: the weight of the output
    layer is read outside of its module, but within the wrapped forward pass)."""
    teacher = Language(1, width=12).double()
    stage = Stage(0.3 * Loss(cross_entropy) + 0.7 * Loss(kl_divergence), teacher=teacher, epochs=2)
    loader = ShuffledLoader(Tokens(11), batch_size=5)
    return distill(Language().double(), stage, loader, fuse_output_layer=True, accumulate=2, fabric=fabric, **SETTING)


def selected(fabric: Any, out: Path) -> Run:
    """Positions of each text are selected by the student's entropy, without logits."""
    loss = SelectiveLoss(Loss(kl_divergence), share=0.4)
    stage = Stage(0.3 * Loss(cross_entropy) + 0.7 * loss, teacher=Language(1, width=12).double(), epochs=2)
    loader = ShuffledLoader(Tokens(11), batch_size=5)
    return distill(Language().double(), stage, loader, fuse_output_layer=True, accumulate=2, fabric=fabric, **SETTING)


def fighting(fabric: Any, out: Path) -> Run:
    """A part of one model learns, with the whole of another one, at another rate."""
    pair = nn.ModuleDict({"front": nn.Linear(5, 5).double(), "back": double(seed=3)})
    nn.init.eye_(pair["front"].weight)
    nn.init.zeros_(pair["front"].bias)
    front = nn.Sequential(*pair.values())
    recipe = Stage(-1.0 * Loss(cross_entropy), trains="whole", only="0", every=2) & Stage(
        Loss(cross_entropy), trains="back", times=2
    )
    return distill({"whole": front, "back": pair["back"]}, recipe, data(), epochs=2, fabric=fabric, **SETTING)


def on_disk(fabric: Any, out: Path) -> Run:
    """A run with a folder, left after two reports and taken up by new objects."""
    if fabric.global_rank:
        keep_from_writing()

    def again(*, resume: bool) -> Run:
        stage = everything(double(hidden=6, seed=7), epochs=2)
        return distill(double(), stage, data(), fabric=fabric, out=out / "run", resume=resume, **SETTING)

    for report in again(resume=False):
        if report.step == 1 and not refused(again):
            raise AssertionError("two runs share a folder, or not all ranks heard that they do")
        if report.step == 2:
            break
    fabric.barrier()
    return again(resume=True)


def refused(again: Callable[..., Run]) -> bool:
    """Whether a second run in a folder is told that the first is there: on every rank, though only one writes."""
    try:
        again(resume=True)
    except LimbeckError as error:
        return "being run already" in str(error)
    return False


def keep_from_writing() -> None:
    """Ranks that write nothing, and come late: the folder that the first has made by then is not another's run."""
    made = run_folder.RunFolder.__init__

    def late(self: Any, *args: Any, **options: Any) -> None:
        time.sleep(0.3)
        made(self, *args, **options)

    def refused(*args: Any, **options: Any) -> None:
        raise AssertionError("only the first rank writes")

    run_folder.RunFolder.__init__ = late
    run_folder.save = run_folder.write_json = run_module.write_checkpoint = refused


SETTING: dict[str, Any] = {"optimizer": SGD, "log_every": 1, "parameter_norms": True, "checkpoint_seconds": 0.0}
SCENARIOS: dict[str, Callable[[Any, Path], Run]] = {
    f.__name__: f
    for f in (
        uneven,
        clipped,
        accumulated,
        lower_only,
        compared,
        peers,
        weighted_peers,
        queued,
        related,
        contrasted,
        averaged,
        remembering,
        banked,
        fighting,
        trap_24_tied_without_logits,
        selected,
        on_disk,
    )
}


def play(out: Path, processes: int) -> dict[str, Any]:
    """Every scenario: the weights of all models, and what the reports said."""
    strategy = {"devices": processes, "strategy": "ddp"} if processes > 1 else {}
    fabric = open_fabric(accelerator="cpu", **strategy)
    found = {}
    for name, scenario in SCENARIOS.items():
        run = scenario(fabric, out).finish()
        said = [[r.loss, r.terms, r.gradient_norms, r.parameter_norms] for r in run.history]
        found[name] = {"weights": weights(*run.models.existing.values()).tolist(), "said": said}
    return found


def write(rank: int, folder: Path, processes: int) -> None:
    """One rank: what it ends with, in a file."""
    torch.set_num_threads(1)
    (folder / f"rank{rank}.json").write_text(json.dumps(play(folder, processes)))


if __name__ == "__main__":
    run_ranks(int(sys.argv[2]), write, Path(sys.argv[1]), int(sys.argv[2]), errors=Path(sys.argv[1]) / "story")
