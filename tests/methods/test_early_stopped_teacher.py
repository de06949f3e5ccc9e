"""A teacher that is trained for a share of its epochs, with the whole schedule of its learning rate."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from limbeck.data import ArrayDataset
from limbeck.engine import distill
from limbeck.errors import ArgumentError, LimbeckError, UnknownNameError
from limbeck.methods import make
from limbeck.recipe import Optimizer
from limbeck.testing.law import same_weights, weights
from methods.planted import Planted


def reports(run, stage):
    return [report for report in run.history if report.stage.endswith(f" {stage}")]


def learn(planted, **options):
    """A run whose every step is reported."""
    recipe = make("early_stopped_teacher", teacher=planted.truth, share=0.4, **options.pop("arguments", {}))
    optimizer = Optimizer("adam", lr=5e-3, decay="cosine")
    data = ArrayDataset(planted.x, planted.labels)
    return distill(planted.student(), recipe, data, batch_size=40, seed=0, optimizer=optimizer, log_every=1, **options
                   ).finish()  # fmt: skip


@pytest.mark.parametrize(
    ("options", "steps"),
    [({"epochs": 10}, 12), ({"steps": 20}, 8), ({"epochs": 2, "arguments": {"teacher_epochs": 5}}, 6)],
)
def test_the_teacher_is_trained_for_its_share_and_its_learning_rate_reaches_the_end(options, steps):
    run = learn(Planted(), **options)
    rates = [report.lr for report in reports(run, "early-stopped teacher")]
    assert len(rates) == steps  # of three batches each
    assert rates[-1] < 0.1 * rates[0]
    assert len(reports(run, "hinton")) == (options.get("steps") or 3 * options["epochs"])


def test_the_teacher_that_was_given_is_neither_changed_nor_used():
    planted = Planted()
    before = weights(planted.truth)
    run = learn(planted, epochs=2)
    assert same_weights(weights(planted.truth), before)
    assert not same_weights(weights(run.models["early-stopped"]), before)


def test_the_student_learns_by_any_method_with_its_settings():
    recipe = make("early_stopped_teacher", teacher=nn.Linear(4, 3), method="dkd", settings={"target_weight": 0.5})
    assert [stage.name for stage in recipe.stages()] == ["dkd"]  # the other stage depends on the budget
    usual = make("early_stopped_teacher", teacher=nn.Linear(4, 3))
    assert "temperature=4.0" in repr(next(usual.stages()).objective)


def test_what_cannot_be_is_refused_when_it_is_built():
    teacher = nn.Linear(4, 3)
    for wrong in ({"share": 0.0}, {"share": 1.2}, {"teacher_epochs": 0}, {"settings": 3}, {"method": "mutual"}):
        with pytest.raises(ArgumentError) as error:
            make("early_stopped_teacher", teacher=teacher, **wrong)
        assert error.value.argument == next(iter(wrong))
    with pytest.raises(UnknownNameError, match="hinton"):
        make("early_stopped_teacher", teacher=teacher, method="hintn")
    with pytest.raises(UnknownNameError, match="temperature"):
        make("early_stopped_teacher", teacher=teacher, settings={"temperatur": 1.0})


def test_a_teacher_that_cannot_be_made_anew_is_refused_before_training():
    class Own(nn.Module):
        def __init__(self):
            super().__init__()
            self.weight = nn.Parameter(torch.zeros(10, 4))

        def forward(self, x):
            return x @ self.weight

    planted = Planted()
    with pytest.raises(LimbeckError, match="reset_parameters"):
        planted.learn(make("early_stopped_teacher", teacher=Own()), epochs=1)


def test_a_short_training_leaves_the_teacher_less_sure():
    planted = Planted(train=400)
    entropies = {}
    for share in (0.1, 1.0):
        run = planted.learn(make("early_stopped_teacher", teacher=planted.truth, share=share, epochs=1,
                                 teacher_epochs=30))  # fmt: skip
        with torch.no_grad():
            p = run.models["early-stopped"].eval()(planted.x).softmax(-1)
        entropies[share] = float(torch.special.entr(p).sum(-1).mean())
    assert entropies[0.1] > entropies[1.0] + 0.1
