"""The order of the checks, and the time limit."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping

from torch import nn

from limbeck.doctor import cost, data_checks, gradient_checks, loss_checks, teacher_checks
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
    open_stage,
    stage_groups,
    warn,
)
from limbeck.engine.checkpoint import fork_rng, seed_all

OF_JOB: Mapping[str, Callable[[CheckContext], Finding | None]] = {
    data_checks.LABELS: data_checks.check_labels,
    data_checks.INPUTS: data_checks.check_inputs,
    teacher_checks.ACCURACY: teacher_checks.check_accuracy,
    teacher_checks.STEADY: teacher_checks.check_deterministic,
    teacher_checks.STORED_OUTPUTS: teacher_checks.check_stored_outputs,
}
"""Checks of data and teacher, done once."""

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
    before = teacher_checks.hash_state(context.networks)
    for name, check in OF_JOB.items():
        finding = _run_check(name, lambda check=check: check(context), until)  # type: ignore[misc]
        if finding is not None:
            yield finding
    checks = _ArmChecks(context, until)
    for arm in context.arms:
        checks.check_arm(arm)
    for findings in checks.findings.values():
        yield merged(findings)
    yield teacher_checks.check_teacher_unchanged(context, before, checks.students)
    if checks.paces:
        yield cost.one_step(checks.paces)
    untimed = [arm.name for arm in context.arms if arm.name not in checks.timed]
    if untimed:
        yield warn(cost.JOB, None, f"Unknown: these arms were not timed: {', '.join(untimed)}.")
    elif checks.paces:
        yield cost.estimate_total(checks.paces, context.side_by_side)


class _ArmChecks:
    """Runs the checks of all arms and collects the findings."""

    def __init__(self, context: CheckContext, until: float) -> None:
        self._context = context
        self._until = until
        self.findings: dict[str, dict[str, Finding]] = {}
        self.students: list[nn.Module] = []
        self.paces: list[cost.Pace] = []
        self.timed: set[str] = set()

    def check_arm(self, arm: CheckedArm) -> None:
        """Check the stages of an arm in order, then which parameters no stage trains."""
        with fork_rng(seed_all(arm.setting.seed)):
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
            self.paces.append(cost.time_steps(group, arm, models, self._context))
        if arm.check_stages and not late:
            self._add(arm.name, gradient_checks.unused_parameters(trained, reached))
        if not late:
            self.timed.add(arm.name)

    def _check_group(
        self, group: OpenGroup, arm: CheckedArm, models: Mapping[str, nn.Module], reached: set[nn.Parameter]
    ) -> None:
        for stage in group.stages:
            place = describe_stage(arm, stage)
            job = self._context
            with open_stage(stage, place, arm, models, fabric=job.fabric, teacher_trained=job.trained) as context:
                reached |= context.reached
                for name, check in OF_STAGE.items():
                    finding = _run_check(name, lambda check=check: check(context), self._until)  # type: ignore[misc]
                    if finding is not None:
                        self._add(place, finding)

    def _add(self, place: str, finding: Finding) -> None:
        self.findings.setdefault(finding.name, {})[place] = finding


def _run_check(name: str, check: Callable[[], Finding | None], until: float) -> Finding | None:
    if time.perf_counter() > until:
        return warn(name, None, "Skipped: time limit reached.")
    try:
        return check()
    except Exception as error:  # one check that fails must not hide the others
        return finding_from_check_error(name, error)
