"""A finished run opened, and the module that it ships."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from shlex import quote
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from limbeck.atomic_io import check_no_folder_links
from limbeck.data import DataSplits, load_data, preprocess_from_dict, silenced
from limbeck.engine.recipe_runner import RecipeRunner
from limbeck.engine.run_models import RunModels
from limbeck.errors import DataError, LimbeckError, unknown_name_error
from limbeck.job import (
    Job,
    MethodSettings,
    ModelSettings,
    arm_folder,
    make_job,
    read_run_job,
    train_and_development,
    train_loader,
)
from limbeck.job.result import is_run, read_result
from limbeck.methods import make, method
from limbeck.metrics import load_tensors
from limbeck.models import is_student_folder, load, loads_without_code, open_model, read_config, shallow
from limbeck.recipe import RunContext
from limbeck.teachers import Ensemble, ModelTeacher, Teacher


class FinishedRun(NamedTuple):
    """A job that is done.

    Attributes:
        folder: Where it lies.
        job: What was asked.
        result: What came of it; old results lack keys.
        student: The folder of the student that is exported.
        model_config: What that folder says that it is: a reference network, or a class.
        metadata: What it says besides: class names, reads, arm, method.
    """

    folder: Path
    job: Job
    result: dict[str, Any]
    student: Path
    model_config: dict[str, Any]
    metadata: dict[str, Any]

    @property
    def method(self) -> MethodSettings | None:
        """The method that the student learnt by."""
        return self.job.method_arms.get(str(self.metadata.get("arm")))

    def data(self) -> DataSplits:
        """The job's data.

        Raises:
            LimbeckError: If they are gone, or no longer those that the run was judged on.
        """
        with silenced():
            data = load_data(self.job.data)
        before = self.result.get("data", {}).get("test")
        if before is not None and before != len(data.test):
            raise DataError(
                f"{data.name} has {len(data.test)} test examples, and had {before} when {self.folder} was judged on "
                "it: an export would be checked on other data."
            )
        labels, saved = data.test.labels, self._saved_labels()
        if labels is not None and saved is not None and not torch.equal(labels.flatten().long(), saved):
            raise DataError(
                f"{data.name} has other test labels than when {self.folder} was judged on it: an export would be "
                "checked on other data."
            )
        return data

    def _saved_labels(self) -> Tensor | None:
        """The test labels that the run was judged on; None where its file of them is gone, damaged, or an old one."""
        try:
            labels = load_tensors(self.folder / "teacher" / "answers.safetensors").get("test_labels")
        except DataError:
            return None
        return None if labels is None else labels.flatten().long()


def open_finished(run: str | Path, *, arm: str | None = None) -> FinishedRun:
    """A finished run's folder.

    Args:
        run: Where it lies.
        arm: Whose student is meant, that of its first seed; if None, the one that the run ships.

    Raises:
        LimbeckError: If there is none, it is not finished, or it holds no such student; with what to type.
    """
    folder = Path(run)
    if not folder.is_dir():
        raise LimbeckError(f"There is no run at {str(run)!r}.")
    check_no_folder_links(folder)
    if not (folder / "job.yaml").is_file():
        raise LimbeckError(_no_job(folder))
    job = make_job({**read_run_job(folder), "out": str(folder)})
    if not (folder / "result.json").is_file():
        raise LimbeckError(f"{folder} is not finished: `limbeck resume {quote(str(folder))}` goes on.")
    if not is_student_folder(folder / "student"):
        raise LimbeckError(
            f"{folder} holds no student that could be shipped: {folder / 'student'} is missing or damaged. Run "
            f"`limbeck distill {quote(str(folder / 'job.yaml'))} --out NEW` again."
        )
    result = read_result(folder, arms=False)
    student = folder / "student" if arm is None else _student_of(folder, arm, result)
    config = read_config(student)
    return FinishedRun(folder, job, result, student, config["model"], config.get("metadata") or {})


def _student_of(folder: Path, arm: str, result: dict[str, Any]) -> Path:
    """The folder of an arm's student."""
    if (read_config(folder / "student").get("metadata") or {}).get("arm") == arm:
        return folder / "student"
    arms = [name for name, row in result["arms"].items() if row.get("role") not in ("teacher", "member")]
    if arm not in arms:
        raise unknown_name_error(f"arm of {folder}", arm, arms)
    folders = arm_folder(folder, arm) / "seed-0" / "student"
    if not is_student_folder(folders):
        raise LimbeckError(f"{folder} keeps no student of its arm {arm!r}: {folders} is missing or damaged.")
    return folders


def open_student(run: str | Path, *, arm: str | None = None) -> nn.Module:
    """The student of a finished run, as its job builds it: also one that a method has put together of several modules.

    Files that the job names are run, as `limbeck resume` runs them.

    Args:
        run: The run's folder.
        arm: Whose student, of its first seed; by default the one that the run ships.

    Raises:
        LimbeckError: If it is no finished run, its data are gone, or it cannot be made again.

    Example:
        >>> # open_student("runs/hinton")
    """
    done = open_finished(run, arm=arm)
    return rebuild_combined_student(done, done.data())


def rebuild_combined_student(run: FinishedRun, data: DataSplits) -> nn.Module:
    """The module that is exported, plain and with its weights, on the CPU in eval mode.

    What the method's recipe ships is made again as the run made it, learned heads included, and takes the weights of
    the student's folder. Files that the job names (``my.py:build``) are run, as `limbeck resume` runs them.

    Raises:
        LimbeckError: If it cannot be made again, with the line to type in Python.
    """
    if loads_without_code(read_config(run.student)):
        return load(run.student)
    first = data.preprocess(data.test.take(torch.tensor([0])))
    shape = tuple(first.shape[1:]) if isinstance(first, torch.Tensor) else None
    classes = run.result.get("data", {}).get("classes") or (len(data.class_names) if data.class_names else None)

    def open_settings(named: ModelSettings) -> nn.Module:
        if named.is_shallow:
            model: nn.Module = shallow(open_settings(run.job.teacher), **named.arguments)
            return model
        # Its weights come from the run's folder: none are fetched for it.
        plain = {"pretrained": False} if named.model.startswith("timm:") else {}
        return open_model(named.model, input_shape=shape, classes=classes, seed=0, **{**named.arguments, **plain})

    student = open_settings(run.job.student)
    try:
        return load(run.student, build=lambda: student)
    except DataError as error:
        whole = _build_combined(run, data, student, open_settings)
        if whole is None:
            raise LimbeckError(
                f"{run.student} contains a {run.model_config.get('class')}, and {run.job.student.model} builds another "
                f"module: {error} "
                f"In Python: model = limbeck.load({str(run.student)!r}, build=build), then "
                "limbeck.export.to_onnx(model, inputs, 'model.onnx')."
            ) from error
    return load(run.student, build=lambda: whole)


def _build_combined(
    run: FinishedRun, data: DataSplits, student: nn.Module, open_settings: Callable[[ModelSettings], nn.Module]
) -> nn.Module | None:
    """What the recipe of the run's method builds to be shipped, without its weights; None if that is a plain name."""
    job, arm = run.job, str(run.metadata.get("arm"))
    settings = job.method if arm == "shuffled teacher" else run.method
    if settings is None:
        return None
    arguments = {"teacher": _teacher(job, open_settings)} if method(settings.name).has_teacher else {}
    recipe = make(settings.name, **arguments, **settings.hyper)
    if recipe.ship == "student":
        return None
    models = RunModels({"student": student}, recipe.makes, seed=0)
    train, _ = train_and_development(job, data)
    # A maker may look at the run's data, for the shapes of what it builds.
    loader = train_loader(train, job.budget_of(arm), seed=0, cache=job.cache, mixed=True)
    models.context = RunContext(loader, data.preprocess, torch.device("cpu"))
    if isinstance(recipe.ship, str):
        return models[recipe.ship]
    return RecipeRunner(recipe, models, seed=0).shipped()


def _teacher(job: Job, open_settings: Callable[[ModelSettings], nn.Module]) -> Teacher:
    """The job's teacher, without the weights that it has learnt in the run."""
    folder = Path(job.teacher.model.rpartition("@")[2])
    settings = read_config(folder)["metadata"].get("preprocess") if is_student_folder(folder) else None
    members = [
        ModelTeacher(open_settings(job.teacher), preprocess=preprocess_from_dict(settings) if settings else None)
        for _ in range(job.teacher.members)
    ]
    return members[0] if len(members) == 1 else Ensemble(*members, mean=job.teacher.mean)


def _no_job(folder: Path) -> str:
    """What a folder without a job is, and what to type then."""
    whole = next((one for one in folder.resolve().parents if is_run(one)), None)
    if whole is not None:
        return f"{folder} is a part of the run {whole}; give that: {quote(str(whole))}."
    if (folder / "run.json").is_file():
        return (
            f"{folder} was made in Python, and only your script knows its data: there, type "
            "limbeck.export.to_onnx(run.student, inputs, 'model.onnx'), or to_int8, to_folder or to_hf."
        )
    if is_student_folder(folder):
        return (
            f"{folder} is a student's folder, not a run's: in Python, type limbeck.export.to_onnx(limbeck.load("
            f"{str(folder)!r}), inputs, 'model.onnx')."
        )
    return f"{folder} is not a run's folder: it holds no job.yaml."
