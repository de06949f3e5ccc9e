"""Benchmark of several live teachers beside their own forward passes."""

from __future__ import annotations

import statistics
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import torch
from torch import nn

from benchmarks.interleave import Times, interleave, paired_ratio
from benchmarks.workload import TEMPERATURE, WEIGHT, Network, Sizes, Work, make_work
from limbeck.batch import Batch, Outputs
from limbeck.data import ShuffledLoader
from limbeck.engine import distill
from limbeck.functional import cross_entropy, kl_divergence
from limbeck.losses import Loss
from limbeck.recipe import Optimizer, Stage
from limbeck.teachers import Ensemble, FunctionSession, RoutedTeacher, Teacher, TeacherContext, TeacherSession


class _KnownLogits(Teacher):
    """A teacher that costs nothing: the same logits for every batch."""

    def __init__(self, logits: torch.Tensor) -> None:
        self.logits = logits

    def open(self, context: TeacherContext) -> TeacherSession:
        return FunctionSession(lambda batch: Outputs(logits=self.logits[: batch.size]))

    @property
    def fingerprint(self) -> str:
        return "known"


def bench_several(
    *, teachers: int = 4, steps: int = 200, block: int = 5, sizes: Sizes | None = None,
    say: Callable[[str], None] = lambda _: None,
) -> dict[str, Any]:  # fmt: skip
    """Compare the time that several live teachers add to a step with that of their forward passes alone.

    Blocks of steps run in turn in one process: a student whose soft targets cost nothing; with an `Ensemble` of k
    teachers, all of which run on every batch; with a `RoutedTeacher`, where each runs on its part of the batch; and the
    forward passes of the teachers alone, without gradients, on the same numbers of rows.

    Args:
        teachers: k.
        steps: Timed steps of each loop.
        block: Steps in a block.
        sizes: The sizes of data and networks; by default 20,000 examples and else those of Hinton et al. on MNIST.
        say: Gets messages about the progress.

    Returns:
        ``overhead_ensemble`` and ``overhead_routed``: the time that the teachers add to a step, over that of their
        forward passes, less 1. ``cpu_overhead_...``: the same in processor time. ``milliseconds``: loop -> median time
        of a step.
        And ``teachers``, ``steps``, ``threads``, ``torch``.
    """
    work = make_work(sizes or Sizes(examples=20_000))
    own = work.sizes
    models = [Network(own.inputs, own.teacher, own.classes).eval() for _ in range(teachers)]
    names = [f"teacher-{number}" for number in range(teachers)]
    rounds = max(steps // block, 2)
    say(f"{teachers} teachers, {rounds} blocks of {block} steps of each loop")
    free = _KnownLogits(torch.randn(own.batch, own.classes))
    total = (rounds + 1) * block

    def route(batch: Batch) -> torch.Tensor:
        return torch.arange(batch.size) % teachers

    loops = {
        "student": _train(work, free, total, block),
        "ensemble": _train(work, Ensemble(*models, mean="geometric", member_names=names), total, block),
        "routed": _train(work, RoutedTeacher(dict(zip(names, models, strict=True)), route), total, block),
        "forward": _forward(models, work.inputs[: own.batch], block, 1),
        "routed forward": _forward(models, work.inputs[: own.batch], block, teachers),
    }
    times = interleave(loops, rounds=rounds)
    return {
        **_overheads("ensemble", times, "forward"),
        **_overheads("routed", times, "routed forward"),
        "milliseconds": {name: 1000 * statistics.median(one.wall) / block for name, one in times.items()},
        "teachers": teachers,
        "steps": rounds * block,
        "threads": torch.get_num_threads(),
        "torch": torch.__version__,
    }


def _overheads(loop: str, times: dict[str, Times], alone: str) -> dict[str, float]:
    figures = {}
    for prefix, clock in (("", "wall"), ("cpu_", "cpu")):
        whole, student, forward = (vars(times[name])[clock] for name in (loop, "student", alone))
        sums = [a + b for a, b in zip(student, forward, strict=True)]
        # What teachers add, over their forward passes: blocks of one round are compared, as other load changes.
        excess = (paired_ratio(whole, sums) - 1) * statistics.median(sums) / statistics.median(forward)
        figures[f"{prefix}overhead_{loop}"] = excess
    return figures


def _train(work: Work, teacher: Teacher, steps: int, block: int) -> Iterator[float]:
    objective = (1 - WEIGHT) * Loss(cross_entropy) + WEIGHT * Loss(kl_divergence, temperature=TEMPERATURE)
    loader = ShuffledLoader(work.examples, batch_size=work.sizes.batch, seed=0)
    stage = Stage(objective, teacher=teacher, optimizer=Optimizer(lr=1e-3), steps=steps)
    for report in distill(work.student(), stage, loader, log_every=block, accelerator="cpu", workers=1):
        yield report.loss


def _forward(models: Sequence[nn.Module], inputs: torch.Tensor, block: int, parts: int) -> Iterator[float]:
    rows = inputs[: len(inputs) // parts]
    while True:
        for _ in range(block):
            with torch.inference_mode():
                outputs = [model(rows) for model in models]
        yield float(outputs[0].sum())
