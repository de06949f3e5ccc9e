"""DistillSpec: the objective is the rejection of drafts, and it raises acceptance over the forward KL divergence."""

from __future__ import annotations

import pytest
import torch

from limbeck.data import ArrayDataset
from limbeck.errors import ArgumentError, LimbeckError, UnknownNameError
from limbeck.functional import kl_divergence, total_variation
from limbeck.losses import Loss
from limbeck.methods import make
from limbeck.metrics import sample_speculatively
from limbeck.recipe import Stage
from methods.bigrams import Bigram, data_of, learn, make_teacher, write


@torch.no_grad()
def acceptance(student, teacher, texts):
    """The expected share of accepted drafts, at the tokens of texts of the teacher."""
    p, q = (model(texts[:, :-1]).softmax(-1) for model in (teacher, student))
    return float(torch.minimum(p, q).sum(-1).mean())


def test_one_minus_the_loss_is_the_rate_of_acceptance():
    teacher, student = make_teacher(0), Bigram(3, 1)
    texts = write(teacher, 50, 2)
    with torch.no_grad():
        loss = total_variation(student(texts[:, :-1]), teacher(texts[:, :-1])).mean()
    assert acceptance(student, teacher, texts) == pytest.approx(1 - float(loss), abs=1e-6)


@pytest.mark.parametrize("seed", [0, pytest.param(1, marks=pytest.mark.soak), pytest.param(2, marks=pytest.mark.soak)])
def test_at_equal_steps_its_acceptance_is_above_that_of_the_forward_divergence(seed):
    """The paper's claim on a pair: a student of rank 2, from one start with both."""
    teacher = make_teacher(seed)
    data, test = data_of(write(teacher, 512, seed)), write(teacher, 200, seed + 100)
    start = learn(Bigram(2, seed), Stage(Loss(kl_divergence), teacher=teacher), data, epochs=20, lr=2e-2)
    rates = {}
    for name in ("total_variation", "kl_divergence"):
        recipe = make("distillspec", teacher=teacher, divergence=name, share=0.0)
        rates[name] = acceptance(learn(start, recipe, data, epochs=20, lr=5e-3), teacher, test)
    print(seed, rates)
    assert rates["total_variation"] > rates["kl_divergence"] + 0.02


def test_on_its_own_texts_too_and_a_teacher_writes_more_tokens_in_each_pass():
    teacher, firsts = make_teacher(0), lambda batch: batch.inputs["input_ids"]
    texts, test = write(teacher, 512, 0), write(teacher, 200, 100)
    prompts = ArrayDataset({"input_ids": texts[:, :2]}, texts[:, 1:3])
    start = learn(Bigram(2, 0), Stage(Loss(kl_divergence), teacher=teacher), data_of(texts), epochs=20, lr=2e-2)
    rates, passes = {}, {}
    for name in ("total_variation", "kl_divergence"):
        recipe = make("distillspec", teacher=teacher, divergence=name, max_new_tokens=4)
        student = learn(start, recipe, prompts, epochs=10, lr=1e-2)
        sampled = sample_speculatively(student, teacher, list(test[:30, :1]), max_new_tokens=16, preprocess=firsts)
        rates[name], passes[name] = acceptance(student, teacher, test), sampled.tokens_per_pass
        assert sampled.acceptance == pytest.approx(rates[name], abs=0.1)  # the estimate is what sampling counts
    print(rates, passes)
    assert rates["total_variation"] > rates["kl_divergence"] + 0.02
    assert passes["total_variation"] > passes["kl_divergence"]


def test_wrong_arguments_are_refused():
    teacher = make_teacher(0)
    for wrong, error in (
        ({"divergence": "total_variance"}, UnknownNameError),
        ({"temperature": 0.0}, LimbeckError),
        ({"share": 2.0}, ArgumentError),
    ):
        with pytest.raises(error):
            make("distillspec", teacher=teacher, **wrong)
