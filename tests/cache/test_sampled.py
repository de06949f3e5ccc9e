"""Sampled logits: unbiased values and gradients, equal for equal examples."""

from __future__ import annotations

import pytest
import torch

from cache.records import encoded
from limbeck.cache.encodings import make_encoding
from limbeck.errors import LimbeckError
from limbeck.functional import kl_divergence

KEYS = 4000


def row(classes: int = 12):
    return 2 * torch.randn(classes, generator=torch.Generator().manual_seed(3))


def drawn(logits, *, draws: int, temperature: float = 1.0, keys: int = KEYS, **parameters):
    """Estimates of the divergence and of its gradient from one row, drawn anew for many keys."""
    one = make_encoding("sampled", classes=len(logits), draws=draws, **parameters)
    found = one.decode(encoded(one, logits.expand(keys, -1)))
    student = torch.linspace(-1, 1, len(logits)).expand(keys, -1).clone().requires_grad_()
    value = found.compare(kl_divergence, student, temperature=temperature)
    return value.detach().double(), torch.autograd.grad(value.sum(), student)[0].double(), found


SERVED = [
    (power, temperature)
    for power in (0.0, 0.25, 0.5, 0.7, 1.0, 1.3)
    for temperature in (0.5, 1.0, 2.0, 3.0, 4.0)
    if power * temperature <= 1.5
]


@pytest.mark.parametrize(("power", "temperature"), SERVED)
def test_value_and_gradient_are_without_bias(power, temperature):
    logits = row()
    value, gradient, found = drawn(logits, draws=3, power=power, temperature=temperature, bits=32)
    student = torch.linspace(-1, 1, 12, dtype=torch.float64)[None].requires_grad_()
    whole = kl_divergence(student, logits[None], temperature=temperature)
    slope = torch.autograd.grad(whole.sum(), student)[0]
    slack = 1e-3 if temperature == 3.0 else 0.0  # there the sum over all classes is interpolated
    scale = slack * temperature**2 * (float(found.entropy(temperature).mean()) + 3)
    assert abs(value.mean() - whole.item()) <= 4 * value.std() / KEYS**0.5 + scale + 1e-5
    error = 4 * gradient.std(0) / KEYS**0.5 + slack * temperature + 1e-5
    assert bool(((gradient.mean(0) - slope[0]).abs() <= error).all())


@pytest.mark.parametrize("power", [0.7, 1.0])
def test_noise_falls_at_least_as_fast_as_with_independent_draws(power):
    logits = row(40)
    noise = [drawn(logits, draws=draws, power=power)[1].var(0).sum() for draws in (4, 16, 64)]
    assert noise[1] <= noise[0] / 4 * 1.1
    assert noise[2] <= noise[1] / 4 * 1.1
    p = logits.softmax(-1)
    if power == 1.0:  # independent draws have p (1 - p) / N in each class
        assert noise[0] <= float((p * (1 - p)).sum()) / 4 * 1.05


def test_classes_come_as_often_as_they_should():
    logits = row()
    for power in (0.0, 0.5, 1.0):
        _, _, found = drawn(logits, draws=5, power=power)
        often = torch.bincount(found.ids.flatten(), minlength=12) / found.ids.numel()
        assert torch.allclose(often, (power * logits).softmax(-1), atol=0.01)


def test_weights_sum_to_one_where_draws_are_from_the_teacher():
    _, _, found = drawn(row(), draws=7, bits=4, keys=50)
    assert torch.allclose(found.weights(), torch.full((50, 7), 1 / 7), rtol=1e-6)


def test_a_temperature_at_which_weights_would_be_guessed():
    with pytest.raises(LimbeckError, match=r"temperatures of 0\.5 and above; got 0\.4"):
        drawn(row(), draws=3, keys=2, temperature=0.4)


def test_entropy_is_that_of_all_classes():
    logits = row(200)
    _, _, found = drawn(logits, draws=3, keys=2)
    for temperature in (0.5, 1.0, 2.0, 4.0, 8.0, 16.0, 32.0):
        truth = torch.special.entr((logits.double() / temperature).softmax(-1)).sum()
        assert found.entropy(temperature)[0].item() == pytest.approx(truth.item(), rel=1e-4)
    assert found.entropy(3.0)[0].item() == pytest.approx(
        torch.special.entr((logits.double() / 3).softmax(-1)).sum().item(), rel=0.01
    )


def test_a_draw_is_a_function_of_its_key_alone():
    logits = torch.randn(9, 500)
    id, view, position = torch.arange(9), torch.arange(9) % 2, torch.arange(9) % 3
    one = make_encoding("sampled", classes=500, draws=20)
    whole = one.encode(logits, id=id, view=view, position=position)
    back = one.encode(logits.flip(0), id=id.flip(0), view=view.flip(0), position=position.flip(0))
    assert (back[::-1] == whole).all()
    assert (one.encode(logits[4:5], id=id[4:5], view=view[4:5], position=position[4:5]) == whole[4:5]).all()


@pytest.mark.parametrize("changed", ["id", "view", "position", "seed"])
def test_another_key_draws_others(changed):
    logits = torch.randn(1, 500)
    keys = {name: torch.zeros(1, dtype=torch.int64) for name in ("id", "view", "position")}
    one = make_encoding("sampled", classes=500, draws=20)
    other = make_encoding("sampled", classes=500, draws=20, seed=1) if changed == "seed" else one
    moved = {name: key + (name == changed) for name, key in keys.items()}
    assert not torch.equal(one.decode(one.encode(logits, **keys)).ids, other.decode(other.encode(logits, **moved)).ids)


def test_a_class_that_is_impossible_is_never_drawn():
    logits = torch.randn(300, 30)
    logits[:, ::2] = -torch.inf
    one = make_encoding("sampled", classes=30, draws=10, power=0.0)
    found = one.decode(encoded(one, logits))
    assert bool((found.ids % 2 == 1).all())
    assert found.weights().isfinite().all()


def test_a_row_without_a_class_and_a_sure_one():
    logits = torch.tensor([[-torch.inf, -torch.inf, -torch.inf], [1e30, 0.0, -torch.inf], [0.0, 60.0, 0.0]])
    one = make_encoding("sampled", classes=3, draws=4)
    found = one.decode(encoded(one, logits))
    assert found.weights().tolist()[0] == [0.0] * 4
    assert found.ids[1:].tolist() == [[0] * 4, [1] * 4]
    student = torch.zeros(3, 3, requires_grad=True)
    value = found.compare(kl_divergence, student)
    assert torch.allclose(value, torch.tensor([0.0, 1.0986, 1.0986]), atol=1e-4)
    assert torch.autograd.grad(value.sum(), student)[0].isfinite().all()


@pytest.mark.usefixtures("unchecked")
def test_parameters_out_of_range():
    for wrong in ({"draws": 0}, {"draws": 3, "power": -0.1}, {"draws": 3, "power": True}, {"draws": 3, "seed": 0.5}):
        with pytest.raises(LimbeckError, match=next(reversed(wrong))):
            make_encoding("sampled", classes=5, **wrong)
