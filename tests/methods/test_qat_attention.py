"""Distillation for quantization-aware training: the terms of the loss, its limits, padding, and ternary weights."""

from __future__ import annotations

import pytest
import torch

from limbeck.batch import Progress
from limbeck.errors import ArgumentError
from limbeck.methods import make
from limbeck.tap import Tapped
from methods.test_internal_representations import brute_force_attention_kl
from methods.transformers import losses, pair, text_batch, with_other_padding

LAYERS = {"student_layers": 4, "teacher_layers": 4}


def ternary(model):
    """The weights of the linear layers of attention, as -a, 0 and a in each row."""
    with torch.no_grad():
        for name, weight in model.named_parameters():
            if ".attention." in name and weight.ndim == 2:
                small = weight.abs() <= 0.7 * weight.abs().mean(1, keepdim=True)
                size = weight.masked_fill(small, 0.0).abs().sum(1, keepdim=True) / (~small).sum(1, keepdim=True)
                weight.copy_((weight.sign() * size).masked_fill(small, 0.0))
    return model


def test_the_terms_are_those_of_the_paper():
    teacher, student = pair()[1], ternary(pair()[1])
    batch = text_batch()
    terms = losses(make("qat_attention", teacher=teacher, **LAYERS), student, teacher, batch)
    expected = {"kl_divergence", "embeddings"}
    expected |= {f"{part} {i}" for i in range(4) for part in ("hidden", "attention map", "attention output")}
    assert set(terms) == expected
    assert terms["embeddings"] == 0
    at = ["bert.encoder.layer.2.attention.self:1", "bert.encoder.layer.2.attention.output"]
    with torch.no_grad(), Tapped(student, at) as ours, Tapped(teacher, at) as theirs:
        mine, its = ours(batch.inputs), theirs(batch.inputs)
    maps = brute_force_attention_kl(mine[at[0]], its[at[0]], batch.mask).mean()
    assert terms["attention map 2"] == pytest.approx(float(maps), rel=1e-9)
    states = ((mine[at[1]] - its[at[1]]) ** 2)[batch.mask].mean()
    assert terms["attention output 2"] == pytest.approx(float(states), rel=1e-9)


def test_an_equal_student_has_no_loss_and_padding_does_not_count():
    teacher, student = pair()[1], ternary(pair()[1])
    recipe = make("qat_attention", teacher=teacher, **LAYERS)
    assert max(losses(recipe, teacher, teacher, text_batch()).values()) == 0
    before = losses(recipe, student, teacher, text_batch())
    assert before == pytest.approx(losses(recipe, student, teacher, with_other_padding(text_batch())), rel=1e-6)


@pytest.mark.parametrize("gamma", [0.0, 0.3, 1.0])
def test_gamma_is_the_share_of_the_maps(gamma):
    recipe = make("qat_attention", teacher=pair()[1], gamma=gamma, hidden_weight=2.0, **LAYERS)
    weights = {name: weigh(Progress()) for name, (_, weigh) in next(recipe.stages()).objective.named_leaves().items()}
    assert weights.get("attention map 1", 0) == gamma
    assert weights.get("attention output 1", 0) == 1 - gamma
    assert weights["hidden 3"] == weights["embeddings"] == 2.0
    with pytest.raises(ArgumentError):
        make("qat_attention", teacher=pair()[1], gamma=1.5, **LAYERS)
