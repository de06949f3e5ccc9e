"""Time per step of each arm, and of the whole job."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, ExitStack
from itertools import islice
from typing import NamedTuple

import torch
from torch import Tensor, nn

from limbeck.batch import Batch, Progress
from limbeck.data import Loader
from limbeck.doctor.context import CheckContext, CheckedArm
from limbeck.doctor.finding import Finding, passed, warn
from limbeck.doctor.stage_context import OpenGroup, place_of
from limbeck.engine.stage_trainer import StageTrainer, check_lengths
from limbeck.models.size_and_hash import size_in_bytes
from limbeck.recipe import Stage

STEP, JOB = "one step", "whole job"
_STEPS, _SECONDS = 12, 4.0
_DAY = 86_400.0


class Pace(NamedTuple):
    """How fast an arm goes, and how far.

    Attributes:
        place: The arm, and which part of its recipe.
        seconds: Of one step.
        bytes: What a step holds: weights, gradients, the optimizer's state, and what is kept for the way back.
        steps: How many the job takes of them, in all its runs.
        abreast: How many of these runs go at a time.
    """

    place: str
    seconds: float
    bytes: int
    steps: int
    abreast: int = 1


def time_steps(group: OpenGroup, arm: CheckedArm, models: Mapping[str, nn.Module], patient: CheckContext) -> Pace:
    """Take a few steps of a group of stages, with models that are thrown away, and time them."""
    loader = group.stages[0].loader or arm.loader
    loader.bind(models)
    with ExitStack() as stack:
        learners = [stack.enter_context(_trainer(stage, arm, models, patient, loader)) for stage in group.stages]

        def step(window: list[Batch]) -> None:
            for trainer in learners:
                trainer.step([batch.to(patient.device) for batch in window], Progress(), measure=False)

        windows = _windows(loader, arm.setting.accumulate)
        kept = _kept(lambda: step(next(windows)[:1]))
        seconds = list(_timed(windows, step, patient))
        held = kept + sum(_held(trainer) for trainer in learners)
    if any(stage.teacher is not None for stage in group.stages):
        held += sum(map(size_in_bytes, patient.networks.values()))
    stage = check_lengths(group.stages)
    steps = arm.setting.length(stage, loader)
    longer = 1.0 if stage.steps is not None else arm.longer
    total = round(steps * longer) * arm.runs * group.repeats
    # The runs of all other arms stand in one queue; those of a teacher are its members.
    abreast = min(patient.side_by_side, arm.runs * group.repeats) if arm.first else patient.side_by_side
    return Pace(place_of(arm, stage), statistics.median(seconds), held, total, abreast)


def _trainer(
    stage: Stage, arm: CheckedArm, models: Mapping[str, nn.Module], patient: CheckContext, loader: Loader
) -> AbstractContextManager[StageTrainer]:
    batch = loader.peek().to(patient.device)
    return StageTrainer(stage, models, setting=arm.setting, fabric=patient.fabric, loader=loader, batch=batch)


def _kept(step: Callable[[], None]) -> int:
    """Bytes of what the forward pass of a step keeps for the way back, each piece of memory once."""
    sizes: dict[int, int] = {}

    def keep(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        sizes[storage.data_ptr()] = storage.nbytes()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        step()
    return sum(sizes.values())


def _held(trainer: StageTrainer) -> int:
    """Bytes of a student's weights, their gradients, and the optimizer's state."""
    learning = sum(p.numel() * p.element_size() for p in trainer.model.parameters() if p.requires_grad)
    state = trainer.optimizer.state_dict()["state"].values()
    tensors = [one for kept in state for one in kept.values() if isinstance(one, Tensor)]
    return size_in_bytes(trainer.model) + learning + sum(one.numel() * one.element_size() for one in tensors)


def _windows(loader: Loader, size: int) -> Iterator[list[Batch]]:
    """The batches of a step, epoch after epoch, without those that are smaller than the first."""
    epoch, whole = 0, loader.peek().size
    while True:
        batches = (batch for batch in loader.batches(epoch, 0) if batch.size == whole)
        while window := list(islice(batches, size)):
            yield window
        epoch += 1


def _timed(
    windows: Iterator[list[Batch]], step: Callable[[list[Batch]], None], patient: CheckContext
) -> Iterator[float]:
    until = time.perf_counter() + _SECONDS
    for number in range(_STEPS):
        began = time.perf_counter()
        step(next(windows))
        if patient.device.type != "cpu":
            torch.accelerator.synchronize(patient.device)
        now = time.perf_counter()
        yield now - began
        if number >= 2 and now > until:
            return


def one_step(paces: list[Pace]) -> Finding:
    """What a step of each arm takes and holds."""
    value = {one.place: {"milliseconds": 1e3 * one.seconds, "megabytes": one.bytes / 1e6} for one in paces}
    slow, big = max(paces, key=lambda one: one.seconds), max(paces, key=lambda one: one.bytes)
    return passed(
        STEP, value, f"{slow.place} is the slowest; {big.place} holds the most, about {_size(big.bytes)}.",
        f"{1e3 * slow.seconds:.3g} ms",
    )  # fmt: skip


def estimate_total(paces: list[Pace], side_by_side: int) -> Finding:
    """All steps of all runs, and how long they take at this pace; judging and writing come on top."""
    seconds = sum(one.seconds * one.steps / max(one.abreast, 1) for one in paces)
    steps = sum(one.steps for one in paces)
    said = (
        f"{steps:,} steps in all, {side_by_side} run{'s' if side_by_side > 1 else ''} at a time; judging comes on top."
    )
    if seconds > _DAY:
        return warn(JOB, seconds, f"{said} Try fewer seeds, epochs or arms first.", _duration(seconds))
    return passed(JOB, seconds, said, _duration(seconds))


def _size(count: int) -> str:
    return f"{count / 1e9:.1f} GB" if count >= 1e9 else f"{count / 1e6:.3g} MB"


def _duration(seconds: float) -> str:
    if seconds < 90:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 5400 else f"{seconds / 3600:.1f} h"
