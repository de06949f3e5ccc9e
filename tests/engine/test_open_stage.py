"""One stage without a run, beside the same stage in a run."""

from __future__ import annotations

import pytest
import torch

from engine.stories import everything, hooks, make_loader, network, weights
from limbeck.batch import Progress
from limbeck.engine import TrainConfig, distill, open_stage
from limbeck.errors import LimbeckError
from limbeck.functional import cross_entropy
from limbeck.losses import Loss
from limbeck.recipe import Optimizer, Stage


def test_steps_by_hand_end_where_the_run_ends():
    config = TrainConfig(optimizer=Optimizer("sgd", lr=0.1), seed=3)
    student, teacher, loader = network(norm=True), network(hidden=6, seed=7), make_loader()
    steps = len(loader)
    with open_stage(everything(teacher), {"student": student}, loader, config) as trainer:
        for step, batch in enumerate(loader):
            trainer.step([batch], Progress(step, steps))
    other = network(norm=True)
    distill(
        other, everything(network(hidden=6, seed=7), epochs=1), make_loader(), seed=3, optimizer=config.optimizer
    ).finish()
    assert torch.equal(weights(student), weights(other))


def test_nothing_is_left_behind():
    student, teacher = network(norm=True), network(hidden=6, seed=7)
    before, flags = weights(student, teacher).clone(), [module.training for module in student.modules()]
    with open_stage(everything(teacher), {"student": student}, make_loader()) as trainer:
        assert hooks([student, teacher]) > 0
        assert set(trainer.reached) >= set(student.parameters())
    assert hooks([student, teacher]) == 0
    assert torch.equal(before, weights(student, teacher))
    assert flags == [module.training for module in student.modules()]
    assert all(parameter.grad is None for parameter in student.parameters())


def test_one_example_is_tried_where_a_batch_may_hold_one():
    stage = Stage(Loss(cross_entropy))
    with open_stage(stage, {"student": network()}, make_loader(), single=True):
        pass
    with pytest.raises(LimbeckError, match=r"BatchNorm"):
        open_stage(stage, {"student": network(norm=True)}, make_loader(), single=True).__enter__()


def test_a_teacher_that_the_run_names():
    models = {"student": network(), "peer": network(seed=1)}
    stage = Stage(everything().objective, teacher="peer")
    with open_stage(stage, models, make_loader()) as trainer:
        outputs = trainer.get_teacher_outputs(trainer.batch)
    models["peer"].eval()
    torch.testing.assert_close(outputs["logits"], models["peer"](trainer.batch.inputs))
