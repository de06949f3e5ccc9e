"""The inputs of the checks, a job and its stages, and their findings."""

from __future__ import annotations

import logging
import traceback
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from typing import Any, Literal, NamedTuple

import torch
from torch import Tensor, nn

from limbeck.batch import Batch, Inputs, Outputs, Progress
from limbeck.data import Dataset, Loader, counter_order
from limbeck.engine import (
    Fabric,
    RunModels,
    StepInputs,
    StudentWithLoss,
    TrainConfig,
    first_line,
    make_models,
    open_stage,
    walk_recipe,
)
from limbeck.errors import LimbeckError
from limbeck.losses import Objective
from limbeck.recipe import JointStages, ParallelStages, Part, Recipe, Stage
from limbeck.tap import Tapped, preserved_buffers
from limbeck.tasks import Classification, LanguageModeling, Task
from limbeck.teachers import CachedTeacher, Preprocess, Teacher

State = Literal["ok", "look", "crash", "wrong"]
_ORDER: tuple[State, ...] = ("ok", "look", "crash", "wrong")
_log = logging.getLogger(__name__)


class Finding(NamedTuple):
    """The result of a check.

    Attributes:
        name: The name of the check.
        state: ``ok``; ``look``: may be intended, or could not be checked; ``crash``: the check itself failed, which
            says nothing about the job; ``wrong``: the job should not be run like this.
        value: The measured number, or several by name; None if there is none.
        sentence: What the value means, and what to do.
        text: The value formatted for people.
        rank: Decides between findings of the same state: the highest rank is shown.
        details: Further lines for people; with ``--json`` they are part of `value`.
    """

    name: str
    state: State
    value: Any
    sentence: str
    text: str = ""
    rank: float = 0.0
    details: tuple[str, ...] = ()


def passed(name: str, value: Any, sentence: str, text: str = "", *, rank: float = 0.0) -> Finding:
    """No action needed."""
    return Finding(name, "ok", value, sentence, text, rank)


def warn(name: str, value: Any, sentence: str, text: str = "", *, rank: float = 0.0) -> Finding:
    """May be intended; a person should look at it."""
    return Finding(name, "look", value, sentence, text, rank)


def fail(name: str, value: Any, sentence: str, text: str = "", *, rank: float = 0.0) -> Finding:
    """The job should not be run like this."""
    return Finding(name, "wrong", value, sentence, text, rank)


def crash(name: str, error: Exception) -> Finding:
    """The check itself failed; its traceback is logged at level DEBUG, which ``--debug`` shows."""
    _log.debug("The check %r failed.", name, exc_info=error)
    sentence = f"The check failed: {type(error).__name__}: {first_line(error)}. --debug shows the traceback."
    return Finding(name, "crash", None, sentence)


def finding_from_check_error(name: str, error: Exception) -> Finding:
    """The finding for an exception raised in a check: only limbeck's own errors are about the job."""
    if isinstance(error, (LimbeckError, torch.OutOfMemoryError)):
        return finding_from_job_error(name, error)
    return crash(name, error)


def finding_from_job_error(name: str, error: Exception) -> Finding:
    """The finding for an exception raised while parts of the job run, which includes a user's modules.

    A user's module may raise any type, so the place where the error was raised decides: in limbeck's own code it is a
    bug of limbeck.
    """
    if isinstance(error, LimbeckError):
        return fail(name, None, str(error))
    if isinstance(error, torch.OutOfMemoryError):
        return fail(
            name, None, "Out of memory. Type a smaller budget.batch_size, with budget.accumulate for the same updates."
        )
    if _is_raised_by_limbeck(error):
        return crash(name, error)
    return fail(name, None, f"{type(error).__name__}: {first_line(error)}")


def _is_raised_by_limbeck(error: Exception) -> bool:
    frames = list(traceback.walk_tb(error.__traceback__))
    return bool(frames) and str(frames[-1][0].f_globals.get("__name__", "")).partition(".")[0] == "limbeck"


def merged(findings: Mapping[str, Finding]) -> Finding:
    """Merge the findings of one check at several places; the worst is shown, with its place.

    Args:
        findings: By place; all of one check.

    Example:
        >>> merged({"hinton": passed("terms", 0.4, "Fine."), "own": warn("terms", 0.0, "Too small.")}).sentence
        'own: Too small.'
    """
    worst = max(findings.values(), key=lambda finding: (_ORDER.index(finding.state), finding.rank))
    places: dict[str, list[str]] = {worst.sentence: []}
    for place, finding in findings.items():
        if finding.state == worst.state:
            places.setdefault(finding.sentence, []).append(place)
    several = len(findings) > 1 and worst.state != "ok"
    if worst.state == "ok" and len(places) > 1:  # the sentences differ in their numbers: show those of the worst
        places, several = {worst.sentence: places[worst.sentence]}, True
    sentence = worst.sentence
    if several:
        sentence = " ".join(f"{', '.join(where)}: {text}" for text, where in places.items())
    return worst._replace(value={place: finding.value for place, finding in findings.items()}, sentence=sentence)


@dataclass(frozen=True)
class CheckedArm:
    """One arm of the job, with all that its training needs.

    Attributes:
        name: The name of the arm.
        models: Creates the initial models; they are discarded after the checks.
        recipe: The recipe of its training.
        loader: The loader of its batches; it may be over a subset of the data.
        setting: The training settings of its runs.
        runs: The number of runs in the job.
        longer: The number of batches in an epoch of all data, divided by that of `loader`.
        last: The size of the last batch in an epoch of all data.
        check_stages: Whether its stages are checked; otherwise they are only timed.
        first: Whether all other arms wait for it, as for a teacher that the job trains.
    """

    name: str
    models: Callable[[], Mapping[str, nn.Module]]
    recipe: Recipe
    loader: Loader
    setting: TrainConfig
    runs: int = 1
    longer: float = 1.0
    last: int = 0
    check_stages: bool = True
    first: bool = False


@dataclass(frozen=True)
class CheckContext:
    """A job, opened as far as possible without training.

    Attributes:
        arms: The arms of the job.
        teacher: The teacher of the arms.
        networks: The modules of the teacher.
        trained: Whether the teacher is trained already.
        train: The training data.
        development: The development data.
        classes: The number of classes.
        class_names: The class names of the data.
        preprocess: Converts a batch to model inputs.
        fabric: Device and precision.
        side_by_side: The number of runs at a time.
        stored: The teachers with their caches, and the loader of the cached examples.
        views: The number of cached views of each example.
        task: What is learned.
        test: The test data, for checks of language jobs.
    """

    arms: tuple[CheckedArm, ...]
    teacher: Teacher
    networks: Mapping[str, nn.Module]
    trained: bool
    train: Dataset
    development: Dataset
    classes: int
    class_names: tuple[str, ...] | None
    preprocess: Preprocess
    fabric: Fabric
    side_by_side: int = 1
    stored: tuple[tuple[CachedTeacher, ...], Loader] | None = None
    views: int = 1
    task: Task = field(default_factory=Classification)
    test: Dataset | None = None

    @property
    def is_language(self) -> bool:
        """Whether tokens of texts are learned."""
        return isinstance(self.task, LanguageModeling)

    @property
    def device(self) -> torch.device:
        """The device of the models."""
        return self.fabric.device


def draw_examples(examples: Dataset, count: int) -> Batch:
    """Draw examples at random, the same ones every time; all of them if there are fewer than `count`."""
    # The first rows of a file are often of one class.
    return examples.take(counter_order(len(examples), seed=0, epoch=0, stream="doctor")[:count])


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
    for _, part in walk_recipe(arm.recipe, models, seed=arm.setting.seed):
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
    return make_models(arm.models(), arm.recipe, arm.loader, arm.setting, device=fabric.device)


@contextmanager
def open_checked_stage(
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
    # The checks look at the logits themselves.
    setting = replace(arm.setting, fuse_output_layer=False)
    opened = open_stage(stage, models, arm.loader, setting, fabric=fabric, single=arm.last == 1)
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
