"""Branches joined by | are independent of each other and of where they run."""

from __future__ import annotations

import copy
import json

import pytest
import torch
from torch import nn

from engine.stories import SGD, everything, make_loader, network, weights
from limbeck.engine import distill
from limbeck.errors import LimbeckError
from limbeck.functional import cross_entropy, kl_divergence
from limbeck.losses import Loss
from limbeck.models import load
from limbeck.recipe import Recipe, Stage

CE = Loss(cross_entropy)


def member(name: str, **options) -> Stage:
    return Stage(Loss(cross_entropy), trains=name, optimizer=SGD, **{"epochs": 2, **options})


def models() -> dict[str, nn.Module]:
    return {"student": network(dropout=0.3), "a": network(seed=1, dropout=0.3), "b": network(seed=2)}


def said(run) -> list[tuple]:
    return [(r.stage, r.step, r.steps, r.loss, r.terms) for r in run.history]


def recipe() -> Recipe:
    """Two branches, of which one asks the other's model, then a stage that learns from both."""
    asks = Stage(CE + Loss(kl_divergence), teacher="a", trains="b", epochs=1, optimizer=SGD)
    return (member("a") | asks) >> Stage(CE + Loss(kl_divergence), teacher="b", epochs=1, optimizer=SGD)


@pytest.fixture(scope="module")
def in_one_process() -> tuple[torch.Tensor, list]:
    run = distill(models(), recipe(), make_loader(), workers=1).finish()
    return weights(*run.models.existing.values()), said(run)


@pytest.mark.slow
def test_processes_give_what_one_process_gives(in_one_process, tmp_path):
    run = distill(models(), recipe(), make_loader(), workers=2, out=tmp_path / "run").finish()
    assert said(run) == in_one_process[1]
    assert torch.equal(weights(*run.models.existing.values()), in_one_process[0])
    for number, name in enumerate("ab"):
        kept = load(tmp_path / "run" / "branches" / f"0-{number}" / "student", build=lambda name=name: models()[name])
        assert torch.equal(weights(kept), weights(run.models[name]))


def test_no_branch_has_the_seed_of_another_repetition(tmp_path):
    seeds = set(range(1000))
    two = Recipe(member("a", epochs=1) | member("b", epochs=1)) >> (member("a", epochs=1) | member("b", epochs=1))
    for seed in range(2):
        out = tmp_path / str(seed)
        distill(models(), two, make_loader(), seed=seed, workers=1, out=out).finish()
        own = [json.loads(file.read_text())["setting"]["seed"] for file in out.glob("branches/*/run.json")]
        assert len(own) == 4
        assert not seeds & set(own)
        seeds |= set(own)
    assert len(seeds) == 1000 + 8


def test_the_order_of_branches_does_not_matter_to_their_models():
    """Each begins from the models as they were, whoever ran before it."""
    first = distill(models(), Recipe(member("a") | member("b")), make_loader(), workers=1).finish()
    alone = distill(models(), Recipe(member("a") | member("student")), make_loader(), workers=1).finish()
    assert torch.equal(weights(first.models["a"]), weights(alone.models["a"]))


def test_a_branch_does_not_see_what_another_has_learned():
    before = copy.deepcopy(models()["a"])
    asks = Stage(Loss(kl_divergence), teacher="a", trains="b", epochs=1, optimizer=SGD)
    run = distill(models(), Recipe(member("a") | asks), make_loader(), workers=1).finish()
    plain = {"b": network(seed=2), "x": network(seed=9)}
    own = Stage(Loss(kl_divergence), teacher=before, trains="b", epochs=1, optimizer=SGD)
    other = distill(plain, Recipe(member("x") | own), make_loader(), workers=1).finish()
    assert torch.equal(weights(run.models["b"]), weights(other.models["b"]))


@pytest.mark.parametrize("at", [1, 2, 3])
def test_break_and_go_on(in_one_process, at):
    run = distill(models(), recipe(), make_loader(), workers=1)
    for _ in run:
        if len(run.history) == at:
            break
    run.finish()
    assert torch.equal(weights(*run.models.existing.values()), in_one_process[0])


@pytest.mark.parametrize("at", [1, 2])
def test_taken_up_from_disk(in_one_process, tmp_path, at):
    run = distill(models(), recipe(), make_loader(), workers=1, out=tmp_path / "run")
    for _ in run:
        if len(run.history) == at:
            break
    again = distill(models(), recipe(), make_loader(), workers=1, out=tmp_path / "run", resume=True).finish()
    assert torch.equal(weights(*again.models.existing.values()), in_one_process[0])
    lines = [json.loads(line) for line in (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()]
    assert [(line["stage"], line["step"], line["loss"]) for line in lines] == [
        (stage, step, pytest.approx(loss, rel=1e-6)) for stage, step, _, loss, _ in in_one_process[1]
    ]


def test_the_stage_after_begins_where_the_source_stood(in_one_process):
    """Branches have positions of their own; the run's source is not moved by them."""
    run = distill(models(), Recipe(member("a", epochs=3) | member("b", epochs=1)), make_loader(), workers=1)
    run.finish()
    assert run._loader.state_dict() == {"epoch": 0, "batch": 0}


def test_one_report_a_branch(in_one_process):
    stages = [(stage, step, steps) for stage, step, steps, _, _ in in_one_process[1]]
    assert stages[:2] == [("0 branch 0", 1, 2), ("0 branch 1", 2, 2)]


def test_models_are_made_for_branches():
    makes = {name: lambda m, name=name: network(seed=ord(name)) for name in "xyz"}
    run = distill(
        network(), Recipe(member("x") | member("y") | member("z"), makes=makes), make_loader(), workers=1
    ).finish()
    assert {"x", "y", "z"} <= set(run.models.existing)
    assert len({tuple(weights(run.models[name])[:5].tolist()) for name in "xyz"}) == 3


def test_branches_of_several_stages():
    run = distill(
        models(), Recipe((member("a") >> member("a", epochs=1)) | member("b")), make_loader(), workers=1
    ).finish()
    assert run.finished
    assert [report.step for report in run.history] == [1, 2]


def test_two_branches_may_not_train_one_model():
    with pytest.raises(LimbeckError, match=r"two of them train 'a'; let each train a model of its own"):
        distill(models(), Recipe(member("a") | member("a")), make_loader(), workers=1).finish()


def test_a_branch_that_only_a_function_knows_is_one_sentence():
    whole = Recipe(Recipe(lambda m: member("a")) | member("b"))
    with pytest.raises(LimbeckError, match=r"branch.*function"):
        distill(models(), whole, make_loader(), workers=1).finish()


def test_heads_of_branches_and_hooks_stay_with_them():
    one, other = network(), network(seed=3)
    recipe = Recipe(
        everything(trains="student", epochs=1) | everything(trains="other", epochs=1), makes={"other": lambda m: other}
    )
    run = distill(one, recipe, make_loader(), workers=1).finish()
    assert run.finished
    assert not any(module._forward_hooks for model in (one, other) for module in model.modules())
