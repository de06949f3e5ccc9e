"""Batches that need no guards give the same numbers with and without them."""

from __future__ import annotations

import pytest
import torch

from limbeck.functional import closed_form, cross_entropy, jensen_shannon, kl_divergence, skew_kl

INF = float("inf")
PAIRED = [kl_divergence, jensen_shannon, skew_kl]


@pytest.mark.parametrize("kernel", PAIRED)
@pytest.mark.parametrize("classes", [2, 10, 33])
def test_a_row_of_infinities_changes_no_other_row(kernel, classes):
    student, teacher = (3 * torch.randn(7, classes) for _ in range(2))
    dead = torch.full((1, classes), -INF)
    found = []
    for one, other in ((student, teacher), (torch.cat([student, dead]), torch.cat([teacher, dead]))):
        leaf = one.clone().requires_grad_()
        value = kernel(leaf, other, temperature=4.0) if kernel is kl_divergence else kernel(leaf, other)
        value[:7].sum().backward()
        found.append((value[:7].detach(), leaf.grad[:7]))
    for mine, theirs in zip(*found, strict=True):
        # Small batches without infinities are computed in float64, the others in float32, with its rounding.
        torch.testing.assert_close(mine, theirs, rtol=4e-6, atol=5e-7)


def test_a_row_of_infinities_changes_no_cross_entropy():
    student, labels = 3 * torch.randn(7, 5), torch.tensor([0, 1, 2, -100, 3, 4, 0])
    with_dead = torch.cat([student, torch.full((1, 5), -INF)])
    value = cross_entropy(with_dead, labels=torch.cat([labels, torch.tensor([-100])]))
    torch.testing.assert_close(value[:7], cross_entropy(student, labels=labels))


@pytest.mark.parametrize("value", [INF, -INF, float("nan"), 1e30, -1e30])
def test_what_is_not_tame_is_known(value):
    logits = torch.zeros(3, 4)
    assert closed_form.is_well_scaled(logits)
    logits[1, 2] = value
    assert not closed_form.is_well_scaled(torch.zeros(3, 4), logits)


def test_a_temperature_so_low_that_logits_overflow_is_guarded():
    student, teacher = torch.tensor([[-1.0, -2.0]]), torch.tensor([[-2.0, -1.0]])
    assert closed_form.is_well_scaled(student)
    assert not closed_form.is_well_scaled(student, temperature=1e-39)
    assert not kl_divergence(student, teacher, temperature=1e-39).isnan().any()


def test_vmap_is_guarded():
    seen = []

    def each(row):
        seen.append(closed_form.is_well_scaled(row))
        return row.sum()

    torch.func.vmap(each)(torch.zeros(3, 4))
    assert seen == [False]


def test_torch_compile_is_guarded(monkeypatch):
    monkeypatch.setattr(torch.compiler, "is_compiling", lambda: True)
    assert not closed_form.is_well_scaled(torch.zeros(3, 4))
