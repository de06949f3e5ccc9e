"""A job trains its teacher against attacks: what is refused, what is another teacher, and that it is more robust."""

from __future__ import annotations

import math

import numpy as np
import pytest

import limbeck
from job_events import collect_messages
from limbeck.compare import arms, run_job
from limbeck.compare.adversarial_teacher import attack_radii, find_largest_pixel, make_attacks
from limbeck.compare.arm_recipes import recipe_of
from limbeck.compare.changed_job import changed_job
from limbeck.compare.comparison_data import load_comparison_data
from limbeck.compare.teacher import equally_trained, open_teacher
from limbeck.data import Attack, load_data
from limbeck.engine import distill
from limbeck.errors import LimbeckError
from limbeck.export import cite
from limbeck.job import job_text, make_job
from limbeck.job.config_io import with_settings
from limbeck.methods import make
from limbeck.metrics import robust_accuracy
from limbeck.models import build
from limbeck.recipe import Optimizer
from small_jobs import blobs, small_job

AGAINST = {"model": "mlp", "hidden": [8], "adversarial": {"epsilon": 0.2, "steps": 2}}


@pytest.fixture(scope="module")
def images(tmp_path_factory):
    return blobs(tmp_path_factory.mktemp("images") / "blobs.npz")


@pytest.mark.parametrize("wrong", [0, -0.1, math.nan, math.inf, 1.5, "wide", None])
def test_a_radius_that_is_none_is_refused_with_its_key(images, wrong):
    with pytest.raises(LimbeckError, match=r"teacher\.adversarial\.epsilon"):
        make_job(small_job(images, teacher={"model": "mlp", "hidden": [8], "adversarial": {"epsilon": wrong}}))


@pytest.mark.parametrize(
    ("changes", "key"),
    [({"steps": 0}, "steps"), ({"step_size": 0}, "step_size"), ({"start": -1}, "start"), ({"start": "far"}, "start"),
     ({"epsilom": 0.1}, "epsilom")],
)  # fmt: skip
def test_other_settings_are_refused_with_their_key(images, changes, key):
    job = small_job(images, teacher={**AGAINST, "adversarial": {"epsilon": 0.1, **changes}})
    with pytest.raises(LimbeckError, match=rf"teacher\.adversarial\.{key}\b"):
        make_job(job)


@pytest.mark.parametrize("wrong", ["wide", True, [0.1]])
def test_what_is_neither_a_radius_nor_settings_is_refused(images, wrong):
    with pytest.raises(LimbeckError, match="radius"):
        make_job(small_job(images, teacher={"model": "mlp", "adversarial": wrong}))


def test_a_number_is_the_radius_and_an_option_changes_one_setting(images):
    job = make_job(with_settings(small_job(images), ["teacher.adversarial=0.1"]))
    assert job.teacher.adversarial.epsilon == 0.1
    again = make_job(with_settings(small_job(images, teacher=AGAINST), ["teacher.adversarial.steps=7"]))
    assert (again.teacher.adversarial.epsilon, again.teacher.adversarial.steps) == (0.2, 7)
    assert "epsilon: 0.2" in job_text(again)


def test_each_of_several_teachers_has_its_own(images):
    teachers = {"clean": {"model": "mlp", "hidden": [8]}, "robust": AGAINST, "wide": {"model": "mlp", "hidden": [9]}}
    job = {key: value for key, value in small_job(images).items() if key != "teacher"}
    own = make_job({**job, "teachers": teachers})
    assert [names for _, names in equally_trained(own, teachers)] == [["clean", "wide"], ["robust"]]
    material = load_comparison_data(own)
    attacks = make_attacks(own, material, teachers)
    assert {name: (one.model, one.epsilon, one.keep_clean) for name, one in attacks.items()} == {
        "robust": ("robust", 0.2, False)
    }
    shared = make_job({**job, "teachers": teachers, "teacher": {"adversarial": 0.1}})
    epsilons = {name: part.adversarial.epsilon for name, part in shared.teacher.parts.items()}
    assert epsilons == {"clean": 0.1, "robust": 0.2, "wide": 0.1}
    assert attack_radii(shared, {"8/255": 8 / 255}) == {"8/255": 8 / 255, "0.1": 0.1, "0.2": 0.2}


@pytest.mark.parametrize(
    ("methods", "radii"),
    [
        (["hinton"], {}),
        ([{"name": "faithful_distillation", "epsilon": 0.05}], {"0.05": 0.05}),
        (["faithful_distillation", "arow"], {"0.01": 0.01, "8/255": 8 / 255}),  # by default
        ([{"name": "arow", "epsilon": 0.0039}], {}),  # 1/255, which is a usual one
    ],
)
def test_the_radii_that_methods_are_trained_with_are_measured_too(methods, radii):
    job = make_job({"data": "x.npz", "teacher": "mlp", "student": "mlp", "methods": methods})
    assert attack_radii(job, {"1/255": 1 / 255}) == {"1/255": 1 / 255, **radii}


def test_of_bytes_that_end_at_16_the_radius_is_a_fraction_of_that():
    job = make_job(small_job("digits", teacher=AGAINST))
    (attack,) = make_attacks(job, load_comparison_data(job), ["member-0"]).values()
    assert attack.high == 16


def test_a_method_that_attacks_takes_the_same_range():
    """Otherwise a radius of 0.1 would be 25 of the 16 gray levels."""
    for given, high in (({}, 16), ({"high": 8.0}, 8.0)):
        own = {"name": "arow", "epsilon": 0.1, "attack_steps": 1, **given}
        job = make_job(small_job("digits", method=own, teacher=AGAINST))
        material = load_comparison_data(job)
        teacher, _ = open_teacher(job, material)
        recipe = recipe_of(job, "distilled", teacher, task=material.task, largest_pixel=find_largest_pixel(material))
        (stage,) = recipe.stages()
        assert stage.loader.high == high


def test_the_training_of_an_arm_knows_the_range(monkeypatch):
    class SeenError(Exception):
        pass

    def look(*_, largest_pixel, **__):
        raise SeenError(largest_pixel)

    monkeypatch.setattr(arms, "recipe_of", look)
    job = make_job(small_job("digits", teacher=AGAINST))
    material = load_comparison_data(job)
    teacher, _ = open_teacher(job, material)
    with pytest.raises(SeenError) as seen:
        arms.start(arms.ArmRun(job, "distilled", 0, None, None), material, teacher)
    assert seen.value.args == (16,)


def refuse(job):
    made = make_job(job)
    with pytest.raises(LimbeckError, match=r"teacher.*adversarial") as raised:
        open_teacher(made, load_comparison_data(made))
    return str(raised.value)


def test_data_without_pixels_estimators_and_finished_teachers_are_refused(images, tmp_path):
    draw = np.random.default_rng(0)
    rows = {f"{name}_{part}": value for part in ("train", "test") for name, value in
            {"x": draw.random((60, 4), dtype=np.float32), "y": np.arange(60) % 2}.items()}  # fmt: skip
    np.savez(tmp_path / "rows.npz", **rows)
    assert "pixels" in refuse(small_job(tmp_path / "rows.npz", teacher=AGAINST))
    forest = {"estimator": "random_forest", "adversarial": 0.1}
    assert "random_forest" in refuse(small_job(images, teacher=forest))
    with pytest.raises(LimbeckError, match=r"teacher\.adversarial"):
        make_job(small_job(images, teacher={"url": "http://localhost:1/v1", "adversarial": 0.1}))


@pytest.mark.integration
def test_the_teacher_is_more_robust_and_another_radius_is_another_teacher(images, tmp_path):
    said, out = [], tmp_path / "run"
    job = small_job(
        images, teacher={**AGAINST, "train": {"epochs": 12, "lr": 0.01, "batch_size": 16}}, seeds=1,
        arms=["teacher", "student alone", "distilled"], also=["attacks"], out=str(out),
    )  # fmt: skip
    found = run_job(make_job(job), callback=collect_messages(said))["attacks"]
    assert found["epsilons"] == ["2/255", "8/255", "0.2"]
    assert any("against changes of up to 0.2" in one for one in said)
    assert "up to 0.2" in (out / "report.html").read_text()
    assert any("madry2018towards" in one.bibtex for one in cite(out) if "of the teacher" in one.used)

    data = load_data(str(images))
    plain = distill(
        build("mlp", inputs=36, classes=5, hidden=[8]), make("supervised"), data.train, epochs=12, batch_size=16,
        optimizer=Optimizer("adamw", lr=0.01), preprocess=data.preprocess, seed=0,
    ).finish().student  # fmt: skip
    teacher = limbeck.load(out / "teacher" / "student")
    robust, clean = (
        robust_accuracy(model, data.test, Attack(0.2, steps=20), preprocess=data.preprocess).robust.value
        for model in (teacher, plain)
    )
    assert robust == pytest.approx(found["arms"]["teacher"]["robust"][-1]["mean"], abs=0.05)
    assert robust > clean + 0.1

    other = {**job, "teacher": {**job["teacher"], "adversarial": {"epsilon": 0.1, "steps": 2}}}
    with pytest.raises(LimbeckError, match="adversarial"):
        changed_job(make_job(other))
