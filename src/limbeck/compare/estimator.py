"""Estimators of scikit-learn or its kind in a job: as the teacher, and as a student that is not fitted yet."""

from __future__ import annotations

import pickle
import warnings
from collections.abc import Iterable, Mapping
from typing import Any

import torch
from torch import Tensor, nn

from limbeck.batch import IGNORED
from limbeck.compare.comparison_data import ComparisonData, eval_batches
from limbeck.data import Dataset, subsample
from limbeck.errors import LimbeckError, LimbeckWarning, UnknownNameError, unknown_name_error
from limbeck.job import Job, MethodSettings
from limbeck.models import count_parameters, size_in_bytes
from limbeck.tasks import Classification, Regression
from limbeck.teachers import SklearnTeacher
from limbeck.teachers.estimators import EstimatorModule, check_takes_soft_labels, seed_estimator, without_early_stopping
from limbeck.teachers.sklearn_teacher import is_fitted, is_regressor

_FEW = 256
"""Number of rows for a first, quick fit, so that every arm can be checked before the real fit."""
FEW_OF_STUDENT = 64
"""The same for a student, which has no outputs before."""
_METHODS = {"supervised": (), "hinton": ("weight", "labels", "temperature"), "label_smoothing": ("smoothing",)}
"""The methods that an estimator can learn by, with their settings."""

_OTHER = {"classification": "a classifier, or ", "regression": "a regressor, or "}


def is_estimator(models: Mapping[str, nn.Module]) -> bool:
    """Whether a teacher's model is an estimator, which is not trained by gradients."""
    return any(isinstance(model, EstimatorModule) for model in models.values())


def check_estimator_task(estimator: Any, origin: str, material: ComparisonData) -> None:
    """Check that a classifier teaches a job of classes, and a regressor one of numbers.

    Args:
        estimator: The estimator, fitted or not.
        origin: The begin of the message: where the estimator is from, with a verb.
        material: The data of the job.

    Raises:
        LimbeckError: If the job has another task.
    """
    own = estimator.estimator if isinstance(estimator, SklearnTeacher) else estimator
    numbers = is_regressor(own)
    if isinstance(material.task, Regression if numbers else Classification):
        return
    classes = getattr(own, "classes_", None)  # only a fitted classifier has it
    listed = "" if classes is None else f" with the classes {', '.join(map(str, list(classes)[:8]))}"
    raise LimbeckError(
        f"{origin} a {type(own).__name__}{listed}, which can teach {'numbers' if numbers else 'classes'} only, and "
        f"this is a job of {material.task.name}. Take {_OTHER.get(material.task.name, '')}a torch module, such as "
        "--teacher mlp. In Python, any predictions can teach: limbeck.PrecomputedTeacher(predictions)."
    )


def make_estimator_teacher(estimator: Any, material: ComparisonData, **arguments: Any) -> SklearnTeacher:
    """The teacher of a fitted estimator: its classes are numbers or the names of the data's classes.

    A regressor predicts in the unit of the targets, and teaches in that of the student's.
    """
    if isinstance(material.task, Regression):
        return SklearnTeacher(estimator, mean=material.task.mean, std=material.task.std, **arguments)
    names = material.data.class_names
    names = names if names is not None and len(names) == material.classes else None
    return SklearnTeacher(estimator, classes=material.classes, class_names=names, **arguments)


def open_estimator(estimator: Any, name: str, material: ComparisonData) -> EstimatorModule:
    """Wrap the result of a user's function: an estimator, fitted or not, or a `SklearnTeacher`.

    Raises:
        LimbeckError: If it has no probabilities, or cannot be fitted to the data.
    """
    check_estimator_task(estimator, f"{name} returned", material)
    if isinstance(estimator, SklearnTeacher):
        return EstimatorModule(estimator, fitted=True)
    numbers = is_regressor(estimator)
    if not numbers and not hasattr(estimator, "predict_proba"):
        raise LimbeckError(
            f"{name} returned a {type(estimator).__name__}, which has no predict_proba. A job's teacher is a torch "
            "module, a classifier with probabilities, a regressor, or a limbeck.SklearnTeacher."
        )
    fitted = is_fitted(estimator) if numbers else hasattr(estimator, "classes_")
    if not fitted:
        fit_rows(estimator, name, *read_rows(subsample(material.train, _FEW, seed=0), material))
    return EstimatorModule(make_estimator_teacher(estimator, material), fitted=fitted)


def fit_estimator(module: EstimatorModule, name: str, material: ComparisonData) -> int:
    """Fit the estimator to the training data; returns the number of rows with a label, or with all targets.

    Raises:
        LimbeckError: If the fit fails.
    """
    rows = fit_rows(module.teacher.estimator, name, *read_rows(material.train, material))
    module.teacher.read_classes()
    return rows


def unknown_sizes(models: Iterable[nn.Module], cost: Mapping[str, Any]) -> dict[str, Any]:
    """The entries of a teacher's row for sizes that PyTorch cannot count; empty if it can.

    The size of an estimator is that of its pickle. The size of any other module without tensors (a wrapper around a
    program) is unknown.
    """
    bare = [model for model in models if not count_parameters(model) and not size_in_bytes(model)]
    if not bare:
        return {}
    name, size = type(bare[0]).__name__, None
    note = f"{name} holds no tensors of PyTorch, so its parameters and its size are not known"
    if isinstance(bare[0], EstimatorModule):
        name, size = type(bare[0].teacher.estimator).__name__, _pickled_bytes(bare[0].teacher.estimator)
        weighs = "its MB are those of its pickle" if size else "it cannot be pickled, so its size is not known"
        note = f"{name} has no parameters to count, and {weighs}"
    # PyTorch's counts of memory and operations do not include the estimator's.
    costs = {key: value if "milliseconds" in key or key == "threads" else None for key, value in cost.items()}
    megabytes = None if size is None else round(size / 1e6, 6)
    return {
        "parameters": None, "megabytes": megabytes, "size_note": note,
        **({"cost": {**costs, "disk_bytes": size}} if costs else {}),
    }  # fmt: skip


class _ByteCounter:
    """A file that only counts its bytes: the pickle of a large forest is as large as the forest."""

    bytes = 0

    def write(self, data: Any) -> int:
        size = memoryview(data).nbytes
        self.bytes += size
        return size


def _pickled_bytes(estimator: Any) -> int | None:
    file = _ByteCounter()
    try:
        pickle.Pickler(file).dump(estimator)
    except Exception:  # each library has its own
        return None
    return file.bytes


def read_rows(examples: Dataset, material: ComparisonData) -> tuple[Tensor, Tensor, Tensor]:
    """The rows of examples as an estimator reads them, their labels or targets, and which rows have them.

    Args:
        examples: The examples.
        material: The data, with the task.
    """
    batches = eval_batches(examples)
    inputs = torch.cat([torch.as_tensor(material.data.preprocess(batch)).flatten(1) for batch in batches])
    if isinstance(material.task, Regression):
        targets = material.task.stored_targets(examples)
        labeled = ~targets.isnan().any(1)
        answers = targets[:, 0] if targets.shape[1] == 1 else targets
    else:
        answers = torch.cat([batch.labels for batch in batches if batch.labels is not None])
        labeled = answers != IGNORED
    return inputs, answers, labeled


def fit_rows(estimator: Any, name: str, inputs: Tensor, answers: Tensor, labeled: Tensor) -> int:
    """Fit an estimator to the rows that have a label, or all targets; returns their number.

    Raises:
        LimbeckError: If the fit fails.
    """
    try:
        estimator.fit(inputs[labeled].numpy(), answers[labeled].numpy())
    except Exception as error:  # each library has its own
        raise LimbeckError(
            f"The estimator of {name} cannot be fitted to the data: {type(error).__name__}: {error}"
        ) from error
    return int(labeled.sum())


def open_estimator_student(estimator: Any, name: str, material: ComparisonData, *, seed: int) -> EstimatorModule:
    """Make a student of an estimator, fitted to a few rows only.

    Args:
        estimator: The estimator; it is fitted anew.
        name: Its name in the job, for messages.
        material: The data.
        seed: Its random state, where it has none of its own.

    Raises:
        LimbeckError: If the task is another one, or the estimator cannot learn soft labels.
    """
    who, kind = f"student: {name} is", type(estimator).__name__
    numbers = is_regressor(estimator)
    if not isinstance(material.task, (Classification, Regression)) or numbers != isinstance(material.task, Regression):
        raise LimbeckError(
            f"{who} a {kind}, which learns {'numbers' if numbers else 'classes'} only, and this is a job of "
            f"{material.task.name}. Take {'a classifier' if numbers else 'a regressor'}, or a network, such as mlp."
        )
    if not numbers:
        check_takes_soft_labels(estimator, who)
        _turn_off_early_stopping(estimator, who)
    seed_estimator(estimator, seed)
    few = subsample(material.train, min(FEW_OF_STUDENT, len(material.train)), seed=0)
    fit_rows(estimator, name, *read_rows(few, material))
    return EstimatorModule(make_estimator_teacher(estimator, material), fitted=False)


def _turn_off_early_stopping(estimator: Any, who: str) -> None:
    if stops := without_early_stopping(estimator):
        warnings.warn(
            f"{who} a {type(estimator).__name__} with {stops[0]}=auto, which holds out rows from 10,000 on; with soft "
            f"labels these are copies of the rows that it learns from. It is {stops[0]}=false in all arms.",
            LimbeckWarning, stacklevel=2,
        )  # fmt: skip


def check_student_methods(job: Job) -> None:
    """Check that an estimator can learn by all methods of a job.

    Raises:
        LimbeckError: If it cannot.
    """
    for settings in (*job.methods, job.method):
        _check_method(settings, job.key_of(settings))
    if job.student.quantize is not None:
        raise LimbeckError("student.quantize rounds the weights of a network, and an estimator has none: leave it out.")


def _check_method(settings: MethodSettings, place: str) -> None:
    if settings.name not in _METHODS:
        raise unknown_name_error(
            "method for an estimator", settings.name, _METHODS,
            then="An estimator has no gradients: it learns labels and probabilities.",
        )  # fmt: skip
    for key, value in settings.hyper.items():
        if key not in _METHODS[settings.name]:
            raise UnknownNameError(f"{place}.{key}: an estimator has {', '.join(_METHODS[settings.name])} only.")
        if key == "temperature" and value != 1:
            raise LimbeckError(
                f"{place}.temperature={value}: an estimator predicts probabilities, which are those of temperature 1. "
                "Leave it out."
            )
