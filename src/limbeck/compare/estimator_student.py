"""An estimator of scikit-learn or its kind as the student of a job: boosted trees, forests."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from limbeck.compare.arm_recipes import ALONE, SHUFFLED, SMOOTHED, is_taught
from limbeck.compare.comparison_data import ComparisonData
from limbeck.compare.estimator import FEW_OF_STUDENT, fit_rows, read_rows
from limbeck.compare.student_start import make_student
from limbeck.compare.teacher import ask
from limbeck.data import counter_order, subsample
from limbeck.errors import LimbeckError
from limbeck.job import Job, MethodSettings
from limbeck.models import save
from limbeck.tasks import Regression
from limbeck.teachers import Teacher
from limbeck.teachers.estimators import (
    ESTIMATORS,
    SAVED_ESTIMATOR,
    EstimatorModule,
    fit_probabilities,
    save_estimator,
)


def fit_student(
    job: Job,
    arm: str,
    student: EstimatorModule,
    material: ComparisonData,
    teacher: Teacher,
    *,
    seed: int,
    smoothing: float,
) -> None:
    """Fit an estimator as the student of an arm, to labels, smoothed labels, or a mixture with the teacher's outputs.

    With a teacher, the soft label of a row is ``(1 - w)`` times its label and w times the teacher's probabilities, so
    the cross-entropy to it is the loss of `limbeck.methods.logits.hinton` at temperature 1. A row without a label has
    the teacher's. For numbers it is the same mixture of targets, because a squared error to both is, up to a constant,
    one to their mixture.

    Raises:
        LimbeckError: If the fit fails.
    """
    estimator = student.teacher.estimator
    rows, answers, labeled = read_rows(material.train, material)
    settings = job.method_arms.get(arm, job.method)
    weight = _teachers_weight(settings) if is_taught(job, arm) else 0.0
    smooth = smoothing if arm == SMOOTHED else float(settings.hyper.get("smoothing", 0.1))
    smooth = smooth if arm == SMOOTHED or (is_taught(job, arm) and settings.name == "label_smoothing") else 0.0
    if arm == ALONE or not (weight or smooth):
        fit_rows(estimator, job.student.model, rows, answers, labeled)
    else:
        theirs = _teachers_answers(arm, material, teacher, seed=seed) if weight else None
        if isinstance(material.task, Regression):
            _fit_numbers(estimator, job, rows, answers, labeled, theirs, weight)
        else:
            _fit_classes(estimator, job, rows, answers, labeled, theirs, weight, smooth, material.classes)
    student.teacher.read_classes()
    student.fitted = True


def _teachers_weight(settings: MethodSettings) -> float:
    if settings.name != "hinton":
        return 0.0
    return 1.0 if settings.hyper.get("labels", True) is False else float(settings.hyper.get("weight", 0.9))


def _teachers_answers(arm: str, material: ComparisonData, teacher: Teacher, *, seed: int) -> Tensor:
    """The teacher's outputs for the training data; those of other rows for the control."""
    answers = ask(teacher, material.train, material)
    if arm != SHUFFLED:
        return answers
    return answers[counter_order(len(answers), seed=seed, epoch=0, stream="shuffled teacher")]


def _fit_classes(
    estimator: Any,
    job: Job,
    rows: Tensor,
    labels: Tensor,
    labeled: Tensor,
    logits: Float[Tensor, "rows classes"] | None,
    weight: float,
    smoothing: float,
    classes: int,
) -> None:
    hard = torch.nn.functional.one_hot(labels.clamp_min(0), classes).double()
    soft = (1 - smoothing) * hard + smoothing / classes
    if logits is not None:
        theirs = logits.double().softmax(-1)
        soft = torch.where(labeled.unsqueeze(1), (1 - weight) * soft + weight * theirs, theirs)
        labeled = torch.ones_like(labeled)
    _try_fit(job, lambda: fit_probabilities(estimator, rows[labeled].numpy(), soft[labeled].numpy()))


def _fit_numbers(
    estimator: Any, job: Job, rows: Tensor, targets: Tensor, labeled: Tensor, theirs: Tensor | None, weight: float
) -> None:
    own = targets if targets.ndim == 2 else targets.unsqueeze(1)
    if theirs is not None:
        mixed = (1 - weight) * own + weight * theirs
        own = torch.where(labeled.unsqueeze(1), mixed, theirs)
        labeled = torch.ones_like(labeled)
    answers = own[:, 0] if own.shape[1] == 1 else own
    fit_rows(estimator, job.student.model, rows, answers, labeled)


def _try_fit(job: Job, fit: Any) -> None:
    try:
        fit()
    except LimbeckError:
        raise
    except Exception as error:  # each library has its own
        raise LimbeckError(
            f"The student {job.student.model} cannot be fitted to soft labels: {type(error).__name__}: {error}"
        ) from error


def save_student(student: EstimatorModule, folder: Path, metadata: dict[str, Any]) -> None:
    """Write a student's folder: its description, and the estimator as a file of joblib."""
    save(student, folder, metadata=metadata)
    save_estimator(student, folder / SAVED_ESTIMATOR)


def few_rows(material: ComparisonData) -> ComparisonData:
    """The data with few training rows, to try a fit."""
    return material._replace(train=subsample(material.train, min(FEW_OF_STUDENT, len(material.train)), seed=0))


def check_is_tunable(job: Job, material: ComparisonData, teacher: Teacher) -> None:
    """Check that the student is a network, or an estimator by name, whose arguments are known.

    Raises:
        LimbeckError: If it is an estimator of the user's own.
    """
    own = job.student.model not in ESTIMATORS
    if own and isinstance(make_student(job, material, seed=0, teacher=teacher), EstimatorModule):
        raise LimbeckError(
            f"limbeck tune does not know the arguments of the estimator {job.student.model}. Name one of "
            f"{', '.join(ESTIMATORS)}; or search with scikit-learn (GridSearchCV), and type what it found: --set "
            "student.KEY=VALUE."
        )
