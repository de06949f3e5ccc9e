"""The data and models that are common to all arms of a comparison."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn.parameter import is_lazy

from limbeck.batch import Batch
from limbeck.compare.language import check_positions, compares_texts, read_limit, with_tokenizer
from limbeck.data import ArrayDataset, Dataset, DataSplits, ShuffledLoader, load_data, silenced
from limbeck.engine import TrainConfig
from limbeck.errors import DataError, LimbeckError, TextTooLongError, UnknownArgumentError
from limbeck.job import Budget, Job, ModelSettings, TeacherSettings, add_flag_hint, train_and_development
from limbeck.job.routes import find_route_column
from limbeck.job.validation import check_is_argument
from limbeck.metrics import predict
from limbeck.metrics.predictions import rows_at_once
from limbeck.models import (
    NoModuleError,
    UserFile,
    get_class_names,
    is_student_folder,
    match_order,
    open_model,
    read_class_names,
    read_config,
    reference_names,
    seeded,
)
from limbeck.models.hf_heads import LANGUAGE_MODELING
from limbeck.tasks import Classification, LanguageModeling, Regression, Segmentation, Task, get_task, task_from_dict
from limbeck.teachers.estimators import ESTIMATORS, make_estimator, seed_estimator


def load_in_order(job: Job) -> tuple[DataSplits, dict[str, Any] | None]:
    """Load the job's data, with what the models set: the order of the classes, or the tokenizer.

    The teacher's order is taken if its folder has the same class names in another order and the job sets no order. If
    it cannot be done, `check_names` raises an error after the teacher is open.

    Returns:
        The data, and the options with which they can be loaded without the models; None if they are the job's.
    """
    with silenced():  # the printed summary has the same warnings
        name = None if job.task is None else job.task.name
        options: dict[str, Any] = dict(job.data) if isinstance(job.data, dict) else {"name": job.data}
        settings = with_tokenizer(job, options, name)
        try:
            data = load_data(settings, task=name)
        except TextTooLongError as error:
            raise TextTooLongError(error.fact, needed=error.needed, readable=read_limit(job)) from None
        loaded = (part for part in job.teacher.parts.values() if part.has_weights)
        theirs = next((names for part in loaded if (names := read_class_names(_folder(part)))), None)
        order = match_order(data.class_names, theirs) if data.class_names and theirs else None
        if order is None or order == data.class_names or settings.get("class_names") or not job.teacher.check:
            return data, settings if settings != options else None
        try:
            data = load_data({**settings, "class_names": list(order)}, task=name)
        except LimbeckError:  # data without a class order
            return data, None
    note = f"The classes are in the order of the teacher {job.teacher.title}: {', '.join(order[:8])}"
    summary = data.summary and replace(data.summary, notes=(*data.summary.notes, f"{note}."))
    data = replace(data, summary=summary, note=". ".join(filter(None, (data.note, note))))
    return data, {**settings, "class_names": list(order)}


def check_names(teacher: TeacherSettings, model: nn.Module, data: DataSplits) -> None:
    """Check that teacher and data have the same class names in the same order.

    Data with numbers as classes are not checked.

    Raises:
        LimbeckError: If they differ; the message has the names of both and the option to type.
    """
    ours, theirs = data.class_names, get_class_names(model) or read_class_names(_folder(teacher))
    if not (ours and theirs and teacher.check) or len(ours) != len(theirs) or not teacher.has_weights:
        return
    order = match_order(ours, theirs)
    if order == ours or (order is None and all(name.lstrip("+-").isdecimal() for name in ours)):
        return
    place = next(place for place, name in enumerate(ours) if order is None or name != order[place])
    mend = (
        f"Type --set 'data.class_names=[{', '.join(order)}]' if the data take it, or give the teacher the data's order."
        if order is not None
        else "If these are the same classes in the same order, give them the same names."
    )
    raise LimbeckError(
        f"The teacher {teacher.model} has the class {theirs[place]!r} where the data have {ours[place]!r}: the label "
        f"order differs. The teacher: {', '.join(theirs[:8])}; the data: {', '.join(ours[:8])}. {mend} To continue "
        "anyway: --set teacher.check=false."
    )


def _folder(teacher: TeacherSettings) -> str:
    return teacher.model.rpartition("@")[2].removeprefix("hf:")


def is_language(task: Task) -> bool:
    """Whether a task is about tokens of texts."""
    return isinstance(task, LanguageModeling)


def is_judged_by_teacher(task: Task) -> bool:
    """Whether the primary metric of a task compares with the teacher, because its texts have no other source."""
    return isinstance(task, LanguageModeling) and task.written_by_teacher


class ComparisonData(NamedTuple):
    """The data that all arms share.

    Attributes:
        data: The dataset.
        train: The training data.
        development: The data for choices and checks, split off from the training data.
        input_shape: The shape of one example as a model's input.
        classes: Number of a model's outputs: classes, labels or target columns.
        task: The task, set up for the data.
        options: The options with which the data can be loaded without the models, if they are not the job's.
    """

    data: DataSplits
    train: Dataset
    development: Dataset
    input_shape: tuple[int, ...]
    classes: int
    task: Task
    options: dict[str, Any] | None = None


def load_comparison_data(job: Job) -> ComparisonData:
    """Load the job's data and split off the development part.

    Raises:
        LimbeckError: If the data cannot be loaded, or have too few examples.
    """
    data, options = load_in_order(job)
    if reads_groups(job):
        for examples in (data.train, data.test, data.development):
            if isinstance(examples, ArrayDataset):
                examples.hash_groups()
    train, development = train_and_development(job, data)
    for part, examples in {"training": train, "development": development, "test": data.test}.items():
        _check_read(data, part, examples)
    first = data.preprocess(train.take(torch.tensor([0])))
    # Inputs by name, such as token ids and their mask, have no single shape.
    shape = tuple(first.shape[1:]) if isinstance(first, Tensor) else ()
    task = fit_task(job, data)
    if not task.check(data.test, "test"):
        raise DataError("The test data have no labels or targets, so no arm can be judged by them.")
    if data.development is not None:
        task.check(development, "development")
    return ComparisonData(data, train, development, shape, task.outputs, task, options)


def reads_groups(job: Job) -> bool:
    """Whether more than a metric reads the groups of the data: routes to teachers, or a function of the user's own."""
    routes, name = job.teacher.routes, job.data if isinstance(job.data, str) else job.data["name"]
    if UserFile.parse(name) is not None:
        return True
    return routes is not None and find_route_column(routes, job.data) == "groups"


def fit_task(job: Job, data: DataSplits) -> Task:
    """The task of a job for its data, with the scale of the targets that a loaded teacher has learned.

    Raises:
        LimbeckError: If a method of the job does not support the task, or the targets do not fit the task.
    """
    task = get_task(data.task) if job.task is None else job.task.open()
    job.check_task(task)
    fitted = task.fit(data.train, data.class_names or data.target_names or None)
    folder = _folder(job.teacher)
    if job.teacher.has_weights and is_student_folder(Path(folder)):
        theirs = task_from_dict(read_config(Path(folder))["metadata"].get("task"))
        if isinstance(fitted, Regression) and isinstance(theirs, Regression) and theirs.outputs == fitted.outputs:
            return replace(fitted, mean=theirs.mean, std=theirs.std)
    return fitted


def why_no_smoothing(job: Job, task: Task) -> str | None:
    """Why a job has no arm of label smoothing; None if it may have one."""
    own = job.budgets.get("label smoothing")
    if task.no_smoothing is not None or not is_language(task) or not compares_texts(job):
        return task.no_smoothing
    if own is not None and own.smoothing is not None:
        return None
    return "the methods compare texts, and that does not say how soft the labels of single tokens should be"


def arms_of_task(job: Job, task: Task) -> Job:
    """The job; without the arm of label smoothing if the task does not support it."""
    if "teacher texts" in job.arms and not is_judged_by_teacher(task):
        raise LimbeckError(
            "The arm 'teacher texts' learns the texts that a teacher wrote for prompts without answers, and these data "
            "have answers: leave it out, or compare with the method supervised on the file of limbeck generate."
        )
    if "label smoothing" not in job.arms or why_no_smoothing(job, task) is None:
        return job
    budgets = {arm: budget for arm, budget in job.budgets.items() if arm != "label smoothing"}
    arms = tuple(arm for arm in job.arms if arm != "label smoothing")
    if not set(arms) - {"teacher"}:
        raise LimbeckError(
            f"arms={list(job.arms)}: no student is trained without the arm 'label smoothing', and this job cannot have "
            f"it: {why_no_smoothing(job, task)}. Add 'student alone' or 'distilled' to arms."
        )
    return job.model_copy(update={"arms": arms, "budgets": budgets})


def new_model(
    model: ModelSettings, material: ComparisonData, *, seed: int, who: str, tokenizer: Any = None
) -> nn.Module:
    """Build a model by its name, with initial weights that depend only on `seed`; `who` begins an error message.

    `tokenizer` is that of a teacher which does not read the tokens of the data.
    """
    own = material.data.tokenizer if tokenizer is None else tokenizer
    language = {"head": LANGUAGE_MODELING, "tokenizer": own} if is_language(material.task) else {}
    if material.data.tokenizer is not None and not language and model.model in reference_names():
        raise LimbeckError(
            f"{who} {model.model} reads one tensor, and {material.data.name} gives several by name: take a model that "
            f"is called so, such as hf:FOLDER, or hf:bert with --set {who}.pretrained=false."
        )
    try:
        if model.model in ESTIMATORS:
            made = make_estimator(model.model, regression=isinstance(material.task, Regression), **model.arguments)
            raise NoModuleError(f"{model.model} is an estimator.", result=seed_estimator(made, seed))
        with seeded(seed):
            network = open_model(
                model.model, input_shape=material.input_shape, classes=material.classes, **language, **model.arguments
            )
            if tokenizer is None:
                check_positions(network, material.train, f"{who} {model.model}")
            _draw_lazy(network, material, who=f"{who} {model.model}")
            return network
    except NoModuleError:
        raise
    except LimbeckError as error:
        if isinstance(error, UnknownArgumentError):
            check_is_argument([error.name], type(model).model_fields, who)
        raise add_flag_hint(error, who) from error


def _draw_lazy(model: nn.Module, material: ComparisonData, *, who: str) -> None:
    """Initialize lazy layers now, because a model is saved, copied and counted before it is trained."""
    if any(is_lazy(tensor) for tensor in (*model.parameters(), *model.buffers())):
        try:
            predict(model, material.development.take(torch.tensor([0])), preprocess=material.data.preprocess)
        except (RuntimeError, ValueError, TypeError, IndexError) as error:
            raise LimbeckError(f"{who} has lazy layers, and its first call failed: {error}") from error


def make_train_config(
    job: Job, budget: Budget, material: ComparisonData, *, seed: int, workers: int = 1
) -> TrainConfig:
    """The training settings of a budget for the engine."""
    return TrainConfig(
        optimizer=budget.make_optimizer(), epochs=budget.epochs, accumulate=budget.accumulate,
        preprocess=material.data.preprocess,
        seed=seed, precision=job.precision, workers=workers, fuse_output_layer=job.fuse_output_layer,
    )  # fmt: skip


def eval_batches(examples: Dataset) -> list[Batch]:
    """All examples in order, in batches for prediction."""
    return list(ShuffledLoader(examples, batch_size=rows_at_once(examples), shuffle=False))


def summary_lines(data: DataSplits) -> tuple[str, ...]:
    """The summary of the data as lines; empty if there is none."""
    return data.summary.lines() if data.summary is not None else ()


def _check_read(data: DataSplits, part: str, examples: Dataset) -> None:
    """Check that the data's ``preprocess``, which may be a user's function, works on an example."""
    try:
        read = data.preprocess(examples.take(torch.tensor([0])))
    except LimbeckError:
        raise
    except Exception as error:  # a user's function may raise anything
        raise LimbeckError(
            f"The preprocess of {data.name} failed on an example of the {part} data: {type(error).__name__}: {error}. "
            "It is called with a lb.Batch, and returns what a model is called with: lambda batch: batch.inputs / 255."
        ) from error
    if read is None:
        raise LimbeckError(f"The preprocess of {data.name} returned None; it must return what a model is called with.")


def judged_parts(material: ComparisonData) -> dict[str, Dataset]:
    """The parts that models are evaluated on, by name; they may come from separate files."""
    return {"test": material.data.test, "development": material.development}


def shape_in(part: str, read: Any) -> str:
    """The input shape of a part as text; it may differ from that of the training data."""
    shape = "x".join(map(str, read.shape[1:])) if isinstance(read, Tensor) else "unknown"
    return f"{shape}, those of the {part} data"


def call_checked(ask: Callable[[], Tensor], who: str, shape: str) -> Tensor:
    """Call a model on examples of the data.

    Raises:
        LimbeckError: If it raises; a user's module may raise anything.
    """
    try:
        return ask()
    except LimbeckError:
        raise
    except Exception as error:
        reason = str(error).strip().partition("\n")[0] or type(error).__name__
        raise LimbeckError(f"{who} fails on inputs of shape {shape}: {reason}") from error


def check_classes(logits: Tensor, who: str, task: Task, *, is_teacher: bool = False) -> None:
    """Check that a model has as many outputs as the task needs, in the right dimension.

    Raises:
        LimbeckError: If not; the message has both numbers.
    """
    if isinstance(task, Segmentation) and logits.ndim != 4:
        raise LimbeckError(
            f"{who} has outputs of shape {list(logits.shape)}; segmentation needs [batch, classes, height, width], "
            "such as those of the model fcn."
        )
    if is_language(task) and logits.ndim == 3 and logits.shape[-1] > task.outputs:
        return  # models pad their vocabulary
    if logits.shape[task.classes_dim] != task.outputs:
        fewer = is_teacher and isinstance(task, Classification) and logits.shape[task.classes_dim] < task.outputs
        way = " To train it on some of the classes, name all of them: --set 'data.class_names=[...]'." if fewer else ""
        raise LimbeckError(
            f"{who} has {logits.shape[task.classes_dim]} {task.output_title}, but the data have {task.outputs}.{way}"
        )
