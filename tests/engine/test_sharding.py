"""Models that are sharded over processes give the result of an unsharded one."""

from __future__ import annotations

import os
import runpy
import subprocess
import sys
import warnings
from pathlib import Path

import pytest

SCRIPT = '''
import sys
import torch
from torch import nn
from lightning_fabric import Fabric
from lightning_fabric.strategies import FSDPStrategy, ModelParallelStrategy

from limbeck.engine import distill
from limbeck.functional import Projector, cross_entropy, kl_divergence, squared_error
from limbeck.losses import Loss
from limbeck.recipe import Optimizer, Stage


class CpuFsdp(FSDPStrategy):
    """Fabric admits FSDP on GPUs alone; the mathematics is the same on two processes of this machine."""

    def setup_module(self, module):
        from torch.distributed.fsdp import FullyShardedDataParallel

        return FullyShardedDataParallel(module, device_id=torch.device("cpu"), use_orig_params=True)


def shard(model, mesh):
    from torch.distributed.fsdp import fully_shard

    return fully_shard(model, mesh=mesh["data_parallel"])


STRATEGIES = {
    "one": lambda: "auto",
    "fsdp": CpuFsdp,
    "fsdp2": lambda: ModelParallelStrategy(shard, data_parallel_size=2, tensor_parallel_size=1),
}

if __name__ == "__main__":
    kind, out, broken = sys.argv[1:4]
    torch.manual_seed(0)
    torch.set_num_threads(1)
    inputs, labels = torch.randn(103, 8), torch.randint(0, 3, (103,))
    teacher = nn.Sequential(nn.Linear(8, 32), nn.ReLU(), nn.Linear(32, 3))
    student = nn.Sequential(nn.Linear(8, 16), nn.ReLU(), nn.Linear(16, 3))
    fabric = Fabric(accelerator="cpu", devices=1 if kind == "one" else 2, strategy=STRATEGIES[kind]())
    fabric.launch()
    hint = Loss(squared_error, student="0", teacher="0", head=Projector())
    objective = 0.1 * Loss(cross_entropy) + 0.9 * Loss(kl_divergence, temperature=4.0) + hint
    run = distill(
        student, Stage(objective, teacher=teacher, epochs=3), (inputs, labels), batch_size=20, fabric=fabric, out=out,
        log_every=4, checkpoint_seconds=0.0, optimizer=Optimizer(lr=1e-2, clip=1.0),
    )
    for number, _ in enumerate(run):
        if broken == "broken" and number == 1:
            break
    run.finish()
    if fabric.is_global_zero:
        torch.save(run.student.state_dict(), out + "/weights.pt")
'''


def _weights(folder: Path, kind: str, broken: str) -> dict:
    import torch

    script = folder / "script.py"
    script.write_text(SCRIPT)
    out = folder / kind
    if kind == "one":  # needs no process of its own
        with pytest.MonkeyPatch.context() as patch, warnings.catch_warnings(action="ignore"):
            patch.setattr(sys, "argv", [str(script), kind, str(out), broken])
            runpy.run_path(str(script), run_name="__main__")
        return torch.load(out / "weights.pt", weights_only=True)
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONWARNINGS": "ignore"}
    done = subprocess.run(
        [sys.executable, script, kind, out, broken], capture_output=True, text=True, timeout=180, env=environment
    )
    assert done.returncode == 0, done.stderr[-2000:]
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
