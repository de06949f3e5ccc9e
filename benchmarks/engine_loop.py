"""The benchmark's training job with `limbeck.distill`."""

from __future__ import annotations

from collections.abc import Iterator

from torch import nn

from benchmarks.workload import PEAK, PRECISIONS, TEMPERATURE, WEIGHT, Order, Plan, Work
from limbeck.engine import distill
from limbeck.functional import cross_entropy, kl_divergence
from limbeck.losses import Loss
from limbeck.recipe import Optimizer, Stage


def engine_blocks(work: Work, plan: Plan, student: nn.Module, order: Order | None = None) -> Iterator[float]:
    """Train with `limbeck.distill`, with a report per block; batches and their order are those of its own loader."""
    objective = (1 - WEIGHT) * Loss(cross_entropy) + WEIGHT * Loss(kl_divergence, temperature=TEMPERATURE)
    stage = Stage(objective, teacher=work.teacher, optimizer=Optimizer(lr=PEAK), steps=plan.steps)
    for report in distill(
        student,
        stage,
        work.make_loader(),
        log_every=plan.block,
        precision=PRECISIONS[plan.precision],
        accelerator="cpu",
    ):
        yield report.loss
