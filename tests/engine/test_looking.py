"""The probe leaves no trace in models and data."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

from engine.stories import arrays, everything, make_loader, network, weights
from limbeck.batch import Batch, Progress
from limbeck.data import ArrayDataset, TorchLoader
from limbeck.engine import distill, open_stage
from limbeck.errors import LimbeckError
from limbeck.functional import cross_entropy, kernel, kl_divergence, squared_error
from limbeck.losses import Loss
from limbeck.recipe import Stage
from limbeck.teachers import ModelTeacher, MovingAverage, SklearnTeacher

CE, KL = Loss(cross_entropy), Loss(kl_divergence)


# Looking leaves no trace.


class Spy(nn.Module):
    """Notes, before each forward pass, what it is given and the state that it is in."""

    def __init__(self) -> None:
        super().__init__()
        self.inner = network(norm=True, dropout=0.5)
        self.seen: list[tuple[torch.Tensor, torch.Tensor, torch.Tensor]] = []

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        self.seen.append((x.clone(), weights(self.inner[1]), torch.get_rng_state()))
        return self.inner(x)


@pytest.mark.parametrize("kind", ["arrays", "loader"])
def test_the_first_step_finds_everything_as_the_probe_found_it(kind):
    """The same batch, the same running statistics; and random numbers as if nobody had looked."""
    student = Spy()
    inputs, labels = torch.randn(30, 5), torch.arange(30) % 3
    data = make_loader() if kind == "arrays" else DataLoader(TensorDataset(inputs, labels), batch_size=8, shuffle=True)
    distill(student, Stage(CE, steps=2), data).finish()
    probe, first, second = student.seen
    assert torch.equal(probe[0], first[0])
    assert torch.equal(probe[1], first[1])
    assert not torch.equal(first[0], second[0])
    assert not torch.equal(first[1], second[1])
    untouched = Spy()
    distill(untouched, Stage(CE, steps=1), data if kind == "arrays" else make_loader(), seed=0).finish()
    assert torch.equal(untouched.seen[1][2], first[2]) or kind == "loader"


def test_a_moving_teacher_is_not_moved_by_the_probe():
    teacher = MovingAverage(decay=0.9, mode="train")
    with open_stage(Stage(CE + KL, teacher=teacher), {"student": network(norm=True)}, make_loader()) as trainer:
        assert int(trainer.session.model[1].num_batches_tracked) == 0
        trainer.step([trainer.batch], Progress())
        assert int(trainer.session.model[1].num_batches_tracked) == 1
        assert trainer.session.state_dict()["steps"] == 1


def test_a_teacher_that_no_one_reads_is_not_asked():
    calls = []
    teacher = nn.Linear(5, 3)
    teacher.register_forward_hook(lambda *_: calls.append(1))
    distill(network(), Stage(CE, teacher=teacher, epochs=1), make_loader()).finish()
    assert calls == []


def test_reads_are_called_once_for_a_batch_that_both_sides_read():
    calls = []

    def preprocess(batch: Batch) -> torch.Tensor:
        calls.append(1)
        return batch.inputs * 2

    distill(network(), Stage(KL, teacher=network(seed=3), steps=3), make_loader(), preprocess=preprocess).finish()
    assert len(calls) == 4


def test_each_side_reads_its_own():
    """A teacher with privileged columns, a student with others: the stage's, the run's and the teacher's own."""
    draw = torch.Generator().manual_seed(0)
    data = ArrayDataset(
        torch.randn(30, 9, generator=draw),
        torch.arange(30) % 3,
        extra={"small": torch.randn(30, 5, generator=draw), "secret": torch.randn(30, 2, generator=draw)},
    )
    teacher = ModelTeacher(nn.Linear(2, 3), preprocess=lambda batch: batch.extra["secret"])
    stage = Stage(CE + KL, teacher=teacher, epochs=1, preprocess=lambda batch: batch.extra["small"])
    assert distill(network(), stage, data).finish().finished
    assert (
        distill(network(), Stage(CE, epochs=1), data, preprocess=lambda batch: batch.extra["small"]).finish().finished
    )


def test_an_estimator_teaches_a_network():
    from sklearn.ensemble import RandomForestClassifier

    data = arrays(30)
    rows = data.take(torch.arange(30))
    forest = RandomForestClassifier(n_estimators=3, random_state=0).fit(rows.inputs.numpy(), rows.labels.numpy())
    run = distill(network(), Stage(KL, teacher=SklearnTeacher(forest), epochs=20), data, batch_size=8).finish()
    assert run.history[-1].loss < run.history[0].loss


# Models and data of every kind.


def test_tuples_and_mappings_reach_the_models():
    class Two(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.map = nn.Linear(5, 3)

        def forward(self, left: torch.Tensor, right: torch.Tensor) -> dict[str, torch.Tensor]:
            return {"logits": self.map(left + right)}

    left, right, labels = torch.randn(12, 5), torch.randn(12, 5), torch.arange(12) % 3
    for inputs in ((left, right), {"left": left, "right": right}):
        run = distill(Two(), Stage(CE + KL, teacher=Two(), epochs=1), ArrayDataset(inputs, labels), batch_size=5)
        assert run.finish().finished


def test_a_lazy_student_is_shaped_by_the_probe():
    student = nn.Sequential(nn.LazyLinear(4), nn.ReLU(), nn.LazyLinear(3))
    assert distill(student, Stage(CE, epochs=1), make_loader()).finish().finished
    assert student[0].weight.shape == (4, 5)


def test_a_head_s_plain_module_learns():
    head = nn.Linear(8, 6)
    before = weights(head)
    stage = Stage(Loss(squared_error, student="0", teacher="0", head=head), teacher=network(hidden=6, seed=7), epochs=1)
    run = distill(network(), stage, make_loader()).finish()
    assert not torch.equal(weights(run.stages[0].objective.head), before)
    assert torch.equal(weights(head), before), "the next run begins with them too"


def test_nan_becomes_one_sentence_that_names_the_term():
    @kernel(per="example")
    def broken(student):
        return student.sum(-1) * float(np.nan)

    run = distill(network(), Stage(CE + Loss(broken), epochs=1), make_loader(), log_every=1)
    with pytest.raises(LimbeckError, match=r"The loss became nan in stage 'student' by step 1 \(broken\)"):
        run.finish()


def test_an_empty_epoch_does_not_hang():
    class Empty:
        def __len__(self) -> int:
            return 3

        def __iter__(self) -> Iterator[Any]:
            return iter(())

    with pytest.raises(LimbeckError, match=r"has a length of 3 batches, but yields none"):
        distill(network(), Stage(CE, epochs=1), TorchLoader(Empty())).finish()


def test_everything_at_once_learns():
    run = distill(network(), everything(epochs=30), make_loader(30), log_every=4).finish()
    assert run.history[-1].loss < run.history[0].loss
