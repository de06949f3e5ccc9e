"""The flag in an error of a job comes from the argument that the error names, never from its sentence."""

import pytest
from torch import nn

from limbeck.errors import ArgumentError, LimbeckError, UnknownNameError, unknown_name_error
from limbeck.job import add_flag_hint, make_job
from limbeck.methods import make

JOB = {"data": "digits", "teacher": "mlp", "student": "mlp"}
SHALLOW = {"teacher": "hf:bert", "student": {"model": "shallow", "layers": "all"}}


def test_a_key_that_the_sentence_happens_to_hold_gives_no_flag():
    error = LimbeckError("The mean of this mix has no decay.")
    assert "--set" not in str(add_flag_hint(error, "budget", ["mean", "mix", "decay"]))


def test_an_argument_that_the_part_does_not_have_gives_no_flag():
    assert "--set" not in str(add_flag_hint(ArgumentError("lr is 0", argument="lr"), "method", ["temperature"]))


def test_an_unknown_name_keeps_its_type():
    error = add_flag_hint(unknown_name_error("loss", "kll", ["kl"], argument="loss"), "method", ["loss"])
    assert isinstance(error, UnknownNameError)
    assert str(error).endswith("Type --set method.loss=...")


@pytest.mark.parametrize(
    ("change", "flag"),
    [
        ({"budget": {"options": {"lr": 0.1}}}, "budget.options="),  # the sentence speaks of lr, which has a key too
        ({"budget": {"optimizer": "adm"}}, "budget.optimizer="),
        ({"budget": {"warmup": 1.5}}, "budget.warmup="),
        ({"teacher": {"model": "mlp", "train": {"optimizer": "adm"}}}, "teacher.train.optimizer="),
        (SHALLOW, "student.layers="),
        ({"cache": {"encoding": "flat16"}}, "cache.encoding="),
        ({"cache": {"encoding": "top-k"}}, "cache.encoding.k=50"),
        ({"cache": {"encoding": {"name": "top-k", "k": 5, "bits": 99}}}, "cache.encoding.bits="),
        ({"cache": {"encoding": {"name": "sampled", "draws": 5, "power": 9.0}}}, "cache.encoding.power="),
    ],
)
def test_a_value_that_is_refused_comes_with_its_flag(change, flag):
    with pytest.raises(LimbeckError) as refused:
        make_job({**JOB, **change})
    assert str(refused.value).count("--set") == 1
    assert f"Type --set {flag}" in str(refused.value)


@pytest.mark.parametrize(
    ("name", "argument", "value"),
    [
        ("hinton", "temperature", -1),
        ("hinton", "temperature", "hot"),
        ("hinton", "weight", 2),
        ("hinton", "loss", "kl"),
        ("hinton", "epochs", 0),
        ("specialists", "mean", "median"),
        ("specialists", "optimizer", {"lr": -1}),  # its lr is not the budget's
        ("specialists", "optimizer", {"speed": 1}),
        ("specialists", "active", 0),
        ("mean_teacher", "decay", 3),
    ],
)
def test_a_method_names_the_argument_that_it_refuses(name, argument, value):
    teacher = {} if name == "mean_teacher" else {"teacher": nn.Linear(2, 2)}
    with pytest.raises((ArgumentError, UnknownNameError)) as refused:
        make(name, **teacher, **{argument: value})
    assert refused.value.argument == argument
