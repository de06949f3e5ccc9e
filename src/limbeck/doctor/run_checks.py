"""The order of the checks, the time limit, and the time per step of each arm."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack
from dataclasses import replace
from functools import partial
from itertools import islice
from typing import NamedTuple

import torch
from torch import Tensor, nn

from limbeck.batch import Batch, Progress
from limbeck.data import Loader
from limbeck.doctor import (
    gradient_checks,
    job_checks,
    language_checks,
    loss_checks,
    other_tokenizer,
    rollout_checks,
    teacher_news,
)
from limbeck.doctor.context import (
    CheckContext,
    CheckedArm,
    Finding,
    OpenGroup,
    StageContext,
    create_models,
    describe_stage,
    finding_from_check_error,
    finding_from_job_error,
    merged,
    open_checked_stage,
    passed,
    stage_groups,
    warn,
)
from limbeck.doctor.memory import LARGEST, judge_batch_memory, measure_batch_memory
from limbeck.engine import StageTrainer, check_lengths, open_stage
from limbeck.models.size_and_hash import size_in_bytes
from limbeck.random_seeds import fork_rng, make_rng_state

STEP, JOB = "one step", "whole job"
_STEPS, _SECONDS = 12, 4.0
_DAY = 86_400.0


class Pace(NamedTuple):
    """Time, memory and number of steps of a part of an arm.

    Attributes:
        place: The arm, and the part of its recipe.
        seconds: The time of one step.
        bytes: The memory of a step: weights, gradients, optimizer state, and activations saved for backward.
        steps: The number of steps in all runs of the job.
        abreast: The number of these runs at a time.
    """

    place: str
    seconds: float
    bytes: int
    steps: int
    abreast: int = 1


def time_steps(group: OpenGroup, arm: CheckedArm, models: Mapping[str, nn.Module], context: CheckContext) -> Pace:
    """Time a few steps of a group of stages, with models that are discarded afterwards."""
    loader = group.stages[0].find_loader(arm.loader)
    with ExitStack() as stack:
        fabric = context.fabric
        trainers = [
            stack.enter_context(open_stage(replace(stage, loader=loader), models, loader, arm.setting, fabric=fabric))
            for stage in group.stages
        ]

        def step(window: list[Batch]) -> None:
            for trainer in trainers:
                for _ in range(trainer.stage.times):
                    trainer.step([loader.complete(batch.to(context.device)) for batch in window], Progress())

        windows = _windows(loader, arm.setting.accumulate)
        activations = _saved_activations(lambda: step(next(windows)[:1]))
        seconds = list(_timed(windows, step, context))
        step_bytes = activations + sum(_trainer_bytes(trainer) for trainer in trainers)
    if any(stage.teacher is not None for stage in group.stages):
        step_bytes += sum(map(size_in_bytes, context.networks.values()))
    stage = check_lengths(group.stages)
    steps = arm.setting.length(stage, loader)
    longer = 1.0 if stage.steps is not None else arm.longer
    total = round(steps * longer) * arm.runs * group.repeats
    # All runs of the other arms share one queue; a teacher's runs are its members.
    abreast = min(context.side_by_side, arm.runs * group.repeats) if arm.first else context.side_by_side
    return Pace(describe_stage(arm, stage), statistics.median(seconds), step_bytes, total, abreast)


def measure_largest_batch(
    group: OpenGroup, arm: CheckedArm, models: Mapping[str, nn.Module], context: CheckContext
) -> Finding:
    """Take steps with a quarter and a half of the batch, of the longest rows, and read off the largest batch."""
    loader = group.stages[0].find_loader(arm.loader)
    row, width = language_checks.find_longest_row(context.train)
    batch_size = loader.batch_size or 1
    with ExitStack() as stack:
        trainers = [
            stack.enter_context(
                open_stage(replace(stage, loader=loader), models, loader, arm.setting, fabric=context.fabric)
            )
            for stage in group.stages
        ]

        def step(rows: int) -> None:
            batch = loader.complete(context.train.take(torch.full((rows,), row)).to(context.device), used=False)
            for trainer in trainers:
                trainer.step([batch], Progress())

        sizes = (max(batch_size // 4, 1), max(batch_size // 2, 2))
        memory = measure_batch_memory(step, sizes, device=context.device)
    return judge_batch_memory(memory, batch_size, width)


def _saved_activations(step: Callable[[], None]) -> int:
    """Bytes of the activations that a step saves for backward; tensors that share memory count once."""
    sizes: dict[int, int] = {}

    def keep(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        sizes[storage.data_ptr()] = storage.nbytes()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        step()
    return sum(sizes.values())


def _trainer_bytes(trainer: StageTrainer) -> int:
    """Bytes of weights, gradients and optimizer state."""
    learning = sum(p.numel() * p.element_size() for p in trainer.model.parameters() if p.requires_grad)
    state = trainer.optimizer.state_dict()["state"].values()
    tensors = [tensor for entries in state for tensor in entries.values() if isinstance(tensor, Tensor)]
    return size_in_bytes(trainer.model) + learning + sum(tensor.numel() * tensor.element_size() for tensor in tensors)


def _windows(loader: Loader, size: int) -> Iterator[list[Batch]]:
    """The batches of each step, over epochs, without batches smaller than the first."""
    epoch, whole = 0, loader.peek().size
    while True:
        batches = (batch for batch in loader.batches(epoch, 0) if batch.size == whole)
        while window := list(islice(batches, size)):
            yield window
        epoch += 1


def _timed(
    windows: Iterator[list[Batch]], step: Callable[[list[Batch]], None], context: CheckContext
) -> Iterator[float]:
    until = time.perf_counter() + _SECONDS
    for number in range(_STEPS):
        began = time.perf_counter()
        step(next(windows))
        if context.device.type != "cpu":
            torch.accelerator.synchronize(context.device)
        now = time.perf_counter()
        yield now - began
        if number >= 2 and now > until:
            return


def one_step(paces: list[Pace]) -> Finding:
    """Time and memory of one step of each arm."""
    value = {pace.place: {"milliseconds": 1e3 * pace.seconds, "megabytes": pace.bytes / 1e6} for pace in paces}
    slow, big = max(paces, key=lambda pace: pace.seconds), max(paces, key=lambda pace: pace.bytes)
    return passed(
        STEP, value, f"{slow.place} is the slowest; {big.place} needs the most memory, about {_size(big.bytes)}.",
        f"{1e3 * slow.seconds:.3g} ms",
    )  # fmt: skip


def estimate_total(paces: list[Pace], side_by_side: int) -> Finding:
    """The time of all steps of all runs, without evaluation and writing."""
    seconds = sum(pace.seconds * pace.steps / max(pace.abreast, 1) for pace in paces)
    steps = sum(pace.steps for pace in paces)
    sentence = f"{steps:,} steps in all, runs at a time: {side_by_side}. Evaluation takes extra time."
    if seconds > _DAY:
        return warn(JOB, seconds, f"{sentence} Start with fewer seeds, epochs or arms.", _duration(seconds))
    return passed(JOB, seconds, sentence, _duration(seconds))


def _size(count: int) -> str:
    return f"{count / 1e9:.1f} GB" if count >= 1e9 else f"{count / 1e6:.3g} MB"


def _duration(seconds: float) -> str:
    if seconds < 90:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 5400 else f"{seconds / 3600:.1f} h"


OF_JOB: Mapping[str, Callable[[CheckContext], Finding | None]] = {
    job_checks.LABELS: job_checks.check_labels,
    job_checks.INPUTS: job_checks.check_inputs,
    job_checks.ACCURACY: job_checks.check_accuracy,
    job_checks.STEADY: job_checks.check_deterministic,
    job_checks.STORED_OUTPUTS: job_checks.check_stored_outputs,
}
"""Checks of data and teacher, done once."""

OF_LANGUAGE_JOB: Mapping[str, Callable[[CheckContext], Finding | None]] = {
    language_checks.TOKENS: language_checks.check_tokens,
    other_tokenizer.ALIGNED: other_tokenizer.check_alignment,
    language_checks.ENDS: language_checks.check_ends,
    language_checks.LENGTHS: language_checks.check_lengths,
    language_checks.CONTEXTS: language_checks.check_contexts,
    language_checks.SCORES: language_checks.check_scores,
    rollout_checks.WRITTEN_TEXTS: rollout_checks.check_written_texts,
    language_checks.REPEATED: language_checks.check_repeated,
    language_checks.FINGERPRINTS: language_checks.check_fingerprints,
    teacher_news.NEWS: teacher_news.check_news,
    job_checks.STEADY: job_checks.check_deterministic,
    job_checks.STORED_OUTPUTS: job_checks.check_stored_outputs,
}
"""The same for language models, whose targets are the next tokens."""

OF_STAGE: Mapping[str, Callable[[StageContext], Finding | None]] = {
    gradient_checks.SELF_DISTILLATION: gradient_checks.check_self_distillation,
    loss_checks.LOSS_VALUE: loss_checks.check_loss_value,
    gradient_checks.SPLIT_BATCHES: gradient_checks.check_split_batches,
    gradient_checks.GRADIENT: gradient_checks.check_gradient,
    loss_checks.TERM_BALANCE: loss_checks.check_term_balance,
}
"""Checks of each stage of each arm, at its first batch."""


def examine(context: CheckContext, *, seconds: float = 120.0) -> Iterator[Finding]:
    """Run every check; checks after the time limit are reported as skipped.

    Args:
        context: The opened job.
        seconds: The time limit; a check that has started is finished.

    Yields:
        One finding per check, as soon as it is known; those of several arms are merged.
    """
    until = time.perf_counter() + seconds
    before = job_checks.hash_state(context.networks)
    for name, check in (OF_LANGUAGE_JOB if context.is_language else OF_JOB).items():
        finding = _run_check(name, lambda check=check: check(context), until)  # type: ignore[misc]
        if finding is not None:
            yield finding
    checks = _ArmChecks(context, until)
    for arm in context.arms:
        checks.check_arm(arm)
    for findings in checks.findings.values():
        yield merged(findings)
    yield job_checks.check_teacher_unchanged(context, before, checks.students)
    if checks.paces:
        yield one_step(checks.paces)
    untimed = [arm.name for arm in context.arms if arm.name not in checks.timed]
    if untimed:
        yield warn(JOB, None, f"Unknown: these arms were not timed: {', '.join(untimed)}.")
    elif checks.paces:
        yield estimate_total(checks.paces, context.side_by_side)


class _ArmChecks:
    """Runs the checks of all arms and collects the findings."""

    def __init__(self, context: CheckContext, until: float) -> None:
        self._context = context
        self._until = until
        self.findings: dict[str, dict[str, Finding]] = {}
        self.students: list[nn.Module] = []
        self.paces: list[Pace] = []
        self.timed: set[str] = set()

    def check_arm(self, arm: CheckedArm) -> None:
        """Check the stages of an arm in order, then which parameters no stage trains."""
        with fork_rng(make_rng_state(arm.setting.seed)):
            try:
                self._check_stages(arm)
            except Exception as error:
                self._add(arm.name, finding_from_job_error("further steps", error))

    def _check_stages(self, arm: CheckedArm) -> None:
        models = create_models(arm, self._context.fabric)
        reached: set[nn.Parameter] = set()
        trained: dict[str, nn.Module] = {}
        late = False
        for group in stage_groups(arm, models):
            late = late or time.perf_counter() > self._until
            if late:
                continue
            # Before the checks: a stage may be refused because its student shares layers with the teacher.
            trained |= {stage.trains: models[stage.trains] for stage in group.stages}
            self.students += [models[stage.trains] for stage in group.stages]
            if arm.check_stages:
                self._check_group(group, arm, models, reached)
                if self._context.is_language:
                    self._check_memory(group, arm, models)
            self.paces.append(time_steps(group, arm, models, self._context))
        if arm.check_stages and not late:
            self._add(arm.name, gradient_checks.unused_parameters(trained, reached))
        if not late:
            self.timed.add(arm.name)

    def _check_group(
        self, group: OpenGroup, arm: CheckedArm, models: Mapping[str, nn.Module], reached: set[nn.Parameter]
    ) -> None:
        job = self._context
        arm = language_checks.with_small_batches(arm) if job.is_language else arm
        for stage in group.stages:
            place = describe_stage(arm, stage)
            with open_checked_stage(
                stage, place, arm, models, fabric=job.fabric, teacher_trained=job.trained
            ) as context:
                reached |= context.reached
                for name, check in OF_STAGE.items():
                    finding = _run_check(name, lambda check=check: check(context), self._until)  # type: ignore[misc]
                    if finding is not None:
                        self._add(place, finding)
            if job.is_language:
                copied = partial(gradient_checks.check_equal_models, stage, arm, models, job)
                finding = _run_check(gradient_checks.EQUAL_MODELS, copied, self._until)
                if finding is not None:
                    self._add(place, finding)

    def _check_memory(self, group: OpenGroup, arm: CheckedArm, models: Mapping[str, nn.Module]) -> None:
        measure = partial(measure_largest_batch, group, arm, models, self._context)
        finding = _run_check(LARGEST, measure, self._until)
        if finding is not None:
            self._add(describe_stage(arm, group.stages[0]), finding)

    def _add(self, place: str, finding: Finding) -> None:
        self.findings.setdefault(finding.name, {})[place] = finding


def _run_check(name: str, check: Callable[[], Finding | None], until: float) -> Finding | None:
    if time.perf_counter() > until:
        return warn(name, None, "Skipped: time limit reached.")
    try:
        return check()
    except Exception as error:  # one check that fails must not hide the others
        return finding_from_check_error(name, error)
