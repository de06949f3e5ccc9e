"""One stage context at its first batch, for checks of its loss."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace

from torch import Tensor, nn

from limbeck import engine
from limbeck.batch import Batch, Inputs, Outputs, Progress
from limbeck.doctor.context import CheckedArm
from limbeck.engine.recipe_runner import RecipeRunner, RunModels
from limbeck.engine.student_module import StepInputs, StudentWithLoss
from limbeck.engine.train_config import Fabric
from limbeck.losses import Objective
from limbeck.recipe import JointStages, ParallelStages, Part, RunContext, Stage
from limbeck.tap import Tapped, preserved_buffers
from limbeck.teachers import Teacher


@dataclass(frozen=True)
class StageContext:
    """A stage at its first batch: student in train mode, teacher ready, heads shaped.

    Attributes:
        place: The arm, and the stage if there are several.
        stage: The stage.
        tapped: The student.
        batch: The first batch.
        inputs: The student's inputs of that batch.
        teacher_outputs: The teacher's outputs for that batch.
        progress: Halfway through the stage, where no ramp is at its start.
        reached: The parameters of student and heads that get a gradient.
        teacher_trained: Whether the teacher is trained already.
        accumulate: Micro-batches per step.
        fabric: Device and precision.
    """

    place: str
    stage: Stage
    tapped: Tapped
    batch: Batch
    inputs: Inputs
    teacher_outputs: Outputs
    progress: Progress
    reached: frozenset[nn.Parameter]
    teacher_trained: bool
    accumulate: int
    fabric: Fabric

    @property
    def objective(self) -> Objective:
        """The objective of the stage."""
        return self.stage.objective

    def student_outputs(self) -> Outputs:
        """The student's outputs for the batch, with their graph."""
        with self.fabric.autocast():
            return self.tapped(self.inputs)

    def learning(self) -> list[nn.Parameter]:
        """The trainable parameters of student and heads."""
        return [p for p in [*self.tapped.parameters(), *self.objective.parameters()] if p.requires_grad]

    def gradients(self, teacher_outputs: Outputs) -> dict[str, Tensor]:
        """The weighted gradient of each term for all trainable parameters, flattened, for these teacher outputs."""
        student_with_loss = StudentWithLoss(self.tapped, self.objective, reached=self.reached)
        step_inputs = StepInputs(teacher_outputs, self.batch, self.progress, None, measure_parameters=True)
        with self.fabric.autocast():
            student_with_loss(self.inputs, step_inputs)
        return student_with_loss.parameter_gradients


@dataclass(frozen=True)
class OpenGroup:
    """Stages that step on the same batches.

    Attributes:
        stages: One, or several that alternate.
        repeats: The number of equal groups: only one of several equal branches is checked.
    """

    stages: tuple[Stage, ...]
    repeats: int = 1


def describe_stage(arm: CheckedArm, stage: Stage) -> str:
    """The name of a stage for people: the arm, and the stage if the arm has several.

    Equal branches, such as the members of an ensemble, share a name.
    """
    single = len(arm.recipe.parts) == 1 and isinstance(arm.recipe.parts[0], (Stage, ParallelStages))
    return arm.name if single or stage.name is None else f"{arm.name}, {stage.name}"


def stage_groups(arm: CheckedArm, models: RunModels) -> Iterator[OpenGroup]:
    """The stages of an arm in order; functions in its recipe are called when they are reached."""
    for _, part in RecipeRunner(arm.recipe, models, seed=arm.setting.seed):
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


def create_models(arm: CheckedArm, fabric: Fabric) -> RunModels:
    """Create the models of an arm as its run would."""
    setting = arm.setting
    models = RunModels(arm.models(), arm.recipe.makes, seed=setting.seed, adaptor=setting.adaptor)
    models.context = RunContext(arm.loader, setting.preprocess, fabric.device)
    return models


@contextmanager
def open_stage(
    stage: Stage, place: str, arm: CheckedArm, models: Mapping[str, nn.Module], *, fabric: Fabric, teacher_trained: bool
) -> Iterator[StageContext]:
    """Open a stage at its first batch; afterwards the buffers of the student are restored.

    Args:
        stage: The stage.
        place: Its name for people.
        arm: The arm of the stage.
        models: The models of the arm.
        fabric: Device and precision.
        teacher_trained: Whether the teacher of the job is trained already.
    """
    opened = engine.open_stage(stage, models, arm.loader, arm.setting, fabric=fabric, single=arm.last == 1)
    with preserved_buffers([models[stage.trains]]), opened as trainer:
        batch = trainer.batch
        inputs = trainer.preprocess(batch)
        with fabric.autocast():
            teacher_outputs = trainer.get_teacher_outputs(batch)
        # A teacher that is itself trained by the recipe has random weights here.
        trained = teacher_trained and isinstance(stage.teacher, Teacher)
        trained = trained and not (stage.teacher.names or stage.teacher.capabilities.changes)

        yield StageContext(
            place, replace(stage, objective=trainer.objective), trainer.tapped, batch, inputs, teacher_outputs,
            Progress(1, 3), frozenset(trainer.reached), trained, arm.setting.accumulate, fabric,
        )  # fmt: skip
