"""Rank distillation: only the teacher's order counts."""

from __future__ import annotations

import math

import pytest
import torch
from torch import nn

from limbeck.errors import LimbeckError
from limbeck.methods import make
from limbeck.methods.embeddings.rank_distillation import list_likelihood, pairwise_hinge, pairwise_logistic
from methods.row_math import like, to_rows

DRAW = torch.Generator().manual_seed(0)
S, T = (3 * torch.randn(6, 5, generator=DRAW, dtype=torch.float64) for _ in range(2))
KERNELS = (pairwise_logistic, pairwise_hinge, list_likelihood)


def mean_over_pairs(student, teacher, value):
    values = []
    for s, t in zip(to_rows(student), to_rows(teacher), strict=True):
        present = [j for j in range(len(s)) if min(s[j], t[j]) > -math.inf]
        each = [value(s[i] - s[j]) for i in present for j in present if t[i] > t[j]]
        values.append(sum(each) / max(len(each), 1))
    return like(student, values)


def brute_force_pairwise_logistic(student, teacher):
    return mean_over_pairs(student, teacher, lambda apart: math.log1p(math.exp(-apart)))


def brute_force_pairwise_hinge(student, teacher, *, margin=1.0):
    return mean_over_pairs(student, teacher, lambda apart: max(0.0, margin - apart))


def brute_force_list_likelihood(student, teacher):
    values = []
    for s, t in zip(to_rows(student), to_rows(teacher), strict=True):
        present = [j for j in range(len(s)) if min(s[j], t[j]) > -math.inf]
        order = sorted(present, key=lambda j: -t[j])
        rest = [math.log(sum(math.exp(s[j]) for j in order[k:])) for k in range(len(order))]
        values.append(sum(r - s[j] for r, j in zip(rest, order, strict=True)))
    return like(student, values)


@pytest.mark.parametrize("kernel", KERNELS)
def test_the_kernels_are_the_formulas_also_with_missing_candidates_and_ties(kernel):
    reference = globals()[f"brute_force_{kernel.__name__}"]
    missing, ties = torch.rand(6, 5, generator=DRAW) < 0.3, T.round()
    for s, t in ((S, T), (S, ties), (S.masked_fill(missing, -torch.inf), T.masked_fill(missing, -torch.inf))):
        torch.testing.assert_close(kernel(s, t), reference(s, t))


@pytest.mark.parametrize("kernel", KERNELS)
def test_the_teacher_s_ranks_are_as_good_as_its_scores(kernel):
    ranks = T.argsort(-1).argsort(-1).double()
    torch.testing.assert_close(kernel(S, ranks), kernel(S, T))


@pytest.mark.parametrize(
    ("kernel", "limit"), [(pairwise_logistic, 1e-9), (pairwise_hinge, 0.0), (list_likelihood, 1e-9)]
)
def test_a_student_in_the_teacher_s_order_by_far_has_no_loss(kernel, limit):
    assert kernel(100 * T.argsort(-1).argsort(-1).double(), T).max() <= limit


def test_the_likelihoods_of_all_orders_add_up_to_1():
    scores = S[0, :3]
    orders = torch.tensor([[0, 1, 2], [0, 2, 1], [1, 0, 2], [1, 2, 0], [2, 0, 1], [2, 1, 0]]).double()
    total = (-list_likelihood(scores.expand(6, 3), orders)).exp().sum()
    torch.testing.assert_close(total, torch.tensor(1.0, dtype=torch.float64))


@pytest.mark.parametrize(("wrong", "match"), [({"loss": "pairs"}, "pairwise"), ({"margin": 2.0}, "loss='margin'")])
def test_a_wrong_loss_or_margin_is_refused(wrong, match):
    with pytest.raises(LimbeckError, match=match):
        make("rank_distillation", teacher=nn.Linear(2, 3), **wrong)
