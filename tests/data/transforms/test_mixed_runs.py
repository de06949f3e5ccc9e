"""Training on mixtures, and errors where it is impossible."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from limbeck import ArrayDataset, Chain, Crop, CutMix, Flip, Loss, Mixup, ShuffledLoader, Stage, distill
from limbeck.errors import LimbeckError
from limbeck.functional import cross_entropy, kl_divergence
from limbeck.methods.logits.hinton import hinton
from limbeck.methods.teachers.specialists import specialists

IMAGES = (torch.arange(24 * 48) * 2654435761 % 2**32 / 2**32).view(24, 3, 4, 4)


def network():
    torch.manual_seed(1)
    return nn.Sequential(nn.Flatten(), nn.Linear(48, 6))


def make_loader(**options):
    options = {"augment": Chain(Crop(1), Flip()), "mix": Mixup(), **options}
    return ShuffledLoader(ArrayDataset(IMAGES, torch.arange(24) % 6), batch_size=8, **options)


def test_a_student_learns_from_a_teacher_that_sees_the_same_mixtures(tmp_path):
    student, seen = network(), {"teacher": [], "student": []}
    teacher = network()
    teacher.register_forward_pre_hook(lambda _, x: seen["teacher"].append(x[0].clone()))
    student.register_forward_pre_hook(lambda _, x: seen["student"].append(x[0].clone()))
    distill(student, hinton(teacher, labels=False), make_loader(), epochs=2).finish()
    assert len(seen["student"]) == len(seen["teacher"]) >= 6
    for mine, theirs in zip(seen["student"], seen["teacher"], strict=True):
        assert torch.equal(mine, theirs)
    wanted = [batch.inputs for epoch in range(2) for batch in make_loader().batches(epoch, 0)]
    for given, found in zip(wanted, seen["student"][-6:], strict=True):
        assert torch.equal(given, found)


@pytest.mark.parametrize("mix", [Mixup(), CutMix()])
def test_a_loss_that_reads_labels_is_reported_why_there_are_none_and_what_to_do(mix):
    words = r"cross_entropy needs labels, and this loader mixes two .*labels=False.* or leave mix= out"
    with pytest.raises(LimbeckError, match=words):
        distill(network(), hinton(network()), make_loader(mix=mix), epochs=1).finish()
    with pytest.raises(LimbeckError, match=words):
        distill(network(), Stage(Loss(cross_entropy)), make_loader(mix=mix, augment=None), epochs=1).finish()
    unlabeled = ShuffledLoader(ArrayDataset(IMAGES), batch_size=8)
    with pytest.raises(LimbeckError, match=r"cross_entropy needs labels, and this loader gives none\."):
        distill(network(), Stage(Loss(cross_entropy)), unlabeled, epochs=1).finish()


def test_specialists_refuse_mixtures_before_anything_is_trained():
    recipe = specialists(network(), groups=[[0, 1, 2], [3, 4, 5]], epochs=1)
    with pytest.raises(LimbeckError, match=r"A specialist learns from labels.*without mix="):
        distill(network(), recipe, make_loader(), epochs=1).finish()


def test_the_mixed_cross_entropy_is_in_what_a_batch_keeps():
    """It is the divergence from the mixed label, up to that label's entropy."""
    batch = make_loader().peek()
    logits = torch.randn(8, 6)
    ratio = batch.extra["ratio"]
    label = nn.functional.one_hot(batch.extra["labels"], 6) * ratio[:, None]
    label += nn.functional.one_hot(batch.extra["partner_labels"], 6) * (1 - ratio)[:, None]
    parts = [cross_entropy(logits, labels=batch.extra[key]) for key in ("labels", "partner_labels")]
    found = ratio * parts[0] + (1 - ratio) * parts[1]
    entropy = torch.special.entr(label).sum(-1)
    torch.testing.assert_close(found, kl_divergence(logits, label.log()) + entropy)
