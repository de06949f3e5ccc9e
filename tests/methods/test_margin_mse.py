"""MarginMSE: only differences of scores count, and candidates may be missing."""

from __future__ import annotations

import math

import pytest
import torch

from limbeck.methods import make
from limbeck.methods.embeddings.margin_mse import margin_squared_error
from methods.planted import Planted
from methods.row_math import like, to_rows

DRAW = torch.Generator().manual_seed(0)
S, T = (3 * torch.randn(6, 5, generator=DRAW, dtype=torch.float64) for _ in range(2))
Y = torch.tensor([0, 1, 2, 3, 4, -100])


def brute_force_margin_squared_error(student, teacher, *, labels):
    values = []
    for s, t, y in zip(to_rows(student), to_rows(teacher), labels.flatten().tolist(), strict=True):
        present = [j for j in range(len(s)) if min(s[j], t[j]) > -math.inf]
        others = [j for j in present if j != y] if y in present else []
        apart = [((s[y] - s[j]) - (t[y] - t[j])) ** 2 for j in others]
        values.append(sum(apart) / max(len(apart), 1))
    return like(student, values)


def test_the_kernel_is_the_formula_also_with_missing_candidates():
    missing = torch.rand(6, 5, generator=DRAW) < 0.3
    for s, t in ((S, T), (S.masked_fill(missing, -torch.inf), T.masked_fill(missing, -torch.inf))):
        torch.testing.assert_close(
            margin_squared_error(s, t, labels=Y), brute_force_margin_squared_error(s, t, labels=Y)
        )


def test_a_query_without_its_right_candidate_or_without_others_counts_nothing():
    s = torch.tensor([[-torch.inf, 1.0, 2.0], [3.0, -torch.inf, -torch.inf]], requires_grad=True)
    value = margin_squared_error(s, torch.zeros(2, 3), labels=torch.tensor([0, 0]))
    assert torch.equal(value, torch.zeros(2))
    assert torch.autograd.grad(value.sum(), s)[0].isfinite().all()


def test_two_candidates_are_the_paper_s_pair():
    value = margin_squared_error(S[:, :2], T[:, :2], labels=torch.zeros(6, dtype=torch.int64))
    torch.testing.assert_close(value, ((S[:, 0] - S[:, 1]) - (T[:, 0] - T[:, 1])).square())


@pytest.mark.parametrize("name", ["margin_mse", "listwise_kl", "rank_distillation"])
def test_a_ranker_learns_the_teacher_s_best_candidates(name):
    planted = Planted()
    alone = planted.accuracy(planted.alone(epochs=30))
    assert planted.accuracy(planted.learn(make(name, teacher=planted.truth), epochs=30).student) > alone + 0.03
