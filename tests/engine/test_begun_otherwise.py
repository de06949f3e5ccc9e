"""Is a folder that was begun by another recipe refused in one sentence that says what differs?"""

from __future__ import annotations

import functools
import json

import pytest
from torch import nn

from engine.stories import SGD, network, source
from limbeck.engine import distill
from limbeck.errors import LimbeckError
from limbeck.functional import Projector, cross_entropy, squared_error
from limbeck.objective import Loss
from limbeck.recipe import Recipe, Stage
from limbeck.teachers import Live


def begun(out, stage, **options):
    """A run that is left after its first report."""
    for report in distill(network(), stage, source(), out=out, log_every=1, optimiser=SGD, **options):
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
    taken_up = distill(
        network(), recipe(nn.Sequential(nn.Linear(8, 8), nn.ReLU())), source(), out=tmp_path, log_every=1,
        optimiser=SGD, resume=True,
    )  # fmt: skip
    with pytest.raises(LimbeckError, match=r"The checkpoint is of another recipe than this one, in stage .*one"):
        taken_up.finish()


def plain(batch):
    return batch.inputs


def doubled(batch):
    return batch.inputs * 2


def scaled(batch, by=1.0):
    return batch.inputs * by


def stage(**options):
    return Stage(Loss(cross_entropy), epochs=1, **options)


def taught(reads):
    return Stage(Loss(squared_error), teacher=Live(network(seed=7), reads=reads), epochs=1)


def one(models):
    return stage()


def other(models):
    return stage()


CASES = {
    "the stage's reads": (lambda: stage(reads=plain), lambda: stage(reads=doubled), "recipe.0.reads"),
    "reads or none": (lambda: stage(), lambda: stage(reads=plain), "recipe.0.reads"),
    "a partial": (lambda: stage(reads=plain), lambda: stage(reads=functools.partial(scaled, by=2)), "recipe.0.reads"),
    "the teacher's reads": (lambda: taught(plain), lambda: taught(doubled), "recipe.0.teacher.reads"),
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
    distill(network(), first(), source(), out=tmp_path)._touched = True
    distill(network(), first(), source(), out=tmp_path, resume=True)._touched = True
    with pytest.raises(LimbeckError, match=f"begun by another run than this one: {field} was"):
        distill(network(), second(), source(), out=tmp_path, resume=True)


def test_the_run_s_own_reads(tmp_path):
    distill(network(), stage(), source(), out=tmp_path, reads=plain)._touched = True
    said = json.loads((tmp_path / "run.json").read_text())
    assert said["setting"]["reads"] == f"{__name__}.plain"
    with pytest.raises(LimbeckError, match=r"setting.reads was '.*\.plain' and is '.*\.doubled'"):
        distill(network(), stage(), source(), out=tmp_path, reads=doubled, resume=True)
