"""Patient knowledge distillation: directions of class tokens by plain loops, and the layer maps of the paper."""

from __future__ import annotations

import math

import pytest
import torch

from limbeck.batch import Progress
from limbeck.errors import ArgumentError
from limbeck.functional import class_token_distance
from limbeck.methods import make
from limbeck.methods.features.transformer_layers import find_layer_pairs
from methods.transformers import losses, pair, random, text_batch, with_other_padding


def brute_force_class_token_distance(student, teacher, *, token=0):
    values = []
    for ours, theirs in zip(student, teacher, strict=True):
        s, t = (x.tolist() if x.ndim == 1 else x[token].tolist() for x in (ours, theirs))
        lengths = [math.sqrt(sum(x * x for x in row)) for row in (s, t)]
        product = sum(a * b for a, b in zip(s, t, strict=True))
        values.append(1 - product / (lengths[0] * lengths[1]))
    return torch.tensor(values, dtype=torch.float64)


def test_the_distance_is_that_of_the_loops():
    for shape in ((4, 5), (4, 3, 5)):
        s, t = random(*shape), random(*shape, seed=1)
        torch.testing.assert_close(class_token_distance(s, t), brute_force_class_token_distance(s, t))
    torch.testing.assert_close(class_token_distance(s, t, token=2), brute_force_class_token_distance(s, t, token=2))
    torch.testing.assert_close(class_token_distance(s, -s), torch.full((4,), 2.0, dtype=torch.float64))


def test_zeros_and_empty_batches_are_finite():
    zeros = torch.zeros(2, 5, requires_grad=True)
    value = class_token_distance(zeros, torch.ones(2, 5))
    assert value.tolist() == pytest.approx([0.5, 0.5])
    assert torch.autograd.grad(value.sum(), zeros)[0].isfinite().all()
    assert class_token_distance(torch.zeros(0, 5), torch.zeros(0, 5)).shape == (0,)


def test_the_layer_maps_are_those_of_the_paper():
    skip = [teacher + 1 for _, teacher in find_layer_pairs("uniform", 6, 12)[:-1]]
    last = [teacher + 1 for _, teacher in find_layer_pairs("last", 6, 12)[:-1]]
    assert (skip, last) == ([2, 4, 6, 8, 10], [7, 8, 9, 10, 11])
    for name, at in (("uniform", "bert.encoder.layer.1"), ("last", "bert.encoder.layer.2")):
        recipe = make("pkd", teacher=pair()[1], student_layers=2, teacher_layers=4, layer_map=name)
        assert next(recipe.stages()).objective.requires.teacher == {"logits", at}


def test_the_loss_is_that_of_the_paper_and_padding_does_not_count():
    student, teacher = pair()
    recipe = make("pkd", teacher=teacher, student_layers=2, teacher_layers=4, weight=10.0, soft_weight=0.25)
    weights = {name: weigh(Progress()) for name, (_, weigh) in next(recipe.stages()).objective.named_leaves().items()}
    # The kernel is half of the squared distance of the two directions, which is 2 - 2 cos.
    assert weights == {"kl_divergence": 0.25, "cross_entropy": 0.75, "class token 0": 20.0}
    before = losses(recipe, student, teacher, text_batch())
    assert before == pytest.approx(losses(recipe, student, teacher, with_other_padding(text_batch())), rel=1e-6)


def test_one_layer_needs_a_pair_of_its_own():
    with pytest.raises(ArgumentError):
        make("pkd", teacher=pair()[1], student_layers=1, teacher_layers=4)
    recipe = make("pkd", teacher=pair()[1], student_layers=1, teacher_layers=4, layer_map=[[0, 2]])
    assert "bert.encoder.layer.2" in next(recipe.stages()).objective.requires.teacher
