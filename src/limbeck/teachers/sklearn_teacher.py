"""`SklearnTeacher`: a scikit-learn estimator as a teacher."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple, final

import numpy as np
import torch
from torch import Tensor

from limbeck.batch import LOGITS, Outputs, missing_output_error
from limbeck.consent import check_consent
from limbeck.errors import DataError, LimbeckError
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
            DataError: If the file is damaged, or holds something else.
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
        if not hasattr(estimator, "predict_proba") or not hasattr(estimator, "classes_"):
            raise DataError(f"{self.path} holds a {type(estimator).__name__}, which is no fitted classifier.")
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
    """A fitted scikit-learn classifier: a forest, boosted trees, or anything else with ``predict_proba``.

    Its log-probabilities are the ``logits``. Trees give exact zeros, whose logarithm no student can match: a
    probability below `floor` is raised to it, and the row is scaled to sum to one again. The floor is recorded.
    It runs on the CPU; inputs with more dimensions are flattened to ``[batch, features]``.

    **Pass `preprocess` if the estimator was fitted on other inputs than the student's**; without it, the estimator gets
    the student's inputs. A forest that was fitted on bytes also accepts standardized pixels, and the result is wrong
    without an error. ``SklearnTeacher(forest, preprocess=lambda batch: batch.inputs)`` passes it the bytes. A job
    compares the teacher's accuracy with chance before it goes on; `limbeck.distill` and `limbeck.fill_cache` do not.

    Args:
        estimator: A fitted classifier whose classes are the integers 0, 1, 2, ..., or names in `class_names` (a class
            that was not in its training data gets the floor).
        preprocess: The estimator's own function from a batch to its rows: raw columns, where the student reads
            standardized ones.
        floor: The least probability, above 0 and below 1 / classes.
        classes: The number of classes, where the estimator's training data lack some.
        class_names: The names of the classes in class order, for an estimator that was fitted on names.

    Raises:
        LimbeckError: If the estimator has no ``predict_proba``, is not fitted, or has other class labels.
    """

    def __init__(
        self,
        estimator: Any,
        *,
        preprocess: Preprocess | None = None,
        floor: float = 1e-6,
        classes: int | None = None,
        class_names: Sequence[str] | None = None,
    ) -> None:
        name = type(estimator).__name__
        if not hasattr(estimator, "predict_proba"):
            raise LimbeckError(
                f"{name} has no predict_proba, so it gives no soft targets. Use a classifier that has it. For the "
                "predictions of a regressor, use limbeck.PrecomputedTeacher(predictions): see docs/metrics.md."
            )
        if not hasattr(estimator, "classes_"):
            raise LimbeckError(f"{name} is not fitted yet: call .fit(rows, labels) first.")
        classes = len(class_names) if class_names else classes
        self.class_names = tuple(class_names or ())
        columns = _class_columns(name, estimator.classes_, classes, self.class_names)
        self.classes = classes or max(columns) + 1
        self._columns = columns
        if not 0.0 < floor < 1.0 / self.classes:
            raise LimbeckError(f"floor must be above 0 and below 1/{self.classes}; got {floor}.")
        self.estimator = estimator
        self.preprocess = preprocess
        self.floor = floor

    def read_classes(self) -> None:
        """Update the columns after the estimator was fitted again.

        Raises:
            LimbeckError: If its class labels are no integers below `classes`.
        """
        name = type(self.estimator).__name__
        self._columns = _class_columns(name, self.estimator.classes_, self.classes, self.class_names)

    def open(self, context: TeacherContext) -> TeacherSession:
        """Check that only ``logits`` are required."""
        for address in context.requires - {LOGITS}:
            raise missing_output_error(address, [LOGITS], who=f"the estimator {type(self.estimator).__name__}")
        preprocess, device = self.preprocess or context.preprocess, context.device
        return FunctionSession(lambda batch: Outputs(logits=self.log_probabilities(preprocess(batch)).to(device)))

    def log_probabilities(self, rows: Any) -> Tensor:
        """Log-probabilities ``[batch, classes]`` in nats, float32; the floor is applied before scaling."""
        array = rows.detach().cpu().numpy() if isinstance(rows, Tensor) else np.asarray(rows)
        predicted = self.estimator.predict_proba(array.reshape(len(array), -1))
        probabilities = np.zeros((len(array), self.classes))
        probabilities[:, self._columns] = predicted
        probabilities = np.maximum(probabilities, self.floor)
        return torch.from_numpy(np.log(probabilities / probabilities.sum(1, keepdims=True))).float()

    @property
    def fingerprint(self) -> str:
        """The hash of the fitted estimator, the floor and `preprocess`."""
        own = f"{self.floor!r} {code_fingerprint(self.preprocess)}"
        if _has_names(self.estimator.classes_):
            own += f" {self._columns}"
        return hashlib.sha256(f"{hash_object(self.estimator)} {own}".encode()).hexdigest()

    def describe(self) -> dict[str, Any]:
        """Its class and its floor."""
        name = type(self.estimator).__name__
        own = {"floor": self.floor, "preprocess": get_function_name(self.preprocess), "fingerprint": self.fingerprint}
        return {"teacher": "SklearnTeacher", "estimator": name, **own}


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
