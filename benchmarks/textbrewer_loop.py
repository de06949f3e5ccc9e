"""The benchmark's training job with TextBrewer."""

from __future__ import annotations

import math
import tempfile
from collections.abc import Iterator
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from benchmarks.plain_loop import batches
from benchmarks.workload import PEAK, TEMPERATURE, WEIGHT, Order, Plan, Work

NOTE = (
    "GeneralDistiller.train(num_steps=block) on batches that are already gathered. Its soft-target loss has no T^2, so "
    "its weight is 16 times larger here. Writing a checkpoint at the end of train() is left out. float32 only: its "
    "mixed precision needs Apex."
)


def textbrewer_blocks(work: Work, plan: Plan, student: nn.Module, order: Order | None = None) -> Iterator[float]:
    """Train with TextBrewer's own loop, one block per call of ``train``."""
    from textbrewer import DistillationConfig, TrainingConfig

    optimizer = torch.optim.AdamW(student.parameters(), lr=PEAK, fused=True)
    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda t: 0.5 * (1 + math.cos(math.pi * t / plan.steps)))
    losses: list[Tensor] = []
    with tempfile.TemporaryDirectory() as folder:
        training = TrainingConfig(ckpt_steps=plan.steps, output_dir=folder, device="cpu")
        distilling = DistillationConfig(
            temperature=TEMPERATURE, kd_loss_type="ce", kd_loss_weight=WEIGHT * TEMPERATURE**2,
            hard_label_weight=1 - WEIGHT,
        )  # fmt: skip
        distiller = _distiller(training, distilling, _Labeled(work.teacher), _Labeled(student), losses)
        stream = _Endless(batches(work, order))
        with distiller:
            for _ in range(plan.steps // plan.block):
                distiller.train(optimizer, stream, num_steps=plan.block, scheduler=schedule)
                yield float(torch.stack(losses).mean())
                losses.clear()


class _Endless:
    """A loader without a length, which TextBrewer can iterate many times."""

    def __init__(self, stream: Iterator[tuple[Tensor, Tensor]]) -> None:
        self._stream = stream

    def __iter__(self) -> Iterator[tuple[Tensor, Tensor]]:
        return self._stream


class _Labeled(nn.Module):
    """A model that takes the whole batch as its argument, as TextBrewer expects."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(self, inputs: Tensor, labels: Tensor) -> Tensor:
        logits: Tensor = self.model(inputs)
        return logits


def _distiller(training: Any, distilling: Any, teacher: nn.Module, student: nn.Module, losses: list[Tensor]) -> Any:
    from textbrewer import GeneralDistiller

    class Unsaved(GeneralDistiller):
        """A distiller that writes no checkpoint at the end of ``train``, and stores losses for the report."""

        def save_and_callback(self, *_: Any) -> None:
            pass

        def write_loss(self, total_loss: Tensor, *_: Any) -> None:
            losses.append(total_loss.detach())

    def teacher_shows(batch: Any, logits: Tensor) -> dict[str, Any]:
        return {"logits": logits}

    def student_shows(batch: Any, logits: Tensor) -> dict[str, Any]:
        return {"logits": logits, "losses": F.cross_entropy(logits, batch[1])}

    return Unsaved(training, distilling, teacher, student, teacher_shows, student_shows)
