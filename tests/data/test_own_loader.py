"""Loaders that are not limbeck's own: what they declare, and how the engine, the cache and the doctor use them."""

from __future__ import annotations

import dataclasses

import pytest
import torch
from torch import nn

from limbeck import distill
from limbeck.batch import Batch
from limbeck.data import Loader, ShuffledLoader, TorchLoader
from limbeck.doctor import examine
from limbeck.errors import LimbeckError
from limbeck.functional import kl_divergence
from limbeck.losses import Loss
from limbeck.recipe import Optimizer, Recipe, Stage
from limbeck.teachers import CachedTeacher, TeacherContext
from limbeck.testing import check_loader
from patients import Sure, patient, points

SGD = Optimizer("sgd", lr=0.1)


class Plain(Loader):
    """As little as a loader can have: a fingerprint, and batches of different sizes in an epoch of known length."""

    fingerprint = "plain"

    def __len__(self):
        return 3

    def batches(self, epoch, start):
        for number in range(start, 3):
            id = torch.arange(number + 4) + 10 * number
            draw = torch.Generator().manual_seed(number)
            yield Batch(torch.randn(len(id), 6, generator=draw), id, labels=id % 4)


class Rollouts(Loader):
    """Inputs that depend on the student as it is now; epochs never end, and there are no ids."""

    fingerprint = "rollouts"
    has_ids = False
    depends_on_model = True
    batch_size = 4

    def __init__(self):
        super().__init__()
        self.models = None
        self.made = []

    def bind(self, models):
        self.models = models

    def batches(self, epoch, start):
        number = start
        while True:
            assert self.models is not None, "a batch was requested before bind()"
            weight = self.models["student"].weight.detach()
            self.made.append((number, float(weight.sum())))
            yield Batch(torch.randn(4, 6) + weight.mean(0))
            number += 1


def student():
    torch.manual_seed(5)
    return nn.Linear(6, 4)


def stage(teacher, **options):
    return Stage(Loss(kl_divergence), teacher=teacher, optimizer=SGD, **options)


def train(loader, stage, **options):
    return distill(student(), stage, loader, log_every=1, accelerator="cpu", **options)


def weights(run):
    return torch.cat([parameter.detach().flatten() for parameter in run.student.parameters()])


def test_a_loader_with_nothing_declared_has_safe_defaults():
    loader = Plain()
    names = ("has_length", "replayable", "resumable", "has_ids", "fixed", "ragged", "depends_on_model")
    assert [getattr(loader, name) for name in names] == [True] * 4 + [False] * 3
    unknown = ("batch_size", "examples", "examples_per_epoch", "augment", "mix", "views", "labels", "class_names")
    assert [getattr(loader, name) for name in unknown] == [None] * 8
    check_loader(loader)


def test_shuffled_loader_declares_its_dataset():
    loader = ShuffledLoader(points(), batch_size=16)
    assert (loader.has_length, loader.fixed, loader.ragged, loader.batch_size) == (True, True, False, 16)
    assert loader.labels is points().labels or torch.equal(loader.labels, points().labels)


def test_torch_loader_is_not_replayable():
    loader = TorchLoader([(torch.zeros(2, 3), torch.tensor([0, 1]))])
    assert (loader.replayable, loader.type_name, loader.batch_size) == (False, "list", None)


def test_a_minimal_loader_runs_through_engine_and_cache(tmp_path):
    cached = CachedTeacher(Sure(), tmp_path / "cache")
    with_cache = train(Plain(), stage(cached, epochs=2)).finish()
    again = train(Plain(), stage(CachedTeacher(None, tmp_path / "cache"), epochs=2)).finish()
    assert [report.step for report in with_cache.history][-1] == 6
    assert torch.equal(weights(with_cache), weights(again))
    whole = train(Plain(), stage(Sure(), epochs=2)).finish()
    assert torch.allclose(weights(whole), weights(with_cache), atol=1e-3)


def test_a_minimal_loader_is_resumed(tmp_path):
    def run(**where):
        return train(Plain(), stage(Sure(), epochs=2), **where)

    for report in run(out=tmp_path / "run"):
        if report.step == 4:
            break
    again = run(out=tmp_path / "run", resume=True).finish()
    assert torch.equal(weights(again), weights(run().finish()))


@pytest.mark.parametrize("make", [Plain, Rollouts])
def test_the_doctor_checks_arms_with_own_loaders(make):
    context = patient()
    arm = dataclasses.replace(
        context.arms[0], models=lambda: {"student": student()}, recipe=Recipe(stage(context.teacher, steps=4)),
        loader=make(),
    )  # fmt: skip
    found = list(examine(dataclasses.replace(context, arms=(arm,)), seconds=60.0))
    assert found
    assert [finding for finding in found if finding.state in ("wrong", "crash")] == []


def test_rollouts_keep_the_laws_of_loaders():
    check_loader(Rollouts(), models={"student": student()})
    with pytest.raises(LimbeckError, match="models="):
        check_loader(Rollouts())


def test_a_batch_of_rollouts_is_made_by_the_student_of_the_step_before():
    loader = Rollouts()
    run = train(loader, stage(Sure(), steps=5))
    sums = []
    for _ in run:
        sums.append(float(next(iter(run.student.parameters())).detach().sum()))
    peeked, *made = loader.made
    assert peeked == made[0]
    assert [number for number, _ in made] == [0, 1, 2, 3, 4]
    assert [weight for _, weight in made[1:]] == sums[:-1]


def test_rollouts_are_resumed_exactly(tmp_path):
    def run(**where):
        return train(Rollouts(), stage(Sure(), steps=6), **where)

    for report in run(out=tmp_path / "run"):
        if report.step == 3:
            break
    again = run(out=tmp_path / "run", resume=True).finish()
    assert torch.equal(weights(again), weights(run().finish()))


def test_rollouts_need_a_number_of_steps():
    with pytest.raises(LimbeckError, match="steps="):
        train(Rollouts(), stage(Sure(), epochs=2)).finish()
    with pytest.raises(TypeError, match="steps="):
        len(Rollouts())


def test_outputs_for_rollouts_are_not_cached(tmp_path):
    teacher = CachedTeacher(Sure(), tmp_path / "cache")
    with pytest.raises(LimbeckError, match="depend on a model"):
        teacher.open(TeacherContext(loader=Rollouts()))
    with pytest.raises(LimbeckError, match="depend on a model"):
        train(Rollouts(), stage(teacher, steps=2)).finish()
    assert not (tmp_path / "cache").exists()
