"""A term of weight 0 has no effect, and one of a small weight a small one."""

from __future__ import annotations

import json
import math

import pytest
import torch
from torch import nn

from engine.stories import SGD, hint, make_loader, network, weights
from limbeck.batch import Term
from limbeck.engine import distill
from limbeck.functional import cross_entropy, kernel
from limbeck.losses import Loss, weighted_loss
from limbeck.recipe import Optimizer, Stage
from limbeck.schedule import ramp, steps

CE = Loss(cross_entropy)


@kernel(per="example")
def infinite(student):
    """Its value is infinite, and so is its gradient."""
    return 1.0 / (student.sum(-1) * 0.0).square()


@pytest.mark.parametrize("weight", [0, 0.0, -0.0, steps({}, start=0.0)])
@pytest.mark.parametrize("value", [math.inf, math.nan])
def test_a_term_of_weight_zero_adds_nothing(weight, value):
    at = torch.tensor(2.0, requires_grad=True)
    terms = {"a": Term(at * value, 3.0, 0.0), "b": Term(at * 6.0, 3.0, 1.0)}
    loss = weighted_loss(terms, {"a": 3.0, "b": 3.0})
    loss.backward()
    assert (float(loss.detach()), float(at.grad)) == (4.0, 2.0)
    student = network()
    run = distill(
        student, Stage(CE + weight * Loss(infinite), epochs=1), make_loader(), optimizer=SGD, log_every=1
    ).finish()
    alone = network()
    distill(alone, Stage(CE, epochs=1), make_loader(), optimizer=SGD).finish()
    assert torch.equal(weights(student), weights(alone))
    assert all(math.isfinite(report.loss) for report in run.history)
    assert all(report.gradient_norms["infinite"] == 0.0 for report in run.history)


def test_nothing_but_weights_of_zero_is_zero():
    terms = {"a": Term(torch.tensor(math.inf), 3.0, 0.0)}
    loss = weighted_loss(terms, {"a": 3.0})
    loss.backward()
    assert float(loss.detach()) == 0.0
    student = network()
    before = weights(student)
    distill(student, Stage(0.0 * CE, epochs=1), make_loader(), optimizer=SGD).finish()
    assert torch.equal(weights(student), before)


def test_the_file_of_reports_stays_json(tmp_path):
    distill(network(), Stage(CE + 0.0 * Loss(infinite), epochs=1), make_loader(), out=tmp_path / "run").finish()
    for line in (tmp_path / "run" / "metrics.jsonl").read_text().splitlines():
        assert json.loads(line, parse_constant=lambda name: 1 / 0)["terms"]["infinite"] is None


@pytest.mark.parametrize("plan", [SGD, Optimizer("adamw", options={"weight_decay": 0.1})])
def test_weights_are_continuous_at_zero(plan):
    """Also for what only that term reaches, its head: at weight 0 it has a gradient of 0, not none."""
    found = []
    for weight in (0.0, 1e-30):
        torch.manual_seed(0)
        student, head = network(), hint()
        stage = Stage(CE + weight * head, teacher=network(hidden=6, seed=7), epochs=2, optimizer=plan)
        distill(student, stage, make_loader()).finish()
        found.append(weights(student, head))
    torch.testing.assert_close(found[0], found[1], rtol=0, atol=1e-9)


def test_what_no_term_reaches_is_left_alone():
    student = nn.ModuleDict({"used": network(), "spare": nn.Linear(2, 2)})
    student.forward = lambda x: student["used"](x)
    before = weights(student["spare"])
    plan = Optimizer("adamw", lr=0.1, options={"weight_decay": 0.5})
    distill(
        student, Stage(CE + ramp(1.0) * Loss(cross_entropy, name="more"), epochs=1, optimizer=plan), make_loader()
    ).finish()
    assert torch.equal(weights(student["spare"]), before)
