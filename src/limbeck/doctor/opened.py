"""How is one stage of an arm opened, so that its loss can be looked at without a step being taken?"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn

from limbeck.doctor.patient import Arm
from limbeck.engine.course import Course
from limbeck.engine.learner import once
from limbeck.engine.probe import check_single, probe
from limbeck.engine.pupil import Lesson, Pupil
from limbeck.engine.setting import Fabric
from limbeck.engine.workshop import Workshop
from limbeck.objective import Objective
from limbeck.recipe import Apart, Held, Part, Stage, Together
from limbeck.signal import Batch, Inputs, Progress, Signal
from limbeck.tap import Frozen, Tapped, buffers_kept
from limbeck.teachers import Teacher, adaptor_of


@dataclass(frozen=True)
class Opened:
    """A stage at its first batch: student in train mode, teacher ready, heads shaped.

    Attributes:
        place: The arm, and the stage if there are several.
        stage: Which.
        tapped: The student.
        batch: The first batch.
        inputs: What the student reads from it.
        taught: What the teacher shows for it.
        progress: Half of the way, where no ramp is at its foot.
        reached: The parameters of student and heads that some term moves.
        learnt: Whether the teacher has learnt what it teaches here.
        accumulate: Micro-batches to one step.
        fabric: Device and precision.
    """

    place: str
    stage: Stage
    tapped: Tapped
    batch: Batch
    inputs: Inputs
    taught: Signal
    progress: Progress
    reached: frozenset[nn.Parameter]
    learnt: bool
    accumulate: int
    fabric: Fabric

    @property
    def objective(self) -> Objective:
        """What the stage minimises."""
        return self.stage.objective

    def shown(self) -> Signal:
        """What the student shows for the batch, with its graph."""
        with self.fabric.autocast():
            return self.tapped(self.inputs)

    def learning(self) -> list[nn.Parameter]:
        """What the stage may move: parameters of student and heads."""
        return [p for p in [*self.tapped.parameters(), *self.objective.parameters()] if p.requires_grad]

    def gradients(self, taught: Signal) -> dict[str, Tensor]:
        """Each term's weighted gradient at all that learns, in one row, had the teacher shown this."""
        pupil = Pupil(self.tapped, self.objective, reached=self.reached)
        lesson = Lesson(taught, self.batch, self.progress, None, measure_parameters=True)
        with self.fabric.autocast():
            pupil(self.inputs, lesson)
        return pupil.parameter_gradients


@dataclass(frozen=True)
class Group:
    """Stages that step on the same batches, in an arm's models as they were made.

    Attributes:
        stages: One, or several that alternate.
        repeats: How many such groups there are: of branches alike one is looked at.
    """

    stages: tuple[Stage, ...]
    repeats: int = 1


def place_of(arm: Arm, stage: Stage) -> str:
    """How people are told of a stage: by its arm alone, where that has no other.

    Branches that are alike, such as an ensemble's, are one place.
    """
    single = len(arm.recipe.parts) == 1 and isinstance(arm.recipe.parts[0], (Stage, Apart))
    return arm.name if single or stage.name is None else f"{arm.name}, {stage.name}"


def groups_of(arm: Arm, models: Workshop) -> Iterator[Group]:
    """All that an arm goes through, in order; functions in its recipe are asked as they are reached."""
    course = Course(arm.recipe, models, seed=arm.setting.seed)
    for _, part in course:
        yield from _groups(part, 1)


def _groups(part: Part, repeats: int) -> Iterator[Group]:
    if isinstance(part, Stage):
        yield Group((part,), repeats)
    elif isinstance(part, Together):
        yield Group(part.stages, repeats)
    elif isinstance(part, Apart):
        for inner in part.branches[0].parts:
            if isinstance(inner, Part):
                yield from _groups(inner, repeats * len(part.branches))


def workshop_of(arm: Arm, fabric: Fabric) -> Workshop:
    """An arm's models, new, as its run would hold them."""
    setting = arm.setting
    models = Workshop(arm.models(), arm.recipe.makes, seed=setting.seed, adaptor=setting.adaptor)
    models.held = Held(arm.source, setting.reads, fabric.device)
    return models


@contextmanager
def opened(
    stage: Stage, place: str, arm: Arm, models: Mapping[str, nn.Module], *, fabric: Fabric, learnt: bool
) -> Iterator[Opened]:
    """A block in which a stage stands at its first batch; it ends as the engine's own probe would.

    Args:
        stage: Which.
        place: Where it is, for people.
        arm: Whose.
        models: The arm's models.
        fabric: Device and precision.
        learnt: Whether the job's teacher has learnt what it teaches.
    """
    source, setting = stage.source or arm.source, arm.setting
    source.bind(models)
    batch = source.peek().to(fabric.device)
    reads = once(stage.reads or setting.reads)
    model = models[stage.trains].to(fabric.device)
    with ExitStack() as stack:
        answer = _answering(stack, stage, models, source, reads, fabric)
        stack.enter_context(Frozen(model, mode="train"))
        called = Tapped(model, stage.objective.needs.student, adaptor=adaptor_of(models, stage.trains))
        tapped = stack.enter_context(called)
        labels = getattr(getattr(source, "examples", None), "labels", None)
        with buffers_kept([model]), fabric.autocast():
            inputs = reads(batch)
            fitted, reached = probe(stage, tapped, answer, batch, inputs, batch.labels if labels is None else labels)
            taught = answer(batch)
            if arm.last == 1:  # a BatchNorm cannot train on one example
                check_single(stage, tapped, reads(batch.rows(torch.zeros(1, dtype=torch.int64, device=fabric.device))))
        known = learnt and isinstance(stage.teacher, Teacher) and not (stage.teacher.names or stage.teacher.changes)
        yield Opened(
            place, replace(stage, objective=fitted), tapped, batch, inputs, taught, Progress(1, 3), frozenset(reached),
            known, setting.accumulate, fabric,
        )  # fmt: skip


def _answering(
    stack: ExitStack, stage: Stage, models: Mapping[str, nn.Module], source: Any, reads: Any, fabric: Fabric
) -> Any:
    teacher, needs = stage.teacher, stage.objective.needs.teacher
    if teacher is None or not needs:
        return lambda batch: Signal()
    teacher.bind(models)
    teacher.expect(source, reads)
    teacher.serve(stage.objective.temperatures)
    return stack.enter_context(teacher.prepare(needs, device=fabric.device, reads=reads))
