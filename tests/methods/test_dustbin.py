"""The kernels of specialists add up to the full divergence."""

from __future__ import annotations

import pytest
import torch
from torch.nn import functional as F

from limbeck.errors import LimbeckError
from limbeck.functional import kl_divergence
from limbeck.methods.teachers.specialist_training import dustbin_cross_entropy, rest_kl


def test_the_dustbin_s_logit_is_the_logsumexp_of_the_rest():
    z, labels = torch.randn(30, 6, dtype=torch.float64), torch.arange(30) % 6
    lumped = torch.cat([z[:, [1, 4]], z[:, [0, 2, 3, 5]].logsumexp(-1, keepdim=True)], -1)
    places = torch.tensor([2, 0, 2, 2, 1, 2])[labels]
    found = dustbin_cross_entropy(z, labels=labels, special=(1, 4))
    torch.testing.assert_close(found, F.cross_entropy(lumped, places, reduction="none"))


def test_with_the_rest_s_own_divergence_it_is_the_whole():
    """The chain rule: KL(p || q) = KL over special classes and dustbin + rest_kl."""
    z, v = torch.randn(2, 30, 6, dtype=torch.float64)
    lumped = [torch.cat([x[:, [1, 4]], x[:, [0, 2, 3, 5]].logsumexp(-1, keepdim=True)], -1) for x in (z, v)]
    torch.testing.assert_close(kl_divergence(*lumped) + rest_kl(z, v, special=(1, 4)), kl_divergence(z, v))


def test_labels_that_are_none_and_labels_that_are_wrong():
    z = torch.randn(3, 4)
    assert dustbin_cross_entropy(z, labels=torch.tensor([-100, -100, 0]), special=(0, 1))[:2].tolist() == [0.0, 0.0]
    with pytest.raises(LimbeckError, match="Label 4 is no class"):
        dustbin_cross_entropy(z, labels=torch.tensor([4, 1, 0]), special=(0, 1))


def test_where_the_teacher_gives_the_rest_nothing_there_is_nothing_to_learn_of_it():
    student = torch.randn(2, 4, requires_grad=True)
    teacher = torch.tensor([[1.0, 2.0, -torch.inf, -torch.inf], [1.0, 2.0, 3.0, 4.0]])
    found = rest_kl(student, teacher, special=(0, 1))
    assert found[0] == 0
    found.sum().backward()
    assert student.grad.isfinite().all()
    assert (student.grad[0] == 0).all()
    assert (student.grad[1] != 0).any()


@pytest.mark.usefixtures("unchecked")
def test_the_kernels_of_specialists_refuse_what_they_cannot_take():
    student, labels = torch.zeros(2, 4), torch.tensor([0, 1])
    for shape in ((2, 3), (2, 5), (1, 4)):
        with pytest.raises(LimbeckError, match="student"):
            rest_kl(student, torch.zeros(shape), special=(0,))
    with pytest.raises(LimbeckError, match="floating"):
        dustbin_cross_entropy(student.long(), labels=labels, special=(0,))
    for wrong in ((4,), (-1,)):
        with pytest.raises(LimbeckError, match=rf"pecial class {wrong[0]}\b.* 4 classes"):
            dustbin_cross_entropy(student, labels=labels, special=wrong)
