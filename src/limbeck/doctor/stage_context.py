"""One stage opened at its first batch, for checks of its loss."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn

from limbeck.batch import Batch, Inputs, Outputs, Progress
from limbeck.doctor.context import CheckedArm
from limbeck.engine.probe import check_single, probe
from limbeck.engine.recipe_runner import RecipeRunner
from limbeck.engine.run_models import RunModels
from limbeck.engine.stage_trainer import cached_per_batch
from limbeck.engine.student_module import StepInputs, StudentWithLoss
from limbeck.engine.train_config import Fabric
from limbeck.losses import Objective
from limbeck.recipe import JointStages, ParallelStages, Part, RunContext, Stage
from limbeck.tap import FrozenParameters, Tapped, preserved_buffers
from limbeck.teachers import Teacher, get_adaptor


@dataclass(frozen=True)
class StageContext:
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
    taught: Outputs
    progress: Progress
    reached: frozenset[nn.Parameter]
    learnt: bool
    accumulate: int
    fabric: Fabric

    @property
    def objective(self) -> Objective:
        """What the stage minimizes."""
        return self.stage.objective

    def shown(self) -> Outputs:
        """What the student shows for the batch, with its graph."""
        with self.fabric.autocast():
            return self.tapped(self.inputs)

    def learning(self) -> list[nn.Parameter]:
        """What the stage may move: parameters of student and heads."""
        return [p for p in [*self.tapped.parameters(), *self.objective.parameters()] if p.requires_grad]

    def gradients(self, taught: Outputs) -> dict[str, Tensor]:
        """Each term's weighted gradient at all that learns, in one row, had the teacher shown this."""
        student_with_loss = StudentWithLoss(self.tapped, self.objective, reached=self.reached)
        lesson = StepInputs(taught, self.batch, self.progress, None, measure_parameters=True)
        with self.fabric.autocast():
            student_with_loss(self.inputs, lesson)
        return student_with_loss.parameter_gradients


@dataclass(frozen=True)
class OpenGroup:
    """Stages that step on the same batches, in an arm's models as they were made.

    Attributes:
        stages: One, or several that alternate.
        repeats: How many such groups there are: of branches alike one is looked at.
    """

    stages: tuple[Stage, ...]
    repeats: int = 1


def place_of(arm: CheckedArm, stage: Stage) -> str:
    """How people are told of a stage: by its arm alone, where that has no other.

    Branches that are alike, such as an ensemble's, are one place.
    """
    single = len(arm.recipe.parts) == 1 and isinstance(arm.recipe.parts[0], (Stage, ParallelStages))
    return arm.name if single or stage.name is None else f"{arm.name}, {stage.name}"


def groups_of(arm: CheckedArm, models: RunModels) -> Iterator[OpenGroup]:
    """All that an arm goes through, in order; functions in its recipe are asked as they are reached."""
    course = RecipeRunner(arm.recipe, models, seed=arm.setting.seed)
    for _, part in course:
        yield from _groups(part, 1)


def _groups(part: Part, repeats: int) -> Iterator[OpenGroup]:
    if isinstance(part, Stage):
        yield OpenGroup((part,), repeats)
    elif isinstance(part, JointStages):
        yield OpenGroup(part.stages, repeats)
    elif isinstance(part, ParallelStages):
        for inner in part.branches[0].parts:
            if isinstance(inner, Part):
                yield from _groups(inner, repeats * len(part.branches))


def workshop_of(arm: CheckedArm, fabric: Fabric) -> RunModels:
    """An arm's models, new, as its run would hold them."""
    setting = arm.setting
    models = RunModels(arm.models(), arm.recipe.makes, seed=setting.seed, adaptor=setting.adaptor)
    models.context = RunContext(arm.loader, setting.preprocess, fabric.device)
    return models


@contextmanager
def open_stage(
    stage: Stage, place: str, arm: CheckedArm, models: Mapping[str, nn.Module], *, fabric: Fabric, learnt: bool
) -> Iterator[StageContext]:
    """A block in which a stage stands at its first batch; it ends as the engine's own probe would.

    Args:
        stage: Which.
        place: Where it is, for people.
        arm: Whose.
        models: The arm's models.
        fabric: Device and precision.
        learnt: Whether the job's teacher has learnt what it teaches.
    """
    loader, setting = stage.loader or arm.loader, arm.setting
    loader.bind(models)
    batch = loader.peek().to(fabric.device)
    preprocess = cached_per_batch(stage.preprocess or setting.preprocess)
    model = models[stage.trains].to(fabric.device)
    with ExitStack() as stack:
        answer = _answering(stack, stage, models, loader, preprocess, fabric)
        stack.enter_context(FrozenParameters(model, mode="train"))
        called = Tapped(model, stage.objective.requires.student, adaptor=get_adaptor(models, stage.trains))
        tapped = stack.enter_context(called)
        labels = getattr(getattr(loader, "examples", None), "labels", None)
        with preserved_buffers([model]), fabric.autocast():
            inputs = preprocess(batch)
            fitted, reached = probe(stage, tapped, answer, batch, inputs, batch.labels if labels is None else labels)
            taught = answer(batch)
            if arm.last == 1:  # a BatchNorm cannot train on one example
                check_single(
                    stage, tapped, preprocess(batch.rows(torch.zeros(1, dtype=torch.int64, device=fabric.device)))
                )
        known = learnt and isinstance(stage.teacher, Teacher) and not (stage.teacher.names or stage.teacher.changes)
        yield StageContext(
            place, replace(stage, objective=fitted), tapped, batch, inputs, taught, Progress(1, 3), frozenset(reached),
            known, setting.accumulate, fabric,
        )  # fmt: skip


def _answering(
    stack: ExitStack, stage: Stage, models: Mapping[str, nn.Module], loader: Any, preprocess: Any, fabric: Fabric
) -> Any:
    teacher, requires = stage.teacher, stage.objective.requires.teacher
    if teacher is None or not requires:
        return lambda batch: Outputs()
    teacher.bind(models)
    teacher.attach_loader(loader, preprocess)
    teacher.serve(stage.objective.temperatures)
    return stack.enter_context(teacher.prepare(requires, device=fabric.device, preprocess=preprocess))
