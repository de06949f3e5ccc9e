"""Checks of losses: wrong formulas and gradients are found."""

from __future__ import annotations

import dataclasses

import pytest
import torch
from torch import nn

from limbeck.doctor import fail, merged, passed, warn
from limbeck.doctor.context import create_models, stage_groups
from limbeck.doctor.run_checks import Pace, estimate_total, time_steps
from limbeck.engine import TrainConfig, open_fabric
from limbeck.functional import Projector, cross_entropy, kernel, kl_divergence, squared_error
from limbeck.losses import Loss
from limbeck.methods import make
from limbeck.recipe import Recipe, Stage
from limbeck.schedule import ramp
from limbeck.teachers import ModelTeacher
from patients import Sure, findings, lesson, patient, student, usual


def found(name, objective=None, **changes):
    teacher = ModelTeacher(Sure())
    recipe = lesson(usual() if objective is None else objective, teacher)
    return findings(teacher=teacher, recipe=recipe, **changes)[name]


@kernel(per="position", divergence=True)
def without_entropy(student, teacher):
    return -(teacher.softmax(-1) * student.log_softmax(-1)).sum(-1)


@kernel(per="example")
def too_warm(student, teacher):
    return (student - 1.1 * teacher).square().mean(-1)


@kernel(per="example")
def cancelling(student, teacher):
    far = student - teacher + 1e4
    return far.square().mean(-1) - far.mean(-1).square()


@kernel(per="example")
def beside_the_others(student, teacher):
    return ((student - student.mean(0)) - teacher).square().mean(-1)


@kernel(per="example")
def at_the_root(student, teacher):
    return (student - student.detach()).square().sum(-1).sqrt()


@kernel(per="example")
def flat(student, teacher):
    return (student * 0.0 + teacher).mean(-1)


def test_a_divergence_is_nothing_where_both_are_the_same():
    assert found("teacher as student").state == "ok"
    one = found("teacher as student", Loss(without_entropy))
    assert one.state == "wrong"
    assert "must be 0" in one.sentence
    moved = found("teacher as student", Loss(too_warm))
    assert moved.state == "look"
    assert "even for equal outputs" in moved.sentence


def test_a_hint_through_a_head_is_not_asked_to_be_nothing():
    hint = Loss(squared_error, student="0", teacher="inner", head=Projector())
    assert "teacher as student" not in findings(recipe=lesson(hint, ModelTeacher(Sure())))


def test_a_narrow_student_is_not_taken_for_a_wrong_loss():
    mixed = findings(fabric=open_fabric(precision="bf16-mixed", accelerator="cpu"))
    assert all(one.state == "ok" for one in mixed.values()), mixed
    assert mixed["loss in float64"].rank < 1e-4
    assert mixed["split batch"].rank < 1e-4
    assert found("split batch", Loss(beside_the_others), fabric=open_fabric(precision="bf16-mixed")).state == "wrong"


def test_a_loss_that_loses_digits_is_detected():
    assert found("loss in float64").state == "ok"
    one = found("loss in float64", Loss(cancelling))
    assert one.state == "wrong"
    assert "'cancelling'" in one.sentence


def test_a_published_loss_is_held_against_its_formula(monkeypatch):
    from limbeck.functional import divergence

    right = divergence.divergence

    def scaled(student, teacher, temperature, form):
        return 1.01 * right(student, teacher, temperature, form)

    monkeypatch.setattr(divergence, "divergence", scaled)
    one = found("loss in float64")
    assert one.state == "wrong"
    assert "'kl_divergence'" in one.sentence


def test_a_loss_that_looks_at_the_whole_batch_is_detected():
    assert found("split batch").state == "ok"
    one = found("split batch", Loss(beside_the_others))
    assert one.state == "wrong"
    assert "split in two" in one.sentence


def test_batch_statistics_of_micro_batches_are_reported():
    def normalized():
        return nn.Sequential(nn.Linear(6, 5), nn.BatchNorm1d(5), nn.Linear(5, 4))

    assert found("split batch", trainer=normalized).state == "ok"
    one = found("split batch", trainer=normalized, setting=TrainConfig(epochs=2, accumulate=2))
    assert one.state == "look"
    assert "BatchNorm" in one.sentence


@pytest.mark.parametrize(("loss", "words"), [(at_the_root, "infinite or NaN"), (flat, "The first gradient is 0")])
def test_a_gradient_that_is_no_number_or_nothing(loss, words):
    one = found("gradient", Loss(loss))
    assert one.state == "wrong"
    assert words in one.sentence


class Half(nn.Module):
    def __init__(self):
        super().__init__()
        self.used, self.forgotten = nn.Linear(6, 4), nn.Linear(6, 4)

    def forward(self, inputs):
        return self.used(inputs)


def test_parameters_that_never_learn_are_named():
    assert found("unused parameters").value == {"distilled": 0}
    one = found("unused parameters", trainer=Half)
    assert one.state == "look"
    assert one.value == {"distilled": 2}
    assert "forgotten.weight" in one.sentence

    def rested():
        model = Half()
        model.forgotten.requires_grad_(False)
        return model

    assert found("unused parameters", trainer=rested).state == "ok"


def test_what_a_first_stage_does_not_reach_a_later_one_may():
    teacher = ModelTeacher(Sure())
    hint = Stage(Loss(squared_error, student="0", teacher="inner", head=Projector()), teacher=teacher, name="hint")
    rest = Stage(Loss(kl_divergence), teacher=teacher, name="rest")
    assert findings(teacher=teacher, recipe=Recipe(hint, rest))["unused parameters"].state == "ok"
    assert findings(teacher=teacher, recipe=Recipe(hint))["unused parameters"].state == "look"


def test_a_term_that_has_no_say_is_detected():
    one = found("terms")
    assert one.state == "ok"
    shares = one.value["distilled"]
    assert sum(term["share"] for term in shares.values()) == pytest.approx(1.0)
    mean_over_classes = 1e-3 * Loss(kl_divergence, temperature=2.0) + Loss(cross_entropy)
    one = found("terms", mean_over_classes)
    assert one.state == "look"
    assert "'kl_divergence'" in one.sentence
    assert "weight (0.001)" in one.sentence
    off = found("terms", 0.0 * Loss(kl_divergence) + Loss(cross_entropy))
    assert "weight 0 here" in off.sentence


def test_a_ramp_is_looked_at_on_its_way_and_not_at_its_foot():
    assert found("terms", ramp(1.0, start=0.0) * Loss(kl_divergence) + Loss(cross_entropy)).state == "ok"


def test_a_teacher_that_has_yet_to_learn_is_taken_for_sure():
    torch.manual_seed(3)
    network = nn.Linear(6, 4)
    nn.init.normal_(network.weight, std=1e-4)
    teacher = ModelTeacher(network)
    recipe = lesson(usual(), teacher)
    one = findings(network=network, teacher=teacher, recipe=recipe, trained=False)["terms"]
    assert one.state == "ok"
    assert "not trained yet" in one.sentence
    assert one.value["distilled"]["kl_divergence"]["share"] > 0.2


def test_the_whole_job_is_its_steps_times_their_time():
    one = patient(trained=True)
    arm = dataclasses.replace(one.arms[0], runs=3, longer=2.0)
    models = create_models(arm, one.fabric)
    (group,) = stage_groups(arm, models)
    taken = time_steps(group, arm, models, one)
    assert taken.steps == 2 * 8 * 3 * 2  # epochs, batches, runs, and twice as much data as were looked at
    assert taken.seconds > 0
    weights = 4 * sum(p.numel() for p in student().parameters())
    assert taken.bytes > 4 * weights + 16 * 6 * 4, "weights, gradients, two moments, the teacher, and the inputs"


def test_stages_and_branches_are_counted():
    network = Sure()
    recipe = make("specialists", teacher=ModelTeacher(network), groups=[[0, 1], [2, 3]])
    one = patient(network=network, recipe=recipe, teacher=ModelTeacher(network))
    models = create_models(one.arms[0], one.fabric)
    groups = list(stage_groups(one.arms[0], models))
    assert [group.repeats for group in groups] == [2, 1]


def test_peers_are_looked_at_one_after_the_other():
    names = findings(recipe=make("mutual"))
    assert set(names["terms"].value) == {"distilled, mutual student", "distilled, mutual peer"}
    assert names["unused parameters"].state == "ok"


def test_the_worst_of_several_places_speaks_for_all():
    places = {"a": passed("x", 1.0, "Fine."), "b": fail("x", 2.0, "Bad."), "c": fail("x", 3.0, "Bad.", rank=1.0)}
    one = merged(places)
    assert (one.state, one.sentence) == ("wrong", "b, c: Bad.")
    assert one.value == {"a": 1.0, "b": 2.0, "c": 3.0}
    assert merged({"a": passed("x", 1.0, "Fine."), "b": warn("x", 2.0, "Hm.")}).sentence == "b: Hm."
    assert merged({"a": warn("x", 2.0, "Hm.")}).sentence == "Hm."
    assert merged({"a": passed("x", 1.0, "Is 1."), "b": passed("x", 2.0, "Is 2.", rank=2.0)}).sentence == "b: Is 2."
    assert merged({"a": passed("x", 1.0, "Fine."), "b": passed("x", 2.0, "Fine.")}).sentence == "Fine."


def test_a_teacher_is_waited_for_and_the_arms_go_side_by_side():
    one = patient(side_by_side=2)
    first = dataclasses.replace(one.arms[0], first=True)
    rest = dataclasses.replace(one.arms[0], runs=5)
    for arm, abreast in ((first, 1), (rest, 2)):
        models = create_models(arm, one.fabric)
        (group,) = stage_groups(arm, models)
        assert time_steps(group, arm, models, one).abreast == abreast
    taken = [Pace("teacher", 2.0, 0, 10, 1), Pace("arm", 1.0, 0, 50, 2)]
    assert estimate_total(taken, 2).value == 2.0 * 10 + 1.0 * 50 / 2
    assert estimate_total([Pace("arm", 10.0, 0, 10_000, 1)], 1).state == "look", "more than a day"
