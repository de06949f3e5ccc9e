"""A misspelled key of a job is named with its place and the nearest key, in every part of a job."""

from __future__ import annotations

import re

import pytest

from limbeck.errors import LimbeckError, UnknownArgumentError, UnknownNameError
from limbeck.job import make_job
from limbeck.teachers.estimators import make_estimator

JOB = {"data": "digits", "teacher": "mlp", "student": "mlp"}
ATTACKED = {"model": "mlp", "adversarial": {"epsilonn": 0.1}}


def without(key, **rest):
    return {**{name: value for name, value in JOB.items() if name != key}, **rest}


@pytest.mark.parametrize(
    ("job", "written", "meant"),
    [
        ({**JOB, "teacher": ATTACKED}, "teacher.adversarial.epsilonn", "epsilon"),  # the needed key is missing too
        ({**JOB, "teacher": {"model": "mlp", "adversarial": {"eps": 0.1}}}, "teacher.adversarial.eps", "epsilon"),
        (
            {**JOB, "teacher": {"model": "mlp", "adversarial": {"epsilon": -1, "stpes": 2}}},
            "teacher.adversarial.stpes", "steps",
        ),
        ({**JOB, "teacher": {"model": "mlp", "adverserial": 0.1}}, "teacher.adverserial", "adversarial"),
        ({**JOB, "teacher": {"model": "my.py:build", "adversarail": 0.1}}, None, None),  # its arguments are not known
        ({**JOB, "teacher": {"model": "hf:bert", "adverserial": 0.1}}, "teacher.adverserial", "adversarial"),
        ({**JOB, "teacher": {"model": "mlp", "menbers": 3}}, "teacher.menbers", "members"),
        ({**JOB, "teacher": {"model": "mlp", "hiden": [3]}}, "teacher.hiden", "hidden"),
        ({**JOB, "teacher": {"model": "mlp", "train": {"epchs": 3}}}, "teacher.train.epchs", "epochs"),
        ({**JOB, "teacher": {"modle": "mlp"}}, "teacher.modle", "model"),
        ({**JOB, "teacher": {"ensemble": ["mlp", "mlp"], "trian": {}}}, "teacher.trian", "train"),
        (
            {**JOB, "teacher": {"ensemble": {"a": {"model": "mlp", "weigth": 3}, "b": "mlp"}}},
            "teacher.ensemble.a.weigth", "weight",
        ),
        (without("teacher", teachers={"a": {"model": "mlp", "weigth": 3}, "b": "mlp"}), "teachers.a.weigth", "weight"),
        (without("teacher", teachers={"a": ATTACKED, "b": "mlp"}), "teachers.a.adversarial.epsilonn", "epsilon"),
        (
            without("teacher", teachers={"a": {"model": "mlp", "train": {"epchs": 3}}, "b": "mlp"}),
            "teachers.a.train.epchs", "epochs",
        ),
        ({**JOB, "teacher": {"trian": {}}, "teachers": {"a": "mlp", "b": "mlp"}}, "teacher.trian", "train"),
        ({**JOB, "student": {"modle": "mlp"}}, "student.modle", "model"),
        ({**JOB, "student": {"model": "mlp", "quantise": "int8"}}, "student.quantise", "quantize"),
        ({**JOB, "student": {"model": "shallow", "layers": 2, "quantise": "int8"}}, "student.quantise", "quantize"),
        ({**JOB, "student": {"model": "mlp", "quantize": {"weihgts": "int4"}}}, "student.quantize.weihgts", "weights"),
        ({**JOB, "cache": {"foldr": "x"}}, "cache.foldr", "folder"),
        ({**JOB, "budget": {"epochs": "many", "optins": {}}}, "budget.optins", "options"),
        ({**JOB, "budgets": {"student alone": {"epocs": 3}}}, "budgets.student alone.epocs", "epochs"),
        ({**JOB, "task": {"nme": "regression"}}, "task.nme", "name"),
    ],
)  # fmt: skip
def test_a_misspelled_key_is_named_with_the_nearest_one(job, written, meant):
    if written is None:
        assert make_job(job).teacher.arguments
        return
    with pytest.raises(UnknownNameError) as refused:
        make_job(job)
    sentence, place = str(refused.value), written.rpartition(".")[0]
    assert repr(written) in sentence
    assert f"Did you mean {meant!r}?" in sentence
    assert re.search(rf"--set {re.escape(place)}\.{meant}=", sentence)


@pytest.mark.parametrize(
    ("job", "written", "meant"),
    [
        ({**JOB, "method": {"nmae": "hinton"}}, "nmae", "name"),
        ({**JOB, "methods": [{"nme": "hinton"}, "fitnets"]}, "nme", "name"),
        ({**JOB, "method": {"temprature": 3}}, "temprature", "temperature"),
        ({**JOB, "data": {"nmae": "x.csv"}}, "nmae", "name"),
        ({**JOB, "task": {"name": "regression", "standardise": False}}, "standardise", "standardize"),
        ({**JOB, "student": {"from": "teacher", "size": 0.5, "quantise": "int8"}}, "quantise", "quantize"),
        ({**JOB, "cache": {"encoding": {"name": "top-k", "kk": 5}}}, "kk", "k"),
    ],
)
def test_a_misspelled_setting_of_a_part_is_named_with_the_nearest_one(job, written, meant):
    with pytest.raises(UnknownNameError) as refused:
        make_job(job)
    assert repr(written) in str(refused.value)
    assert f"Did you mean {meant!r}?" in str(refused.value)
    assert f".{written}=" not in str(refused.value)


@pytest.mark.parametrize(
    "settings",
    [
        {"model": "mlp", "hidden": [8], "dropout": 0.1},
        {"model": "mlp", "width": None},  # null leaves out an argument of another model
        {"model": "my.py:build", "weights": [1, 2]},
        {"model": "hf:bert", "num_hidden_layers": 2},
        {"model": "random_forest", "n_estimators": 3},
        {"estimator": "random_forest", "max_depth": 3},
    ],
)
def test_arguments_of_a_model_are_no_misspelled_keys(settings):
    make_job({**JOB, "teacher": settings, "student": settings})


def test_a_missing_key_is_named_where_no_key_is_like_it():
    with pytest.raises(LimbeckError, match=r"teacher\.model"):
        make_job({**JOB, "teacher": {"hidden": [8]}})


@pytest.mark.parametrize(
    ("name", "written", "meant"),
    [
        ("hist_gradient_boosting", "lr", "learning_rate"),
        ("hist_gradient_boosting", "n_estimators", "max_iter"),
        ("gradient_boosting", "epochs", "n_estimators"),
        ("random_forest", "max_dept", "max_depth"),
        ("random_forest", "zzz", ""),
    ],
)
def test_an_unknown_argument_of_an_estimator_suggests_another_one_and_never_itself(name, written, meant):
    with pytest.raises(UnknownArgumentError) as refused:
        make_estimator(name, **{written: 0.1})
    assert (refused.value.name, refused.value.argument) == (written, meant)
