"""Losses with a memory bank or with parameters on both sides, as ordinary subclasses of `LossTerm`."""

from __future__ import annotations

import math

import pytest
import torch
from torch.nn import functional as F

from engine.memory_losses import Contrast, Variational
from engine.stories import SGD, arrays, make_loader, network, weights
from limbeck.batch import Progress
from limbeck.data import ShuffledLoader
from limbeck.engine import distill, open_stage
from limbeck.errors import LimbeckError
from limbeck.functional import cross_entropy, kl_divergence
from limbeck.losses import Loss, LossContext
from limbeck.recipe import Optimizer, Stage


def subset_loader(rows: int = 24, **options) -> ShuffledLoader:
    """Examples whose ids are not their positions."""
    return ShuffledLoader(arrays(3 * rows).select(torch.arange(rows) * 3 + 1), batch_size=8, **options)


def contrast_stage(**options) -> Stage:
    return Stage(Loss(cross_entropy) + 0.5 * Contrast(), teacher=network(hidden=6, seed=7), **options)


def test_the_bank_holds_the_teacher_outputs_of_all_examples_seen():
    loader, stage = subset_loader(), contrast_stage(steps=3)
    with open_stage(stage, {"student": network()}, loader) as trainer:
        (contrast,) = [leaf for leaf, _ in trainer.objective.leaves() if isinstance(leaf, Contrast)]
        assert contrast.bank.shape == (24, 4)
        assert not contrast.bank.any()  # trying the loss is no step
        for step, batch in enumerate(loader):
            trainer.step([batch], Progress(step, 3))
        assert contrast.updates == 3
        assert torch.equal(contrast.bank.norm(dim=1) > 0, torch.ones(24, dtype=torch.bool))


def test_the_shared_loss_keeps_nothing():
    term = Contrast()
    stage = Stage(Loss(cross_entropy) + term, teacher=network(hidden=6, seed=7), steps=2)
    distill(network(), stage, subset_loader()).finish()
    assert not term.state_dict()
    distill(network(), stage, subset_loader(rows=16)).finish()


def test_its_own_parameters_are_trained_with_their_own_options():
    stage = Stage(Variational(lr=0.5), teacher=network(hidden=6, seed=7), optimizer=SGD)
    with open_stage(stage, {"student": network()}, make_loader()) as trainer:
        by_lr = {group["lr"]: sum(p.numel() for p in group["params"]) for group in trainer.optimizer.param_groups}
        assert by_lr == {0.1: sum(p.numel() for p in trainer.model.parameters()), 0.5: 8 * 6 + 6 + 6}
        before = weights(trainer.objective)
        trainer.step([trainer.batch], Progress(0, 2))
        assert not torch.equal(before, weights(trainer.objective))


def test_the_variational_bound_is_the_gaussian_likelihood():
    teacher, student, batch = network(hidden=6, seed=7), network(), make_loader().peek()
    with open_stage(Stage(Variational(), teacher=teacher), {"student": student}, make_loader(), batch=batch) as trainer:
        (term,) = trainer.objective(
            trainer.tapped(batch.inputs), trainer.get_teacher_outputs(batch), batch, Progress()
        ).values()
        fitted = trainer.objective
        mean = fitted.mean(student[0](batch.inputs)).double()
        scale = F.softplus(fitted.spread).double()
        expected = -torch.distributions.Normal(mean, scale.sqrt()).log_prob(teacher[0](batch.inputs).double()).sum()
        expected = expected - 0.5 * math.log(2 * math.pi) * 6 * batch.size
    torch.testing.assert_close(term.total.double(), expected, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("make", [Contrast, Variational])
def test_killed_and_resumed_bit_for_bit(make, tmp_path):
    def start(out, **options):
        stage = Stage(Loss(cross_entropy) + make(), teacher=network(hidden=6, seed=7), steps=6)
        later = Stage(Loss(cross_entropy) + 0.1 * make(), teacher=network(hidden=6, seed=7), steps=4)
        return distill(
            network(), stage >> later, subset_loader(), out=out, checkpoint_seconds=0.0, log_every=1, **options
        )

    whole = start(tmp_path / "whole").finish()
    for stop in (2, 8):
        for report in start(tmp_path / f"part{stop}"):
            if report.step + (6 if report.part == "1" else 0) == stop:
                break
        resumed = start(tmp_path / f"part{stop}", resume=True).finish()
        assert torch.equal(weights(resumed.student), weights(whole.student))
        assert [r.terms for r in resumed.history] == [r.terms for r in whole.history[-len(resumed.history) :]]


def test_accumulation_gives_the_same_as_whole_batches():
    def run(size: int, accumulate: int):
        stage = Stage(
            Loss(cross_entropy) + 0.5 * Contrast(), teacher=network(hidden=6, seed=7), epochs=2, optimizer=SGD
        )
        data = ShuffledLoader(arrays(72).select(torch.arange(24) * 3 + 1), batch_size=size, shuffle=False)
        return distill(network(), stage, data, accumulate=accumulate).finish()

    torch.testing.assert_close(weights(run(8, 1).student), weights(run(4, 2).student), rtol=1e-5, atol=1e-6)


class Impatient(Contrast):
    """Changes its memory while it is computed."""

    def term(self, student, teacher, batch, progress):
        self.bank += 1
        return super().term(student, teacher, batch, progress)


def test_a_memory_that_changes_in_the_forward_pass_is_not_accumulated():
    stage = Stage(Impatient(), teacher=network(hidden=6, seed=7), steps=1)
    distill(network(), stage, subset_loader()).finish()
    with pytest.raises(LimbeckError, match=r"bank.*after_step"):
        distill(network(), stage, subset_loader(), accumulate=2).finish()


def test_what_a_loss_knows_before_the_first_step():
    seen: list[LossContext] = []

    class Curious(Variational):
        def setup(self, context):
            seen.append(context)
            return super().setup(context)

    loader = subset_loader()
    with open_stage(
        Stage(Curious() + Loss(kl_divergence), teacher=network(hidden=6, seed=7)), {"student": network()}, loader
    ):
        pass
    (context,) = seen
    assert torch.equal(context.ids, torch.arange(24) * 3 + 1)
    assert (context.examples, context.classes, context.vocabulary) == (24, 3, None)
    assert context.output_layer.weight.shape == (3, 8)
    assert context.teacher_output_layer.weight.shape == (3, 6)
    assert context.batch.size == 8
    assert context.device.type == "cpu"


def test_weights_and_counts_are_known_before_the_forward_pass():
    seen: list[Progress] = []

    class Curious(Variational):
        def term(self, student, teacher, batch, progress):
            seen.append(progress)
            return super().term(student, teacher, batch, progress)

    stage = Stage(0.25 * Curious(), teacher=network(hidden=6, seed=7), steps=1)
    distill(network(), stage, make_loader(rows=12, batch_size=4), accumulate=3).finish()
    assert [(progress.weight, progress.count) for progress in seen[1:]] == [(0.25, 12.0)] * 3


def test_a_term_of_weight_zero_may_be_left_out():
    calls = []

    class Skipped(Variational):
        skip_at_zero = True

        def term(self, *args):
            calls.append(1)
            return super().term(*args)

    from limbeck.schedule import steps

    objective = Loss(cross_entropy) + steps({0.5: 1.0}, start=0.0) * Skipped()
    stage = Stage(objective, teacher=network(hidden=6, seed=7), steps=4, optimizer=Optimizer("sgd", lr=0.1))
    run = distill(network(), stage, make_loader(), log_every=1).finish()
    assert len(calls) == 2  # the trial before training has weight 0 too
    assert [sorted(report.terms) for report in run.history][::3] == [
        ["cross_entropy"],
        ["cross_entropy", "variational"],
    ]


def test_ids_are_needed():
    batches = [(torch.randn(4, 5), torch.randint(3, (4,)))]
    run = distill(network(), contrast_stage(steps=1), torch.utils.data.DataLoader(batches, batch_size=None))
    with pytest.raises(LimbeckError, match=r"does not know the ids"):
        run.finish()
