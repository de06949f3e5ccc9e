"""The order of the checks, and the time limit."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping

import torch
from torch import nn

from limbeck.doctor import cost, data_checks, gradient_checks, loss_checks, teacher_checks
from limbeck.doctor.context import CheckContext, CheckedArm
from limbeck.doctor.finding import Finding, fail, merged, warn
from limbeck.doctor.stage_context import OpenGroup, StageContext, groups_of, open_stage, place_of, workshop_of
from limbeck.engine.probe import first_line
from limbeck.engine.rng import fork_rng, seed_all
from limbeck.errors import LimbeckError

OF_JOB: Mapping[str, Callable[[CheckContext], Finding | None]] = {
    data_checks.LABELS: data_checks.check_labels,
    data_checks.INPUTS: data_checks.check_inputs,
    teacher_checks.ACCURACY: teacher_checks.check_accuracy,
    teacher_checks.STEADY: teacher_checks.check_deterministic,
    teacher_checks.STORED_OUTPUTS: teacher_checks.check_stored_outputs,
}
"""What is asked of data and teacher, once."""

OF_STAGE: Mapping[str, Callable[[StageContext], Finding | None]] = {
    gradient_checks.SELF_DISTILLATION: gradient_checks.check_self_distillation,
    loss_checks.LOSS_VALUE: loss_checks.check_loss_value,
    gradient_checks.SPLIT_BATCHES: gradient_checks.check_split_batches,
    gradient_checks.GRADIENT: gradient_checks.check_gradient,
    loss_checks.TERM_BALANCE: loss_checks.check_term_balance,
}
"""What is asked of each stage of each arm, at its first batch."""


def examine(patient: CheckContext, *, seconds: float = 120.0) -> Iterator[Finding]:
    """Every check, as soon as it is made; what does not fit into the time is said to be left out.

    Args:
        patient: The job.
        seconds: How long the checks may take; one that has begun ends.

    Yields:
        One finding a check; those of several arms are one.
    """
    until = time.perf_counter() + seconds
    before = teacher_checks.state_of(patient.networks)
    for name, check in OF_JOB.items():
        found = _made(name, lambda check=check: check(patient), until)  # type: ignore[misc]
        if found is not None:
            yield found
    round_ = _Round(patient, until)
    for arm in patient.arms:
        round_.look_at(arm)
    for found_by_place in round_.found.values():
        yield merged(found_by_place)
    yield teacher_checks.check_teacher_unchanged(patient, before, round_.students)
    if round_.paces:
        yield cost.one_step(round_.paces)
    left = [arm.name for arm in patient.arms if arm.name not in round_.timed]
    if left:
        yield warn(cost.JOB, None, f"Not known: there was no time to time {', '.join(left)}.")
    elif round_.paces:
        yield cost.estimate_total(round_.paces, patient.side_by_side)


class _Round:
    """What is found on the way through the arms."""

    def __init__(self, patient: CheckContext, until: float) -> None:
        self._patient = patient
        self._until = until
        self.found: dict[str, dict[str, Finding]] = {}
        self.students: list[nn.Module] = []
        self.paces: list[cost.Pace] = []
        self.timed: set[str] = set()

    def look_at(self, arm: CheckedArm) -> None:
        """One arm: its stages in order, then what none of them reaches."""
        with fork_rng(seed_all(arm.setting.seed)):
            try:
                self._gone_through(arm)
            except Exception as error:
                self._note(arm.name, fail("further steps", None, _sentence(error)))

    def _gone_through(self, arm: CheckedArm) -> None:
        models = workshop_of(arm, self._patient.fabric)
        reached: set[nn.Parameter] = set()
        trained: dict[str, nn.Module] = {}
        late = False
        for group in groups_of(arm, models):
            late = late or time.perf_counter() > self._until
            if late:
                continue
            # Before they are looked at: a stage that is refused may be so because they share layers with the teacher.
            trained |= {stage.trains: models[stage.trains] for stage in group.stages}
            self.students += [models[stage.trains] for stage in group.stages]
            if arm.judged:
                self._judge(group, arm, models, reached)
            self.paces.append(cost.time_steps(group, arm, models, self._patient))
        if arm.judged and not late:
            self._note(arm.name, gradient_checks.unused_parameters(trained, reached))
        if not late:
            self.timed.add(arm.name)

    def _judge(
        self, group: OpenGroup, arm: CheckedArm, models: Mapping[str, nn.Module], reached: set[nn.Parameter]
    ) -> None:
        for stage in group.stages:
            place = place_of(arm, stage)
            patient = self._patient
            with open_stage(stage, place, arm, models, fabric=patient.fabric, learnt=patient.trained) as one:
                reached |= one.reached
                for name, check in OF_STAGE.items():
                    found = _made(name, lambda check=check: check(one), self._until)  # type: ignore[misc]
                    if found is not None:
                        self._note(place, found)

    def _note(self, place: str, finding: Finding) -> None:
        self.found.setdefault(finding.name, {})[place] = finding


def _made(name: str, check: Callable[[], Finding | None], until: float) -> Finding | None:
    if time.perf_counter() > until:
        return warn(name, None, "Not looked at: the time was over.")
    try:
        return check()
    except Exception as error:
        return fail(name, None, _sentence(error))


def _sentence(error: Exception) -> str:
    """What an error says, also where it is that of a person's own module, which may raise anything."""
    if isinstance(error, LimbeckError):
        return str(error)
    if isinstance(error, torch.OutOfMemoryError):
        return "It does not fit into memory: a smaller budget.batch_size, with accumulate, learns the same."
    return f"{type(error).__name__}: {first_line(error)}"
