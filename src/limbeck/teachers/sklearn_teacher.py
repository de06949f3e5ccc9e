"""`SklearnTeacher`: a scikit-learn estimator as a teacher."""

from __future__ import annotations

import hashlib
import pickle
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from typing import Any

import numpy as np
import torch
from torch import Tensor

from limbeck.batch import LOGITS, Outputs, missing
from limbeck.errors import LimbeckError
from limbeck.teachers.fingerprints import code_fingerprint
from limbeck.teachers.teacher import Preprocess, Teacher, TeacherFn, get_function_name


class SklearnTeacher(Teacher):
    """A fitted scikit-learn classifier: forests, boosted trees, anything with ``predict_proba``.

    Its probabilities become log-probabilities at ``logits``. Trees give exact zeros, whose logarithm no student can
    match: a probability below `floor` is raised to it and the row is scaled to sum to one again; the floor is recorded.
    It answers on the CPU from rows of numbers: inputs of more dimensions are flattened to ``[batch, features]``.

    **Say what it was fitted on** wherever the student reads something else: without `preprocess` it is asked about
    what the student reads. A forest that was fitted on bytes answers about standardized pixels as well, and the number
    of features tells nobody: ``SklearnTeacher(forest, preprocess=lambda batch: batch.inputs)`` asks it about the
    bytes. A job compares a teacher's accuracy with chance before it goes on; `limbeck.distill` and
    `limbeck.fill_cache` do not.

    Args:
        estimator: A fitted classifier whose classes are whole numbers 0, 1, 2, ... (a class that it never saw gets
            the floor).
        preprocess: Its own way from a batch to its rows: raw columns, where the student reads standardized ones.
        floor: The least probability, above 0 and below 1 / classes.
        classes: How many classes there are, where the estimator has not seen them all.

    Raises:
        LimbeckError: If the estimator has no ``predict_proba``, is not fitted, or names its classes otherwise.
    """

    def __init__(
        self, estimator: Any, *, preprocess: Preprocess | None = None, floor: float = 1e-6, classes: int | None = None
    ) -> None:
        name = type(estimator).__name__
        if not hasattr(estimator, "predict_proba"):
            raise LimbeckError(
                f"{name} has no predict_proba, so it cannot give soft targets; use a classifier that has. What "
                "a regressor predicts teaches as limbeck.PrecomputedTeacher(predictions): see docs/metrics.md."
            )
        if not hasattr(estimator, "classes_"):
            raise LimbeckError(f"{name} is not fitted yet: call .fit(rows, labels) first.")
        columns = _class_columns(name, estimator.classes_, classes)
        self.classes = classes or max(columns) + 1
        self._columns = columns
        if not 0.0 < floor < 1.0 / self.classes:
            raise LimbeckError(f"floor must be above 0 and below 1/{self.classes}; got {floor}.")
        self.estimator = estimator
        self.preprocess = preprocess
        self.floor = floor

    def read_classes(self) -> None:
        """Take up the classes that the estimator knows now, after it was fitted again.

        Raises:
            LimbeckError: If it names its classes otherwise than by numbers below `classes`.
        """
        self._columns = _class_columns(type(self.estimator).__name__, self.estimator.classes_, self.classes)

    def prepare(
        self, requires: frozenset[str], *, device: torch.device, preprocess: Preprocess
    ) -> AbstractContextManager[TeacherFn]:
        """It has ``logits`` and nothing else."""
        for address in requires - {LOGITS}:
            raise missing(address, [LOGITS], who=f"the estimator {type(self.estimator).__name__}")
        return self._answering(device, self.preprocess or preprocess)

    @contextmanager
    def _answering(self, device: torch.device, preprocess: Preprocess) -> Iterator[TeacherFn]:
        yield lambda batch: Outputs(logits=self.log_probabilities(preprocess(batch)).to(device))

    def log_probabilities(self, rows: Any) -> Tensor:
        """Rows -> log-probabilities ``[batch, classes]`` in nats, float32; the floor is raised before scaling."""
        array = rows.detach().cpu().numpy() if isinstance(rows, Tensor) else np.asarray(rows)
        found = self.estimator.predict_proba(array.reshape(len(array), -1))
        probabilities = np.zeros((len(array), self.classes))
        probabilities[:, self._columns] = found
        probabilities = np.maximum(probabilities, self.floor)
        return torch.from_numpy(np.log(probabilities / probabilities.sum(1, keepdims=True))).float()

    @property
    def fingerprint(self) -> str:
        """The hash of the fitted estimator, the floor and its own `preprocess`."""
        own = f"{self.floor!r} {code_fingerprint(self.preprocess)}"
        return hashlib.sha256(pickle.dumps(self.estimator) + own.encode()).hexdigest()

    def describe(self) -> dict[str, Any]:
        """Its class and its floor."""
        name = type(self.estimator).__name__
        own = {"floor": self.floor, "preprocess": get_function_name(self.preprocess), "fingerprint": self.fingerprint}
        return {"teacher": "SklearnTeacher", "estimator": name, **own}


def _class_columns(name: str, classes: Any, expected: int | None) -> list[int]:
    """Which class each column of predict_proba is."""
    if isinstance(classes, list):
        raise LimbeckError(f"{name} has several outputs; a teacher answers one question.")
    found = np.asarray(classes)
    whole = found.dtype.kind in "iub" or (found.dtype.kind == "f" and bool((found == found.round()).all()))
    if not whole or found.min() < 0 or (expected is not None and found.max() >= expected):
        limit = f"0 to {expected - 1}" if expected else "0, 1, 2, ..."
        raise LimbeckError(f"{name} knows the classes {found.tolist()[:8]}; fit it on class numbers {limit}.")
    return [int(c) for c in found]
