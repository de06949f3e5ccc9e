"""Fingerprints depend on weights only, and sizes are counted once."""

from __future__ import annotations

import warnings

import numpy as np
import pytest
import torch
from torch import nn

from limbeck.errors import LimbeckError
from limbeck.models import build, count_parameters, fingerprint, save, size_in_bytes


class Tied(nn.Module):
    def __init__(self):
        super().__init__()
        self.embed = nn.Embedding(7, 4)
        self.out = nn.Linear(4, 7, bias=False)
        self.out.weight = self.embed.weight

    def forward(self, x):
        return self.out(self.embed(x))


class Two(nn.Module):
    def __init__(self, *names):
        super().__init__()
        for name in names:
            self.add_module(name, nn.Linear(2, 2))
        for p in self.parameters():
            nn.init.ones_(p)


def test_order_of_layers_does_not_count_but_their_names_do():
    assert fingerprint(Two("a", "b")) == fingerprint(Two("b", "a"))
    assert fingerprint(Two("a", "b")) != fingerprint(Two("a", "c"))


def test_one_bit_counts():
    model = nn.Linear(3, 3)
    before = fingerprint(model)
    with torch.no_grad():
        model.weight[1, 1] = torch.nextafter(model.weight[1, 1], torch.tensor(10.0))
    assert fingerprint(model) != before


def test_shape_and_dtype_count():
    a, b = nn.Linear(2, 3, bias=False), nn.Linear(3, 2, bias=False)
    for model in (a, b):
        nn.init.zeros_(model.weight)
    assert fingerprint(a) != fingerprint(b)
    assert fingerprint(a) != fingerprint(nn.Linear(2, 3, bias=False).half().apply(lambda m: nn.init.zeros_(m.weight)))


def test_names_and_values_do_not_run_into_each_other():
    one, other = nn.ParameterDict({"a": torch.zeros(2), "b": torch.zeros(1)}), None
    other = nn.ParameterDict({"a": torch.zeros(1), "b": torch.zeros(2)})
    assert fingerprint(one) != fingerprint(other)


def test_training_flags_gradients_and_temporary_buffers_do_not_count():
    model = build("resnet8", channels=1, classes=2, seed=0)
    before = fingerprint(model)
    model.eval().requires_grad_(False)
    model.register_buffer("scratch", torch.rand(3), persistent=False)
    assert fingerprint(model) == before
    model.stem[1].running_mean += 1
    assert fingerprint(model) != before


@pytest.mark.parametrize(
    "dtype", [torch.float64, torch.float16, torch.bfloat16, torch.int8, torch.bool, torch.complex64]
)
def test_every_dtype_has_a_fingerprint(dtype):
    model = nn.Module()
    model.register_buffer("x", torch.arange(6).reshape(2, 3).to(dtype))
    same, other = nn.Module(), nn.Module()
    same.register_buffer("x", torch.arange(6).reshape(2, 3).to(dtype).T.contiguous().T)
    other.register_buffer("x", torch.arange(6).reshape(2, 3).flip(0).to(dtype))
    assert fingerprint(model) == fingerprint(same)
    assert fingerprint(model) != fingerprint(other)


def test_scalars_and_empty_tensors_have_a_fingerprint():
    model = nn.Module()
    model.register_buffer("one", torch.tensor(1.0))
    model.register_buffer("none", torch.zeros(0, 3))
    assert len(fingerprint(model)) == 64


def test_shared_parameters_count_once():
    model = Tied()
    assert count_parameters(model) == 28
    assert size_in_bytes(model) == 28 * 4
    assert size_in_bytes(model.half()) == 28 * 2


def test_buffers_have_bytes_but_are_no_parameters():
    model = nn.BatchNorm1d(5)
    assert count_parameters(model) == 10
    assert size_in_bytes(model) == 20 * 4 + 8


def test_two_empty_tensors_are_not_one_shared_tensor():
    model = nn.Module()
    model.register_buffer("a", torch.zeros(0))
    model.register_buffer("b", torch.zeros(0))
    from limbeck.models.size_and_hash import tensors_of, untie_state

    assert untie_state(tensors_of(model))[1] == {}


class Odd(nn.Linear):
    """A layer whose state is more than tensors."""

    def __init__(self, held: object) -> None:
        super().__init__(2, 2)
        self.held = held

    def get_extra_state(self):
        return self.held

    def set_extra_state(self, state):
        self.held = state


class Held:
    def __init__(self, seen: int) -> None:
        self.seen = seen


@pytest.mark.parametrize(
    ("one", "same", "other"),
    [
        ({"seen": 3, "by": ["me"]}, {"by": ["me"], "seen": 3}, {"seen": 4, "by": ["me"]}),
        ((1, torch.ones(2)), (1, torch.ones(2)), (1, torch.zeros(2))),
        ({"b", "a"}, {"a", "b"}, {"a"}),
        (np.arange(3), np.arange(3), np.arange(1, 4)),
        (Held(1), Held(1), Held(2)),
    ],
)
def test_state_that_is_more_than_tensors_counts(one, same, other):
    made = [Odd(held) for held in (one, same, other)]
    for model in made[1:]:
        nn.utils.vector_to_parameters(nn.utils.parameters_to_vector(made[0].parameters()).detach(), model.parameters())
    found = [fingerprint(model) for model in made]
    assert found[0] == found[1] != found[2]


def test_a_quantized_model_is_reported_by_its_weights_and_scales():
    def quantized(seed: int) -> nn.Module:
        torch.manual_seed(seed)
        network = nn.Sequential(nn.Linear(4, 3), nn.ReLU(), nn.Linear(3, 2))
        return torch.ao.quantization.quantize_dynamic(network, {nn.Linear}, dtype=torch.qint8)

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        found = [fingerprint(quantized(seed)) for seed in (0, 0, 1)]
    assert found[0] == found[1] != found[2]


def test_state_that_cannot_be_saved_or_read_is_refused(tmp_path):
    with pytest.raises(LimbeckError, match="a dict at '_extra_state'"):
        save(Odd({"seen": 3}), tmp_path / "s")
    with pytest.raises(LimbeckError, match="_extra_state"):
        fingerprint(Odd(object()))
    with torch.device("meta"):
        empty = nn.Linear(2, 2)
    with pytest.raises(LimbeckError, match="without data"):
        fingerprint(empty)
