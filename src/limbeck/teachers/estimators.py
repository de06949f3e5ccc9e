"""Estimators of scikit-learn and its kind: made by name, fitted to soft labels, called like a network, and saved."""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float
from torch import Tensor, nn

from limbeck.atomic_io import atomic_write
from limbeck.errors import ArgumentError, LimbeckError, UnknownArgumentError, nearest, unknown_name_error
from limbeck.optional_imports import import_optional
from limbeck.teachers.sklearn_teacher import SklearnTeacher

ESTIMATORS: Mapping[str, tuple[str, str]] = {
    "hist_gradient_boosting": ("sklearn.ensemble", "HistGradientBoosting"),
    "gradient_boosting": ("sklearn.ensemble", "GradientBoosting"),
    "random_forest": ("sklearn.ensemble", "RandomForest"),
    "extra_trees": ("sklearn.ensemble", "ExtraTrees"),
    "decision_tree": ("sklearn.tree", "DecisionTree"),
    "xgboost": ("xgboost", "XGB"),
    "lightgbm": ("lightgbm", "LGBM"),
    "catboost": ("catboost", "CatBoost"),
}
"""Estimators by name: the module, and the class without ``Classifier`` or ``Regressor``."""
SAVED_ESTIMATOR = "estimator.joblib"
"""The file of an estimator in the folder of a student."""
_LEAST = 1e-3
"""Classes with a smaller probability get no copy of a row."""
_TREES = ("n_estimators", "max_iter", "iterations")
_SYNONYMS: Mapping[str, tuple[str, ...]] = {
    "lr": ("learning_rate", "learning_rate_init"), "eta": ("learning_rate",), "epochs": _TREES, "trees": _TREES,
    **dict.fromkeys(_TREES, _TREES), "depth": ("max_depth",), "seed": ("random_state",),
}  # fmt: skip
"""Names of other libraries for arguments of estimators, which are too different to be the nearest."""
_ROW_COUNTS = ("min_samples_leaf", "min_samples_split", "min_child_samples")
"""Arguments that count rows. Copies of a row are counted as well, so these numbers grow with the copies."""


_SPLITS_ROWS: Mapping[str, tuple[tuple[Any, ...], str]] = {
    "early_stopping": ((False, "auto"), "Set early_stopping=false."),
    "n_iter_no_change": ((None,), "Set n_iter_no_change=null."),
    "cv": (("prefit",), "Take the classifier without cross-validation."),
}
"""Arguments with which an estimator holds out some rows by itself: the values without, and what to do instead."""


class EstimatorModule(nn.Module):
    """An estimator as a module, so that it can be timed and evaluated like a network.

    Args:
        teacher: The estimator, with the classes of the data or the scale of the targets.
        fitted: Whether it is fitted to all of its data.
    """

    def __init__(self, teacher: SklearnTeacher, *, fitted: bool) -> None:
        super().__init__()
        self.teacher = teacher
        self.fitted = fitted

    def forward(self, inputs: Tensor) -> Tensor:
        """Log-probabilities in nats, or the scaled predictions of a regressor."""
        return self.teacher.outputs(inputs)


def name_estimator(settings: Mapping[str, Any]) -> dict[str, Any]:
    """The settings of a model in a job, with ``model`` in place of ``estimator``.

    Raises:
        LimbeckError: If the estimator is unknown, or there is a model too.

    Example:
        >>> name_estimator({"estimator": "random_forest", "n_estimators": 3})
        {'n_estimators': 3, 'model': 'random_forest'}
    """
    rest = {str(key): value for key, value in settings.items() if key != "estimator"}
    if "estimator" not in settings:
        return rest
    if rest.get("model"):
        raise LimbeckError(f"estimator={settings['estimator']} and model={rest['model']} are two models; give one.")
    if settings["estimator"] not in ESTIMATORS:
        raise unknown_name_error("estimator", str(settings["estimator"]), ESTIMATORS)
    return {**rest, "model": settings["estimator"]}


def make_estimator(name: str, *, regression: bool = False, **arguments: Any) -> Any:
    """Make an estimator that is not fitted yet.

    The boosted trees of scikit-learn stop early by themselves from 10,000 rows on. With soft labels that would judge
    them on copies of the rows that they learn from, so ``hist_gradient_boosting`` stops early only if it is asked to.

    Args:
        name: One of `ESTIMATORS`.
        regression: Whether it is a regressor.
        **arguments: Its arguments.

    Raises:
        UnknownNameError: If the name or an argument is unknown; the nearest is given.
        LimbeckError: If its library is not installed.

    Example:
        >>> make_estimator("random_forest", n_estimators=3)
        RandomForestClassifier(n_estimators=3)
    """
    if name not in ESTIMATORS:
        raise unknown_name_error("estimator", name, ESTIMATORS, argument="estimator")
    module, stem = ESTIMATORS[name]
    if module.startswith("sklearn"):
        library = import_optional(module, extra="sklearn", purpose=f"The estimator {name}")
    else:
        library = _import_trees(module)
    kind = getattr(library, f"{stem}{'Regressor' if regression else 'Classifier'}")
    if name == "hist_gradient_boosting":
        arguments = {"early_stopping": False, **arguments}
    try:
        return kind(**arguments)
    except TypeError as error:
        known = [one for one in inspect.signature(kind).parameters if one not in ("args", "kwargs")]
        wrong = next((one for one in arguments if one not in known), None)
        if wrong is None:
            raise ArgumentError(f"{kind.__name__} does not take {arguments}: {error}.", argument="") from error
        near = next((one for one in _SYNONYMS.get(wrong, ()) if one in known), None) or nearest(wrong, known)
        hint = f" Did you mean {near!r}?" if near else ""
        raise UnknownArgumentError(
            f"{kind.__name__} takes no argument {wrong!r}.{hint} It takes: {', '.join(known)}.",
            name=wrong,
            argument=near or "",
        ) from error


def _import_trees(module: str) -> Any:
    """A library of boosted trees, which is in no extra of limbeck.

    Raises:
        LimbeckError: If it is not installed.
    """
    try:
        return __import__(module)
    except ImportError as error:
        raise LimbeckError(f"The estimator {module} needs the package {module}: pip install {module}") from error


def seed_estimator(estimator: Any, seed: int) -> Any:
    """Set each random state of an estimator that is None, also of its parts."""
    parameters = estimator.get_params(deep=True)
    for key in sorted(parameters):
        if parameters[key] is None and (key == "random_state" or key.endswith("__random_state")):
            estimator.set_params(**{key: seed})
    return estimator


def check_takes_soft_labels(estimator: Any, who: str) -> None:
    """Check that a classifier can learn from soft labels: it takes weights of rows, and predicts probabilities.

    Args:
        estimator: The classifier.
        who: The begin of the message.

    Raises:
        LimbeckError: If it cannot.
    """
    name = type(estimator).__name__
    if not hasattr(estimator, "predict_proba"):
        raise LimbeckError(
            f"{who} a {name}, which has no predict_proba: it cannot learn soft labels. Take a classifier with "
            f"probabilities, such as one of {', '.join(ESTIMATORS)}."
        )
    if "sample_weight" not in inspect.signature(estimator.fit).parameters:
        raise LimbeckError(
            f"{who} a {name}, whose fit() takes no sample_weight: it cannot learn soft labels, in which a row stands "
            f"once for each class, with the probability as its weight. Take one of {', '.join(ESTIMATORS)}."
        )
    own = estimator.get_params(deep=False)
    if "early_stopping" in own:
        own.pop("n_iter_no_change", None)  # it counts only with early stopping, or on training rows
    for key, (harmless, instead) in _SPLITS_ROWS.items():
        if key in own and own[key] not in harmless:
            raise LimbeckError(
                f"{who} a {name} with {key}={own[key]}, which holds out some rows: with soft labels these are copies "
                f"of the rows that it learns from. {instead}"
            )


def fit_probabilities(
    estimator: Any, rows: Float[np.ndarray, "rows features"], probabilities: Float[np.ndarray, "rows classes"]
) -> Any:
    r"""Fit a classifier to a distribution over classes for each row.

    Each row stands once for each class, with its probability :math:`p_{ic}` as the weight of that copy. For a
    classifier that minimizes a weighted sum of losses this is the cross-entropy to the soft labels,
    :math:`\sum_i \sum_c p_{ic} (-\log q_c(x_i))`, and a tree counts the expected number of rows of each class. Copies
    with a probability below 0.001 are left out, and the others of the row share their weight. Arguments that count rows
    (``min_samples_leaf``) are multiplied by the mean number of copies for the fit, because copies of a row fall into
    the same leaf. ``early_stopping="auto"`` of scikit-learn, which holds out a tenth of more than 10,000 rows, is off
    for the fit: of the copies of a row, some would be learned and some held out.

    Args:
        estimator: The classifier, whose ``fit`` takes ``sample_weight``.
        rows: The rows.
        probabilities: A distribution for each row.

    Returns:
        The estimator, fitted, with the classes 0, 1, 2, ...

    Example:
        >>> import numpy as np
        >>> tree = make_estimator("decision_tree", criterion="log_loss")
        >>> fit_probabilities(tree, np.zeros((2, 1)), np.array([[0.9, 0.1], [0.5, 0.5]])).predict_proba([[0.0]])
        array([[0.7, 0.3]])

    Source: Che et al., 2015, arXiv:1512.03542, for boosted trees that learn a network's soft predictions.
    """
    shares = np.where(probabilities >= _LEAST, probabilities, 0.0).astype(np.float64)
    shares[np.arange(len(shares)), probabilities.argmax(1)] = probabilities.max(1)
    shares /= shares.sum(1, keepdims=True)
    row, label = np.nonzero(shares)
    own = {name: value for name, value in estimator.get_params().items() if name in _ROW_COUNTS}
    copies = len(row) / max(len(rows), 1)
    counts = {name: round(value * copies) for name, value in own.items() if isinstance(value, int)}
    stops = {name: False for name, value in estimator.get_params().items() if _stops_by_size(name, value)}
    estimator.set_params(**counts, **stops)
    try:
        estimator.fit(rows[row], label, sample_weight=shares[row, label])
    finally:
        estimator.set_params(**{name: own[name] for name in counts}, **dict.fromkeys(stops, "auto"))
    return estimator


def _stops_by_size(name: str, value: Any) -> bool:
    return name.rpartition("__")[2] == "early_stopping" and value == "auto"


def without_early_stopping(estimator: Any) -> list[str]:
    """Turn off the early stopping that depends on the number of rows, so that all arms of a job are fitted alike.

    Returns:
        The arguments that were ``auto``, also those of parts.

    Example:
        >>> trees = make_estimator("hist_gradient_boosting", early_stopping="auto")
        >>> without_early_stopping(trees), trees.early_stopping
        (['early_stopping'], False)
    """
    stops = [name for name, value in estimator.get_params().items() if _stops_by_size(name, value)]
    estimator.set_params(**dict.fromkeys(stops, False))
    return stops


def save_estimator(module: EstimatorModule, path: Path) -> None:
    """Write the estimator of a module to a file, with joblib."""
    joblib = import_optional("joblib", extra="sklearn", purpose="Saving an estimator")
    with atomic_write(path) as partial:
        joblib.dump(module.teacher.estimator, partial)
