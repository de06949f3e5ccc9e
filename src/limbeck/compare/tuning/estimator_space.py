"""Search spaces of estimators as students: their own arguments, and how they learn from a teacher."""

from __future__ import annotations

import time
from collections.abc import Mapping
from typing import Any, cast

from limbeck.compare.arm_recipes import SMOOTHED
from limbeck.compare.arms import evaluate_development
from limbeck.compare.comparison_data import ComparisonData
from limbeck.compare.estimator_student import fit_student
from limbeck.compare.student_start import make_student
from limbeck.job import Job
from limbeck.methods import method
from limbeck.methods.card import SearchRange
from limbeck.teachers import Teacher
from limbeck.teachers.estimators import ESTIMATORS, EstimatorModule, make_estimator

_RATE = SearchRange(0.02, 0.3, log=True)
_COUNT = SearchRange(30, 300, log=True, whole=True)
_LEAVES = SearchRange(7, 63, log=True, whole=True)
_DEPTH = SearchRange(2, 8, whole=True)
_ROWS = SearchRange(1, 50, log=True, whole=True)
RANGES: Mapping[str, Mapping[str, SearchRange]] = {
    "hist_gradient_boosting": {
        "learning_rate": _RATE, "max_iter": _COUNT, "max_leaf_nodes": _LEAVES, "min_samples_leaf": _ROWS,
    },
    "gradient_boosting": {"learning_rate": _RATE, "n_estimators": _COUNT, "max_depth": _DEPTH},
    "random_forest": {"min_samples_leaf": _ROWS},
    "extra_trees": {"min_samples_leaf": _ROWS},
    "decision_tree": {"min_samples_leaf": _ROWS, "ccp_alpha": SearchRange(0.0, 0.02)},
    "xgboost": {"learning_rate": _RATE, "n_estimators": _COUNT, "max_depth": _DEPTH},
    "lightgbm": {"learning_rate": _RATE, "n_estimators": _COUNT, "num_leaves": _LEAVES},
    "catboost": {"learning_rate": _RATE, "iterations": _COUNT, "depth": _DEPTH},
}  # fmt: skip
"""The arguments that are searched, by the name of the estimator. Forests gain little from more trees than a job has."""
_START = {
    "xgboost": {"learning_rate": 0.3, "n_estimators": 100, "max_depth": 6},
    "catboost": {"learning_rate": 0.1, "iterations": 300, "depth": 6},
}
"""The values of arguments that the libraries have as None until the fit."""
_OF_METHODS = {"hinton": ("weight",), "label_smoothing": ("smoothing",)}


def has_estimator_student(job: Job) -> bool:
    """Whether the student of a job is an estimator by name."""
    return job.student.model in ESTIMATORS


def start_of_estimator(job: Job, arm: str, smoothing: float) -> dict[str, int | float]:
    """The job's own values of an arm: the numbers among the estimator's arguments, and of how it learns."""
    name = job.student.model
    values = {
        **make_estimator(name).get_params(deep=False),
        **_START.get(name, {}),
        **job.of_arm(arm).student.arguments,
    }
    start = {key: value for key, value in values.items() if _is_number(value)}
    if arm == SMOOTHED:
        return {**start, "smoothing": smoothing}
    if (settings := job.method_arms.get(arm)) is not None:
        defaults = method(settings.name).parameters
        own = {key: settings.hyper.get(key, defaults[key].default) for key in _OF_METHODS.get(settings.name, ())}
        start |= {key: value for key, value in own.items() if _is_number(value)}
    return start


def ranges_of_estimator(job: Job, arm: str) -> dict[str, SearchRange]:
    """The default ranges of an arm. A number without a range has its own value as the only one."""
    ranges = {
        key: SearchRange(value, value, whole=isinstance(value, int))
        for key, value in start_of_estimator(job, arm, 0.0).items()
    }
    settings = job.method_arms.get(arm)
    card = method("label_smoothing" if arm == SMOOTHED else "supervised" if settings is None else settings.name).card
    learned = {key: one for key, one in card.ranges.items() if key in ranges}
    return {**ranges, **RANGES[job.student.model], **learned}


def split_values(job: Job, arm: str, values: Mapping[str, Any]) -> tuple[dict[str, Any], dict[str, Any]]:
    """The values that belong to the estimator, and the others."""
    settings = job.method_arms.get(arm)
    others = {"smoothing"} if arm == SMOOTHED else set(_OF_METHODS.get(settings.name, ()) if settings else ())
    return (
        {key: value for key, value in values.items() if key not in others},
        {key: value for key, value in values.items() if key in others},
    )


def fit_trial(
    job: Job, arm: str, material: ComparisonData, teacher: Teacher, *, seed: int, smoothing: float
) -> tuple[dict[str, float], float]:
    """Fit the student of an arm, and return its metrics on development data and the seconds."""
    began = time.perf_counter()
    student = cast(EstimatorModule, make_student(job.of_arm(arm), material, seed=seed, teacher=teacher))
    fit_student(job, arm, student, material, teacher, seed=seed, smoothing=smoothing)
    measures = evaluate_development(student, material, teacher).measures
    return dict(measures), time.perf_counter() - began


def _is_number(value: Any) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool)
