"""In which order is a job looked at, and what is left out when the time is over?"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping

import torch
from torch import nn

from limbeck.doctor import accuracy, cost, exact, inputs, labels, reach, splitting, stillness, stored, terms, zero
from limbeck.doctor.finding import Finding, look, merged, wrong
from limbeck.doctor.opened import Group, Opened, groups_of, opened, place_of, workshop_of
from limbeck.doctor.patient import Arm, Patient
from limbeck.engine.probe import first_line
from limbeck.engine.randomness import aside, seeded
from limbeck.errors import LimbeckError

OF_JOB: Mapping[str, Callable[[Patient], Finding | None]] = {
    labels.NAME: labels.check,
    inputs.NAME: inputs.check,
    accuracy.NAME: accuracy.check,
    stillness.STEADY: stillness.steady,
    stored.NAME: stored.check,
}
"""What is asked of data and teacher, once."""

OF_STAGE: Mapping[str, Callable[[Opened], Finding | None]] = {
    zero.NAME: zero.check,
    exact.NAME: exact.check,
    splitting.NAME: splitting.check,
    reach.GRADIENT: reach.gradient,
    terms.NAME: terms.check,
}
"""What is asked of each stage of each arm, at its first batch."""


def examine(patient: Patient, *, seconds: float = 120.0) -> Iterator[Finding]:
    """Every check, as soon as it is made; what does not fit into the time is said to be left out.

    Args:
        patient: The job.
        seconds: How long the checks may take; one that has begun ends.

    Yields:
        One finding a check; those of several arms are one.
    """
    until = time.perf_counter() + seconds
    before = stillness.state_of(patient.networks)
    for name, check in OF_JOB.items():
        found = _made(name, lambda check=check: check(patient), until)  # type: ignore[misc]
        if found is not None:
            yield found
    round_ = _Round(patient, until)
    for arm in patient.arms:
        round_.look_at(arm)
    for found_by_place in round_.found.values():
        yield merged(found_by_place)
    yield stillness.untouched(patient, before, round_.students)
    if round_.paces:
        yield cost.one_step(round_.paces)
    left = [arm.name for arm in patient.arms if arm.name not in round_.timed]
    if left:
        yield look(cost.JOB, None, f"Not known: there was no time to time {', '.join(left)}.")
    elif round_.paces:
        yield cost.whole_job(round_.paces, patient.side_by_side)


class _Round:
    """What is found on the way through the arms."""

    def __init__(self, patient: Patient, until: float) -> None:
        self._patient = patient
        self._until = until
        self.found: dict[str, dict[str, Finding]] = {}
        self.students: list[nn.Module] = []
        self.paces: list[cost.Pace] = []
        self.timed: set[str] = set()

    def look_at(self, arm: Arm) -> None:
        """One arm: its stages in order, then what none of them reaches."""
        with aside(seeded(arm.setting.seed)):
            try:
                self._gone_through(arm)
            except Exception as error:
                self._note(arm.name, wrong("further steps", None, _sentence(error)))

    def _gone_through(self, arm: Arm) -> None:
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
            self.paces.append(cost.pace(group, arm, models, self._patient))
        if arm.judged and not late:
            self._note(arm.name, reach.unused(trained, reached))
        if not late:
            self.timed.add(arm.name)

    def _judge(self, group: Group, arm: Arm, models: Mapping[str, nn.Module], reached: set[nn.Parameter]) -> None:
        for stage in group.stages:
            place = place_of(arm, stage)
            patient = self._patient
            with opened(stage, place, arm, models, fabric=patient.fabric, learnt=patient.trained) as one:
                reached |= one.reached
                for name, check in OF_STAGE.items():
                    found = _made(name, lambda check=check: check(one), self._until)  # type: ignore[misc]
                    if found is not None:
                        self._note(place, found)

    def _note(self, place: str, finding: Finding) -> None:
        self.found.setdefault(finding.name, {})[place] = finding


def _made(name: str, check: Callable[[], Finding | None], until: float) -> Finding | None:
    if time.perf_counter() > until:
        return look(name, None, "Not looked at: the time was over.")
    try:
        return check()
    except Exception as error:
        return wrong(name, None, _sentence(error))


def _sentence(error: Exception) -> str:
    """What an error says, also where it is that of a person's own module, which may raise anything."""
    if isinstance(error, LimbeckError):
        return str(error)
    if isinstance(error, torch.OutOfMemoryError):
        return "It does not fit into memory: a smaller budget.batch_size, with accumulate, learns the same."
    return f"{type(error).__name__}: {first_line(error)}"
