"""Estimators give their own probabilities, without zeros."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from sklearn.ensemble import RandomForestClassifier, RandomForestRegressor
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from sklearn.svm import SVC
from torch import nn

from limbeck.batch import Batch
from limbeck.errors import ArgumentError, LimbeckError, MissingOutputError
from limbeck.teachers import SklearnTeacher, TeacherContext, as_teacher

ROWS = np.random.default_rng(0).normal(size=(60, 4)).astype(np.float32)
LABELS = (ROWS[:, 0] > 0).astype(int) + (ROWS[:, 1] > 0.5).astype(int)


@pytest.fixture(scope="module")
def forest() -> RandomForestClassifier:
    return RandomForestClassifier(n_estimators=5, random_state=0).fit(ROWS, LABELS)


def test_probabilities_become_their_logarithms(forest):
    smooth = LogisticRegression().fit(ROWS, LABELS)
    answer = SklearnTeacher(smooth, floor=1e-12).log_probabilities(torch.from_numpy(ROWS))
    assert answer.dtype == torch.float32
    np.testing.assert_allclose(answer.exp().numpy(), smooth.predict_proba(ROWS), rtol=1e-5)


@pytest.mark.parametrize("floor", [1e-6, 1e-2])
def test_zeros_are_raised_to_the_floor_and_rows_sum_to_one(forest, floor):
    raw = forest.predict_proba(ROWS)
    assert bool((raw == 0).any())
    wanted = np.maximum(raw, floor)
    wanted /= wanted.sum(1, keepdims=True)
    answer = SklearnTeacher(forest, floor=floor).log_probabilities(ROWS).double().exp()
    np.testing.assert_allclose(answer.numpy(), wanted, rtol=1e-5)
    np.testing.assert_allclose(answer.sum(1).numpy(), 1.0, rtol=1e-6)
    assert SklearnTeacher(forest, floor=floor).describe()["floor"] == floor


def test_a_class_that_it_never_saw_gets_the_floor():
    missing = RandomForestClassifier(n_estimators=3, random_state=0).fit(ROWS, np.where(LABELS == 0, 0, 3))
    for teacher, classes in ((SklearnTeacher(missing), 4), (SklearnTeacher(missing, classes=6), 6)):
        answer = teacher.log_probabilities(ROWS)
        assert answer.shape == (60, classes)
        never = [c for c in range(classes) if c not in (0, 3)]
        assert bool((answer[:, never] <= math.log(1e-6)).all())
        right = torch.from_numpy(missing.predict(ROWS))
        assert bool((answer.argmax(1) == right).all())


def test_images_are_flattened_and_answers_come_from_the_batch(forest):
    batch = Batch(torch.from_numpy(ROWS).view(60, 1, 2, 2))
    with SklearnTeacher(forest).open(TeacherContext()) as answer:
        assert torch.equal(answer(batch)["logits"], SklearnTeacher(forest).log_probabilities(ROWS))


def test_it_reads_its_own_columns(forest):
    teacher = SklearnTeacher(forest, preprocess=lambda b: b.extra["raw"])
    batch = Batch(torch.zeros(60, 9), extra={"raw": torch.from_numpy(ROWS)})
    with teacher.open(TeacherContext(requires=frozenset())) as answer:
        assert torch.equal(answer(batch)["logits"], SklearnTeacher(forest).log_probabilities(ROWS))


def test_a_pipeline_teaches():
    pipeline = make_pipeline(StandardScaler(), LogisticRegression()).fit(ROWS, LABELS)
    assert SklearnTeacher(pipeline).classes == 3


# What goes wrong.


@pytest.mark.parametrize(
    "estimator", [RandomForestClassifier(), make_pipeline(StandardScaler(), LogisticRegression())], ids=["bare", "pipe"]
)
def test_an_estimator_that_is_not_fitted(estimator):
    with pytest.raises(LimbeckError, match=r"not fitted yet: call \.fit"):
        SklearnTeacher(estimator)


def test_estimators_without_probabilities():
    with pytest.raises(LimbeckError, match=r"SVC has no predict_proba"):
        SklearnTeacher(SVC().fit(ROWS, LABELS))


@pytest.mark.parametrize("labels", [np.where(LABELS == 0, "a", "b"), LABELS - 1, LABELS + 0.5], ids=str)
def test_classes_that_are_no_class_numbers(labels):
    class Odd:
        classes_ = np.unique(labels)

        def predict_proba(self, rows):
            return np.ones((len(rows), len(self.classes_)))

    with pytest.raises(LimbeckError, match=r"Odd.*0, 1, 2"):
        SklearnTeacher(Odd())


def test_more_classes_than_expected(forest):
    with pytest.raises(LimbeckError, match=r"class numbers 0 to 1"):
        SklearnTeacher(forest, classes=2)


@pytest.mark.parametrize("second", [LABELS, LABELS % 2], ids=["alike", "ragged"])
def test_several_outputs(second):
    many = RandomForestClassifier(n_estimators=2).fit(ROWS, np.stack([LABELS, second], 1))
    with pytest.raises(LimbeckError, match=r"several outputs"):
        SklearnTeacher(many)


@pytest.mark.parametrize("floor", [0.0, -0.1, 0.5, float("nan")])
def test_a_floor_that_is_none(forest, floor):
    with pytest.raises(LimbeckError, match=r"above 0 and below 1/3"):
        SklearnTeacher(forest, floor=floor)


def test_it_has_no_insides(forest):
    with pytest.raises(MissingOutputError, match=r"'trees'.*RandomForestClassifier"):
        SklearnTeacher(forest).open(TeacherContext(requires=frozenset({"trees"})))


def test_what_can_teach():
    assert type(as_teacher("peer")).__name__ == "TeacherRef"
    assert type(as_teacher(nn.Identity())).__name__ == "ModelTeacher"
    given = as_teacher("peer")
    assert as_teacher(given) is given


def test_names_of_classes_have_the_order_that_is_given():
    named = LogisticRegression().fit(ROWS, np.array(["b", "a", "c"])[LABELS])
    numbered = LogisticRegression().fit(ROWS, LABELS)
    ours = SklearnTeacher(named, class_names=["b", "a", "c"])
    theirs = SklearnTeacher(numbered).log_probabilities(ROWS)
    np.testing.assert_allclose(ours.log_probabilities(ROWS), theirs, atol=1e-3)
    assert ours.fingerprint != SklearnTeacher(named, class_names=["a", "b", "c"]).fingerprint
    with pytest.raises(LimbeckError, match="class_names="):
        SklearnTeacher(named)


# Regressors.


def test_a_regressor_predicts_in_the_unit_of_the_student():
    draw = np.random.default_rng(0)
    rows, targets = draw.normal(size=(80, 3)), draw.normal(100.0, 20.0, size=(80, 2))
    forest = RandomForestRegressor(5, random_state=0).fit(rows, targets)
    mean, std = targets.mean(0), targets.std(0)
    teacher = SklearnTeacher(forest, mean=mean.tolist(), std=std.tolist())
    outputs = teacher.outputs(torch.from_numpy(rows))
    assert outputs.dtype == torch.float32
    np.testing.assert_allclose(outputs.double().numpy() * std + mean, forest.predict(rows), rtol=1e-5)
    np.testing.assert_allclose(as_teacher(forest).outputs(rows).numpy(), forest.predict(rows), rtol=1e-5)
    assert teacher.fingerprint != as_teacher(forest).fingerprint


def test_a_regressor_of_one_target_has_one_column():
    forest = RandomForestRegressor(2, random_state=0).fit(ROWS, LABELS)
    assert SklearnTeacher(forest).outputs(ROWS).shape == (len(ROWS), 1)


@pytest.mark.parametrize(
    ("estimator", "arguments"),
    [
        (RandomForestRegressor(2).fit(ROWS, LABELS), {"classes": 3}),
        (RandomForestRegressor(2).fit(ROWS, LABELS), {"floor": 0.01}),
        (RandomForestRegressor(2).fit(ROWS, LABELS), {"mean": [0.0], "std": [0.0]}),
        (RandomForestRegressor(2).fit(ROWS, LABELS), {"mean": [0.0]}),
        (LogisticRegression().fit(ROWS, LABELS), {"mean": [0.0], "std": [1.0]}),
    ],
    ids=["classes", "floor", "std of 0", "no std", "classifier"],
)
def test_arguments_of_the_other_kind_are_refused(estimator, arguments):
    with pytest.raises(ArgumentError):
        SklearnTeacher(estimator, **arguments)


def test_a_scale_of_another_number_of_columns_is_refused():
    teacher = SklearnTeacher(RandomForestRegressor(2).fit(ROWS, LABELS), mean=[0.0, 0.0], std=[1.0, 1.0])
    with pytest.raises(LimbeckError, match="1 target columns"):
        teacher.outputs(ROWS)


def test_a_regressor_that_is_not_fitted():
    with pytest.raises(LimbeckError, match=r"call \.fit"):
        SklearnTeacher(RandomForestRegressor())
