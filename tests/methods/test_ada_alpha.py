"""AdaAlpha: the teacher counts by its mean margin on a class, and not at all where it is unreliable."""

from __future__ import annotations

import inspect

import pytest
import torch
from torch import nn

from limbeck.batch import Batch, Outputs, Progress
from limbeck.errors import LimbeckError
from limbeck.functional import cross_entropy, kl_divergence
from limbeck.losses import LossContext
from limbeck.methods import make
from limbeck.methods.logits.ada_alpha import (
    AdaptiveClassWeights,
    ada_alpha,
    class_weighted_kl,
    measure_class_weights,
    measure_margins,
)
from methods.row_math import kl, like, log_softmax, softmax, to_rows

DRAW = torch.Generator().manual_seed(0)
Z, V = (3 * torch.randn(6, 5, generator=DRAW, dtype=torch.float64) for _ in range(2))
Y = torch.tensor([0, 1, 1, 3, 4, -100])


def brute_force_class_weighted_kl(student, teacher, *, labels, class_weights, temperature=1.0):
    if isinstance(class_weights, float):
        class_weights = [class_weights] * student.shape[-1]
    values = []
    for z, v, y in zip(to_rows(student), to_rows(teacher), labels.flatten().tolist(), strict=True):
        if y == -100:
            values.append(0.0)
            continue
        alpha = float(class_weights[y])
        values.append(-(1 - alpha) * log_softmax(z)[y] + alpha * temperature**2 * kl(z, v, temperature))
    return like(student, values)


def brute_force_weights(teacher, labels):
    margins = [[] for _ in range(teacher.shape[-1])]
    for v, y in zip(to_rows(teacher), labels.tolist(), strict=True):
        if y != -100:
            p = softmax(v)
            margins[y].append(p[y] - sum(p[k] for k in range(len(p)) if k != y) / (len(p) - 1))
    return torch.tensor([max(0.0, sum(m) / max(len(m), 1)) for m in margins], dtype=torch.float64)


def test_the_kernel_is_the_formula():
    hyper = {"class_weights": (0.0, 0.25, 0.5, 0.75, 1.0), "temperature": 3.0}
    value = class_weighted_kl(Z, V, labels=Y, **hyper)
    torch.testing.assert_close(value, brute_force_class_weighted_kl(Z, V, labels=Y, **hyper))


def test_the_weights_are_mean_margins_above_0():
    torch.testing.assert_close(measure_class_weights(V, Y), brute_force_weights(V, Y))
    assert measure_class_weights(V, Y)[2] == 0  # no example


def test_a_perfect_teacher_counts_alone_and_one_at_chance_does_not():
    sure = 1000 * torch.eye(5, dtype=torch.float64)
    labels = torch.arange(5)
    assert torch.equal(measure_class_weights(sure, labels), torch.ones(5, dtype=torch.float64))
    assert torch.equal(measure_class_weights(torch.zeros(5, 5), labels), torch.zeros(5))
    assert bool((measure_margins(sure.roll(1, 0), labels) < 0).all())
    z = Z[:5]
    torch.testing.assert_close(
        class_weighted_kl(z, sure, labels=labels, class_weights=[1.0] * 5), kl_divergence(z, sure)
    )
    torch.testing.assert_close(
        class_weighted_kl(z, sure, labels=labels, class_weights=[0.0] * 5), cross_entropy(z, labels=labels)
    )


def test_weights_are_measured_from_all_examples_so_far():
    loss = AdaptiveClassWeights(temperature=2.0, classes=-1)
    first, second = (Batch(torch.zeros(3, 1), labels=labels) for labels in Y.split(3))
    halves = [(Outputs(logits=z), Outputs(logits=v)) for z, v in zip(Z.split(3), V.split(3), strict=True)]
    fitted = loss.setup(LossContext(*halves[0], first))
    torch.testing.assert_close(  # no example so far: labels alone
        fitted.term(*halves[0], first, Progress()).total, cross_entropy(Z[:3], labels=Y[:3]).sum()
    )
    for outputs, batch in zip(halves, (first, second), strict=True):
        fitted.after_step(*outputs, batch, Progress())
    torch.testing.assert_close(fitted.class_weights, brute_force_weights(V, Y))
    term = fitted.term(*halves[1], second, Progress())
    weights = brute_force_weights(V, Y)
    expected = brute_force_class_weighted_kl(Z[3:], V[3:], labels=Y[3:], class_weights=weights, temperature=2.0)
    torch.testing.assert_close(term.total, expected.sum())
    assert term.count == 2


@pytest.mark.parametrize("wrong", [[], [0.5, 1.5], [0.5, float("nan")]])
def test_wrong_weights_are_refused(wrong):
    with pytest.raises(LimbeckError, match="class_weights"):
        make("ada_alpha", teacher=nn.Linear(2, 2), class_weights=wrong)


def test_too_few_weights_are_refused_before_training():
    with pytest.raises(LimbeckError, match="2 class weights for 5 classes"):
        class_weighted_kl(Z, V, labels=Y, class_weights=(0.5, 0.5))


@pytest.mark.parametrize("wrong", [0.5, "high", ["a", "b"], [0.5, 1.5], [], object()])
def test_class_weights_of_another_kind_are_refused(wrong):
    with pytest.raises(LimbeckError, match="class_weights"):
        inspect.unwrap(ada_alpha)(torch.nn.Linear(2, 3), class_weights=wrong)


@pytest.mark.parametrize("count", [4, 6])
def test_another_number_of_weights_than_classes_is_refused(count):
    with pytest.raises(LimbeckError, match="5 classes"):
        class_weighted_kl(Z, V, labels=Y, class_weights=(0.5,) * count)
