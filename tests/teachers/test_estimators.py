"""Estimators that are made by name and fitted to soft labels: the exact cross-entropy, and what is refused."""

from __future__ import annotations

import numpy as np
import pytest
from sklearn.calibration import CalibratedClassifierCV
from sklearn.linear_model import LogisticRegression, LogisticRegressionCV, RidgeClassifier
from sklearn.neighbors import KNeighborsClassifier

from limbeck.errors import ArgumentError, LimbeckError
from limbeck.teachers.estimators import (
    check_takes_soft_labels,
    fit_probabilities,
    make_estimator,
    seed_estimator,
    without_early_stopping,
)


def soft_rows(rows=60, classes=3, seed=0):
    draw = np.random.default_rng(seed)
    inputs = draw.normal(size=(rows, 2))
    return inputs, draw.dirichlet(np.ones(classes), size=rows)


def test_a_leaf_has_the_mean_of_the_soft_labels():
    inputs, soft = soft_rows()
    tree = fit_probabilities(make_estimator("decision_tree", max_depth=2, criterion="log_loss"), inputs, soft)
    leaves = tree.apply(inputs)
    kept = np.where(soft >= 1e-3, soft, 0)
    kept /= kept.sum(1, keepdims=True)
    for leaf in set(leaves):
        np.testing.assert_allclose(tree.predict_proba(inputs[leaves == leaf])[0], kept[leaves == leaf].mean(0))


def test_a_logistic_regression_minimizes_the_cross_entropy_to_soft_labels():
    inputs, soft = soft_rows(classes=2)
    model = fit_probabilities(LogisticRegression(C=1e6, tol=1e-8, max_iter=1000), inputs, soft)
    weights = np.append(model.coef_[0], model.intercept_)
    design = np.c_[inputs, np.ones(len(inputs))]
    odds = 1 / (1 + np.exp(-design @ weights))
    np.testing.assert_allclose(design.T @ (odds - soft[:, 1]), 0, atol=1e-2)


@pytest.mark.parametrize("name", ["decision_tree", "extra_trees", "hist_gradient_boosting", "gradient_boosting"])
def test_hard_labels_are_the_special_case(name):
    inputs, soft = soft_rows(rows=200)
    labels = soft.argmax(1)
    few = {} if name == "decision_tree" else {"max_iter" if "hist" in name else "n_estimators": 5}
    plain, own = (make_estimator(name, random_state=0, **few) for _ in range(2))
    plain.fit(inputs, labels)
    fit_probabilities(own, inputs, np.eye(3)[labels])
    np.testing.assert_allclose(own.predict_proba(inputs), plain.predict_proba(inputs), atol=1e-12)


def test_arguments_that_count_rows_count_the_copies():
    inputs, soft = soft_rows()
    tree = make_estimator("decision_tree", min_samples_leaf=10)
    fit_probabilities(tree, inputs, soft)
    assert tree.min_samples_leaf == 10
    copies = (soft >= 1e-3).sum() / len(soft)
    held = np.bincount(tree.apply(inputs))
    assert held[held > 0].min() >= round(10 * copies) / 3
    assert make_estimator("hist_gradient_boosting").early_stopping is False


def test_names_and_arguments_are_checked():
    with pytest.raises(LimbeckError, match="random_forest"):
        make_estimator("random_forests")
    with pytest.raises(ArgumentError, match="n_estimators") as told:
        make_estimator("random_forest", n_estimator=3)
    assert told.value.argument == "n_estimators"
    assert type(make_estimator("extra_trees", regression=True)).__name__ == "ExtraTreesRegressor"


@pytest.mark.parametrize(
    ("estimator", "words"),
    [
        (RidgeClassifier(), "predict_proba"),
        (KNeighborsClassifier(), "sample_weight"),
        (make_estimator("hist_gradient_boosting", early_stopping=True), "early_stopping"),
        (make_estimator("gradient_boosting", n_iter_no_change=3), "n_iter_no_change=null"),
        (CalibratedClassifierCV(LogisticRegression()), "cross-validation"),
        (LogisticRegressionCV(), "cross-validation"),
    ],
)
def test_what_cannot_learn_soft_labels_is_refused(estimator, words):
    with pytest.raises(LimbeckError, match=words):
        check_takes_soft_labels(estimator, "student: mine is")


def test_a_random_state_is_set_only_where_there_is_none():
    assert seed_estimator(make_estimator("random_forest"), 3).random_state == 3
    assert seed_estimator(make_estimator("random_forest", random_state=1), 3).random_state == 1


def test_copies_of_a_row_are_not_held_out_for_early_stopping(monkeypatch):
    """With auto, scikit-learn would stop by a tenth of these rows, of which the rest has copies."""
    inputs, soft = soft_rows(rows=8000, classes=2)
    own = {"max_iter": 3, "max_leaf_nodes": 3}
    auto = make_estimator("hist_gradient_boosting", early_stopping="auto", **own)
    fit_probabilities(auto, inputs, soft)
    assert auto.early_stopping == "auto"
    assert not auto.do_early_stopping_
    never = fit_probabilities(make_estimator("hist_gradient_boosting", **own), inputs, soft)
    np.testing.assert_array_equal(auto.predict_proba(inputs[:50]), never.predict_proba(inputs[:50]))
    assert without_early_stopping(auto) == ["early_stopping"]
    assert auto.early_stopping is False
    assert without_early_stopping(LogisticRegression()) == []
