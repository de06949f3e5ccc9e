"""Jobs are read from files and options, and written back."""

from __future__ import annotations

import math
import random

import pytest
import yaml

from limbeck.checksums import add_checksum_line
from limbeck.data import Chain, Crop, Cutout, Flip, Mixup, RandomShift
from limbeck.errors import LimbeckError, UnknownNameError
from limbeck.job import Budget, job_text, make_job, read_job, with_settings

JOB = {"data": "digits", "teacher": {"model": "mlp", "hidden": [8]}, "student": {"model": "mlp", "hidden": [2]}}


def test_a_job_survives_its_own_text(tmp_path):
    job = make_job({**JOB, "budget": {"lr": 1e-7, "clip": 1, "options": {"weight_decay": 1e-5}}, "out": "ünder"})
    (tmp_path / "job.yaml").write_text(job_text(job), encoding="utf-8")
    again = make_job(read_job(tmp_path / "job.yaml"))
    assert again == job
    assert job_text(again) == job_text(job)


def test_what_limbeck_wrote_is_read_as_what_a_person_wrote(tmp_path):
    """A text that limbeck wrote has its own, faster parser."""
    draw = random.Random(0)
    signs = " \t\n'\"\\#:-?,[]{}&*!|>%@`~<=.eE+_019anoy\xa0\x85\u2028\ufeffé漢😀"
    drawn = ["".join(draw.choices(signs, k=draw.randint(0, 90))) for _ in range(200)]
    known = [
        "1e-3",
        "2024-01-02",
        "=",
        "<<",
        "~",
        "on",
        "null",
        "- a",
        "a: b",
        "1_0",
        "0o7",
        "0x1f",
        "1:30",
        ".inf",
        "",
    ]
    numbers = [1e-7, 1e300, -0.0, 3.0, math.inf, 0, -12, 10**18, True, None, [], {}]
    values = [*drawn, *known, *numbers]
    job = {"list": values, "nested": {"deeper": [{"a": values[:9]}]}, **{str(key): key for key in values}}
    text = yaml.safe_dump(job, sort_keys=False, allow_unicode=True)
    for name, written in (("own.yaml", add_checksum_line(text)), ("other.yaml", text)):
        (tmp_path / name).write_text(written, encoding="utf-8", newline="")
    fast, slow = (repr(read_job(tmp_path / name)) for name in ("own.yaml", "other.yaml"))
    assert fast == slow


def test_the_text_holds_every_default():
    found = yaml.safe_load(job_text(make_job(JOB)))
    assert found["arms"] == ["teacher", "student alone", "label smoothing", "distilled"]
    assert set(found["budget"]) == set(Budget.model_fields)
    assert found["teacher"] == {
        "model": "mlp", "url": None,
        "members": 1, "ensemble": {}, "mean": "geometric", "train": None, "adversarial": None, "check": True,
        "hidden": [8],
    }  # fmt: skip
    assert found["method"] == {"name": "hinton"}


def test_a_name_alone_is_a_model_or_a_method():
    job = make_job({**JOB, "student": "resnet8", "method": "logit_matching"})
    assert (job.student.model, job.student.arguments) == ("resnet8", {})
    assert (job.method.name, job.method.hyper) == ("logit_matching", {})


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("1e-3", 0.001), ("1E5", 1e5), ("-2.5e-1", -0.25), (".5e1", 5.0), ("3.e2", 300.0),
        ("3", 3), ("0.5", 0.5), ("true", True), ("null", None), ("", None), ("[1, 2e1]", [1, 20.0]),
        ("{a: 1e-2}", {"a": 0.01}), ("'1e-3'", "1e-3"), ("e3", "e3"), ("1e", "1e"), ("nan", "nan"), ("mlp", "mlp"),
        ("a=b", "a=b"),
    ],
)  # fmt: skip
def test_values_mean_what_people_mean(text, value, tmp_path):
    found = with_settings({}, [f"student.x={text}"])["student"]["x"]
    assert found == value
    assert type(found) is type(value)
    (tmp_path / "job.yaml").write_text(f"x: {text}\n")
    assert read_job(tmp_path / "job.yaml") == {"x": value}


def test_settings_reach_in_and_leave_the_rest():
    before = {"student": "mlp", "budget": {"epochs": 3, "lr": 1.0}, "data": "rows.csv", "method": "hinton"}
    kept = {**before, "budget": dict(before["budget"])}
    after = with_settings(
        before,
        ["student.hidden=[4]", "budget.lr=0.1", "data.target=y", "method.temperature=2", "teacher.train.epochs=9"],
    )
    assert after == {
        "student": {"model": "mlp", "hidden": [4]},
        "budget": {"epochs": 3, "lr": 0.1},
        "data": {"name": "rows.csv", "target": "y"},
        "method": {"name": "hinton", "temperature": 2},
        "teacher": {"train": {"epochs": 9}},
    }
    assert before == kept


def test_each_of_several_methods_is_set_by_the_name_of_its_arm():
    methods = ["hinton", {"name": "hinton", "temperature": 2}, "some/folder/my.py:soft"]
    after = with_settings({"methods": methods}, ["methods.hinton.temperature=9", "methods.hinton#2.temperature=3"])
    assert after["methods"] == [{"name": "hinton", "temperature": 9}, {"name": "hinton", "temperature": 3}, methods[2]]
    for name in ("my.py:soft", "some/folder/my.py:soft"):
        after = with_settings({"methods": methods}, [f"methods.{name}.temperature=4"])
        assert after["methods"] == [*methods[:2], {"name": methods[2], "temperature": 4}]
    after = with_settings({"methods": methods}, ["budgets.my.py:soft.lr=0.5", "budgets.hinton.lr=0.1"])
    assert after["budgets"] == {"my.py:soft": {"lr": 0.5}, "hinton": {"lr": 0.1}}


@pytest.mark.parametrize("name", ["hinton#3", "soft", "other.py:soft"])
def test_a_method_that_a_job_does_not_have_is_named_with_those_that_it_has(name):
    with pytest.raises(LimbeckError, match=r"hinton, my\.py:soft, hinton#2"):
        with_settings({"methods": ["hinton", "my.py:soft", "hinton"]}, [f"methods.{name}.temperature=9"])


def test_the_place_of_a_method_can_be_set():
    raw = {"data": "digits", "teacher": "mlp", "student": "mlp"}
    raw["methods"] = ["hinton", {"name": "hinton", "temperature": 2}, {"name": "a/my.py:soft", "weight": 1}]
    job = make_job(raw)
    assert [job.key_of(one) for one in job.methods] == [f"methods.{arm}" for arm in job.method_arms]
    for arm, one in job.method_arms.items():
        changed = make_job(with_settings(raw, [f"{job.key_of(one)}.temperature=7"]))
        assert {name: two.hyper.get("temperature") == 7 for name, two in changed.method_arms.items()} == {
            name: name == arm for name in job.method_arms
        }


def test_the_last_setting_counts():
    assert with_settings({}, ["seeds=1", "seeds=2"]) == {"seeds": 2}


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"strategy": 5}, r"^strategy: .*got 5"),
        ({"devices": [1]}, r"^devices: .*got \[1\]"),
        ({"data": 5}, r"^data: .*got 5"),
        ({"student": 5}, r"^student: .*got 5"),
        ({"budget": {"lr": "fast"}}, r"^budget\.lr: .*got 'fast'"),
        ({"teacher": {"model": "mlp", "train": {"clip": 0}}}, r"^teacher\.train\.clip: .*got 0"),
        ({"arms": ["distilled", 3]}, r"^arms\.1: .*got 3"),
        ({"budget": {"options": 3}}, r"^budget\.options: .*got 3"),
        ({"arms": ["teacher"]}, r"\['teacher'\].*Add 'distilled'"),
        ({"arms": ["student alone", "shuffled teacher"]}, r"'shuffled teacher'.*Add 'distilled'"),
        ({"arms": ["student alone"], "methods": ["hinton", "dkd"]}, r"hinton, dkd.*Add 'distilled'"),
        ({"arms": ["student alone", "hinton"], "methods": ["hinton", "dkd"]}, r"'hinton'.*'distilled' includes"),
        ({"budget": {"learning_rate": 3}}, r"Did you mean 'lr'\?.* --set budget\.lr="),
        ({"student": {"model": "mlp", "quantize": {"weigths": "int4"}}}, r"Did you mean 'weights'\?"),
        ({"budget": {"strength": 3}}, r"^Unknown key 'budget\.strength' in the job\. .*Known: accumulate, "),
    ],
)
def test_what_is_wrong_is_named_where_it_stands(change, words):
    with pytest.raises(LimbeckError, match=words) as said:
        make_job({**JOB, **change})
    assert "\n" not in str(said.value)


def test_an_unknown_key_names_the_nearest():
    with pytest.raises(UnknownNameError, match=r"'seed'. Did you mean 'seeds'"):
        make_job({**JOB, "seed": 3})


def test_a_number_of_steps_or_a_fraction_of_them_warms_up():
    assert Budget(warmup=10).make_optimizer().warmup == 10
    assert isinstance(Budget(warmup=10).make_optimizer().warmup, int)
    assert Budget(warmup=0.1).make_optimizer().warmup == 0.1
    with pytest.raises(LimbeckError, match=r"2\.5"):
        Budget(warmup=2.5).make_optimizer()


def test_every_key_of_a_budget_reaches_the_optimizer_or_the_run():
    made = Budget(optimizer="sgd", lr=0.3, decay="constant", clip=2.0, options={"momentum": 0.9}).make_optimizer()
    assert (made.name, made.lr, made.decay, made.clip, made.options) == ("sgd", 0.3, "constant", 2.0, {"momentum": 0.9})


def test_a_budget_names_its_augmentations():
    budget = make_job(
        {**JOB, "budget": {"shift": 2, "augment": ["flip", {"cut_out": {"size": 3}}], "mix": "mixup"}}
    ).budget
    assert budget.make_transform(seed=4) == Chain(RandomShift(2, seed=4), Flip(seed=4), Cutout(3, seed=4))
    assert budget.make_mix(seed=4) == Mixup(seed=4)
    assert Budget(shift=1).make_transform(seed=2) == RandomShift(1, seed=2)
    assert Budget(augment="crop").make_transform(seed=2) == Crop(seed=2)
    assert Budget().make_transform(seed=2) is Budget().make_mix(seed=2) is None
    found = [Budget(**given).has_views for given in ({}, {"shift": 1}, {"augment": "flip"}, {"mix": "mixup"})]
    assert found == [False, True, True, True]


def test_augmentations_go_to_a_file_and_back(tmp_path):
    job = make_job({**JOB, "budget": {"augment": [{"crop": {"size": [24, 32]}}], "mix": {"mixup": {"alpha": 0.2}}}})
    (tmp_path / "job.yaml").write_text(job_text(job))
    again = make_job(read_job(tmp_path / "job.yaml"))
    assert again == job
    assert again.budget.make_transform(seed=0) == Crop(size=(24, 32))
    assert again.budget.make_mix(seed=0) == Mixup(0.2)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"budget": {"augment": "filp"}}, r"^budget\.augment: .*Did you mean 'flip'\?.* Type --set budget\.augment="),
        ({"budget": {"mix": "mixpu"}}, r"^budget\.mix: .*Did you mean 'mixup'\?.* Type --set budget\.mix="),
        ({"budget": {"augment": [{"crop": {"padding": -1}}]}}, r"^budget\.augment: Crop\(padding=-1\)"),
        ({"budget": {"augment": 3}}, r"^budget\.augment: .*got 3"),
        ({"teacher": {"model": "mlp", "train": {"augment": "flop"}}}, r"^teacher\.train\.augment: .*'flip'"),
        ({"teacher": {"model": "mlp", "train": {"mix": "mixup"}}}, r"^teacher\.train\.mix: a teacher learns labels"),
    ],
)
def test_augmentations_are_looked_up_when_the_job_is_made(change, words):
    with pytest.raises(LimbeckError, match=words):
        make_job({**JOB, **change})


@pytest.mark.parametrize(
    ("method", "words"),
    [
        ({"name": "hinton", "temprature": 2}, "'temprature'. Did you mean 'temperature'"),
        ({"name": "hinton", "teacher": "mlp"}, "'teacher'"),
        ({"name": "fitnets", "hint": "a"}, r"needs guided: --set method\.guided="),
        ({"name": "mutal"}, "'mutual'"),
    ],
)
def test_a_method_is_looked_up_when_the_job_is_made(method, words):
    with pytest.raises(LimbeckError, match=words):
        make_job({**JOB, "method": method})


def test_every_method_makes_a_job():
    from limbeck.methods import method, names

    for name in names():
        required = {key: "layer1" for key in method(name).required if key != "teacher"}
        assert make_job({**JOB, "method": {"name": name, **required}}).method.name == name


def test_a_search_that_is_set_must_exist(tmp_path):
    with pytest.raises(LimbeckError, match="no folder foo"):
        with_settings({}, ["search=foo"])
    assert with_settings({}, [f"search={tmp_path}"]) == {"search": str(tmp_path)}
    assert with_settings({"search": "foo"}, ["search=null"]) == {"search": None}


@pytest.mark.parametrize(
    ("typed", "near"),
    [
        ("epochs=3", "budget.epochs"), ("lr=0.1", "budget.lr"), ("target=y", "data.target"),
        ("epoch=3", "budget.epochs"),
        ("batch_sze=3", "budget.batch_size"), ("members=3", "teacher.members"), ("temperature=2", "method.temperature"),
        ("studnet=mlp", "student"),
    ],
)  # fmt: skip
def test_a_key_without_its_place_is_searched_in_all_places(typed, near):
    with pytest.raises(UnknownNameError, match=rf"Did you mean '{near}'\?.* --set {near}="):
        make_job(with_settings(JOB, [typed]))


@pytest.mark.parametrize("whole", [False, True])
def test_a_setting_of_one_of_several_teachers_has_its_place_named(whole):
    job = {"data": "digits", "student": "mlp", "teachers": {"wide": {"model": "mlp", "hidden": [9]}, "cnn": "cnn"}}
    if whole:
        job = make_job(job).model_dump(mode="json")
    with pytest.raises(LimbeckError, match=r"--set teachers\.wide\."):
        make_job(with_settings(job, ["teacher.wide.weight=3"]))


def test_controls_alone_are_a_job():
    job = make_job({**JOB, "arms": ["teacher", "student alone"], "budgets": {"student alone": {"lr": 0.5}}})
    assert (job.method_arms, job.all_arms, job.first_arm) == ({}, ("teacher", "student alone"), "student alone")
    assert job.budget_of("student alone").lr == 0.5
    with pytest.raises(UnknownNameError, match="distilled"):
        make_job({**JOB, "arms": ["student alone"], "budgets": {"distilled": {"lr": 0.5}}})


@pytest.mark.parametrize(
    ("settings", "arguments"),
    [
        (["student.model=mlp", "student.widths=null", "student.hidden=[4]"], {"hidden": [4]}),
        (["student.model=shrink", "student.widths=null", "student.size=0.5"], {"size": 0.5}),
    ],
)
def test_null_leaves_an_argument_of_another_model_out(settings, arguments):
    before = {**JOB, "student": {"model": "cnn", "widths": [4]}}
    assert make_job(with_settings(before, settings)).student.arguments == arguments


def test_null_leaves_a_setting_of_another_method_out():
    before = {**JOB, "method": {"name": "fitnets", "hint": "a", "guided": "b"}}
    job = make_job(with_settings(before, ["method.name=hinton", "method.hint=null", "method.guided=null"]))
    assert job.method.hyper == {}
    with pytest.raises(UnknownNameError, match="hint"):
        make_job(with_settings(before, ["method.name=hinton", "method.guided=null"]))
