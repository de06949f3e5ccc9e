"""Padding that would be counted, because no mask is known, is announced before the first step."""

from __future__ import annotations

import warnings

import pytest
import torch
from torch import nn

from limbeck.data import ArrayDataset, TorchLoader
from limbeck.engine import distill
from limbeck.errors import LimbeckWarning
from limbeck.methods import make
from limbeck.testing.tiny_transformer import TinyBert

LAYERS = {"student_layers": 2, "teacher_layers": 4}
METHODS = {
    "minilm": {**LAYERS, "heads": 2},
    "tinybert": {**LAYERS, "heads": 2},
    "internal_representations": {**LAYERS, "attention_weight": 1.0},
    "qat_attention": {"student_layers": 2, "teacher_layers": 4},
    "cospress": {"at": "bert.encoder.layer.3", "student_at": "bert.encoder.layer.1"},
}
CLASS_TOKEN = {"pkd": LAYERS}


class Own(TinyBert):
    """A transformer whose mask has another name, and is True for padding."""

    def forward(self, tokens, pad_mask):
        return super().forward(tokens, (~pad_mask).long())


def batches(name="pad_mask", first="tokens", kind=dict):
    draw = torch.Generator().manual_seed(0)
    ids, there = torch.randint(1, 12, (8, 6), generator=draw), torch.arange(6) < torch.arange(8)[:, None] % 5 + 2
    mask = there.long() if name == "attention_mask" else ~there
    labels = torch.arange(8) % 3
    if kind is tuple:
        return TorchLoader([((ids, mask), labels)])
    return TorchLoader([{first: ids, name: mask, "labels": labels}])


def messages(method, data, network=Own, **settings):
    student, teacher = network(layers=2, width=4), network(layers=4, width=8, seed=2).eval()
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        distill(student, make(method, teacher=teacher, **settings), data, steps=1).finish()
    return [str(one.message) for one in caught if issubclass(one.category, LimbeckWarning)]


@pytest.mark.parametrize("method", METHODS)
def test_a_mask_of_another_name_is_announced_once(method):
    (message,) = {m for m in messages(method, batches(), **METHODS[method]) if "padding" in m}
    assert "'pad_mask'" in message
    assert "attention_mask" in message
    assert "to_batch=" in message


def test_a_tuple_of_inputs():
    found = messages("minilm", batches(kind=tuple), **METHODS["minilm"])
    assert any("padding" in message for message in found)


def test_the_class_token_alone_has_no_padding():
    assert not [m for m in messages("pkd", batches(), **CLASS_TOKEN["pkd"]) if "padding" in m]


def test_a_known_mask_is_not_announced():
    data = batches("attention_mask", "input_ids")
    assert not [m for m in messages("minilm", data, TinyBert, **METHODS["minilm"]) if "padding" in m]


def test_two_inputs_without_a_mask_are_not_announced():
    class Two(nn.Module):
        def __init__(self, **_):
            super().__init__()
            self.layer, self.out = nn.Linear(6, 6), nn.Linear(6, 3)

        def forward(self, x, more):
            return self.out(self.layer(x + more)).mean(1)

    draw = torch.Generator().manual_seed(0)
    inputs = {"x": torch.randn(8, 5, 6, generator=draw), "more": torch.randn(8, 5, 6, generator=draw)}
    data = ArrayDataset(inputs, torch.arange(8) % 3)
    settings = {"hint": "layer", "guided": "layer"}
    assert not [m for m in messages("fitnets", data, Two, **settings) if "padding" in m]
