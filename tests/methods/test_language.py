"""Methods for language models: their losses are those of the papers, at the ends too."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from limbeck.batch import Batch, Outputs, Progress
from limbeck.errors import ArgumentError, LimbeckError
from limbeck.methods import make

NAMES = ("distillm", "abkd", "generalized_jsd")


def value_of(name, p, q, **arguments):
    """The minimized value for one batch of two texts."""
    objective = next(make(name, teacher=nn.Linear(2, 2), **arguments).stages()).objective
    labels = torch.tensor([[0, 2, -100], [1, -100, -100]])
    batch = Batch(torch.zeros(2, 3), labels=labels, mask=labels >= 0)
    terms = objective(Outputs(logits=q.log()), Outputs(logits=p.log()), batch, Progress())
    return sum(float(term.weight * term.total / term.count) for term in terms.values())


@pytest.fixture
def pair():
    torch.manual_seed(0)
    return tuple(torch.randn(2, 3, 5, dtype=torch.float64).softmax(-1) for _ in range(2))


def kl(p, q):
    return (p * (p / q).log()).sum(-1)


def mean(values):
    return float((values[0, 0] + values[0, 1] + values[1, 0]) / 3)


def test_distillm_is_the_skew_divergence_of_the_tokens_that_count(pair):
    p, q = pair
    reverse, forward = kl(q, 0.9 * p + 0.1 * q), kl(p, 0.1 * p + 0.9 * q)
    assert value_of("distillm", p, q) == pytest.approx(mean(reverse), rel=1e-6)
    assert value_of("distillm", p, q, direction="forward") == pytest.approx(mean(forward), rel=1e-6)
    labeled = 0.7 * mean(reverse) - 0.3 * float((q[0, 0, 0] * q[0, 1, 2] * q[1, 0, 1]).log()) / 3
    assert value_of("distillm", p, q, weight=0.7) == pytest.approx(labeled, rel=1e-6)


def test_abkd_is_the_alpha_beta_divergence(pair):
    p, q = pair
    formula = (2 / 9 * p**0.9 + 7 / 9 * q**0.9 - p**0.2 * q**0.7).sum(-1) / 0.14
    assert value_of("abkd", p, q) == pytest.approx(mean(formula), rel=1e-6)
    assert value_of("abkd", p, q, alpha=1, beta=0) == pytest.approx(mean(kl(p, q)), rel=1e-6)


def test_generalized_jsd_has_both_forms(pair):
    p, q = pair
    m = 0.3 * p + 0.7 * q
    paper = mean(0.3 * kl(p, m) + 0.7 * kl(q, m))
    assert value_of("generalized_jsd", p, q, mixture=0.3) == pytest.approx(paper / 0.21, rel=1e-6)
    assert value_of("generalized_jsd", p, q, mixture=0.3, normalized=False) == pytest.approx(paper, rel=1e-6)


def test_trap_1_all_have_both_kl_divergences_as_ends_in_the_right_order(pair):
    p, q = pair
    ends = {"forward": mean(kl(p, q)), "reverse": mean(kl(q, p))}
    for end, beta in (("forward", 0.0), ("reverse", 1.0)):
        assert value_of("generalized_jsd", p, q, mixture=beta) == pytest.approx(ends[end], rel=1e-6)
        assert value_of("abkd", p, q, alpha=1 - beta, beta=beta) == pytest.approx(ends[end], rel=1e-6)
        assert value_of("distillm", p, q, direction=end, skew=0.0) == pytest.approx(ends[end], rel=1e-6)


@pytest.mark.parametrize("name", NAMES)
def test_a_student_that_equals_its_teacher_has_no_loss(pair, name):
    assert value_of(name, pair[0], pair[0].clone()) == 0


@pytest.mark.parametrize(
    ("name", "wrong"),
    [
        ("distillm", {"direction": "forwards"}),
        ("distillm", {"skew": 1.5}),
        ("abkd", {"alpha": -0.2}),
        ("abkd", {"alpha": 0.0, "beta": 0.0}),
        ("generalized_jsd", {"mixture": 2.0}),
        *((name, {"weight": 1.2}) for name in NAMES),
        *((name, {"temperature": 0.0}) for name in NAMES),
    ],
)
def test_values_out_of_range_are_refused_when_it_is_built(name, wrong):
    with pytest.raises((ArgumentError, LimbeckError)):
        make(name, teacher=nn.Linear(2, 2), **wrong)
