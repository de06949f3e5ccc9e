"""Rounds, changes of a model between stages, and what a function in a recipe can ask."""

from __future__ import annotations

import copy
from functools import partial

import pytest
import torch
from torch import nn

from engine.stories import SGD, make_loader, network, weights
from limbeck.engine import Run, distill, read_checkpoint
from limbeck.errors import ArgumentError, LimbeckError, MissingOutputError, UnknownNameError
from limbeck.functional import cross_entropy, kl_divergence
from limbeck.losses import Loss
from limbeck.models import build, load, read_config, reinitialize, save
from limbeck.models.model_transforms import prune
from limbeck.recipe import Recipe, Stage, TransformModel, output_shapes, rounds, teacher_module
from limbeck.teachers import CachedTeacher, Ensemble, MovingAverage


def generation(number: int, models) -> Stage:
    """Each generation learns from a copy of the one before."""
    if number == 0:
        return Stage(Loss(cross_entropy), epochs=1, optimizer=SGD, name="generation 0")
    teacher = copy.deepcopy(models["student"])
    models["student"].load_state_dict(reinitialize(models["student"]).state_dict())
    return Stage(Loss(kl_divergence), teacher=teacher, epochs=1, optimizer=SGD, name=f"generation {number}")


def test_every_round_sees_the_models_of_its_time():
    run = distill(network(), rounds(3, generation), make_loader(), log_every=100).finish()
    assert [report.stage for report in run.history] == [f"{n}.0 generation {n}" for n in range(3)]


def test_rounds_are_resumed_bit_for_bit(tmp_path):
    def start(out, **options):
        recipe = rounds(3, generation)
        return distill(network(), recipe, make_loader(), out=out, log_every=1, checkpoint_seconds=0.0, **options)

    whole = start(tmp_path / "whole").finish()
    for stop in (2, 6, 9):
        for count, _ in enumerate(start(tmp_path / str(stop)), 1):
            if count == stop:
                break
        resumed = start(tmp_path / str(stop), resume=True).finish()
        assert torch.equal(weights(resumed.student), weights(whole.student))


def test_a_checkpoint_does_not_grow_with_the_rounds(tmp_path):
    run = distill(network(), rounds(4, generation), make_loader(), out=tmp_path).finish()
    states = read_checkpoint(run.path / "checkpoint.safetensors")["asked"]
    assert [bool(states[str(number)]) for number in range(4)] == [False, False, False, True]


@pytest.mark.parametrize("count", [0, -1, True])
def test_how_many_rounds(count):
    with pytest.raises(ArgumentError):
        rounds(count, generation)


def plan(number: int, models, *, weight: float) -> Stage:
    return Stage(weight * Loss(cross_entropy), steps=2)


def test_a_round_with_other_arguments_is_not_resumed(tmp_path):
    distill(network(), rounds(2, partial(plan, weight=0.5)), make_loader(), out=tmp_path).finish()
    with pytest.raises(LimbeckError, match=r"0\.5.*99"):
        distill(network(), rounds(2, partial(plan, weight=99.0)), make_loader(), out=tmp_path, resume=True)
    with pytest.raises(LimbeckError, match=r"belongs to another run"):
        distill(network(), rounds(3, partial(plan, weight=0.5)), make_loader(), out=tmp_path, resume=True)


def stage(**options) -> Stage:
    return Stage(Loss(cross_entropy), steps=3, optimizer=SGD, **options)


def small() -> nn.Module:
    return build("mlp", inputs=5, classes=3, hidden=[8, 8], dropout=0.0, seed=0)


def widths(model: nn.Module) -> list[int]:
    return [module.out_features for module in model.modules() if isinstance(module, nn.Linear)]


def test_pruned_weights_stay_zero(tmp_path):
    recipe = stage() >> TransformModel("student", "prune", amount=0.5) >> stage()
    run = distill(small(), recipe, make_loader(), out=tmp_path).finish()
    linear = [module for module in run.student.modules() if isinstance(module, nn.Linear)]
    masks = torch.cat([module.weight_mask.flatten() for module in linear])
    assert float(masks.mean()) == pytest.approx(0.5, abs=0.01)
    assert all(bool((module.weight[module.weight_mask == 0] == 0).all()) for module in linear)
    assert read_config(tmp_path / "student")["model"]["transforms"] == [
        {"function": "prune", "arguments": {"amount": 0.5}}
    ]
    again = load(tmp_path / "student")
    inputs = torch.randn(4, 5)
    run.student.eval()
    assert torch.equal(again(inputs), run.student(inputs))
    save(again, tmp_path / "copy")
    assert torch.equal(load(tmp_path / "copy")(inputs), run.student(inputs))


@pytest.mark.parametrize("stop", [1, 4])
def test_killed_before_and_after_the_change(stop, tmp_path):
    def start(out, **options):
        recipe = stage() >> TransformModel("student", "prune", amount=0.5) >> stage()
        return distill(small(), recipe, make_loader(), out=out, log_every=1, checkpoint_seconds=0.0, **options)

    whole = start(tmp_path / "whole").finish()
    for count, _ in enumerate(start(tmp_path / "part"), 1):
        if count == stop:
            break
    resumed = start(tmp_path / "part", resume=True).finish()
    assert torch.equal(weights(resumed.student), weights(whole.student))


def test_the_weights_that_are_pruned_again_are_those_after_the_last_step_or_load():
    model = nn.Sequential(nn.Linear(4, 1, bias=False))
    TransformModel("student", "prune", amount=0.25).apply(model)
    own = model[0].weight_mask.bool()
    with torch.no_grad():
        model[0].weight_orig.copy_(torch.tensor([[4.0, 3.0, 2.0, 1.0]]))
    TransformModel("student", "prune", amount=0.25).apply(model)
    # One of the three that were left is pruned: the smallest of the new weights.
    left = torch.arange(4)[own[0]]
    assert model[0].weight_mask[0].nonzero().squeeze(1).tolist() == left[:-1].tolist()


def test_convolutions_with_the_channels_last_are_pruned():
    model = build("cnn", channels=2, classes=3, widths=[4, 6], size=8).to(memory_format=torch.channels_last)
    for amount in (0.25, 0.5):
        prune(model, amount=amount)
        model(torch.rand(2, 2, 8, 8)).sum().backward()
    weights = [module.weight for module in model.modules() if isinstance(module, (nn.Conv2d, nn.Linear))]
    zeros = sum(int((weight == 0).sum()) for weight in weights) / sum(weight.numel() for weight in weights)
    assert zeros == pytest.approx(1 - 0.75 * 0.5, abs=0.01)


def test_a_pruned_model_can_be_copied_and_averaged():
    prune = TransformModel("student", "prune", amount=0.5)
    average = Stage(Loss(kl_divergence), teacher=MovingAverage(decay=0.5), steps=3, optimizer=SGD)
    run = distill(small(), prune >> stage() >> average, make_loader()).finish()
    inputs, student = torch.randn(4, 5), run.student.eval()
    assert torch.equal(copy.deepcopy(student)(inputs), student(inputs))


def test_the_last_layer_of_an_attention_is_not_pruned():
    model = nn.TransformerEncoderLayer(4, 2, dim_feedforward=8)
    TransformModel("student", "prune", amount=0.5).apply(model)
    assert [name for name, _ in model.named_buffers()] == ["linear1.weight_mask", "linear2.weight_mask"]
    with pytest.raises(UnknownNameError):
        TransformModel("student", "prune", amount=0.5, at=["self_attn.out_proj"]).apply(model)


@pytest.mark.parametrize("moment", range(12))
def test_a_kill_between_two_changes(moment, tmp_path, monkeypatch):
    def start(out, **options):
        prune = TransformModel("student", "prune", amount=0.3)
        recipe = prune >> stage() >> prune >> stage() >> prune >> stage()
        return distill(small(), recipe, make_loader(), out=out, log_every=1, checkpoint_seconds=0.0, **options)

    class KillError(Exception):
        """Stands for a signal that no one can catch."""

    whole = start(tmp_path / "whole").finish()
    save, saved = Run._save, []

    def save_and_die(run):
        save(run)
        saved.append(run)
        if len(saved) == moment + 1:
            raise KillError

    with monkeypatch.context() as patch:
        patch.setattr(Run, "_save", save_and_die)
        run = start(tmp_path / "part")
        with pytest.raises(KillError):
            run.finish()
    resumed = start(tmp_path / "part", resume=True).finish()
    assert torch.equal(weights(resumed.student), weights(whole.student))


def widen(model: nn.Module, *, width: int) -> nn.Module:
    """A new network of another width."""
    return nn.Sequential(nn.Linear(5, width), nn.ReLU(), nn.Linear(width, 3))


def test_a_function_of_the_user_is_replayed_only_if_it_is_given(tmp_path):
    recipe = stage() >> TransformModel("student", widen, width=6) >> stage(name="wide")
    run = distill(network(), recipe, make_loader(), out=tmp_path).finish()
    assert widths(run.student) == [6, 3]
    build_first = partial(network)
    with pytest.raises(LimbeckError, match=r"widen.*transforms="):
        load(tmp_path / "student", build=build_first)
    again = load(tmp_path / "student", build=build_first, transforms=[widen])
    assert torch.equal(weights(again), weights(run.student))


def test_other_arguments_of_a_transform_are_not_resumed(tmp_path):
    def start(amount, **options):
        recipe = TransformModel("student", "prune", amount=amount) >> stage()
        return distill(small(), recipe, make_loader(), out=tmp_path, **options)

    start(0.5).finish()
    with pytest.raises(LimbeckError, match=r"0\.5.*0\.25"):
        start(0.25, resume=True)


def test_fewer_layers():
    recipe = TransformModel("student", "keep_layers", at="0", layers=[0])
    run = distill(nn.Sequential(nn.Linear(5, 3)), recipe >> stage(), make_loader())
    with pytest.raises(UnknownNameError):
        run.finish()
    deep = nn.ModuleDict({"body": nn.Sequential(nn.Linear(5, 5), nn.Linear(5, 5), nn.Linear(5, 3))})
    kept = deep["body"][2]
    TransformModel("student", "keep_layers", at="body", layers=[0, 2]).apply(deep)
    assert len(deep["body"]) == 2
    assert deep["body"][1] is kept


def test_transforms_that_cannot_be():
    with pytest.raises(UnknownNameError, match=r"'prun'.*'prune'"):
        TransformModel("student", "prun", amount=0.5)
    with pytest.raises(LimbeckError, match=r"JSON"):
        TransformModel("student", widen, width=torch.zeros(1)).apply(network())
    with pytest.raises(LimbeckError, match=r"not a module or None"):
        TransformModel("student", lambda model: 3).apply(network())


@pytest.mark.parametrize(
    ("function", "arguments", "needed"), [("prune", {"amunt": 0.5}, "amount"), (widen, {}, "width")]
)
def test_arguments_that_a_transform_does_not_take_are_refused_when_it_is_written(function, arguments, needed):
    with pytest.raises(ArgumentError) as caught:
        TransformModel("student", function, **arguments)
    assert caught.value.argument == needed


def test_a_transform_of_a_model_that_there_is_not_is_refused_before_the_first_step():
    with pytest.raises(UnknownNameError, match="'student'"):
        distill(small(), stage() >> TransformModel("studnt", "prune", amount=0.5), make_loader())


def test_the_module_of_a_teacher():
    teacher = network()
    assert teacher_module(teacher, {}) is teacher
    assert teacher_module("peer", {"peer": teacher}) is teacher
    with pytest.raises(LimbeckError, match=r"Ensemble"):
        teacher_module(Ensemble(teacher, network(seed=1)), {})


def test_the_module_behind_a_cache(tmp_path):
    teacher = network()
    assert teacher_module(CachedTeacher(teacher, tmp_path / "cache"), {}) is teacher


def test_shapes_at_addresses():
    shapes: list[dict[str, tuple[int, ...]]] = []

    def look(models):
        shapes.append(output_shapes(models, ["0", "logits"]))
        shapes.append(output_shapes(models, ["0"], model=network(hidden=6)))
        with pytest.raises(MissingOutputError):
            output_shapes(models, ["9"])
        return stage()

    student, loader = network(norm=True), make_loader()
    before = weights(student).clone()
    distill(student, Recipe(look), loader).finish()
    assert shapes == [{"0": (8,), "logits": (3,)}, {"0": (6,)}]
    assert not torch.equal(before, weights(student))
