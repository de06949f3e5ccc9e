"""The distilled classifier is a scikit-learn estimator."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from sklearn.datasets import load_iris, make_classification
from sklearn.ensemble import GradientBoostingClassifier, RandomForestClassifier
from sklearn.frozen import FrozenEstimator
from sklearn.linear_model import Perceptron
from sklearn.model_selection import cross_val_score
from sklearn.tree import DecisionTreeClassifier
from sklearn.utils.estimator_checks import check_estimator
from torch import nn

import limbeck as lb
from limbeck.errors import LastBatchError, LimbeckError
from limbeck.functional import kl_divergence
from limbeck.integrations import DistilledClassifier
from limbeck.losses import Loss


def small(**more):
    fixed = {"hidden": (16,), "epochs": 15, "batch_size": 32, "random_state": 0}
    return DistilledClassifier(**{"teacher": RandomForestClassifier(10), **fixed, **more})


@pytest.fixture(scope="module")
def iris():
    return load_iris(return_X_y=True)


@pytest.mark.slow
@pytest.mark.usefixtures("unchecked")
def test_every_check_of_scikit_learn_passes():
    # A forest would take most of the time of the sixty checks.
    found = check_estimator(small(teacher=DecisionTreeClassifier(), random_state=None), on_skip=None)
    assert {result["status"] for result in found} <= {"passed", "skipped"}
    assert sum(result["status"] == "passed" for result in found) > 40


def test_labels_of_any_kind_come_back_in_their_order(iris):
    rows, y = iris
    names = np.array(["setosa", "versicolor", "a virginica"])[y]
    model = small(teacher=GradientBoostingClassifier(n_estimators=5)).fit(rows, names)
    assert list(model.classes_) == ["a virginica", "setosa", "versicolor"]
    assert model.score(rows, names) > 0.8
    assert model.teacher_.score(rows, names) > 0.9
    assert np.allclose(model.predict_proba(rows).sum(1), 1.0)


def test_a_fitted_teacher_is_not_fitted_again_and_a_frozen_one_survives_a_clone(iris):
    rows, y = iris
    teacher = RandomForestClassifier(10, random_state=0).fit(rows, y)
    assert small(teacher=teacher).fit(rows, y).teacher_ is teacher
    kept = FrozenEstimator(teacher)
    assert cross_val_score(small(teacher=kept), rows, y, cv=2).mean() > 0.8


def test_the_student_matches_the_teacher_not_the_labels():
    rows, y = make_classification(300, 6, random_state=0)
    teacher = RandomForestClassifier(10, random_state=0).fit(rows, 1 - y)
    taught = small(teacher=teacher, weight=1.0, epochs=60).fit(rows, y)
    assert taught.score(rows, 1 - y) > 0.8
    alone = small(teacher=teacher, weight=0.0, epochs=60).fit(rows, y)
    assert alone.score(rows, y) > 0.8


def test_students_and_objectives_of_the_user(iris):
    rows, y = iris
    own = torch.nn.Linear(4, 3)
    before = own.weight.clone()
    model = small(student=own, objective=1.0 * Loss(kl_divergence), epochs=40).fit(rows, y)
    assert model.score(rows, y) > 0.8
    assert torch.equal(own.weight, before)
    made = small(student=lambda features, classes: torch.nn.Linear(features, classes)).fit(rows, y)
    assert isinstance(made.student_, torch.nn.Linear)


def test_modules_and_limbeck_teachers_teach_too(iris):
    rows, y = iris
    module = torch.nn.Linear(4, 3)
    assert small(teacher=module, weight=1.0).fit(rows, y).predict_proba(rows).shape == (150, 3)
    assert small(teacher=lb.ModelTeacher(module)).fit(rows, y).teacher_.model is module


def test_kept_answers_give_the_same_student(iris, tmp_path):
    rows, y = iris
    teacher = RandomForestClassifier(10, random_state=0).fit(rows, y)
    live = small(teacher=teacher).fit(rows, y)
    for _ in range(2):
        kept = small(teacher=teacher, cache=tmp_path / "answers").fit(rows, y)
        assert np.array_equal(kept.predict_proba(rows), live.predict_proba(rows))


def test_bad_input_is_one_sentence(iris):
    rows, y = iris
    two = y < 2
    cases = {
        "Perceptron has no predict_proba": small(teacher=Perceptron()),
        "was fitted on 3 columns, and X has 4": small(teacher=RandomForestClassifier(5).fit(rows[:, :3], y)),
        r"was fitted on the classes \[0, 1\], and y has \[0, 1, 2\]": small(
            teacher=RandomForestClassifier(5).fit(rows[two], y[two])
        ),
        "A dict ": small(teacher={}),
        "student is a torch.nn.Module": small(student=3),
        "weight": small(weight=2.0),
    }
    for said, model in cases.items():
        with pytest.raises(LimbeckError, match=said):
            model.fit(rows, y)
    with pytest.raises(ValueError, match="one class"):
        small().fit(rows, np.zeros(len(rows)))


def test_a_student_that_cannot_take_the_last_batch_is_refused_before_the_teacher_is_fitted():
    class Unfitted(RandomForestClassifier):
        def fit(self, *_, **__):
            pytest.fail("the teacher was paid for")

    def normed(features, classes):
        return nn.Sequential(nn.Linear(features, 4), nn.BatchNorm1d(4), nn.ReLU(), nn.Linear(4, classes))

    rows, labels = np.random.default_rng(0).normal(size=(33, 3)), np.arange(33) % 2
    with pytest.raises(LastBatchError):
        DistilledClassifier(Unfitted(), student=normed, batch_size=16, epochs=1).fit(rows, labels)
