"""Rows in which the teacher says NaN and that do not count: the student's gradient there is 0, not NaN."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from laws import CLAIMS
from limbeck.data import ArrayDataset
from limbeck.engine import distill
from limbeck.functional import kernel
from limbeck.losses import Loss
from limbeck.recipe import Stage

TWO_SIDED = {name: c for name, c in CLAIMS.items() if c.takes("teacher") and len(c.shape) < 3}


class Nothing(nn.Module):
    """A teacher that says NaN of an input of zeros, as attention over padding alone does."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(4, 3)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return torch.where((x == 0).all(-1, keepdim=True), torch.nan, self.layer(x))


@pytest.mark.parametrize("name", TWO_SIDED)
@pytest.mark.parametrize("wrong", [float("nan"), float("inf")])
def test_a_row_that_is_masked_after_a_kernel_gives_no_gradient(name, wrong):
    claim = TWO_SIDED[name]
    student, teacher = torch.randn(4, 5), torch.randn(4, 5)
    teacher[0], teacher[1, 2] = wrong, wrong
    found = []
    for rows in (slice(0, 4), slice(2, 4)):
        leaf = student[rows].clone().requires_grad_()
        values = claim.kernel(leaf, teacher[rows], **claim.hyper)
        counts = torch.arange(4)[rows] >= 2
        if values.ndim == 2:
            counts = counts[:, None]
        torch.where(counts, values, 0.0).sum().backward()
        found.append(leaf.grad)
    assert found[0][:2].abs().max() == 0
    torch.testing.assert_close(found[0][2:], found[1], rtol=1e-5, atol=1e-6)


@kernel(per="position")
def absolute_error(student, teacher):
    return (student - teacher).square().sum(-1).add(1e-3).sqrt()


@pytest.mark.parametrize("tokens", [False, True])
@pytest.mark.parametrize("name", ["kl_divergence", "squared_error", "binary_kl_divergence", "a person's own"])
def test_a_run_learns_from_the_rows_that_count(name, tokens):
    loss = Loss(absolute_error) if name not in TWO_SIDED else Loss(TWO_SIDED[name].kernel, **TWO_SIDED[name].hyper)
    tokens = tokens and loss.per != "example"  # one value for a whole example has no padding inside it
    x, mask = torch.randn(32, *([6] if tokens else []), 4), torch.ones(32, *([6] if tokens else []), dtype=torch.bool)
    mask.view(-1)[::5] = False
    x[~mask] = 0
    student = nn.Linear(4, 3)
    data = ArrayDataset(x, mask=mask)
    run = distill(student, Stage(loss, teacher=Nothing(), steps=4), data, batch_size=8, accelerator="cpu").finish()
    assert all(torch.isfinite(p).all() for p in student.parameters())
    assert 0 < run.history[-1].loss < 100


def test_a_nan_that_counts_is_not_hidden():
    leaf = torch.randn(2, 5, requires_grad=True)
    teacher = torch.randn(2, 5)
    teacher[0, 1] = torch.nan
    for claim in TWO_SIDED.values():
        values = claim.kernel(leaf, teacher, **claim.hyper)
        assert values[0].isnan().any()
        assert not values[1].isnan().any()
