"""Checks of a recipe before training starts."""

from __future__ import annotations

from collections.abc import Sequence

from limbeck.data import Loader
from limbeck.engine.probe import objective_check
from limbeck.engine.recipe_runner import RecipeRunner
from limbeck.engine.run_models import RunModels
from limbeck.engine.shared_weights import check_shared, find_networks
from limbeck.engine.train_config import TrainConfig, check_lengths
from limbeck.errors import ArgumentError, unknown_name_error
from limbeck.recipe import JointStages, ParallelStages, Stage
from limbeck.tap import Tapped
from limbeck.teachers import TeacherContext


def preflight_check(course: RecipeRunner, models: RunModels, loader: Loader, setting: TrainConfig) -> None:
    """Look at every stage that is known, also those of later, without running or making anything.

    What depends on shapes is left to each stage's probe.

    Raises:
        LimbeckError: If a stage does not say how long it lasts, its objective cannot be accumulated, or a model that
            the recipe makes cannot be made.
        UnknownNameError: If a stage names a model that there is not and that nothing makes.
        MissingOutputError: If a model that exists has no module at an address that is read, or a teacher cannot
            show it.
        LimbeckError: If a teacher has no answers for what it will be asked.
    """
    course.check_makers()
    for _, part in course.known_parts():
        if isinstance(part, ParallelStages):
            groups = [[stage] for branch in part.branches for stage in branch.stages()]
        else:
            groups = [list(part.stages) if isinstance(part, JointStages) else [part]]
        for stages in groups:
            own = stages[0].loader
            setting.length(check_lengths(stages), loader if own is None else own)
            _check(stages, course, models, setting, loader if own is None else own)


def _check(
    stages: Sequence[Stage], course: RecipeRunner, models: RunModels, setting: TrainConfig, loader: Loader
) -> None:
    for stage in stages:
        objective_check(stage.objective, accumulate=setting.accumulate)
        named = {stage.trains} | (stage.teacher.names if stage.teacher is not None else set())
        for name in sorted(named - set(models)):
            if not course.open_ended:
                raise unknown_name_error(
                    "model", name, models, then="A recipe may make more: Recipe(..., makes={name: function})."
                )
        if len(stages) == 1 and stage.every > 1:
            raise ArgumentError(f"every={stage.every} belongs to a stage joined to another by &.", argument="every")
        if stage.trains in models.existing and stage.trains not in course.transformed_models:
            stage.parts(models.existing[stage.trains])
            if stage.teacher is not None and not stage.teacher.names:
                check_shared(stage, models.existing[stage.trains], find_networks(stage.teacher))
            Tapped(models.existing[stage.trains], stage.objective.requires.student)
        requires = stage.objective.requires.teacher
        if stage.teacher is not None and requires and not stage.teacher.names:
            preprocess = stage.preprocess or setting.preprocess
            temperatures = stage.objective.temperatures
            stage.teacher.open(
                TeacherContext(requires=requires, preprocess=preprocess, loader=loader, temperatures=temperatures)
            )
