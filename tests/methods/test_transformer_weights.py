"""Methods that compare layers of transformers: what has the weight 0 is not needed, and wrong layers are refused."""

from __future__ import annotations

import pytest
from torch import nn

from limbeck.errors import ArgumentError
from limbeck.methods import make
from limbeck.methods.features.transformer_layers import find_layer_pairs, get_addresses

LAYERS = {"student_layers": 2, "teacher_layers": 4}
HEADS = {**LAYERS, "heads": 2}


@pytest.mark.parametrize(
    ("name", "arguments", "unneeded"),
    [
        ("qat_attention", {**LAYERS, "gamma": 0}, "self:1"),
        ("qat_attention", {**LAYERS, "gamma": 1}, "attention.output"),
        ("internal_representations", {**LAYERS, "attention_weight": 0}, "self:1"),
        ("tinybert", {**HEADS, "attention_weight": 0}, "self.query"),
        ("tinybert", {**HEADS, "embedding_weight": 0}, "embeddings"),
        ("minilm", {**HEADS, "weight": 0}, "self.query"),
        ("pkd", {**LAYERS, "weight": 0}, "layer"),
    ],
)
def test_what_has_the_weight_0_is_not_needed(name, arguments, unneeded):
    stages = list(make(name, teacher=nn.Linear(2, 2), **arguments).stages())
    needed = {at for stage in stages for at in stage.objective.requires.teacher}
    assert needed
    assert not [at for at in needed if unneeded in at]


@pytest.mark.parametrize(
    ("name", "arguments"),
    [
        ("pkd", {**LAYERS, "weight": 0, "soft_weight": 0, "labels": False}),
        ("internal_representations", {**LAYERS, "attention_weight": 0, "token_weight": 0}),
        ("internal_representations", {**LAYERS, "weight": 0, "labels": False}),
        ("tinybert", {**HEADS, "embedding_weight": 0, "hidden_weight": 0, "attention_weight": 0}),
        ("minilm", {**HEADS, "weight": 0, "soft_weight": 0, "label_weight": 0}),
        ("minilm", {**HEADS, "relations": ["value-value", "value-value"]}),
        ("srd", {"at": "a", "student_at": "b", "weight": 0.0, "soft_weight": 0.0, "labels": False}),
    ],
)
def test_a_method_that_would_learn_nothing_or_the_same_twice_is_refused(name, arguments):
    with pytest.raises(ArgumentError):
        make(name, teacher=nn.Linear(2, 2), **arguments)


def test_addresses_have_a_place_for_the_number_of_the_layer_and_pairs_differ():
    with pytest.raises(ArgumentError):
        get_addresses({"layer": "encoder"})
    assert get_addresses({"embeddings": "embeddings"}).at("embeddings") == "embeddings"
    with pytest.raises(ArgumentError):
        find_layer_pairs([[0, 1], [0, 1]], 2, 4)
