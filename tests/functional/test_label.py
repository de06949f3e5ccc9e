"""Losses of labels against their definitions."""

from __future__ import annotations

import math

import pytest
import torch
import torch.nn.functional as F

from limbeck.errors import LimbeckError
from limbeck.functional import cross_entropy, label_smoothing

INF = float("inf")


def drawn():
    return torch.randn(6, 4, dtype=torch.float64), torch.tensor([0, 3, 1, 1, 2, 0])


def test_they_are_their_definitions():
    student, labels = drawn()
    for smoothing in (0.0, 0.1, 1.0):
        wanted = []
        for row, label in zip(student.tolist(), labels.tolist(), strict=True):
            log_q = [value - math.log(sum(math.exp(v) for v in row)) for value in row]
            target = [smoothing / 4 + (1 - smoothing) * (c == label) for c in range(4)]
            wanted.append(-sum(t * q for t, q in zip(target, log_q, strict=True)))
        value = label_smoothing(student, labels=labels, smoothing=smoothing)
        torch.testing.assert_close(value, torch.tensor(wanted, dtype=torch.float64))


def test_they_agree_with_pytorch():
    student, labels = drawn()
    labels[2] = -100
    assert torch.allclose(cross_entropy(student, labels=labels), F.cross_entropy(student, labels, reduction="none"))
    theirs = F.cross_entropy(student, labels, reduction="none", label_smoothing=0.3)
    assert torch.allclose(label_smoothing(student, labels=labels, smoothing=0.3), theirs)


def test_smoothing_is_continuous_at_its_ends():
    student, labels = drawn()
    assert torch.equal(label_smoothing(student, labels=labels, smoothing=0.0), cross_entropy(student, labels=labels))
    for end, near in ((0.0, 1e-9), (1.0, 1 - 1e-9)):
        at, by = (label_smoothing(student, labels=labels, smoothing=s) for s in (end, near))
        torch.testing.assert_close(at, by, rtol=1e-6, atol=1e-6)


def test_smoothing_is_least_at_the_smoothed_target_where_it_is_the_entropy():
    target = torch.tensor([[0.925, 0.025, 0.025, 0.025]], dtype=torch.float64)
    student = target.log().requires_grad_()
    value = label_smoothing(student, labels=torch.tensor([0]), smoothing=0.1)
    assert value.item() == pytest.approx(-(target * target.log()).sum().item())
    value.sum().backward()
    torch.testing.assert_close(student.grad, torch.zeros_like(target))


def test_cross_entropy_has_probabilities_less_one_hot_for_a_gradient():
    student, labels = drawn()
    student.requires_grad_()
    cross_entropy(student, labels=labels).sum().backward()
    wanted = student.detach().softmax(-1) - F.one_hot(labels, 4)
    torch.testing.assert_close(student.grad, wanted)


@pytest.mark.parametrize("kernel", [cross_entropy, label_smoothing])
def test_no_label_no_value_no_gradient(kernel):
    student, labels = drawn()
    labels[1] = -100
    student[2] = -INF
    labels[2] = -100
    student.requires_grad_()
    value = kernel(student, labels=labels)
    value.sum().backward()
    assert value[1] == value[2] == 0
    assert (student.grad[1:3] == 0).all()
    assert student.grad.isfinite().all()


@pytest.mark.parametrize("kernel", [cross_entropy, label_smoothing])
def test_a_label_in_a_masked_column_is_infinite(kernel):
    student, labels = drawn()
    student[0, 0] = -INF
    student[4] = -INF
    assert kernel(student, labels=labels).isinf().tolist() == [True, False, False, False, True, False]


def test_masked_columns_get_none_of_the_uniform_share():
    student, labels = drawn()
    labels = labels.clamp(max=1)
    wanted = label_smoothing(student[:, :2], labels=labels, smoothing=0.4)
    student[:, 2:] = -INF
    torch.testing.assert_close(label_smoothing(student, labels=labels, smoothing=0.4), wanted)


def test_positions():
    student, labels = torch.randn(2, 3, 5), torch.tensor([[0, 1, -100], [4, 2, 2]])
    value = cross_entropy(student, labels=labels)
    assert value.shape == (2, 3)
    torch.testing.assert_close(value[1], cross_entropy(student[1], labels=labels[1]))


def test_nan_is_never_hidden():
    student, labels = drawn()
    student[0, 1] = float("nan")
    for kernel in (cross_entropy, label_smoothing):
        assert kernel(student, labels=labels).isnan().tolist() == [True] + 5 * [False]


@pytest.mark.parametrize("dtype", [torch.uint8, torch.int16, torch.int32])
def test_labels_of_any_whole_type(dtype):
    student, labels = drawn()
    assert torch.equal(cross_entropy(student, labels=labels.to(dtype)), cross_entropy(student, labels=labels))


@pytest.mark.parametrize("label", [4, -1])
@pytest.mark.parametrize("kernel", [cross_entropy, label_smoothing])
def test_a_label_that_is_no_class_is_refused(kernel, label):
    student, labels = drawn()
    labels[3] = label
    with pytest.raises(LimbeckError, match=rf"Label {label} is no class of a student with 4 logits.*0 to 3"):
        kernel(student, labels=labels)


@pytest.mark.parametrize("smoothing", [0.1, 1.0])
def test_smoothed_labels_have_their_target_for_a_slope_and_a_second_one(smoothing):
    student, labels = drawn()
    labels[2] = -100
    student.requires_grad_()
    target = (1 - smoothing) * F.one_hot(labels.clamp_min(0), 4) + smoothing / 4
    (slope,) = torch.autograd.grad(label_smoothing(student, labels=labels, smoothing=smoothing).sum(), student)
    torch.testing.assert_close(slope, (student.detach().softmax(-1) - target) * (labels != -100).unsqueeze(-1))
    torch.autograd.gradgradcheck(lambda s: label_smoothing(s, labels=labels, smoothing=smoothing), student)


@pytest.mark.parametrize("classes", [5, 40])
def test_the_gradient_of_smoothed_labels_is_pytorchs(classes):
    student, labels = 3 * torch.randn(30, classes, dtype=torch.float64), torch.randint(classes, (30,))
    labels[::7] = -100
    weight = torch.randn(30, dtype=torch.float64)
    slopes = []
    for loss in (
        lambda z: label_smoothing(z, labels=labels, smoothing=0.2),
        lambda z: F.cross_entropy(z, labels, label_smoothing=0.2, reduction="none"),
    ):
        leaf = student.clone().requires_grad_()
        value = (loss(leaf) * weight).sum()
        first = torch.autograd.grad(value, leaf, retain_graph=True)[0]
        again = torch.autograd.grad(value, leaf)[0]
        assert torch.equal(first, again)
        slopes.append(first)
    torch.testing.assert_close(*slopes)


def test_a_lack_of_memory_in_the_quick_form_is_raised_and_a_wrong_label_is_reported(monkeypatch):
    from limbeck.functional import labels as labels_module

    student, labels = drawn()
    with pytest.raises(LimbeckError):
        label_smoothing(student, labels=labels + 2, smoothing=0.1)

    def full(*given):
        raise RuntimeError("DefaultCPUAllocator: can't allocate memory")

    monkeypatch.setattr(labels_module, "log_softmax", full)
    with pytest.raises(RuntimeError, match="allocate"):
        label_smoothing(student, labels=labels, smoothing=0.1)
