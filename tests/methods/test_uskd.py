"""USKD: the kernels are the formulas of the paper, and a student labels itself."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from limbeck.batch import Batch, Outputs, Progress
from limbeck.errors import ArgumentError, LimbeckError
from limbeck.functional import cross_entropy, label_smoothing
from limbeck.losses import LossContext
from limbeck.methods import make
from limbeck.methods.online.uskd import OwnLabels, smoothed_target_cross_entropy, zipf_cross_entropy
from methods.planted import Planted
from methods.row_math import like, log_softmax, softmax, to_rows, without

DRAW = torch.Generator().manual_seed(0)
Z, W = (2 * torch.randn(6, 5, generator=DRAW, dtype=torch.float64) for _ in range(2))
Y = torch.tensor([0, 1, 2, 3, 4, -100])


def brute_force_smoothed_target_cross_entropy(student, *, labels):
    rows = [(z, y) for z, y in zip(to_rows(student), labels.flatten().tolist(), strict=True) if y != -100]
    squares = [softmax(z)[y] ** 2 if max(z) > float("-inf") else 1 / len(z) ** 2 for z, y in rows]
    mean = sum(squares) / max(len(squares), 1)
    values = [-(one + 1 - mean) * log_softmax(z)[y] for one, (z, y) in zip(squares, rows, strict=True)]
    return torch.tensor(sum(values) / max(len(values), 1), dtype=torch.float64)


def brute_force_zipf_cross_entropy(student, weak, *, labels):
    values = []
    for z, w, y in zip(to_rows(student), to_rows(weak), labels.flatten().tolist(), strict=True):
        ours, early = without(z, y), without(w, y)
        if y == -100 or not ours or max(ours) == float("-inf"):
            values.append(0.0)
            continue
        shares = softmax(early) if max(early) > float("-inf") else [0.0] * len(early)
        scores = [s + t for s, t in zip(softmax(ours), shares, strict=True)]
        exists = [c for c in range(len(ours)) if ours[c] > float("-inf")]
        order = sorted(exists, key=lambda c: -scores[c])
        total = sum(1 / (rank + 1) for rank in range(len(order)))
        logs = log_softmax(ours)
        values.append(-sum(logs[c] / (rank + 1) / total for rank, c in enumerate(order)))
    return like(student, values)


def test_the_kernels_are_the_formulas():
    value = smoothed_target_cross_entropy(Z, labels=Y)
    torch.testing.assert_close(value, brute_force_smoothed_target_cross_entropy(Z, labels=Y))
    value = zipf_cross_entropy(Z, W, labels=Y)
    torch.testing.assert_close(value, brute_force_zipf_cross_entropy(Z, W, labels=Y))


def test_soft_labels_of_the_class_are_1_in_the_mean_and_constant_in_the_backward_pass():
    z = Z.clone().requires_grad_()
    (slope,) = torch.autograd.grad(smoothed_target_cross_entropy(z, labels=Y), z)
    known = Y >= 0
    p = Z.softmax(-1)
    own = p[known, Y[known]] ** 2
    soft = own + 1 - own.mean()
    assert soft.mean().item() == pytest.approx(1.0)
    expected = torch.zeros_like(Z)
    expected[known] = soft[:, None] * (p[known] - nn.functional.one_hot(Y[known], 5)) / 5
    torch.testing.assert_close(slope, expected)


def test_equally_sure_answers_leave_the_cross_entropy():
    z = torch.tensor([[2.0, 0.0, 0.0], [0.0, 2.0, 0.0]])
    labels = torch.tensor([0, 1])
    value = smoothed_target_cross_entropy(z, labels=labels)
    torch.testing.assert_close(value, cross_entropy(z, labels=labels).mean())


def test_the_smallest_value_is_at_the_law_of_zipf_and_the_weak_logits_only_rank():
    shares = torch.tensor([1.0, 1 / 2, 1 / 3])
    log = (shares / shares.sum()).log()
    z, labels = torch.cat([torch.tensor([3.0]), log])[None], torch.tensor([0])
    entropy = -(log.exp() * log).sum()
    torch.testing.assert_close(zipf_cross_entropy(z, z, labels=labels), entropy[None])
    other = torch.cat([z[:, :1], z[:, 1:].flip(1)], 1)
    assert zipf_cross_entropy(z, 50 * other, labels=labels) > entropy + 0.1  # the weak logits reverse the ranks
    moved = z.clone().requires_grad_()
    assert not zipf_cross_entropy(z, moved, labels=labels).requires_grad
    torch.testing.assert_close(zipf_cross_entropy(z, 2 * z, labels=labels), entropy[None])


def test_two_classes_leave_nothing_to_rank():
    z = torch.randn(3, 2, generator=DRAW)
    assert torch.equal(zipf_cross_entropy(z, z, labels=torch.tensor([0, 1, 0])), torch.zeros(3))


def term_for(batch, outputs):
    term = OwnLabels("a", target_weight=0.5, non_target_weight=0.25, weak_weight=2.0)
    return term.setup(LossContext(outputs, Outputs({}), batch))


def test_the_term_is_the_weighted_sum_over_labeled_examples_that_count():
    outputs = Outputs({"a": torch.randn(6, 3, 2, 2, generator=DRAW, dtype=torch.float64)}, logits=Z)
    mask = torch.tensor([True, True, False, True, True, True])
    batch = Batch(torch.zeros(6, 1), labels=Y, mask=mask)
    term = term_for(batch, outputs)
    value = term.term(outputs, Outputs({}), batch, Progress())
    rows = mask & (Y >= 0)
    weak, labels = term.weak(outputs["a"].mean((2, 3))[rows]), Y[rows]
    expected = (
        0.5 * smoothed_target_cross_entropy(Z[rows], labels=labels)
        + 0.25 * zipf_cross_entropy(Z[rows], weak, labels=labels).mean()
        + 2.0 * label_smoothing(weak, labels=labels, smoothing=0.1).mean()
    )
    torch.testing.assert_close(value.total, expected)
    assert value.count == 1
    nothing = term.term(outputs, Outputs({}), batch._replace(labels=torch.full((6,), -100)), Progress())
    assert (nothing.total.item(), nothing.count) == (0.0, 0.0)


@pytest.mark.parametrize("wrong", ["target_weight", "non_target_weight", "weak_weight"])
def test_a_negative_weight_is_refused(wrong):
    with pytest.raises(ArgumentError, match=wrong):
        make("uskd", student_at="a", **{wrong: -0.1})


def test_examples_without_labels_are_refused():
    outputs = Outputs({"a": torch.zeros(2, 3)}, logits=torch.zeros(2, 4))
    batch = Batch(torch.zeros(2, 1))
    with pytest.raises(LimbeckError, match="label"):
        term_for(batch, outputs).term(outputs, Outputs({}), batch, Progress())


def test_a_student_that_labels_itself_is_less_sure_of_noisy_labels():
    planted = Planted()
    alone = planted.nll(planted.alone())
    recipe = make("uskd", student_at="layer1", non_target_weight=2.0)
    assert planted.nll(planted.learn(recipe).student) < alone - 0.1
