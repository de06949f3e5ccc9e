"""A run in one process or with a model that is sharded over two, as a script of its own: saves the weights.

It is forked by test_sharding, with the kind, a folder, and ``whole``, or ``broken`` for a run that is left and taken
up again.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import torch
from lightning_fabric import Fabric
from lightning_fabric.strategies import FSDPStrategy, ModelParallelStrategy
from torch import nn

from forked_ranks import run_ranks
from limbeck.engine import distill
from limbeck.functional import Projector, cross_entropy, kl_divergence, squared_error
from limbeck.losses import Loss
from limbeck.recipe import Optimizer, Stage


class CpuFsdp(FSDPStrategy):
    """Fabric admits FSDP on GPUs alone; the mathematics is the same on two processes of this machine."""

    def setup_module(self, module: nn.Module) -> nn.Module:
        from torch.distributed.fsdp import FullyShardedDataParallel

        return FullyShardedDataParallel(module, device_id=torch.device("cpu"), use_orig_params=True)


def shard(model: nn.Module, mesh: Any) -> Any:
    from torch.distributed.fsdp import fully_shard

    return fully_shard(model, mesh=mesh["data_parallel"])


STRATEGIES: dict[str, Any] = {
    "one": lambda: "auto",
    "fsdp": CpuFsdp,
    "fsdp2": lambda: ModelParallelStrategy(shard, data_parallel_size=2, tensor_parallel_size=1),
}


def play(rank: int, kind: str, out: str, broken: str) -> None:
    """One rank."""
    torch.manual_seed(0)
    torch.set_num_threads(1)
    inputs, labels = torch.randn(103, 8), torch.randint(0, 3, (103,))
    teacher = nn.Sequential(nn.Linear(8, 32), nn.ReLU(), nn.Linear(32, 3))
    # Channels last, as in the reference networks: fully_shard refuses such weights.
    conv = nn.Conv2d(4, 8, 2).to(memory_format=torch.channels_last)
    student = nn.Sequential(
        nn.Linear(8, 16), nn.ReLU(), nn.Unflatten(1, (4, 2, 2)), conv, nn.ReLU(), nn.Flatten(), nn.Linear(8, 3)
    )
    fabric = Fabric(accelerator="cpu", devices=1 if kind == "one" else 2, strategy=STRATEGIES[kind]())
    fabric.launch()
    hint = Loss(squared_error, student="0", teacher="0", head=Projector())
    objective = 0.1 * Loss(cross_entropy) + 0.9 * Loss(kl_divergence, temperature=4.0) + hint
    run = distill(
        student, Stage(objective, teacher=teacher, epochs=3), (inputs, labels), batch_size=20, fabric=fabric, out=out,
        log_every=4, checkpoint_seconds=0.0, optimizer=Optimizer(lr=1e-2, clip=1.0),
    )  # fmt: skip
    for number, _ in enumerate(run):
        if broken == "broken" and number == 1:
            break
    run.finish()
    if fabric.is_global_zero:
        torch.save(run.student.state_dict(), f"{out}/weights.pt")


if __name__ == "__main__":
    run_ranks(2, play, *sys.argv[1:4], errors=sys.argv[2])
