"""Each generation learns from the one before, and the last one is shipped."""

from __future__ import annotations

import torch

from limbeck.engine import distill
from limbeck.methods import make
from limbeck.models import load, reinitialize
from limbeck.testing.law import same_weights, weights
from methods.planted import Planted


def test_the_first_generation_is_hinton():
    planted = Planted()
    own = reinitialize(planted.student(), seed=9)
    ours = planted.learn(make("born_again", teacher=own, generations=1, temperature=2.0), epochs=3)
    theirs = planted.learn(make("hinton", teacher=own, weight=0.5, temperature=2.0), epochs=3)
    assert same_weights(weights(ours.student), weights(theirs.student))


def test_each_generation_learns_from_the_one_before():
    planted = Planted()
    recipe = make("born_again", teacher=planted.truth, generations=3)
    run = planted.learn(recipe, epochs=3)
    described = [stage.describe() for stage in recipe.stages()]
    assert [stage["trains"] for stage in described] == ["student", "generation-2", "generation-3"]
    assert [stage["teacher"].get("name") for stage in described] == [None, "student", "generation-2"]
    assert run.student is run.models["generation-3"]
    states = [weights(model) for model in run.models.existing.values()]
    assert len(states) == 3
    assert not any(same_weights(states[i], states[j]) for i in range(3) for j in range(i))


def test_a_later_generation_begins_anew_and_leaves_its_teacher_alone():
    planted = Planted()
    one = planted.learn(make("born_again", teacher=planted.truth, generations=1), epochs=3)
    two = planted.learn(make("born_again", teacher=planted.truth, generations=2), epochs=3)
    assert same_weights(weights(one.student), weights(two.models["student"]))


def test_the_second_generation_beats_the_student_alone():
    planted = Planted()
    alone = planted.accuracy(planted.alone(epochs=20))
    recipe = make("born_again", teacher=planted.truth, generations=2, weight=1.0, labels=False)
    assert planted.accuracy(planted.learn(recipe, epochs=20).student) > alone + 0.05


def test_the_last_generation_is_on_disk(tmp_path):
    planted = Planted()
    recipe = make("born_again", teacher=planted.truth, generations=2)
    run = distill(planted.student(), recipe, (planted.x, planted.labels), epochs=1, out=tmp_path / "run").finish()
    saved = load(tmp_path / "run" / "student")
    assert torch.equal(saved.eval()(planted.test), run.models["generation-2"].eval()(planted.test))
