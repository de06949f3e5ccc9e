"""CTKD: the temperature moves against the student, more and more, and the student as in hinton."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from limbeck.batch import Batch, Outputs, Progress
from limbeck.errors import LimbeckError
from limbeck.functional import kl_divergence
from limbeck.losses import LossContext
from limbeck.methods import make
from limbeck.methods.logits.ctkd import CurriculumTemperature, learned_temperature_kl

DRAW = torch.Generator().manual_seed(0)
Z, V = (3 * torch.randn(6, 5, generator=DRAW, dtype=torch.float64) for _ in range(2))
BATCH = Batch(torch.zeros(6, 1))


def fitted(level="global", **options):
    options = {"lowest": 1.0, "spread": 20.0, "curriculum": 0.5, "classes": -1} | options
    torch.manual_seed(0)
    loss = CurriculumTemperature(level=level, **options)
    return loss.setup(LossContext(Outputs(logits=Z), Outputs(logits=V), BATCH))


def value(loss, z=Z, step=10, batch=BATCH):
    return loss.term(Outputs(logits=z), Outputs(logits=V), batch, Progress(step, 11))


def test_it_is_the_divergence_at_its_temperature():
    loss = fitted()
    t = 1 + 20 * torch.sigmoid(torch.tensor(1.0)).item()
    z = Z.clone().requires_grad_()
    term = value(loss, z)
    torch.testing.assert_close(term.total, kl_divergence(Z, V, temperature=t).sum())
    torch.testing.assert_close(loss.temperature(Z, V).item(), t)
    other = Z.clone().requires_grad_()
    expected = torch.autograd.grad(kl_divergence(other, V, temperature=t).sum(), other)
    torch.testing.assert_close(torch.autograd.grad(term.total, z), expected)


def test_the_gradient_of_the_temperature_is_that_of_finite_differences_with_the_other_sign():
    loss = fitted()
    with torch.no_grad():
        low, high = (learned_temperature_kl(Z, V, 1 + 20 * torch.sigmoid(loss.score + d)).sum() for d in (-1e-5, 1e-5))
    for step, strength in ((0, 0.0), (2, 0.5 - 0.5 * torch.cos(torch.tensor(0.4 * torch.pi)).item()), (10, 1.0)):
        (slope,) = torch.autograd.grad(value(loss, step=step).total, loss.score)
        torch.testing.assert_close(slope, -strength * (high - low) / 2e-5, rtol=1e-5, atol=1e-8)


def test_each_row_has_its_own_temperature_which_takes_no_gradient_to_the_student():
    loss = fitted("instance")
    temperatures = loss.temperature(Z, V)
    assert len(temperatures.unique()) == 6
    expected = [kl_divergence(Z[i], V[i], temperature=temperatures[i].item()) for i in range(6)]
    torch.testing.assert_close(value(loss).total, torch.stack(expected).sum())
    z = Z.clone().requires_grad_()
    (slope,) = torch.autograd.grad(value(loss, z).total, z)
    t = temperatures.detach()[:, None]
    torch.testing.assert_close(slope, t * ((Z / t).softmax(-1) - (V / t).softmax(-1)))


def test_masked_rows_do_not_count():
    mask = torch.tensor([True, False, True, True, False, False])
    term = value(fitted(), batch=BATCH._replace(mask=mask))
    assert term.count == 3
    t = 1 + 20 * torch.sigmoid(torch.tensor(1.0)).item()
    torch.testing.assert_close(term.total, kl_divergence(Z[mask], V[mask], temperature=t).sum())


def test_the_temperature_learns_to_make_the_loss_larger():
    loss = fitted(curriculum=0.0)
    optimizer = torch.optim.SGD(loss.parameters(), lr=1e-3)
    totals = []
    for _ in range(5):
        optimizer.zero_grad()
        term = value(loss)
        term.total.backward()
        optimizer.step()
        totals.append(term.total.item())
    assert totals == sorted(totals)
    assert totals[-1] > totals[0]


@pytest.mark.parametrize("wrong", [{"level": "class"}, {"lowest": 0.0}, {"curriculum": 2.0}, {"spread": -1.0}])
def test_a_value_out_of_range_is_refused(wrong):
    with pytest.raises(LimbeckError, match=next(iter(wrong))):
        make("ctkd", teacher=nn.Linear(2, 3), **wrong)


@pytest.mark.parametrize("level", ["global", "instance"])
def test_a_class_that_does_not_exist_changes_nothing(level):
    loss = fitted(level)
    absent = [torch.cat([rows[:, :4], torch.full((6, 1), -torch.inf)], 1).double() for rows in (Z, V)]
    z = absent[0].requires_grad_()
    term = loss.term(Outputs(logits=z), Outputs(logits=absent[1]), BATCH, Progress(10, 11))
    assert all(slope.isfinite().all() for slope in torch.autograd.grad(term.total, [z, *loss.parameters()]))
    t = torch.tensor(3.0, dtype=torch.float64, requires_grad=True)
    slopes = [
        torch.autograd.grad(learned_temperature_kl(*pair, t).sum(), t)[0]
        for pair in ((absent[0].detach(), absent[1]), (Z[:, :4], V[:, :4]))
    ]
    torch.testing.assert_close(*slopes)


def test_a_temperature_that_cannot_rise_is_refused():
    with pytest.raises(LimbeckError, match=r"spread=0.*hinton"):
        make("ctkd", teacher=nn.Linear(2, 3), spread=0.0)
