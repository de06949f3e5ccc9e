"""The benchmark's training job in plain PyTorch."""

from __future__ import annotations

import math
from collections.abc import Iterator
from itertools import count

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from benchmarks.workload import PEAK, TEMPERATURE, WEIGHT, Order, Plan, Work


def plain_blocks(work: Work, plan: Plan, student: nn.Module, order: Order | None = None) -> Iterator[float]:
    """Train in plain PyTorch, as the reference for the engine.

    ``0.1 CE + 0.9 T^2 KL(teacher || student)`` at T = 4, AdamW (fused), half a cosine wave of learning rate. The batch
    is gathered in each step; the sums of both terms stay tensors and are read once per block.
    """
    teacher, optimizer = work.teacher, torch.optim.AdamW(student.parameters(), lr=PEAK, fused=True)
    total = torch.zeros(2)
    for step, (inputs, labels) in enumerate(batches(work, order), start=1):
        with torch.autocast("cpu", torch.bfloat16, enabled=plan.mixed):
            with torch.no_grad():
                teacher_logits = teacher(inputs)
            student_logits = student(inputs)
        hard, soft = losses(student_logits.float(), teacher_logits.float(), labels)
        ((1 - WEIGHT) * hard + WEIGHT * soft).backward()
        for group in optimizer.param_groups:
            group["lr"] = PEAK * 0.5 * (1 + math.cos(math.pi * (step - 1) / plan.steps))
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        total += torch.stack((hard.detach(), soft.detach()))
        if step % plan.block == 0:
            hard_mean, soft_mean = (total / plan.block).tolist()
            total.zero_()
            yield (1 - WEIGHT) * hard_mean + WEIGHT * soft_mean
        if step == plan.steps:
            return


def losses(student_logits: Tensor, teacher_logits: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
    """The mean cross-entropy of the labels, and T^2 times the mean divergence from the teacher."""
    log_q = F.log_softmax(student_logits / TEMPERATURE, dim=-1)
    log_p = F.log_softmax(teacher_logits / TEMPERATURE, dim=-1)
    soft = F.kl_div(log_q, log_p, log_target=True, reduction="batchmean") * TEMPERATURE**2
    return F.cross_entropy(student_logits, labels), soft


def batches(work: Work, order: Order | None) -> Iterator[tuple[Tensor, Tensor]]:
    """Endless shuffled epochs; each batch is gathered when it is read."""
    for epoch in count():
        for index in (order or work.random_order)(epoch).split(work.sizes.batch):
            yield work.inputs.index_select(0, index), work.labels.index_select(0, index)
