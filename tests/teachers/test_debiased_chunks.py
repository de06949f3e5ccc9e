"""Outcome chunk debiasing of ALM: groups are joined up to the end of a word, and both sides count its probability."""

from __future__ import annotations

import math

import pytest
import torch

from limbeck import functional as K
from limbeck.batch import LOGITS, Outputs, Progress
from limbeck.data import ShuffledLoader, TokenDataset, train_byte_level_tokenizer
from limbeck.engine import distill
from limbeck.errors import ArgumentError, LimbeckError
from limbeck.losses import Loss
from limbeck.methods.language.alm import alm
from limbeck.methods.language.uld import uld
from limbeck.models import TokenSpelling, find_boundary_tokens
from limbeck.recipe import Optimizer
from limbeck.teachers import CachedTeacher, CrossTokenizerTeacher, ModelTeacher, ShuffledTeacher, TeacherContext
from two_tokenizers import LAYOUTS, TEXTS, ask, make_model, take

pytest.importorskip("transformers")


@pytest.fixture(scope="module")
def tokenizers():
    return tuple(train_byte_level_tokenizer(TEXTS[:2], vocabulary=size) for size in (264, 290))


@pytest.fixture(scope="module")
def models(tokenizers):
    return tuple(make_model(tokenizer, seed) for seed, tokenizer in enumerate(tokenizers))


def is_boundary(tokenizer, id):
    text = tokenizer.decode([id])
    return id == tokenizer.eos_token_id or text[:1] in (" ", "\n", "\t", "\r")


def read_text(model, ids):
    """Log-probabilities behind each token but the last, which no model reads."""
    with torch.no_grad():
        return model(input_ids=ids[None, :-1]).logits[0].log_softmax(-1).exp().tolist()


def chunk_losses(student, teacher, aligner, text, threshold, tau):
    """The values of a text with loops: (the number of the chunk's first predicted token, the divergence)."""
    tokenizers = aligner.student.tokenizer, aligner.teacher.tokenizer
    ids = [torch.tensor([*one(text)["input_ids"], one.eos_token_id]) for one in tokenizers]
    after = [read_text(model, own) for model, own in zip((student, teacher), ids, strict=True)]
    chunks, joined, following = [], None, None
    for first, count, its, its_count in zip(
        *(c.tolist() for c in aligner.align([ids[0].tolist()])[0].groups), strict=True
    ):
        if first == 0 or its == 0:
            continue
        if joined is None or first != following:
            joined = [first - 1, 1.0, 1.0]
            chunks.append(joined)
        for place in range(first, first + count):
            joined[1] *= after[0][place - 1][int(ids[0][place])]
        for place in range(its, its + its_count):
            joined[2] *= after[1][place - 1][int(ids[1][place])]
        following = first + count
        if following < len(ids[0]) and its + its_count < len(ids[1]):
            ends = [
                sum(p for id, p in enumerate(row[place]) if is_boundary(one, id))
                for row, place, one in zip(after, (following - 1, its + its_count - 1), tokenizers, strict=True)
            ]
            if ends[1] > threshold:
                joined[1] *= ends[0]
                joined[2] *= ends[1]
                joined = None
    values = []
    for start, q, p in chunks:
        a, b = p ** (1 / tau), q ** (1 / tau)
        values.append((start, tau * (a * math.log(a / b) + (1 - a) * math.log((1 - a) / (1 - b)))))
    return values


def test_boundary_tokens_begin_with_white_space_or_are_special(tokenizers):
    for tokenizer in tokenizers:
        found = find_boundary_tokens(TokenSpelling(tokenizer, who="student"))
        assert found.tolist() == [is_boundary(tokenizer, id) for id in range(len(tokenizer))]


@LAYOUTS
@pytest.mark.parametrize(("threshold", "tau"), [(0.05, 100.0), (0.07, 3.0)])
def test_chunks_are_those_of_loops_over_each_text(tokenizers, models, how, threshold, tau):
    batch = take(TokenDataset(TEXTS, tokenizer=tokenizers[0], **how))
    teacher = CrossTokenizerTeacher(models[1], *tokenizers)
    answer = ask(teacher, batch).partial[LOGITS]
    with torch.no_grad():
        student = models[0](**batch.inputs).logits
        hyper = {"likelihood_temperature": tau, "boundary_threshold": threshold}
        values = answer.compare(K.binary_likelihood_kl, student, **hyper)
    total = torch.zeros_like(values)
    sizes = []
    for number, text in enumerate(TEXTS):
        at = (batch.extra["text_number"] == number).nonzero().tolist()
        for start, value in chunk_losses(*models, teacher.aligner, text, threshold, tau):
            total[tuple(at[start])] = value
            sizes.append(value)
    torch.testing.assert_close(values, total, rtol=1e-5, atol=1e-9)
    groups = int((answer.likelihoods.lengths > 0).sum())
    assert 6 < len(sizes) < groups  # some are joined


def test_a_threshold_of_0_joins_nothing_and_of_1_all_that_follow(tokenizers, models):
    batch = take(TokenDataset(TEXTS, tokenizer=tokenizers[0]))
    own = ask(CrossTokenizerTeacher(models[1], *tokenizers), batch).partial[LOGITS].likelihoods
    starts = (own.lengths.flatten() > 0).nonzero()[:, 0]
    assert bool(own.join(starts, 0.0)[0].all())
    width = own.lengths.shape[1]
    last, chunk = own.join(starts, 1.0)
    ends = starts + own.lengths.flatten()[starts]
    apart = (ends[:-1] != starts[1:]) | (starts[:-1] // width != starts[1:] // width)
    assert torch.equal(last[:-1], apart)
    assert bool(last[-1])
    assert torch.equal(chunk, torch.cat([apart.new_zeros(1), apart]).cumsum(0))


@pytest.mark.parametrize("threshold", [None, 0.0, 0.1, 1.0])
def test_the_same_model_and_tokenizer_give_0(tokenizers, models, threshold):
    batch = take(TokenDataset(TEXTS, tokenizer=tokenizers[0]))
    answer = ask(CrossTokenizerTeacher(models[0], tokenizers[0], tokenizers[0]), batch)
    with torch.no_grad():
        student = Outputs(logits=models[0](**batch.inputs).logits)
    term = Loss(K.binary_likelihood_kl, boundary_threshold=threshold).term(student, answer, batch, Progress())
    assert float(term.total) == pytest.approx(0, abs=1e-9)


def test_the_gradient_is_that_of_finite_differences(tokenizers, models):
    batch = take(TokenDataset(TEXTS[2:3] + TEXTS[4:], tokenizer=tokenizers[0]))
    answer = ask(CrossTokenizerTeacher(models[1], *tokenizers), batch)
    draw = torch.Generator().manual_seed(0)
    logits = torch.randn(*batch.labels.shape, len(tokenizers[0]), dtype=torch.float64, generator=draw)
    logits.requires_grad_()
    loss = Loss(K.binary_likelihood_kl, boundary_threshold=0.1)

    def total(value):
        return loss.term(Outputs(logits=value), answer, batch, Progress()).total

    assert torch.autograd.gradcheck(total, (logits,), fast_mode=True)


def test_stored_and_shuffled_teachers_have_boundaries_too(tokenizers, models, tmp_path):
    loader = ShuffledLoader(TokenDataset(TEXTS * 2, tokenizer=tokenizers[0]), batch_size=3)
    teacher = CrossTokenizerTeacher(models[1], *tokenizers)
    loss = Loss(K.binary_likelihood_kl, boundary_threshold=0.1)
    for cached in (CachedTeacher(teacher, tmp_path, encoding="likelihoods"),
                   CachedTeacher(None, tmp_path, encoding="likelihoods")):  # fmt: skip
        with cached.open(TeacherContext(loader=loader)) as session:
            for batch in loader.batches(0, 0):
                student = Outputs(logits=models[0](**batch.inputs).logits.detach())
                terms = [
                    loss.term(student, one, batch, Progress()).total for one in (session(batch), ask(teacher, batch))
                ]
                torch.testing.assert_close(*terms, rtol=1e-5, atol=1e-5)
    batch = take(loader.examples)
    student = Outputs(logits=models[0](**batch.inputs).logits.detach())
    assert bool(loss.term(student, ask(ShuffledTeacher(teacher), batch), batch, Progress()).total.isfinite())


def test_without_a_known_tokenizer_of_the_student_it_is_refused(tokenizers, models):
    batch = take(TokenDataset(TEXTS, tokenizer=tokenizers[0]))
    answer = ask(CrossTokenizerTeacher(models[1], *tokenizers), batch).partial[LOGITS].likelihoods
    answer.boundary_tokens = None
    student = models[0](**batch.inputs).logits
    with pytest.raises(LimbeckError, match="TokenDataset"):
        answer.compare(K.binary_likelihood_kl, student, boundary_threshold=0.1)
    with pytest.raises(ArgumentError) as refused:
        alm(models[1], boundary_threshold=1.5)
    assert refused.value.argument == "boundary_threshold"


@pytest.mark.parametrize("method", [alm, uld])
def test_a_teacher_that_would_read_the_students_numbers_is_refused_when_the_recipe_is_made(
    tokenizers, models, tmp_path, method
):
    for plain in (models[1], ModelTeacher(models[1]), "peer", CachedTeacher(models[1], tmp_path)):
        with pytest.raises(ArgumentError) as refused:
            method(plain)
        assert refused.value.argument == "teacher"
    teacher = CrossTokenizerTeacher(models[1], *tokenizers)
    for good in (teacher, ShuffledTeacher(teacher), CachedTeacher(teacher, tmp_path, encoding="likelihoods")):
        assert len(list(method(good).stages())) == 1


@pytest.mark.parametrize("threshold", [0.1, None])
def test_a_student_learns_by_alm(tokenizers, threshold):
    student = make_model(tokenizers[0], 5).float()
    teacher = CrossTokenizerTeacher(make_model(tokenizers[1], 6).float(), *tokenizers)
    data = TokenDataset(TEXTS, tokenizer=tokenizers[0])
    recipe = alm(teacher, boundary_threshold=threshold, label_weight=0.0)
    run = distill(
        student, recipe, data, epochs=20, batch_size=5, seed=0, log_every=1, optimizer=Optimizer("adam", lr=0.02)
    )
    values = [report.terms["binary_likelihood_kl"] for report in run]
    assert values[-1] < 0.8 * values[0]
