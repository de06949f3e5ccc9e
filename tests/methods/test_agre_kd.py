"""AGRE-KD: its weights are those of gradients, and it undoes the bias of an ensemble."""

from __future__ import annotations

import math

import pytest
import torch
from torch import nn

from limbeck.data import ArrayDataset
from limbeck.engine import distill
from limbeck.errors import LimbeckError
from limbeck.functional import kl_divergence
from limbeck.methods import make
from limbeck.methods.teachers.agre_kd import group_robust_kl
from limbeck.recipe import Optimizer
from methods.row_math import log_softmax, softmax, to_rows

DRAW = torch.Generator().manual_seed(0)
Z, V, B = (torch.randn(5, 4, generator=DRAW, dtype=torch.float64) for _ in range(3))


def brute_force_group_robust_kl(student, teacher, biased, temperature):
    values = []
    for z, v, b in zip(to_rows(student), to_rows(teacher), to_rows(biased), strict=True):
        q, p, p_b = ([x / temperature for x in row] for row in (z, v, b))
        log_q, log_p = log_softmax(q), log_softmax(p)
        q, p, p_b = softmax(q), softmax(p), softmax(p_b)
        one, other = ([a - c for a, c in zip(q, probabilities, strict=True)] for probabilities in (p, p_b))
        length = math.sqrt(sum(x * x for x in one)) * math.sqrt(sum(x * x for x in other))
        cosine = sum(x * y for x, y in zip(one, other, strict=True)) / length if length else 0.0
        kl = sum(x * (lp - lq) for x, lp, lq in zip(p, log_p, log_q, strict=True))
        values.append((1 - cosine) * temperature**2 * kl)
    return values


def test_the_weight_is_one_less_the_cosine_of_the_gradients_of_the_last_layer():
    features = torch.randn(5, 3, generator=DRAW, dtype=torch.float64)
    layer = nn.Linear(3, 4).double()
    z = layer(features)
    weights = group_robust_kl(z, V, B, temperature=2.0) / kl_divergence(z, V, temperature=2.0)
    for i in range(5):
        by_teacher, by_biased = (
            torch.cat([g.flatten() for g in torch.autograd.grad(
                kl_divergence(layer(features[i : i + 1]), other[i : i + 1], temperature=2.0).sum(), layer.parameters()
            )])
            for other in (V, B)
        )  # fmt: skip
        expected = 1 - torch.cosine_similarity(by_teacher, by_biased, 0)
        torch.testing.assert_close(weights[i], expected, rtol=1e-6, atol=1e-6)


def test_the_biased_model_itself_counts_nothing_and_its_opposite_twice():
    torch.testing.assert_close(group_robust_kl(Z, V, V, temperature=1.0), torch.zeros(5).double(), atol=1e-6, rtol=0)
    one, other = torch.tensor([[2.0, 0.0]]), torch.tensor([[0.0, 2.0]])
    middle = torch.zeros(1, 2)
    twice = group_robust_kl(middle, one, other, temperature=1.0)
    torch.testing.assert_close(twice, 2 * kl_divergence(middle, one))


def test_with_two_classes_the_weight_is_0_or_2():
    z, v, b = (torch.randn(200, 2, generator=DRAW, dtype=torch.float64) for _ in range(3))
    weights = group_robust_kl(z, v, b, temperature=4.0) / kl_divergence(z, v, temperature=4.0)
    assert {round(w, 4) for w in weights.tolist()} == {0.0, 2.0}


def test_the_weights_of_an_example_sum_to_1_and_are_equal_where_no_teacher_counts():
    teachers = {name: nn.Linear(1, 4) for name in ("a", "b", "erm")}
    loss = next(make("agre_kd", teacher=teachers, biased="erm", temperature=2.0).stages()).objective
    weights = loss.weigh(Z, [V, B + 0.1], B)
    torch.testing.assert_close(weights.sum(0), torch.ones(5, dtype=torch.float64))
    raw = [group_robust_kl(Z, one, B, temperature=2.0) / kl_divergence(Z, one, temperature=2.0) for one in (V, B + 0.1)]
    torch.testing.assert_close(weights[0], raw[0].clamp_min(0.01) / sum(one.clamp_min(0.01) for one in raw))
    torch.testing.assert_close(loss.weigh(Z, [B, B], B), torch.full((2, 5), 0.5, dtype=torch.float64))
    skipped = next(make("agre_kd", teacher=teachers, biased="erm", floor=0.0).stages()).objective
    assert float(skipped.weigh(Z, [B, B], B).abs().max()) == 0


def test_the_weight_has_no_gradient():
    z = Z.clone().requires_grad_()
    weight = (group_robust_kl(z, V, B, temperature=2.0) / kl_divergence(z, V, temperature=2.0)).detach()
    (slope,) = torch.autograd.grad(group_robust_kl(z, V, B, temperature=2.0).sum(), z)
    (alone,) = torch.autograd.grad((weight * kl_divergence(z, V, temperature=2.0)).sum(), z)
    torch.testing.assert_close(slope, alone)


def test_a_biased_ensemble_loses_the_worst_group_and_it_regains_it():
    """Feature 1 agrees with the label for 95 %; two of three teachers follow it."""
    draw = torch.Generator().manual_seed(1)

    def make_data(count, agreement):
        label = torch.randint(2, (count,), generator=draw)
        agrees = torch.rand(count, generator=draw) < agreement
        shortcut = torch.where(agrees, label, 1 - label)
        core = (2.0 * label - 1)[:, None] + torch.randn(count, 1, generator=draw)
        easy = 2 * (2.0 * shortcut - 1)[:, None] + 0.3 * torch.randn(count, 1, generator=draw)
        return torch.cat([core, easy], 1), label, agrees

    def linear(core, easy):
        layer = nn.Linear(2, 2)
        with torch.no_grad():
            layer.weight.copy_(torch.tensor([[-core, -easy], [core, easy]]))
            layer.bias.zero_()
        return layer

    inputs, labels, _ = make_data(600, 0.95)
    test, truth, agrees = make_data(2000, 0.5)
    teachers = {"debiased": linear(1.0, 0.0), "shortcut": linear(0.2, 1.0), "erm": linear(0.3, 1.2)}

    def worst(recipe):
        torch.manual_seed(0)
        student = distill(
            nn.Linear(2, 2), recipe, ArrayDataset(inputs, labels), epochs=20, batch_size=100, seed=0,
            optimizer=Optimizer("adam", lr=0.05),
        ).finish().student  # fmt: skip
        right = student(test).argmax(1) == truth
        return min(float(right[agrees == group].float().mean()) for group in (True, False))

    average = worst(make("multi_teacher", teacher=teachers, weights="fixed", weight=1.0))
    robust = worst(make("agre_kd", teacher=teachers, biased="erm"))
    assert average < 0.4
    assert robust > average + 0.3


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"biased": "thrid"}, "Did you mean 'third'"),
        ({"temperature": 0.0}, "temperature"),
        ({"weight": 0.0}, "supervised"),
        ({"teacher": nn.Linear(2, 2)}, "ModelTeacher.*teachers: "),
        ({"teacher": {"third": nn.Linear(2, 2)}}, "has 1"),
    ],
)
def test_what_makes_no_sense_is_refused(changes, words):
    arguments = {"teacher": {"first": nn.Linear(2, 2), "third": nn.Linear(2, 2)}, "biased": "third", **changes}
    with pytest.raises(LimbeckError, match=words):
        make("agre_kd", **arguments)
