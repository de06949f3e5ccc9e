"""`DistilledClassifier`: a scikit-learn estimator that distills."""

from __future__ import annotations

import copy
import os
from collections.abc import Sequence
from typing import Any, final

import numpy as np
import torch
from sklearn.base import BaseEstimator, ClassifierMixin, clone
from sklearn.ensemble import RandomForestClassifier
from sklearn.exceptions import NotFittedError
from sklearn.utils import check_random_state
from sklearn.utils.multiclass import check_classification_targets
from sklearn.utils.validation import check_is_fitted, validate_data
from torch import nn

from limbeck.batch import Batch
from limbeck.data import ArrayDataset, SelectColumn, ShuffledLoader
from limbeck.engine import Run, TrainConfig, distill, open_fabric
from limbeck.errors import LimbeckError
from limbeck.losses import Objective
from limbeck.methods.logits.hinton import hinton
from limbeck.model_call import logits_of
from limbeck.models import build, seeded
from limbeck.recipe import Optimizer, Part, Recipe, Stage
from limbeck.tap import FrozenParameters
from limbeck.teachers import CachedTeacher, ModelTeacher, PrecomputedTeacher, SklearnTeacher, Teacher


def make_teacher(
    teacher: Any, rows: np.ndarray, labels: np.ndarray, classes: np.ndarray, random: np.random.RandomState
) -> tuple[Any, Teacher]:
    """Fit the teacher if needed, and wrap it as a `Teacher` with raw columns and integer classes.

    Args:
        teacher: An estimator, a module, or a `Teacher`.
        rows: ``[n, features]``.
        labels: ``[n]``.
        classes: The distinct labels, sorted.
        random: Random state for an estimator without one.

    Returns:
        The fitted teacher, and the `Teacher`.

    Raises:
        LimbeckError: If an estimator has no ``predict_proba``, or was fitted on other columns or classes.
    """
    if isinstance(teacher, Teacher):
        return teacher, teacher
    if isinstance(teacher, nn.Module):
        return teacher, ModelTeacher(teacher, preprocess=_raw)
    name = type(teacher).__name__
    if not hasattr(teacher, "predict_proba"):
        raise LimbeckError(
            f"The teacher {name} has no predict_proba; use a classifier with predict_proba, such as a random forest or "
            "gradient boosting (an SVC has it with probability=True)."
            if hasattr(teacher, "fit")
            else f"A {name} is not a teacher; use a classifier, a torch.nn.Module, or a limbeck Teacher."
        )
    fitted = teacher if _is_fitted(teacher) else _seeded(clone(teacher), random).fit(rows, labels)
    _check(fitted, name, rows.shape[1], classes)
    places = np.searchsorted(classes, fitted.classes_)
    return fitted, SklearnTeacher(
        NumberedClassifier(fitted, places), preprocess=SelectColumn("raw"), classes=len(classes)
    )


@final
class NumberedClassifier:
    """A fitted classifier whose labels are replaced by integers.

    Args:
        estimator: The classifier.
        places: The integer of each of its classes, in the order of its ``classes_``.
    """

    def __init__(self, estimator: Any, places: np.ndarray) -> None:
        self.estimator = estimator
        self.classes_ = places

    def predict_proba(self, rows: np.ndarray) -> np.ndarray:
        """The probabilities of the classifier."""
        probabilities: np.ndarray = self.estimator.predict_proba(rows)
        return probabilities


def _raw(batch: Batch) -> Any:
    return batch.extra["raw"].float()


def _is_fitted(estimator: Any) -> bool:
    try:
        check_is_fitted(estimator)
    except NotFittedError:
        return False
    return hasattr(estimator, "classes_")


def _seeded(estimator: Any, random: np.random.RandomState) -> Any:
    """Set each random state of the estimator that is None."""
    for key, value in sorted(estimator.get_params(deep=True).items()):
        if value is None and (key == "random_state" or key.endswith("__random_state")):
            estimator.set_params(**{key: int(random.randint(2**31 - 1))})
    return estimator


def _check(estimator: Any, name: str, features: int, classes: np.ndarray) -> None:
    read = getattr(estimator, "n_features_in_", features)  # optional in the protocol of scikit-learn
    if read != features:
        raise LimbeckError(
            f"The teacher {name} was fitted on {read} columns, and X has {features}; fit it on these columns, or give "
            "an unfitted one."
        )
    fitted_classes = estimator.classes_
    if isinstance(fitted_classes, list) or set(np.asarray(fitted_classes).tolist()) != set(classes.tolist()):
        theirs = (fitted_classes if isinstance(fitted_classes, list) else fitted_classes.tolist())[:8]
        raise LimbeckError(
            f"The teacher {name} was fitted on the classes {theirs}, and y has {classes.tolist()[:8]}. Fit it on "
            "these labels, or give an unfitted one."
        )


class DistilledClassifier(ClassifierMixin, BaseEstimator):
    """A scikit-learn classifier that distills a large classifier into a small network.

    ``fit`` fits the teacher, unless it is fitted already, and distills it into the student. The teacher gets the
    columns unchanged, the student gets standardized columns. The loss is
    ``(1 - w) CE(labels) + w T^2 KL(teacher || student)`` (`limbeck.methods.logits.hinton`), or `objective`.

    A clone is not fitted, and neither is its teacher. Use ``sklearn.frozen.FrozenEstimator(teacher)`` to keep a fitted
    teacher in ``clone``, ``GridSearchCV`` and ``cross_val_score``.

    Args:
        teacher: A classifier with ``predict_proba``, fitted or not (random forest, gradient boosting, a pipeline, ...);
            a random forest by default. Or a limbeck `Teacher`, or a module, which gets the columns as float32 and whose
            outputs are in the order of ``classes_``.
        student: A ``torch.nn.Module`` from ``[n, features]`` to ``[n, classes]``, of which a copy is trained; or a
            function ``(features, classes) -> Module``. By default a multilayer perceptron.
        hidden: The widths of the default student's layers.
        temperature: T.
        weight: w, the teacher's share, from 0 to 1.
        objective: Another objective; `temperature` and `weight` are then ignored.
        epochs: Passes over the data.
        batch_size: Examples in a step.
        lr: The peak learning rate of AdamW.
        cache: A folder to cache the teacher's outputs in (`CachedTeacher`).
        random_state: Random state of the student, of the data order, and of a teacher without its own.

    Attributes:
        classes_: The labels.
        teacher_: The teacher, fitted.
        student_: The student: a plain module for standardized columns.
        mean_: The mean of each column, for standardization.
        scale_: The standard deviation of each column, for standardization.
        n_features_in_: The number of columns.

    Example:
        >>> from sklearn.datasets import load_iris
        >>> X, y = load_iris(return_X_y=True)
        >>> DistilledClassifier(epochs=40, random_state=0).fit(X, y).score(X, y) > 0.9
        True
    """

    def __init__(
        self,
        teacher: Any = None,
        *,
        student: Any = None,
        hidden: Sequence[int] = (64,),
        temperature: float = 2.0,
        weight: float = 0.9,
        objective: Objective | None = None,
        epochs: int = 50,
        batch_size: int = 64,
        lr: float = 1e-2,
        cache: str | os.PathLike[str] | None = None,
        random_state: Any = None,
    ) -> None:
        self.teacher = teacher
        self.student = student
        self.hidden = hidden
        self.temperature = temperature
        self.weight = weight
        self.objective = objective
        self.epochs = epochs
        self.batch_size = batch_size
        self.lr = lr
        self.cache = cache
        self.random_state = random_state

    def fit(self, X: Any, y: Any) -> DistilledClassifier:  # noqa: N803 - scikit-learn's own name
        """Fit the teacher if it is not fitted, and distill it.

        Raises:
            ValueError: If `X` or `y` are not valid for a classifier.
            LimbeckError: If the teacher has no ``predict_proba``, or was fitted on other columns or classes.
        """
        rows, y = validate_data(self, X, y, dtype=np.float64)
        check_classification_targets(y)
        self.classes_, codes = np.unique(y, return_inverse=True)
        if len(self.classes_) < 2:
            raise ValueError(f"A classifier needs 2 classes to learn from; y holds one class, {self.classes_[0]!r}.")
        random = check_random_state(self.random_state)
        self.mean_, spread = rows.mean(0), rows.std(0)
        self.scale_ = np.where(spread > 0, spread, 1.0)
        data = ArrayDataset(self._standardized(rows), codes, extra={"raw": rows})
        estimator = RandomForestClassifier() if self.teacher is None else self.teacher
        if not isinstance(estimator, (Teacher, nn.Module)):  # a forest is slow to fit: find errors in the student first
            self._rehearse(data, rows.shape[1])
        self.teacher_, teacher = make_teacher(estimator, rows, y, self.classes_, random)
        if self.cache is not None:
            teacher = CachedTeacher(teacher, self.cache, encoding="float32")
        elif isinstance(teacher, SklearnTeacher):
            teacher = PrecomputedTeacher(
                teacher.log_probabilities(rows)
            )  # a forest asked at every epoch is what takes the time
        seed = int(random.randint(2**31 - 1))
        run = distill(
            self._new_student(rows.shape[1], seed), self._recipe(teacher), data, seed=seed,
            epochs=self.epochs, batch_size=self.batch_size, optimizer=Optimizer(lr=self.lr), accelerator="cpu",
        )  # fmt: skip
        self.student_ = run.finish().student.eval()
        return self

    def _rehearse(self, data: ArrayDataset, features: int) -> None:
        """Run the student's first steps with a uniform teacher, to find errors before the teacher is fitted."""
        guess = PrecomputedTeacher(torch.full((len(data), len(self.classes_)), -np.log(len(self.classes_))))
        Run(
            {"student": self._new_student(features, 0)}, Recipe(self._recipe(guess)),
            ShuffledLoader(data, batch_size=self.batch_size),
            setting=TrainConfig(epochs=self.epochs, optimizer=Optimizer(lr=self.lr), rehearsal=True),
            fabric=open_fabric(accelerator="cpu"),
        ).finish()  # fmt: skip

    def predict_proba(self, X: Any) -> np.ndarray:  # noqa: N803
        """The student's probabilities, ``[n, classes]``, in the order of ``classes_``."""
        check_is_fitted(self)
        rows = validate_data(self, X, dtype=np.float64, reset=False)
        with FrozenParameters(self.student_), torch.no_grad():
            logits = logits_of(self.student_(self._standardized(rows)))
        probabilities: np.ndarray = logits.double().softmax(-1).numpy()
        return probabilities

    def predict(self, X: Any) -> np.ndarray:  # noqa: N803
        """The most probable class of each row."""
        likeliest = self.predict_proba(X).argmax(1)
        labels: np.ndarray = self.classes_[likeliest]
        return labels

    def _standardized(self, rows: np.ndarray) -> torch.Tensor:
        return torch.from_numpy(((rows - self.mean_) / self.scale_).astype(np.float32))

    def _recipe(self, teacher: Teacher) -> Part:
        if self.objective is not None:
            return Stage(copy.deepcopy(self.objective), teacher=teacher)
        return hinton(teacher, temperature=self.temperature, weight=self.weight)

    def _new_student(self, features: int, seed: int) -> nn.Module:
        classes = len(self.classes_)
        if self.student is None:
            return build("mlp", seed=seed, inputs=features, hidden=list(self.hidden), classes=classes)
        if isinstance(self.student, nn.Module):
            return copy.deepcopy(self.student)
        if not callable(self.student):
            raise LimbeckError(
                f"student is a torch.nn.Module, or a function (features, classes) -> Module; got {self.student!r}."
            )
        with seeded(seed):
            student: nn.Module = self.student(features, classes)
        return student
