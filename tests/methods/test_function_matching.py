"""Function matching shows teacher and student the same views."""

from __future__ import annotations

import warnings

import pytest
import torch
from torch import nn

from limbeck import ArrayDataset, Chain, Crop, Flip, Mixup, ShuffledLoader, distill
from limbeck.errors import LimbeckError, LimbeckWarning
from limbeck.functional import kl_divergence
from limbeck.losses import Loss
from limbeck.methods import make
from limbeck.recipe import Optimizer, Stage


class Seeing(nn.Module):
    """A network that remembers what it was shown."""

    def __init__(self, seed: int) -> None:
        super().__init__()
        torch.manual_seed(seed)
        self.out = nn.Linear(64, 3)
        self.seen: list[torch.Tensor] = []

    def forward(self, x):
        self.seen.append(x.detach().clone())
        return self.out(x.flatten(1))


def make_loader(labels=None, **how):
    x = torch.rand(16, 1, 8, 8, generator=torch.Generator().manual_seed(0))
    return ShuffledLoader(ArrayDataset(x, labels), batch_size=8, **how)


VIEWS = {"augment": Chain(Crop(padding=1), Flip()), "mix": Mixup()}


def weights(model):
    return torch.cat([p.detach().flatten() for p in model.parameters()])


def learnt(stream, recipe):
    student = Seeing(1)
    return distill(student, recipe, stream, epochs=3, optimizer=Optimizer("sgd", lr=0.1)).finish().student, student


def test_teacher_and_student_see_the_same_mixtures_and_each_once():
    teacher = Seeing(0)
    _, student = learnt(make_loader(**VIEWS), make("function_matching", teacher=teacher))
    trained = student.seen[-6:]
    for mine, theirs in zip(trained, teacher.seen[-6:], strict=True):
        assert torch.equal(mine, theirs)
    assert len({x.sum().item() for x in trained}) == 6


def test_labels_are_not_read():
    teacher, ends = Seeing(0), []
    for labels in (None, torch.zeros(16, dtype=torch.int64), torch.randint(3, (16,))):
        ends.append(weights(learnt(make_loader(labels, **VIEWS), make("function_matching", teacher=teacher))[0]))
    assert torch.equal(ends[0], ends[1])
    assert torch.equal(ends[0], ends[2])


def test_it_is_the_divergence_alone():
    teacher = Seeing(0)
    stage = Stage(Loss(kl_divergence, temperature=2.0), teacher=teacher)
    plain = weights(learnt(make_loader(**VIEWS), stage)[0])
    found, _ = learnt(make_loader(**VIEWS), make("function_matching", teacher=teacher, temperature=2.0))
    assert torch.equal(weights(found), plain)


def test_a_student_that_is_its_teacher_stays_what_it_is():
    teacher = Seeing(1)
    found, _ = learnt(make_loader(**VIEWS), make("function_matching", teacher=teacher))
    torch.testing.assert_close(weights(found), weights(teacher), atol=1e-6, rtol=0)


def test_a_source_without_views_is_warned_about():
    with pytest.warns(LimbeckWarning, match="function_matching is about views"):
        learnt(make_loader(), make("function_matching", teacher=Seeing(0)))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        learnt(make_loader(augment=Flip()), make("function_matching", teacher=Seeing(0)))
    with pytest.raises(LimbeckError, match="temperature"):
        make("function_matching", teacher=Seeing(0), temperature=0.0)
