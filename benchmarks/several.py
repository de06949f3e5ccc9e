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


class _ForwardAlone(Teacher):
    """The forward passes of some models and nothing else: its outputs are known before. Without models it is free.

    Args:
        logits: The outputs.
        models: The models.
        parts: Into how many equal parts the rows are cut; model i gets part i, or all rows if there is one part.
    """

    def __init__(self, logits: torch.Tensor, models: Sequence[nn.Module] = (), *, parts: int = 1) -> None:
        self.logits, self.models, self.parts = logits, models, parts

    def open(self, context: TeacherContext) -> TeacherSession:
        return FunctionSession(self._answer)

    def _answer(self, batch: Batch) -> Outputs:
        rows = batch.inputs.tensor_split(self.parts)
        with torch.no_grad():
            for number, model in enumerate(self.models):
                model(rows[number % self.parts])
        return Outputs(logits=self.logits[: batch.size])

    @property
    def fingerprint(self) -> str:
        return "forward alone"


def bench_several(
    *, teachers: int = 4, steps: int = 200, block: int = 5, sizes: Sizes | None = None,
    say: Callable[[str], None] = lambda _: None,
) -> dict[str, Any]:  # fmt: skip
    """Compare the time that several live teachers add to a step with that of their forward passes alone.

    Blocks of steps run in turn in one process: a student whose soft targets cost nothing; with an `Ensemble` of k
    teachers, all of which run on every row; with a `RoutedTeacher`, where each runs on its part of the rows; and, as
    the references of both, with the bare forward passes of the models on the same numbers of rows.

    Args:
        teachers: k.
        steps: Timed steps of each loop.
        block: Steps in a block.
        sizes: The sizes of data and networks; by default 20,000 examples and else those of Hinton et al. on MNIST.
        say: Gets messages about the progress.

    Returns:
        ``overhead_ensemble`` and ``overhead_routed``: what a step takes longer than with the bare forward passes, over
        the time of these. ``cpu_overhead_...``: the same in processor time. ``milliseconds``: loop -> median time of a
        step. And ``teachers``, ``steps``, ``threads``, ``torch``.
    """
    work = make_work(sizes or Sizes(examples=20_000))
    own = work.sizes
    models = [Network(own.inputs, own.teacher, own.classes).eval() for _ in range(teachers)]
    names = [f"teacher-{number}" for number in range(teachers)]
    rounds = max(steps // block, 2)
    say(f"{teachers} teachers, {rounds} blocks of {block} steps of each loop")
    known = torch.randn(own.batch, own.classes)

    def route(batch: Batch) -> torch.Tensor:
        return torch.arange(batch.size) % teachers

    kinds: dict[str, Teacher] = {
        "student": _ForwardAlone(known),
        "ensemble": Ensemble(*models, mean="geometric", member_names=names),
        "ensemble, forward alone": _ForwardAlone(known, models),
        "routed": RoutedTeacher(dict(zip(names, models, strict=True)), route),
        "routed, forward alone": _ForwardAlone(known, models, parts=teachers),
    }
    loops = {name: _train(work, teacher, (rounds + 1) * block, block) for name, teacher in kinds.items()}
    times = interleave(loops, rounds=rounds)
    return {
        **_overheads("ensemble", times),
        **_overheads("routed", times),
        "milliseconds": {name: 1000 * statistics.median(one.wall) / block for name, one in times.items()},
        "teachers": teachers,
        "steps": rounds * block,
        "threads": torch.get_num_threads(),
        "torch": torch.__version__,
    }


def _overheads(loop: str, times: dict[str, Times]) -> dict[str, float]:
    """The paired difference of a loop and its reference, over the time of the forward passes in the reference."""
    figures = {}
    for prefix, clock in (("", "wall"), ("cpu_", "cpu")):
        whole, alone, student = (vars(times[name])[clock] for name in (loop, f"{loop}, forward alone", "student"))
        forward = statistics.median(alone) - statistics.median(student)
        figures[f"{prefix}overhead_{loop}"] = (
            (paired_ratio(whole, alone) - 1) * statistics.median(alone) / max(forward, 1e-9)
        )
    return figures


def _train(work: Work, teacher: Teacher, steps: int, block: int) -> Iterator[float]:
    objective = (1 - WEIGHT) * Loss(cross_entropy) + WEIGHT * Loss(kl_divergence, temperature=TEMPERATURE)
    loader = ShuffledLoader(work.examples, batch_size=work.sizes.batch, seed=0)
    stage = Stage(objective, teacher=teacher, optimizer=Optimizer(lr=1e-3), steps=steps)
    for report in distill(work.student(), stage, loader, log_every=block, accelerator="cpu", workers=1):
        yield report.loss
