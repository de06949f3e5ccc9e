"""How does an estimator, fitted or not, become a teacher of the labels at hand?"""

from __future__ import annotations

from typing import Any, final

import numpy as np
from sklearn.base import clone
from sklearn.exceptions import NotFittedError
from sklearn.utils.validation import check_is_fitted
from torch import nn

from limbeck.errors import LimbeckError
from limbeck.signal import Batch
from limbeck.sources import Field
from limbeck.teachers import Live, Scikit, Teacher


def teacher_of(
    given: Any, rows: np.ndarray, labels: np.ndarray, classes: np.ndarray, random: np.random.RandomState
) -> tuple[Any, Teacher]:
    """The teacher as its owner knows it, fitted, and as limbeck asks it: by the raw columns, about numbered classes.

    Args:
        given: An estimator, a module, or a `Teacher`.
        rows: ``[n, features]``.
        labels: ``[n]``.
        classes: The distinct labels, sorted.
        random: For an estimator that names no random state of its own.

    Raises:
        LimbeckError: If an estimator has no ``predict_proba``, or was fitted on other columns or classes.
    """
    if isinstance(given, Teacher):
        return given, given
    if isinstance(given, nn.Module):
        return given, Live(given, reads=_raw)
    name = type(given).__name__
    if not hasattr(given, "predict_proba"):
        raise LimbeckError(
            f"The teacher {name} has no predict_proba, so it cannot say how sure it is; give a classifier that has, "
            "such as a random forest or gradient boosting (an SVC has it with probability=True)."
            if hasattr(given, "fit")
            else f"A {name} cannot teach; give a classifier, a torch.nn.Module, or a limbeck Teacher."
        )
    fitted = given if _is_fitted(given) else _seeded(clone(given), random).fit(rows, labels)
    _check(fitted, name, rows.shape[1], classes)
    places = np.searchsorted(classes, fitted.classes_)
    return fitted, Scikit(Numbered(fitted, places), reads=Field("raw"), classes=len(classes))


@final
class Numbered:
    """A fitted classifier whose classes are numbers, in the place of whatever labels they are.

    Args:
        estimator: The classifier.
        places: For each of its classes, in its order, the number that it has here.
    """

    def __init__(self, estimator: Any, places: np.ndarray) -> None:
        self.estimator = estimator
        self.classes_ = places

    def predict_proba(self, rows: np.ndarray) -> np.ndarray:
        """As the classifier says."""
        found: np.ndarray = self.estimator.predict_proba(rows)
        return found


def _raw(batch: Batch) -> Any:
    return batch.extra["raw"].float()


def _is_fitted(estimator: Any) -> bool:
    try:
        check_is_fitted(estimator)
    except NotFittedError:
        return False
    return hasattr(estimator, "classes_")


def _seeded(estimator: Any, random: np.random.RandomState) -> Any:
    """With a random state wherever it has one and names none."""
    for key, value in sorted(estimator.get_params(deep=True).items()):
        if value is None and (key == "random_state" or key.endswith("__random_state")):
            estimator.set_params(**{key: int(random.randint(2**31 - 1))})
    return estimator


def _check(estimator: Any, name: str, features: int, classes: np.ndarray) -> None:
    read = getattr(estimator, "n_features_in_", features)
    if read != features:
        raise LimbeckError(
            f"The teacher {name} was fitted on {read} columns, and X has {features}; fit it on these, or give one that "
            "is not fitted."
        )
    known = estimator.classes_
    if isinstance(known, list) or set(np.asarray(known).tolist()) != set(classes.tolist()):
        theirs = (known if isinstance(known, list) else known.tolist())[:8]
        raise LimbeckError(
            f"The teacher {name} was fitted on the classes {theirs}, and y has {classes.tolist()[:8]}: it would teach "
            "answers to another question. Fit it on these labels, or give one that is not fitted."
        )
