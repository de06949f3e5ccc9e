"""`SklearnTeacher`: a scikit-learn estimator as a teacher."""

from __future__ import annotations

import hashlib
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple, final

import numpy as np
import torch
from torch import Tensor

from limbeck.batch import LOGITS, Outputs, missing_output_error
from limbeck.consent import check_consent
from limbeck.errors import ArgumentError, DataError, LimbeckError
from limbeck.optional_imports import import_optional
from limbeck.teachers.fingerprints import code_fingerprint, hash_object
from limbeck.teachers.teacher import (
    FunctionSession,
    Preprocess,
    Teacher,
    TeacherContext,
    TeacherSession,
    get_function_name,
)

_FLOOR = 1e-6
"""The least probability of a class."""


class EstimatorFile(NamedTuple):
    """A name of the form ``sklearn:forest.joblib``: a fitted estimator in a file.

    Attributes:
        path: The file: a pickle that `joblib` or `pickle` wrote, or a file of skops (``.skops``).
    """

    path: Path

    @classmethod
    def parse(cls, name: str) -> EstimatorFile | None:
        """Parse a name; None if it has another form.

        Example:
            >>> EstimatorFile.parse("sklearn:forest.joblib").path.name
            'forest.joblib'
        """
        library, _, path = name.partition(":")
        return cls(Path(path)) if library == "sklearn" and path else None

    def __str__(self) -> str:
        return f"sklearn:{self.path}"

    def open(self) -> Any:
        """The estimator. A pickle can run code, so inside a command the user has to agree, as for Python files.

        Raises:
            LimbeckError: If there is no such file, the user did not agree, or a package is missing.
            DataError: If the file is damaged, or holds anything but a fitted classifier or regressor.
        """
        if not self.path.is_file():
            raise LimbeckError(f"There is no file {self.path} (looked in {Path.cwd()}).")
        load = self._load_skops if self.path.suffix == ".skops" else self._load_pickle
        try:
            estimator = load()
        except LimbeckError:
            raise
        except Exception as error:  # a damaged pickle may raise any error
            reason = str(error).strip().partition("\n")[0]
            raise DataError(f"{self.path} cannot be read: {type(error).__name__}: {reason}.") from error
        classifier = hasattr(estimator, "predict_proba") and hasattr(estimator, "classes_")
        if not classifier and not (is_regressor(estimator) and is_fitted(estimator)):
            raise DataError(
                f"{self.path} holds a {type(estimator).__name__}, which is no fitted regressor, and no fitted "
                "classifier with predict_proba."
            )
        return estimator

    def _load_pickle(self) -> Any:
        check_consent(self.path, None)
        return import_optional("joblib", extra="sklearn", purpose=str(self)).load(self.path)

    def _load_skops(self) -> Any:
        skops = import_optional("skops.io", extra="sklearn", purpose=str(self))
        unknown = skops.get_untrusted_types(file=self.path)
        if unknown:
            check_consent(self.path, None)
        return skops.load(self.path, trusted=unknown)


@final
class SklearnTeacher(Teacher):
    """A fitted scikit-learn classifier or regressor: a forest, boosted trees, or anything else of its kind.

    The ``logits`` of a classifier, which needs ``predict_proba``, are its log-probabilities. Trees give exact zeros,
    whose logarithm no student can match: a probability below `floor` is raised to it, and the row is scaled to sum to
    one again. The ``logits`` of a regressor are ``(prediction - mean) / std`` for each target column, in the unit that
    a student learns (see `limbeck.tasks.Regression`). It runs on the CPU; inputs with more dimensions are flattened to
    ``[batch, features]``.

    **Pass `preprocess` if the estimator was fitted on other inputs than the student's**; without it, the estimator gets
    the student's inputs. A forest that was fitted on bytes also accepts standardized pixels, and the result is wrong
    without an error. ``SklearnTeacher(forest, preprocess=lambda batch: batch.inputs)`` passes it the bytes. A job
    compares the teacher's accuracy with chance before it goes on; `limbeck.distill` and `limbeck.fill_cache` do not.

    Args:
        estimator: A fitted classifier whose classes are the integers 0, 1, 2, ..., or names in `class_names` (a class
            that was not in its training data gets the floor); or a fitted regressor of one or several targets.
        preprocess: The estimator's own function from a batch to its rows: raw columns, where the student reads
            standardized ones.
        floor: The least probability, above 0 and below 1 / classes.
        classes: The number of classes, where the estimator's training data lack some.
        class_names: The names of the classes in class order, for an estimator that was fitted on names.
        mean: The mean of each target column, for a regressor whose student learns standardized targets.
        std: The standard deviation of each target column, likewise.

    Raises:
        LimbeckError: If the estimator is neither a regressor nor has ``predict_proba``, is not fitted, or has other
            class labels; if an argument is for the other kind.

    Example:
        >>> from sklearn.linear_model import LinearRegression
        >>> line = LinearRegression().fit([[0.0], [1.0]], [10.0, 12.0])
        >>> SklearnTeacher(line, mean=[11.0], std=[2.0]).outputs(torch.tensor([[0.0], [2.0]])).tolist()
        [[-0.5], [1.5]]
    """

    def __init__(
        self,
        estimator: Any,
        *,
        preprocess: Preprocess | None = None,
        floor: float = _FLOOR,
        classes: int | None = None,
        class_names: Sequence[str] | None = None,
        mean: Sequence[float] | None = None,
        std: Sequence[float] | None = None,
    ) -> None:
        self.estimator = estimator
        self.preprocess = preprocess
        self.floor = floor
        self.class_names = tuple(class_names or ())
        self.mean, self.std = tuple(mean or ()), tuple(std or ())
        self.is_regressor = is_regressor(estimator)
        if self.is_regressor:
            self._check_regressor(classes)
        else:
            self._check_classifier(classes)

    def _check_regressor(self, classes: int | None) -> None:
        name = type(self.estimator).__name__
        for argument, given in {"classes": classes, "class_names": self.class_names}.items():
            if given:
                raise ArgumentError(f"{name} predicts numbers, so it has no {argument}.", argument=argument)
        if self.floor != _FLOOR:
            raise ArgumentError(f"{name} predicts numbers, not probabilities: it has no floor.", argument="floor")
        if len(self.mean) != len(self.std) or not all(value > 0 for value in self.std):
            raise ArgumentError(
                f"mean and std are numbers for each target column, std above 0; got {self.mean} and {self.std}.",
                argument="std",
            )
        if not is_fitted(self.estimator):
            raise LimbeckError(f"{name} is not fitted yet: call .fit(rows, targets) first.")

    def _check_classifier(self, classes: int | None) -> None:
        name = type(self.estimator).__name__
        if self.mean or self.std:
            raise ArgumentError(f"{name} predicts classes; mean and std are for a regressor.", argument="mean")
        if not hasattr(self.estimator, "predict_proba"):
            raise LimbeckError(
                f"{name} has no predict_proba, so it gives no soft targets. Use a regressor, or a classifier that has "
                "it. Other predictions can teach as limbeck.PrecomputedTeacher(predictions): see docs/metrics.md."
            )
        if not hasattr(self.estimator, "classes_"):
            raise LimbeckError(f"{name} is not fitted yet: call .fit(rows, labels) first.")
        classes = len(self.class_names) or classes
        columns = _class_columns(name, self.estimator.classes_, classes, self.class_names)
        self.classes = classes or max(columns) + 1
        self._columns = columns
        if not 0.0 < self.floor < 1.0 / self.classes:
            raise LimbeckError(f"floor must be above 0 and below 1/{self.classes}; got {self.floor}.")

    def read_classes(self) -> None:
        """Update the columns after a classifier was fitted again.

        Raises:
            LimbeckError: If its class labels are no integers below `classes`.
        """
        if self.is_regressor:
            return
        name = type(self.estimator).__name__
        self._columns = _class_columns(name, self.estimator.classes_, self.classes, self.class_names)

    def open(self, context: TeacherContext) -> TeacherSession:
        """Check that only ``logits`` are required."""
        for address in context.requires - {LOGITS}:
            raise missing_output_error(address, [LOGITS], who=f"the estimator {type(self.estimator).__name__}")
        preprocess, device = self.preprocess or context.preprocess, context.device
        return FunctionSession(lambda batch: Outputs(logits=self.outputs(preprocess(batch)).to(device)))

    def outputs(self, rows: Any) -> Tensor:
        """Log-probabilities of a classifier, or scaled predictions of a regressor ``[batch, targets]``, float32.

        Raises:
            LimbeckError: If `mean` and `std` have another number of columns than the predictions.
        """
        if not self.is_regressor:
            return self.log_probabilities(rows)
        predicted = np.asarray(self.estimator.predict(_flat(rows)), dtype=np.float64)
        predicted = predicted.reshape(len(predicted), -1)
        if self.mean:
            if predicted.shape[1] != len(self.mean):
                raise LimbeckError(
                    f"{type(self.estimator).__name__} predicts {predicted.shape[1]} target columns, and mean and std "
                    f"have {len(self.mean)}."
                )
            predicted = (predicted - np.asarray(self.mean)) / np.asarray(self.std)
        return torch.from_numpy(predicted).float()

    def log_probabilities(self, rows: Any) -> Tensor:
        """Log-probabilities ``[batch, classes]`` in nats, float32; the floor is applied before scaling."""
        predicted = self.estimator.predict_proba(_flat(rows))
        probabilities = np.zeros((len(predicted), self.classes))
        probabilities[:, self._columns] = predicted
        probabilities = np.maximum(probabilities, self.floor)
        return torch.from_numpy(np.log(probabilities / probabilities.sum(1, keepdims=True))).float()

    @property
    def fingerprint(self) -> str:
        """The hash of the fitted estimator, the floor or the scale, and `preprocess`."""
        own = f"{self.floor!r} {code_fingerprint(self.preprocess)}"
        if self.is_regressor:
            own = f"{self.mean} {self.std} {code_fingerprint(self.preprocess)}"
        elif _has_names(self.estimator.classes_):
            own += f" {self._columns}"
        return hashlib.sha256(f"{hash_object(self.estimator)} {own}".encode()).hexdigest()

    def describe(self) -> dict[str, Any]:
        """Its class, and its floor or scale."""
        name = type(self.estimator).__name__
        kind = {"mean": [*self.mean], "std": [*self.std]} if self.is_regressor else {"floor": self.floor}
        own = {**kind, "preprocess": get_function_name(self.preprocess), "fingerprint": self.fingerprint}
        return {"teacher": "SklearnTeacher", "estimator": name, **own}


def is_regressor(estimator: Any) -> bool:
    """Whether an object is a scikit-learn regressor, fitted or not.

    Example:
        >>> from sklearn.linear_model import LinearRegression, LogisticRegression
        >>> is_regressor(LinearRegression()), is_regressor(LogisticRegression()), is_regressor("text")
        (True, False, False)
    """
    base = sys.modules.get("sklearn.base")  # where it is not imported, there is no estimator
    if base is None or not hasattr(estimator, "predict") or hasattr(estimator, "predict_proba"):
        return False
    try:
        return bool(base.is_regressor(estimator))
    except (AttributeError, TypeError):  # no estimator of scikit-learn: it has no tags
        return False


def is_fitted(estimator: Any) -> bool:
    """Whether a scikit-learn estimator is fitted."""
    validation = import_optional("sklearn.utils.validation", extra="sklearn")
    try:
        validation.check_is_fitted(estimator)
    except import_optional("sklearn.exceptions", extra="sklearn").NotFittedError:
        return False
    return True


def _flat(rows: Any) -> np.ndarray:
    """Rows ``[batch, features]`` on the CPU."""
    array: np.ndarray = rows.detach().cpu().numpy() if isinstance(rows, Tensor) else np.asarray(rows)
    return array.reshape(len(array), -1)


def _has_names(labels: Any) -> bool:
    return all(isinstance(label, str) for label in np.asarray(labels).tolist())


def _class_columns(name: str, classes: Any, expected: int | None, names: Sequence[str]) -> list[int]:
    """The class of each column of ``predict_proba``."""
    if isinstance(classes, list):
        raise LimbeckError(f"{name} has several outputs; a teacher needs a classifier with one.")
    labels = np.asarray(classes)
    if _has_names(labels):
        return _named_columns(name, labels.tolist(), names)
    whole = labels.dtype.kind in "iub" or (labels.dtype.kind == "f" and bool((labels == labels.round()).all()))
    if not whole or labels.min() < 0 or (expected is not None and labels.max() >= expected):
        limit = f"0 to {expected - 1}" if expected else "0, 1, 2, ..."
        raise LimbeckError(f"{name} has the classes {labels.tolist()[:8]}; fit it on the class numbers {limit}.")
    return [int(c) for c in labels]


def _named_columns(name: str, labels: list[str], names: Sequence[str]) -> list[int]:
    listed = ", ".join(labels[:8])
    if not names:
        raise LimbeckError(
            f"{name} has the classes {listed}: give their names in class order, class_names=[...], or fit it on the "
            "class numbers 0, 1, 2, ..."
        )
    unknown = [label for label in labels if label not in names]
    if unknown:
        raise LimbeckError(
            f"{name} has the classes {listed}, and the data have the classes {', '.join(names[:8])}: "
            f"{unknown[0]!r} is none of them. Fit it on the names of the data's classes, or on the class numbers 0 to "
            f"{len(names) - 1}."
        )
    return [list(names).index(label) for label in labels]
