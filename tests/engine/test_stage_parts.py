"""Parts of models that learn, stages that step at different rates, and optimizers with groups."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import nn

from engine.stories import SGD, hint, make_loader, network, weights
from limbeck.batch import Progress
from limbeck.engine import distill, open_stage
from limbeck.errors import ArgumentError, UnknownNameError
from limbeck.functional import cross_entropy, kernel, kl_divergence, label_smoothing
from limbeck.losses import Loss
from limbeck.recipe import Optimizer, Stage


class Adversary(nn.Module):
    """A generator of inputs, before a student and its teacher."""

    def __init__(self, student: nn.Module, teacher: nn.Module) -> None:
        super().__init__()
        with torch.random.fork_rng():
            torch.manual_seed(5)
            self.generator = nn.Sequential(nn.Linear(5, 5), nn.BatchNorm1d(5), nn.Dropout(0.1))
        self.student, self.teacher = student, teacher

    def forward(self, noise):
        made = self.generator(noise)
        return torch.cat([self.student(made), self.teacher(made)], -1)


@kernel(per="example")
def agreement(student):
    mine, its = student.chunk(2, -1)
    return -kl_divergence(mine, its)


def models() -> dict[str, nn.Module]:
    student, teacher = network(norm=True), network(hidden=6, seed=7, norm=True).eval()
    return {"adversary": Adversary(student, teacher), "student": student}


def generator_stage(**options) -> Stage:
    return Stage(Loss(agreement), trains="adversary", only="generator", optimizer=SGD, name="generator", **options)


def test_only_one_part_learns_and_the_others_keep_their_statistics():
    run_models = models()
    adversary = run_models["adversary"]
    before = {name: weights(part).clone() for name, part in adversary.named_children()}
    distill(run_models, generator_stage(steps=5), make_loader()).finish()
    changed = {name: not torch.equal(before[name], weights(part)) for name, part in adversary.named_children()}
    assert changed == {"generator": True, "student": False, "teacher": False}
    assert all(parameter.requires_grad for parameter in adversary.parameters())
    assert all(parameter.grad is None for parameter in adversary.parameters())


def test_modes_within_the_stage():
    run_models = models()
    adversary = run_models["adversary"]
    modes = {name: module.training for name, module in adversary.named_modules()}
    with open_stage(generator_stage(), run_models, make_loader()) as trainer:
        trainer.step([trainer.batch], Progress())
        assert adversary.generator[1].training
        assert not any(
            module.training for part in ("student", "teacher") for module in getattr(adversary, part).modules()
        )
    assert {name: module.training for name, module in adversary.named_modules()} == modes


def test_one_learns_against_the_other_as_if_each_were_alone():
    """The student's stage sees no gradient that the generator's stage left in it."""

    def run(*, detached: bool) -> torch.Tensor:
        run_models = models()
        adversary = run_models["adversary"]
        if detached:
            shadow = copy.deepcopy(adversary.student)
            adversary.student = shadow
        student_stage = Stage(Loss(cross_entropy), trains="student", optimizer=SGD)
        recipe = generator_stage(steps=6) & student_stage
        distill(run_models, recipe, make_loader()).finish()
        return weights(run_models["student"])

    assert torch.equal(run(detached=False), run(detached=True))


def test_the_weights_of_a_stage_with_only_are_those_of_a_frozen_model():
    def start() -> nn.Sequential:
        return network()

    one, other = start(), start()
    distill(one, Stage(Loss(cross_entropy), only=["4"], steps=6, optimizer=SGD), make_loader()).finish()
    other[0].requires_grad_(False)
    distill(other, Stage(Loss(cross_entropy), steps=6, optimizer=SGD), make_loader()).finish()
    assert torch.equal(weights(one), weights(other))


def test_an_unknown_part_names_the_nearest():
    with pytest.raises(UnknownNameError, match=r"'generater'.*'generator'") as caught:
        distill(models(), Stage(Loss(agreement), trains="adversary", only="generater", steps=1), make_loader())
    assert caught.value.argument == "only"


def test_a_part_may_be_shared_with_the_teacher_if_it_does_not_learn():
    teacher = network()
    student = nn.Sequential(teacher[0], *copy.deepcopy(teacher)[1:])
    stage = Stage(Loss(cross_entropy) + Loss(kl_divergence), teacher=teacher, only="4", steps=2)
    before = weights(teacher).clone()
    distill(student, stage, make_loader()).finish()
    assert torch.equal(before, weights(teacher))


class Steps(nn.Module):
    """Counts its forward passes in train mode."""

    def __init__(self) -> None:
        super().__init__()
        self.inner = network()
        self.register_buffer("count", torch.zeros((), dtype=torch.int64))

    def forward(self, x):
        if self.training:
            self.count += 1
        return self.inner(x)


def test_k_steps_to_one():
    slow, fast = Steps(), Steps()
    recipe = Stage(Loss(cross_entropy), trains="slow", every=5) & Stage(Loss(cross_entropy), trains="fast", times=2)
    run = distill({"slow": slow, "fast": fast}, recipe, make_loader(), steps=12, log_every=1).finish()
    assert (int(slow.count), int(fast.count)) == (3, 24)
    assert [("slow/cross_entropy" in report.terms) for report in run.history[:6]] == [
        True,
        False,
        False,
        False,
        False,
        True,
    ]
    assert run.history[0].rate > 0


def test_every_is_resumed_exactly(tmp_path):
    def start(out, **options):
        recipe = Stage(Loss(cross_entropy), trains="slow", every=3) & Stage(Loss(cross_entropy), trains="fast", times=2)
        pair = {"slow": network(seed=1), "fast": network(seed=2)}
        return distill(pair, recipe, make_loader(), steps=8, log_every=1, out=out, checkpoint_seconds=0.0, **options)

    whole = start(tmp_path / "whole").finish()
    for report in start(tmp_path / "part"):
        if report.step == 5:
            break
    resumed = start(tmp_path / "part", resume=True).finish()
    assert torch.equal(weights(*whole.models.values()), weights(*resumed.models.values()))


def test_two_stages_of_one_model_have_terms_of_their_own_also_after_a_resume(tmp_path):
    def start(out, **options):
        first = Stage(Loss(cross_entropy), only="0", every=2, steps=4)
        recipe = first & Stage(Loss(label_smoothing, smoothing=0.5), times=2) & Stage(Loss(cross_entropy))
        return distill(network(), recipe, make_loader(), out=out, log_every=1, checkpoint_seconds=0.0, **options)

    whole = start(tmp_path / "whole").finish().history
    second, third = "student#2/label_smoothing", "student#3/cross_entropy"
    assert set(whole[0].terms) == {"student/cross_entropy", second, third}
    assert sum(whole[0].terms.values()) == pytest.approx(whole[0].loss)
    assert set(whole[1].terms) == {second, third}
    for _ in start(tmp_path / "part"):
        break
    resumed = start(tmp_path / "part", resume=True).finish().history
    assert [report[:9] for report in resumed] == [report[:9] for report in whole[1:]]


def test_a_stage_with_nothing_to_learn_is_refused():
    with pytest.raises(ArgumentError) as caught:
        Stage(Loss(cross_entropy), only=())
    assert caught.value.argument == "only"


@pytest.mark.parametrize("value", [0, -1, True])
@pytest.mark.parametrize("name", ["every", "times"])
def test_every_and_times_are_whole_numbers(name, value):
    with pytest.raises(ArgumentError) as caught:
        Stage(Loss(cross_entropy), **{name: value})
    assert caught.value.argument == name


def test_batches_that_no_stage_uses_are_refused():
    alone = Stage(Loss(cross_entropy), every=2, steps=2)
    with pytest.raises(ArgumentError):
        distill(network(), alone, make_loader())
    with pytest.raises(ArgumentError):
        Stage(Loss(cross_entropy), trains="a", every=2) & Stage(Loss(cross_entropy), trains="b", every=2)


def test_groups_have_their_own_options():
    plan = Optimizer("sgd", lr=0.1, decay="linear", groups={"4": {"lr": 0.0}, "*.bias": {"weight_decay": 0.5}})
    with open_stage(Stage(Loss(cross_entropy), optimizer=plan), {"student": network()}, make_loader()) as trainer:
        last = weights(trainer.model[4]).clone()
        trainer.step([trainer.batch], Progress(5, 10))
        groups = trainer.optimizer.param_groups
        assert [(len(g["params"]), g["lr"], g["weight_decay"]) for g in groups] == [
            (1, pytest.approx(0.05), 0), (2, 0.0, 0), (1, pytest.approx(0.05), 0.5),
        ]  # fmt: skip
        assert torch.equal(last, weights(trainer.model[4]))


def test_heads_of_losses_are_a_group():
    plan = Optimizer("sgd", lr=0.1, groups={"loss": {"lr": 1.0}})
    stage = Stage(hint(), teacher=network(hidden=6, seed=7), optimizer=plan)
    with open_stage(stage, {"student": network()}, make_loader()) as trainer:
        assert [group["lr"] for group in trainer.optimizer.param_groups] == [0.1, 1.0]
        assert sum(p.numel() for p in trainer.optimizer.param_groups[1]["params"]) == 8 * 6 + 6


def test_a_group_that_matches_nothing():
    stage = Stage(Loss(cross_entropy), optimizer=Optimizer(groups={"backbone": {"lr": 0.1}}), steps=1)
    with pytest.raises(UnknownNameError, match=r"'backbone'"):
        distill(network(), stage, make_loader()).finish()
    with pytest.raises(UnknownNameError, match=r"'momentun'.*'momentum'"):
        Optimizer("sgd", groups={"0": {"momentun": 0.9}})
    with pytest.raises(ArgumentError):
        Optimizer(groups={"0": {"lr": float("nan")}})
