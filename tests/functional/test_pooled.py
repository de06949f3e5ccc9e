"""The pooled distribution of generalist and specialists is the minimum of its problem."""

from __future__ import annotations

import inspect

import pytest
import torch

from limbeck.errors import LimbeckError, UnknownNameError
from limbeck.functional import pooled
from limbeck.functional.specialist_pooling import MEANS


def instance(batch=40, specialists=4, classes=9, size=4, *, spread=2.0, seed=0, asked=0.6):
    draw = torch.Generator().manual_seed(seed)
    generalist = (spread * torch.randn(batch, classes, generator=draw, dtype=torch.float64)).log_softmax(-1)
    others = (generalist.unsqueeze(1) + torch.randn(batch, specialists, classes, generator=draw)).log_softmax(-1)
    special = torch.rand(specialists, classes, generator=draw).argsort(-1) < size
    active = torch.rand(batch, specialists, generator=draw) < asked
    return generalist, others, special, active


def objective(log_q, generalist, others, special, active, mean):
    """The sum of divergences as the paper writes it."""

    def seen(log_p):
        """[..., classes] -> over each specialist's classes (the others' places are -inf) and its dustbin."""
        own = log_p.masked_fill(~special, -torch.inf)
        dustbin = log_p.masked_fill(special, -torch.inf).logsumexp(-1, keepdim=True)
        return torch.cat([own, dustbin], -1)

    def kl(log_a, log_b):
        return torch.where(log_a > -torch.inf, log_a.exp() * (log_a - log_b), 0.0).sum(-1)

    lumped_q, lumped = seen(log_q.unsqueeze(1).expand_as(others)), seen(others)
    if mean == "arithmetic":
        return kl(generalist, log_q) + (kl(lumped, lumped_q) * active).sum(-1)
    return kl(log_q, generalist) + (kl(lumped_q, lumped) * active).sum(-1)


def test_specialists_that_know_everything_give_the_arithmetic_mean():
    generalist, others, _, active = instance()
    everything = torch.ones(4, 9, dtype=torch.bool)
    total = generalist.exp() + (others.exp() * active.unsqueeze(-1)).sum(1)
    wanted = total / (1 + active.sum(-1, keepdim=True))
    torch.testing.assert_close(pooled(generalist, others, everything, active).exp(), wanted, rtol=0, atol=1e-12)


def test_the_other_way_round_they_give_the_normalized_geometric_mean():
    generalist, others, _, active = instance()
    everything = torch.ones(4, 9, dtype=torch.bool)
    total = generalist + (others * active.unsqueeze(-1)).sum(1)
    wanted = (total / (1 + active.sum(-1, keepdim=True))).softmax(-1)
    found = pooled(generalist, others, everything, active, mean="geometric").exp()
    torch.testing.assert_close(found, wanted, rtol=0, atol=1e-12)


@pytest.mark.parametrize("mean", MEANS)
def test_where_no_one_is_active_it_is_the_generalist_bit_for_bit(mean):
    generalist, others, special, active = instance()
    generalist, others = generalist.float(), others.float()
    active[::2] = False
    found = pooled(generalist, others, special, active, mean=mean)
    assert found.dtype == torch.float32
    assert torch.equal(found[::2], generalist[::2])
    assert not torch.equal(found[1::2], generalist[1::2])


@pytest.mark.parametrize("mean", MEANS)
@pytest.mark.parametrize("seed", range(2))
def test_it_is_as_low_as_gradient_descent_gets(mean, seed):
    given = instance(batch=16, seed=seed)
    z = given[0].clone().requires_grad_()
    optimizer = torch.optim.LBFGS([z], lr=1.0, max_iter=2000, tolerance_grad=1e-12, line_search_fn="strong_wolfe")

    def closure():
        optimizer.zero_grad()
        loss = objective(z.log_softmax(-1), *given, mean).sum()
        loss.backward()
        return loss

    optimizer.step(closure)
    found = pooled(*given, mean=mean)
    mine = objective(found, *given, mean)
    brute = objective(z.detach().log_softmax(-1), *given, mean)
    assert bool((mine <= brute + 1e-9).all()), float((mine - brute).max())
    torch.testing.assert_close(found.exp(), z.detach().softmax(-1), rtol=0, atol=1e-4)


@pytest.mark.parametrize("mean", MEANS)
def test_no_direction_goes_down_from_there(mean):
    given = instance(batch=200, seed=5)
    log_q = pooled(*given, mean=mean).requires_grad_()
    (slope,) = torch.autograd.grad(objective(log_q.log_softmax(-1), *given, mean).sum(), log_q)
    assert float(slope.abs().max()) < 1e-8


@pytest.mark.parametrize("mean", MEANS)
def test_strong_disagreement_is_solved_too(mean):
    """A generalist that is sure of a class, and specialists that are sure that it is none of theirs."""
    given = instance(batch=100, spread=12.0, size=3, seed=2)
    given[1][:, :2] = (12 * torch.randn(100, 2, 9, dtype=torch.float64)).log_softmax(-1)
    log_q = pooled(*given, mean=mean).requires_grad_()
    (slope,) = torch.autograd.grad(objective(log_q.log_softmax(-1), *given, mean).sum(), log_q)
    assert float(slope.abs().max()) < 1e-4


@pytest.mark.parametrize("mean", MEANS)
def test_one_specialist_has_a_closed_form(mean):
    generalist, others, special, _ = instance(specialists=1)
    g, s, own = generalist.exp(), others[:, 0].exp(), special[0]
    found = pooled(generalist, others, special, torch.ones(40, 1, dtype=torch.bool), mean=mean).exp()
    g_out, s_out = g[:, ~own].sum(-1, keepdim=True), s[:, ~own].sum(-1, keepdim=True)
    if mean == "arithmetic":
        inside, outside = (g + s)[:, own] / 2, g[:, ~own] / g_out * (g_out + s_out) / 2
    else:
        # Inside the root of the product; outside the generalist's proportions, in all the root of the two masses.
        inside, outside = (g * s)[:, own].sqrt(), g[:, ~own] / g_out * (g_out * s_out).sqrt()
        total = inside.sum(-1, keepdim=True) + outside.sum(-1, keepdim=True)
        inside, outside = inside / total, outside / total
    torch.testing.assert_close(found[:, own], inside, rtol=1e-7, atol=1e-9)
    torch.testing.assert_close(found[:, ~own], outside, rtol=1e-7, atol=1e-9)


@pytest.mark.parametrize("mean", MEANS)
def test_a_specialist_that_agrees_changes_nothing(mean):
    generalist, _, special, active = instance()
    same = generalist.unsqueeze(1).expand(-1, 4, -1)
    found = pooled(generalist, same, special, active, mean=mean)
    torch.testing.assert_close(found.exp(), generalist.exp(), rtol=0, atol=1e-8)


@pytest.mark.parametrize("mean", MEANS)
def test_what_is_not_to_be_read_is_not_read(mean):
    """What a specialist says outside its classes beside their sum, and what those say who are not active."""
    generalist, others, special, active = instance()
    lumped = others.masked_fill(special, -torch.inf).logsumexp(-1, keepdim=True)
    spread = (lumped - (~special).sum(-1, keepdim=True).log()).where(~special, others)
    spread = spread.masked_fill(~active.unsqueeze(-1), torch.nan)
    one, two = (pooled(generalist, said, special, active, mean=mean) for said in (others, spread))
    torch.testing.assert_close(one.exp(), two.exp(), rtol=0, atol=1e-8)


@pytest.mark.parametrize("mean", MEANS)
def test_an_answer_does_not_depend_on_the_rest_of_the_batch(mean):
    generalist, others, special, active = instance(spread=6.0)
    whole = pooled(generalist, others, special, active, mean=mean)
    for row in range(0, 40, 7):
        one = slice(row, row + 1)
        alone = pooled(generalist[one], others[one], special, active[one], mean=mean)
        torch.testing.assert_close(alone.exp(), whole[one].exp(), rtol=0, atol=1e-10)


@pytest.mark.parametrize("mean", MEANS)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_zeros_stay_finite(mean, dtype):
    generalist, others, special, active = (x.to(dtype) if x.is_floating_point() else x for x in instance())
    generalist[:, 0] = -torch.inf
    generalist[:5, 1:] = -torch.inf
    generalist[:5, 3] = 0.0
    others[:, 0] = torch.where(special[0], -torch.inf, 0.0)
    others[:, 1] = torch.where(special[1], 0.0, -torch.inf)
    active[:, :2] = True
    found = pooled(generalist, others, special, active, mean=mean)
    assert bool(found.isfinite().all())
    torch.testing.assert_close(found.exp().sum(-1), torch.ones(40, dtype=dtype))


@pytest.mark.parametrize("mean", MEANS)
def test_two_classes_and_a_group_of_one(mean):
    generalist = torch.tensor([[0.9, 0.1]], dtype=torch.float64)
    specialist = torch.tensor([[[0.2, 0.8]]], dtype=torch.float64)
    asked = torch.tensor([[True]])
    found = pooled(generalist.log(), specialist.log(), torch.tensor([[True, False]]), asked, mean=mean).exp()
    wanted = {"arithmetic": [0.55, 0.45], "geometric": [0.6, 0.4]}[mean]
    torch.testing.assert_close(found, torch.tensor([wanted], dtype=torch.float64), rtol=0, atol=1e-9)


def test_an_empty_batch():
    generalist, others, special, active = instance(batch=0)
    assert pooled(generalist, others, special, active).shape == (0, 9)


def test_what_does_not_fit_is_refused():
    generalist, others, special, active = instance()
    with pytest.raises(UnknownNameError, match=r"Unknown mean 'geometrc'\. Did you mean 'geometric'"):
        pooled(generalist, others, special, active, mean="geometrc")
    with pytest.raises(LimbeckError, match="do not match"):
        inspect.unwrap(pooled)(generalist, others, special[:, :3], active)
