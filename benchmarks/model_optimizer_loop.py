"""The benchmark's training job with NVIDIA Model-Optimizer."""

from __future__ import annotations

import copy
import math
import warnings
from collections.abc import Iterator
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from benchmarks.plain_loop import batches
from benchmarks.workload import PEAK, TEMPERATURE, WEIGHT, Order, Plan, Work

NOTE = (
    "mtd.convert and compute_kd_loss in a loop written by hand around them, as its guide has it; "
    "LogitsDistillationLoss with reduction='batchmean', StaticLossBalancer(0.9); losses inside autocast."
)


def model_optimizer_blocks(work: Work, plan: Plan, student: nn.Module, order: Order | None = None) -> Iterator[float]:
    """Train a student that Model-Optimizer has converted."""
    model = _converted(student, work.teacher)
    # The converted model's parameters include the teacher's.
    optimizer = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], lr=PEAK, fused=True)
    total = torch.zeros(())
    for step, (inputs, labels) in enumerate(batches(work, order), start=1):
        with torch.autocast("cpu", torch.bfloat16, enabled=plan.mixed):
            loss: Tensor = model.compute_kd_loss(student_loss=F.cross_entropy(model(inputs), labels))
        loss.backward()
        for group in optimizer.param_groups:
            group["lr"] = PEAK * 0.5 * (1 + math.cos(math.pi * (step - 1) / plan.steps))
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        total += loss.detach()
        if step % plan.block == 0:
            yield float(total / plan.block)
            total.zero_()
        if step == plan.steps:
            break
    _exported(model)


def _converted(student: nn.Module, teacher: nn.Module) -> Any:
    import modelopt.torch.distill as mtd

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        loss = mtd.LogitsDistillationLoss(temperature=TEMPERATURE, reduction="batchmean")
        setting = {
            # The library registers hooks in the teacher and changes its class.
            "teacher_model": copy.deepcopy(teacher),
            "criterion": {("layers", "layers"): loss},
            "loss_balancer": mtd.StaticLossBalancer(WEIGHT),
        }
        return mtd.convert(student, mode=[("kd_loss", setting)])


def _exported(model: Any) -> nn.Module:
    """The student without the teacher."""
    import modelopt.torch.distill as mtd

    student: nn.Module = mtd.export(model)
    return student
