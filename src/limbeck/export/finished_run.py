"""A finished run, and the module that is exported from it."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from shlex import quote
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from limbeck.atomic_io import check_no_folder_links
from limbeck.consent import read_consent
from limbeck.data import DataSplits, load_data, preprocess_from_dict, silenced
from limbeck.engine import TrainConfig, build_shipped, make_models
from limbeck.errors import DataError, LimbeckError, unknown_name_error
from limbeck.job import (
    LIKE_FIRST_METHOD,
    Job,
    MethodSettings,
    ModelSettings,
    RunLayout,
    TeacherSettings,
    make_job,
    read_run_job,
    train_and_development,
    train_loader,
    trust_option,
)
from limbeck.job.result import is_run, read_result
from limbeck.methods import make, method
from limbeck.metrics import load_tensors
from limbeck.models import is_student_folder, load, loads_without_code, open_model, read_config, shallow
from limbeck.models.hf_heads import LANGUAGE_MODELING
from limbeck.recipe import Recipe, TransformModel
from limbeck.tasks import LanguageModeling, Regression, Task, task_from_dict
from limbeck.teachers import Ensemble, EstimatorFile, ModelTeacher, SklearnTeacher, Teacher
from limbeck.teachers.estimators import ESTIMATORS, SAVED_ESTIMATOR, EstimatorModule


class FinishedRun(NamedTuple):
    """A finished run.

    Attributes:
        folder: Its folder.
        job: Its job.
        result: Its result; results of earlier versions lack keys.
        student: The folder of the student that is exported.
        model_config: The description of the model in that folder: a reference network, or a class.
        metadata: The other entries there: class names, preprocessing, arm, method.
    """

    folder: Path
    job: Job
    result: dict[str, Any]
    student: Path
    model_config: dict[str, Any]
    metadata: dict[str, Any]

    @property
    def method(self) -> MethodSettings | None:
        """The method that trained the student; None for a student that was trained without a method."""
        return self.job.method_arms.get(str(self.metadata.get("arm")))

    @property
    def task(self) -> Task:
        """The task of the run, as the student learned it."""
        return task_from_dict(self.metadata.get("task") or self.result.get("task"))

    def data(self) -> DataSplits:
        """Load the job's data.

        Raises:
            LimbeckError: If they are missing, or are not the data on which the run was judged.
        """
        with silenced():
            data = load_data(self.job.data, task=self.task.name)
        before = self.result.get("data", {}).get("test")
        if before is not None and before != len(data.test):
            raise DataError(
                f"{data.name} has {len(data.test)} test examples, but had {before} when {self.folder} was judged, so "
                "an export would be checked on other data."
            )
        saved = self._saved_labels()
        known = self.task.asks_teacher or data.test.labels is not None or data.test.targets is not None
        if known and saved is not None and not _are_equal(self.task.stored_targets(data.test), saved):
            raise DataError(
                f"{data.name} has other test labels than when {self.folder} was judged, so an export would be checked "
                "on other data."
            )
        return data

    def _saved_labels(self) -> Tensor | None:
        """The test labels of the run; None if the file is missing, damaged, or of an earlier version."""
        try:
            labels = load_tensors(RunLayout(self.folder).teacher_outputs).get("test_labels")
        except DataError:
            return None
        return labels


def _are_equal(ours: Tensor, theirs: Tensor) -> bool:
    ours, theirs = ours.flatten(), theirs.flatten()
    if ours.shape != theirs.shape:
        return False
    return bool(((ours == theirs.to(ours.dtype)) | (ours.isnan() & theirs.isnan())).all())


def open_finished(run: str | Path, *, arm: str | None = None) -> FinishedRun:
    """Open the folder of a finished run.

    Args:
        run: The folder.
        arm: The arm whose student (of the first seed) is meant; if None, the one that the run recommends.

    Raises:
        LimbeckError: If there is no run, it is not finished, or has no such student. The message says what to type.
    """
    folder = Path(run)
    if not folder.is_dir():
        raise LimbeckError(f"There is no run at {str(run)!r}.")
    check_no_folder_links(folder)
    if not RunLayout(folder).job.is_file():
        raise LimbeckError(_no_job(folder))
    job = make_job({**read_run_job(folder), "out": str(folder)})
    if not RunLayout(folder).result.is_file():
        again = f"limbeck resume {quote(str(folder))}{trust_option(folder)}"
        raise LimbeckError(f"{folder} is not finished. To continue: `{again}`.")
    if not is_student_folder(RunLayout(folder).student):
        raise LimbeckError(
            f"{folder} has no student to export: {folder / 'student'} is missing or damaged. Run the job again: "
            f"`limbeck distill {quote(str(folder / 'job.yaml'))} --out NEW`."
        )
    result = read_result(folder, arms=False)
    student = RunLayout(folder).student if arm is None else _student_of(folder, arm, result)
    config = read_config(student)
    return FinishedRun(folder, job, result, student, config["model"], config.get("metadata") or {})


def _student_of(folder: Path, arm: str, result: dict[str, Any]) -> Path:
    """The folder of an arm's student."""
    if (read_config(RunLayout(folder).student).get("metadata") or {}).get("arm") == arm:
        return RunLayout(folder).student
    arms = [name for name, row in result["arms"].items() if row.get("role") not in ("teacher", "member")]
    if arm not in arms:
        raise unknown_name_error(f"arm of {folder}", arm, arms, argument="arm")
    student = RunLayout(folder).seed_student(arm, 0)
    if not is_student_folder(student):
        raise LimbeckError(f"{folder} has no student of the arm {arm!r}: {student} is missing or damaged.")
    return student


def open_student(run: str | Path, *, arm: str | None = None, trust: bool = False) -> nn.Module:
    """Load the student of a finished run, also one that a method combines from several modules.

    Args:
        run: The folder of the run.
        arm: The arm whose student (of the first seed) is loaded; by default the one that the run recommends.
        trust: Whether Python files that the run's job names (``my.py:build``) may be run to build the student. A run's
            folder may come from someone else.

    Raises:
        LimbeckError: If the run is not finished, its data are missing, the student cannot be built again, or a file
            would have to be run and `trust` is False.

    Example:
        >>> # open_student("runs/hinton")
    """
    with read_consent("open_student", trust=trust):
        done = open_finished(run, arm=arm)
        return rebuild_student(done, done.data())


def rebuild_student(run: FinishedRun, data: DataSplits) -> nn.Module:
    """Build the module that is exported, with its weights, on the CPU in eval mode.

    The module that the method's recipe ships is built as the run built it, learned heads included, and gets the weights
    of the student's folder. Files that the job names (``my.py:build``) are run if the caller's consent allows it (see
    `limbeck.consent`).

    Raises:
        LimbeckError: If it cannot be built again. The message has the lines to type in Python.
    """
    if (run.student / SAVED_ESTIMATOR).is_file():
        return _load_estimator(run)
    if loads_without_code(read_config(run.student)):
        return load(run.student)
    first = data.preprocess(data.test.take(torch.tensor([0])))
    shape = tuple(first.shape[1:]) if isinstance(first, torch.Tensor) else None
    classes = run.result.get("data", {}).get("classes") or (len(data.class_names) if data.class_names else None)

    is_language = isinstance(run.task, LanguageModeling)
    language = {"head": LANGUAGE_MODELING, "tokenizer": data.tokenizer} if is_language else {}

    def open_settings(named: ModelSettings) -> nn.Module:
        if named.is_shallow:
            model: nn.Module = shallow(open_settings(run.job.teacher), **named.arguments)
            return model
        if named.starts_from_teacher:  # `load` makes it smaller again, as its configuration says
            return open_settings(run.job.teacher)
        # The weights come from the run's folder, so pretrained ones need not be downloaded.
        plain = {"pretrained": False} if named.model.startswith("timm:") else {}
        arguments = {**language, **named.arguments, **plain}
        return open_model(named.model, input_shape=shape, classes=classes, seed=0, **arguments)

    student, recipe = open_settings(run.job.student), _make_recipe(run, open_settings)
    changes = [part for part in recipe.parts if isinstance(part, TransformModel)] if recipe is not None else []
    try:
        return load(run.student, build=lambda: student, transforms=[change.function for change in changes])
    except DataError as error:
        whole = None if recipe is None else _build_combined(run, recipe, data, student)
        if whole is None:
            raise LimbeckError(
                f"{run.student} contains a {run.model_config.get('class')}, but {run.job.student.model} builds another "
                f"module: {error} In Python, type model = limbeck.load({str(run.student)!r}, build=build), then "
                "limbeck.export.to_onnx(model, inputs, 'model.onnx')."
            ) from error
    return load(run.student, build=lambda: whole)


def _load_estimator(run: FinishedRun) -> EstimatorModule:
    """The estimator of a student's folder. Opening its file can run code, so the user has to agree."""
    estimator, task = EstimatorFile(run.student / SAVED_ESTIMATOR).open(), run.task
    if isinstance(task, Regression):
        own = SklearnTeacher(estimator, mean=task.mean, std=task.std)
    else:
        names = run.metadata.get("class_names")
        own = SklearnTeacher(estimator, classes=run.metadata.get("classes"), class_names=names)
    return EstimatorModule(own, fitted=True)


def _make_recipe(run: FinishedRun, open_settings: Callable[[ModelSettings], nn.Module]) -> Recipe | None:
    """Make the recipe of the run's method; None for an arm without one."""
    settings = run.job.method if run.metadata.get("arm") in LIKE_FIRST_METHOD else run.method
    if settings is None:
        return None
    arguments = {"teacher": _teacher(run.job, open_settings)} if method(settings.name).has_teacher else {}
    return make(settings.name, **arguments, **settings.hyper)


def _build_combined(run: FinishedRun, recipe: Recipe, data: DataSplits, student: nn.Module) -> nn.Module | None:
    """Build the module that the method's recipe ships, without its weights; None if it ships the plain student."""
    job, arm = run.job, str(run.metadata.get("arm"))
    if recipe.ship == "student":
        return None
    train, _ = train_and_development(job, data)
    # A function in `makes` may look at the run's data, for the shapes of what it builds.
    loader = train_loader(train, job.budget_of(arm), seed=0, cache=job.cache, mixed=True)
    models = make_models({"student": student}, recipe, loader, TrainConfig(preprocess=data.preprocess))
    return build_shipped(recipe, models)


def _teacher(job: Job, open_settings: Callable[[ModelSettings], nn.Module]) -> Teacher:
    """The job's teacher, without trained weights."""
    members = [_teacher_part(part, open_settings) for part in job.teacher.parts.values()]
    mean, weights = job.teacher.mean, job.teacher.weights
    return members[0] if len(members) == 1 else Ensemble(*members, mean=mean, weights=weights)


def _teacher_part(part: ModelSettings, open_settings: Callable[[ModelSettings], nn.Module]) -> Teacher:
    served = isinstance(part, TeacherSettings) and part.url is not None
    if (
        served or part.model in ESTIMATORS or EstimatorFile.parse(part.model) is not None
    ):  # nothing in the student depends on it
        return ModelTeacher(nn.Identity())
    folder = Path(part.model.rpartition("@")[2])
    settings = read_config(folder)["metadata"].get("preprocess") if is_student_folder(folder) else None
    return ModelTeacher(open_settings(part), preprocess=preprocess_from_dict(settings) if settings else None)


def _no_job(folder: Path) -> str:
    """Describe a folder without a job, and what to type."""
    whole = next((one for one in folder.resolve().parents if is_run(one)), None)
    if whole is not None:
        return f"{folder} is a part of the run {whole}. Type the path of the run: {quote(str(whole))}."
    if (folder / "run.json").is_file():
        return (
            f"{folder} was written by a Python script, and only that script knows the data. Add to it: "
            "limbeck.export.to_onnx(run.student, inputs, 'model.onnx'), or to_int8, to_folder or to_hf."
        )
    if is_student_folder(folder):
        return (
            f"{folder} is the folder of a student, not of a run. In Python, type limbeck.export.to_onnx(limbeck.load("
            f"{str(folder)!r}), inputs, 'model.onnx')."
        )
    return f"{folder} is not the folder of a run: it has no job.yaml."
