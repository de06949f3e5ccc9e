"""A folder of another recipe is refused with the differences."""

from __future__ import annotations

import functools
import json

import pytest
from torch import nn

from engine.stories import SGD, make_loader, network
from limbeck.engine import distill
from limbeck.errors import DataError, LimbeckError
from limbeck.functional import Projector, cross_entropy, kernel, squared_error
from limbeck.losses import Loss
from limbeck.recipe import Recipe, Stage
from limbeck.teachers import ModelTeacher


def begun(out, stage, **options):
    """A run that is left after its first report."""
    for report in distill(network(), stage, make_loader(), out=out, log_every=1, optimizer=SGD, **options):
        if report.step == 1:
            break


def hinted(head):
    return Stage(
        Loss(squared_error, student="0", teacher="0", head=head), teacher=network(seed=7), epochs=1, name="one"
    )


@pytest.mark.parametrize("stages", [1, 2])
def test_another_kind_of_head(tmp_path, stages):
    def recipe(head):
        more = Stage(Loss(cross_entropy), epochs=1, name="two")
        return Recipe(*[hinted(head), more][:stages])

    begun(tmp_path, recipe(Projector()))
    other = recipe(nn.Sequential(nn.Linear(8, 8), nn.ReLU()))
    with pytest.raises(LimbeckError, match=r"belongs to another run: recipe\..*head=Projector"):
        distill(network(), other, make_loader(), out=tmp_path, log_every=1, optimizer=SGD, resume=True)


def plain(batch):
    return batch.inputs


def doubled(batch):
    return batch.inputs * 2


def scaled(batch, by=1.0):
    return batch.inputs * by


def stage(**options):
    return Stage(Loss(cross_entropy), epochs=1, **options)


def taught(preprocess):
    return Stage(Loss(squared_error), teacher=ModelTeacher(network(seed=7), preprocess=preprocess), epochs=1)


def one(models):
    return stage()


def other(models):
    return stage()


CASES = {
    "the stage's reads": (lambda: stage(preprocess=plain), lambda: stage(preprocess=doubled), "recipe.0.preprocess"),
    "reads or none": (lambda: stage(), lambda: stage(preprocess=plain), "recipe.0.preprocess"),
    "a partial": (
        lambda: stage(preprocess=plain),
        lambda: stage(preprocess=functools.partial(scaled, by=2)),
        "recipe.0.preprocess",
    ),
    "the teacher's reads": (lambda: taught(plain), lambda: taught(doubled), "recipe.0.teacher.preprocess"),
    "a function": (lambda: stage() >> one, lambda: stage() >> other, "functions.parts.1"),
    "a function in a branch": (
        lambda: Recipe(stage() | (one >> stage(trains="b")), makes={"b": network}),
        lambda: Recipe(stage() | (other >> stage(trains="b")), makes={"b": network}),
        "functions.parts.0.1.0",
    ),
    "a maker": (
        lambda: Recipe(stage(), makes={"b": lambda m: network()}),
        lambda: Recipe(stage(), makes={"b": network}),
        "functions.makes.b",
    ),
    "what is shipped": (lambda: stage(), lambda: Recipe(stage(), ship=lambda m: m["student"]), "functions.ship"),
}


@pytest.mark.parametrize("case", CASES)
def test_another_function(tmp_path, case):
    first, second, field = CASES[case]
    distill(network(), first(), make_loader(), out=tmp_path)._touched = True
    distill(network(), first(), make_loader(), out=tmp_path, resume=True)._touched = True
    with pytest.raises(LimbeckError, match=f"belongs to another run: {field} was"):
        distill(network(), second(), make_loader(), out=tmp_path, resume=True)


def test_the_run_s_own_reads(tmp_path):
    distill(network(), stage(), make_loader(), out=tmp_path, preprocess=plain)._touched = True
    said = json.loads((tmp_path / "run.json").read_text())
    assert said["setting"]["preprocess"] == f"{__name__}.plain"
    with pytest.raises(LimbeckError, match=r"setting.preprocess was '.*\.plain' and is '.*\.doubled'"):
        distill(network(), stage(), make_loader(), out=tmp_path, preprocess=doubled, resume=True)


def weighed(models, weight=1.0):
    return Stage(weight * Loss(cross_entropy), epochs=1)


def made(weight):
    def part(models):
        return weighed(models, weight)

    return part


class Plan:
    """A callable of a person's own, whose settings are where it likes."""

    def __init__(self, weight, *, private=0.0):
        self.weight, self._private = weight, private

    def __call__(self, models):
        return weighed(models, self.weight + self._private)


def kernel_of(weight):
    @kernel(per="position")
    def own(student, *, labels):
        return weight * cross_entropy(student, labels=labels)

    return Stage(Loss(own), epochs=1)


def wide(models, hidden=8):
    return network(hidden=hidden)


def asked(w, models):
    return weighed(models, w)


SETTINGS = {
    "a keyword": (lambda w: stage() >> functools.partial(weighed, weight=w), "arguments.weight was 0.8 and is 99"),
    "an argument": (lambda w: stage() >> functools.partial(asked, w), "arguments.0 was 0.8 and is 99"),
    "a closure": (lambda w: stage() >> made(w), "part 0"),
    "a default": (lambda w: stage() >> (lambda models, weight=w: weighed(models, weight)), "part 0"),
    "an object": (lambda w: stage() >> Plan(w), "part 0"),
    "an object's private setting": (lambda w: stage() >> Plan(1.0, private=w), "part 0"),
    "a bound method": (lambda w: stage() >> Plan(w).__call__, "part 0"),
    "a branch": (
        lambda w: Recipe(stage() | (functools.partial(weighed, weight=w) >> stage(trains="b")), makes={"b": network}),
        "part 0",
    ),
    "a maker": (lambda w: Recipe(stage(), makes={"b": functools.partial(wide, hidden=w)}), "makes b"),
    "what is shipped": (lambda w: Recipe(stage(), ship=functools.partial(lambda m, w: m["student"], w=w)), "ship"),
    "a kernel": (kernel_of, "loss own"),
    "the stage's reads": (lambda w: stage(preprocess=functools.partial(scaled, by=w)), "stage 0 preprocess"),
    "the teacher's reads": (lambda w: taught(functools.partial(scaled, by=w)), "teacher preprocess"),
}


@pytest.mark.parametrize("case", SETTINGS)
def test_the_same_functions_with_other_settings(tmp_path, case):
    make, place = SETTINGS[case]
    distill(network(), make(0.8), make_loader(), out=tmp_path)._touched = True
    distill(network(), make(0.8), make_loader(), out=tmp_path, resume=True)._touched = True
    with pytest.raises(LimbeckError, match=f"belongs to another run: contents.*{place}"):
        distill(network(), make(99), make_loader(), out=tmp_path, resume=True)


def test_a_function_that_holds_the_student_is_taken_up(tmp_path):
    """Its weights are others when the run is taken up."""
    student = network()
    function = functools.partial(lambda held, models: stage(), student)
    begun_with = stage() >> function
    distill(student, begun_with, make_loader(), out=tmp_path)._touched = True
    other = network(seed=5)
    again = stage() >> functools.partial(function.func, other)
    distill(other, again, make_loader(), out=tmp_path, resume=True)._touched = True


def test_an_adaptor_with_other_settings(tmp_path):
    def adaptor(by):
        return lambda output: output * by

    distill(network(), stage(), make_loader(), out=tmp_path, adaptor=adaptor(2))._touched = True
    distill(network(), stage(), make_loader(), out=tmp_path, adaptor=adaptor(2), resume=True)._touched = True
    with pytest.raises(LimbeckError, match="adaptor"):
        distill(network(), stage(), make_loader(), out=tmp_path, adaptor=adaptor(3), resume=True)


WEIGHT = 0.8


def by_its_module(models):
    return weighed(models, WEIGHT)


def test_a_setting_of_its_module(tmp_path, monkeypatch):
    distill(network(), stage() >> by_its_module, make_loader(), out=tmp_path)._touched = True
    distill(network(), stage() >> by_its_module, make_loader(), out=tmp_path, resume=True)._touched = True
    monkeypatch.setitem(globals(), "WEIGHT", 99.0)
    with pytest.raises(LimbeckError, match="part 0"):
        distill(network(), stage() >> by_its_module, make_loader(), out=tmp_path, resume=True)


def test_a_checkpoint_without_the_words_that_say_whose_it_is(tmp_path):
    stage = Stage(Loss(cross_entropy), epochs=1)
    begun(tmp_path, stage)
    (tmp_path / "run.json").unlink()
    with pytest.raises(DataError, match=r"run\.json is missing"):
        distill(network(), stage, make_loader(), out=tmp_path, log_every=1, optimizer=SGD, resume=True)


def test_another_batch_size_is_not_resumed(tmp_path):
    def start(batch_size, **options):
        recipe = Stage(Loss(cross_entropy), steps=4)
        return distill(network(), recipe, make_loader(batch_size=batch_size), out=tmp_path, log_every=1, **options)

    for _ in start(8):
        break
    with pytest.raises(LimbeckError, match=r"batch_sizes.*8.*4"):
        start(4, resume=True)
