"""Stages compose to the written recipe."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from limbeck.data import ArrayDataset, ShuffledLoader
from limbeck.errors import LimbeckError
from limbeck.functional import cross_entropy, kl_divergence
from limbeck.losses import Loss
from limbeck.recipe import JointStages, ParallelStages, Recipe, Stage
from limbeck.teachers import ModelTeacher, TeacherRef


def stage(name: str, **options) -> Stage:
    return Stage(Loss(cross_entropy), name=name, **options)


A, B, C, D = (stage(name) for name in "abcd")


def names(part) -> object:
    """A recipe's shape in words."""
    if isinstance(part, Stage):
        return part.name
    if isinstance(part, JointStages):
        return ("&", *(names(one) for one in part.stages))
    if isinstance(part, ParallelStages):
        return ("|", *(names(one) for one in part.branches))
    if isinstance(part, Recipe):
        return [names(one) for one in part.parts]
    return "function"


def test_in_order_is_flat_and_associative():
    for recipe in (A >> B >> C, A >> (B >> C), (A >> B) >> C, Recipe(A, B, C), Recipe(Recipe(A, B), C)):
        assert names(recipe) == ["a", "b", "c"]


def test_alternating_is_flat_and_associative():
    for recipe in (A & B & C, A & (B & C), (A & B) & C):
        assert names(recipe) == [("&", "a", "b", "c")]


def test_independent_is_flat_and_associative():
    for recipe in (A | B | C, A | (B | C), (A | B) | C):
        assert names(recipe) == [("|", ["a"], ["b"], ["c"])]


def test_they_nest():
    assert names(A >> (B & C) >> D) == ["a", ("&", "b", "c"), "d"]
    assert names((A >> B) | C) == [("|", ["a", "b"], ["c"])]
    assert names((A | B) >> C) == [("|", ["a"], ["b"]), "c"]
    assert names((A & B) | (C & D)) == [("|", [("&", "a", "b")], [("&", "c", "d")])]


def test_recipes_of_several_stages_do_not_alternate():
    for make in (lambda: (A >> B) & C, lambda: A & (B >> C), lambda: (A | B) & C, lambda: (A >> (B & C)) & D):
        with pytest.raises(LimbeckError, match=r"Only single stages alternate"):
            make()


def test_a_function_stands_where_a_stage_does():
    assert names(A >> (lambda models: B) >> C) == ["a", "function", "c"]
    assert names(Recipe(lambda models: A)) == ["function"]


@pytest.mark.usefixtures("unchecked")
def test_what_is_no_part_does_not_compose():
    with pytest.raises(TypeError):
        A >> 3
    with pytest.raises(LimbeckError, match=r"made of stages; got a int"):
        Recipe(A, 3)
    with pytest.raises(LimbeckError, match=r"at least one stage"):
        Recipe()


def test_stages_are_listed_through_everything_that_is_known():
    recipe = A >> (B & C) >> (lambda models: A) >> ((A >> D) | C)
    assert [found.name for found in recipe.stages()] == ["a", "b", "c", "a", "d", "c"]


# Makers and what is shipped.


def test_makers_come_along_whichever_way_recipes_compose():
    one, two = Recipe(A, makes={"one": lambda m: nn.Identity()}), Recipe(B, makes={"two": lambda m: nn.Identity()})
    for recipe in (one >> two, one & two, one | two, C >> one >> two, one >> (C >> two), Recipe(one, two)):
        assert set(recipe.makes) == {"one", "two"}


def test_two_makers_of_one_name():
    def maker(models):
        return nn.Identity()

    one, two = Recipe(A, makes={"peer": maker}), Recipe(B, makes={"peer": lambda m: nn.Identity()})
    with pytest.raises(LimbeckError, match=r"both make a model called 'peer'; rename"):
        one >> two
    assert set((one >> Recipe(B, makes={"peer": maker})).makes) == {"peer"}


def test_what_is_shipped_is_the_student_or_the_last_thing_reported():
    assert Recipe(A).ship == "student"
    assert (Recipe(A, ship="peer") >> B).ship == "peer"
    assert (B >> Recipe(A, ship="peer")).ship == "peer"
    assert (Recipe(A, ship="one") >> Recipe(B, ship="two")).ship == "two"
    assert (Recipe(A, ship="peer") & B).ship == "peer"
    assert Recipe(Recipe(A, ship="peer") >> B, ship="student").ship == "student"


# What a stage refuses.


@pytest.mark.usefixtures("unchecked")
def test_a_kernel_is_not_an_objective():
    with pytest.raises(LimbeckError, match=r"not cross_entropy; lift a kernel with Loss\(cross_entropy\)"):
        Stage(cross_entropy)
    with pytest.raises(LimbeckError, match=r"not int"):
        Stage(3)


def test_epochs_and_steps():
    with pytest.raises(LimbeckError, match=r"epochs or steps, not both"):
        stage("a", epochs=1, steps=1)
    for unit in ("epochs", "steps"):
        with pytest.raises(LimbeckError, match=rf"got {unit}=0"):
            stage("a", **{unit: 0})


def test_an_objective_that_reads_a_teacher_needs_one():
    with pytest.raises(LimbeckError, match=r"reads logits in a teacher, and the stage has none"):
        Stage(0.5 * Loss(cross_entropy) + 0 * Loss(kl_divergence))


def test_a_teacher_is_coerced():
    assert isinstance(Stage(Loss(kl_divergence), teacher=nn.Identity()).teacher, ModelTeacher)
    assert isinstance(Stage(Loss(kl_divergence), teacher="peer").teacher, TeacherRef)
    with pytest.raises(LimbeckError, match="A int "):
        Stage(Loss(kl_divergence), teacher=3)


def test_stages_that_alternate_share_source_and_length():
    loader = ShuffledLoader(ArrayDataset(torch.zeros(2, 1)), batch_size=1)
    with pytest.raises(LimbeckError, match=r"give the source to the first"):
        A & stage("b", loader=loader)
    assert names(stage("a", loader=loader) & B) == [("&", "a", "b")]
    with pytest.raises(LimbeckError, match=r"last equally long"):
        stage("a", epochs=1) & stage("b", epochs=2)
    assert names(stage("a", epochs=2) & stage("b", epochs=2)) == [("&", "a", "b")]
    assert names(stage("a", steps=2) & B) == [("&", "a", "b")]


def test_a_stage_describes_itself():
    described = stage("a", epochs=3).describe()
    assert described["objective"] == "Loss(cross_entropy)"
    assert (described["stage"], described["epochs"], described["teacher"]) == ("a", 3, None)


def test_a_recipe_may_begin_with_a_function():
    def first(models):
        return Stage(Loss(cross_entropy), steps=1)

    last = Stage(Loss(cross_entropy), steps=2)
    assert (first >> last).parts == (first, last)
    assert (first >> (last >> first)).parts == (first, last, first)
    assert (first >> (last | last)).parts[0] is first
    with pytest.raises(TypeError, match="unsupported operand"):
        3 >> last


@pytest.mark.usefixtures("unchecked")
@pytest.mark.parametrize("amount", ["3", 2.5, True])
def test_a_length_that_is_no_whole_number_is_refused(amount):
    for unit in ("epochs", "steps"):
        with pytest.raises(LimbeckError, match=f"whole number.*{unit}="):
            Stage(Loss(cross_entropy), **{unit: amount})
