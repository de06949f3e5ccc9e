"""Continuations: exact speculative sampling, greedy answers, exact match, chrF."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from scipy.stats import chi2
from torch import nn

from limbeck.errors import ArgumentError, DataError, LimbeckError
from limbeck.metrics import chrf, continue_greedily, exact_match, sample_speculatively
from limbeck.models import VocabularyAlignment
from limbeck.teachers import AlignedTeacher, ModelTeacher

END = 0


class Trigram(nn.Module):
    """A model of the last two tokens, so that positions, prefixes and padding matter."""

    def __init__(self, vocabulary=3, seed=0, scale=1.5):
        super().__init__()
        generator = torch.Generator().manual_seed(seed)
        self.table = nn.Parameter(scale * torch.randn(vocabulary, vocabulary, vocabulary, generator=generator))

    def forward(self, input_ids, **_):
        before = torch.cat([input_ids[:, :1], input_ids[:, :-1]], 1)
        return self.table[before, input_ids]


@torch.no_grad()
def probability(model, prompt, text):
    """The probability of a continuation, written down from its definition."""
    tokens, total = list(prompt), 0.0
    for token in text:
        total += float(model(torch.tensor([tokens]))[0, -1].double().log_softmax(0)[token])
        tokens.append(token)
    return math.exp(total)


def every_text(length, vocabulary=3):
    """All texts that end with the end token, or have the full length."""
    open_texts, done = [()], []
    for _ in range(length):
        longer = [(*text, token) for text in open_texts for token in range(vocabulary)]
        done += [text for text in longer if text[-1] == END]
        open_texts = [text for text in longer if text[-1] != END]
    return done + open_texts


@pytest.mark.parametrize("draft", [1, 2, 5])
def test_speculative_samples_have_the_distribution_of_the_teacher(draft):
    student, teacher, prompt = Trigram(seed=1), Trigram(), torch.tensor([2, 1])
    draws, length = 500, 3
    found = sample_speculatively(
        student, teacher, [prompt] * draws, draft=draft, max_new_tokens=length, end=END, seed=draft
    )
    counts = dict.fromkeys(every_text(length), 0)
    for text in found.texts:
        counts[tuple(text.tolist())] += 1
    expected = np.array([draws * probability(teacher, prompt.tolist(), text) for text in counts])
    assert expected.sum() == pytest.approx(draws)
    observed = np.array(list(counts.values()))
    likely = expected >= 5
    pairs = [*zip(observed[likely], expected[likely], strict=True), (observed[~likely].sum(), expected[~likely].sum())]
    statistic = sum((o - e) ** 2 / e for o, e in pairs)
    assert statistic < chi2.ppf(0.999, len(pairs) - 1)
    # The student's own texts are distributed otherwise: the test would notice.
    theirs = np.array([draws * probability(student, prompt.tolist(), text) for text in counts])
    assert sum((theirs - expected) ** 2 / expected) > 3 * chi2.ppf(0.999, len(pairs) - 1)


def test_the_measured_acceptance_is_the_expected_one_where_the_distribution_is_constant():
    student, teacher = Trigram(seed=1), Trigram()
    for model in (student, teacher):
        model.table.data[:] = model.table.data[:1, :1]
    p, q = (model.table.data[0, 0].double().softmax(0) for model in (teacher, student))
    alpha = float(torch.minimum(p, q).sum())
    found = sample_speculatively(student, teacher, [torch.tensor([1])] * 15, draft=3, max_new_tokens=100)
    assert found.acceptance == pytest.approx(alpha, abs=4 * math.sqrt(alpha * (1 - alpha) / found.proposed))
    # Leviathan et al., equation 1.
    assert found.tokens_per_pass == pytest.approx((1 - alpha**4) / (1 - alpha), rel=0.1)


def test_a_copy_of_the_teacher_is_always_accepted():
    model = Trigram()
    found = sample_speculatively(model, model, [torch.tensor([1])], draft=4, max_new_tokens=20)
    assert (found.acceptance, found.passes, found.tokens_per_pass) == (1.0, 4, 5.0)


def test_greedy_speculation_gives_the_greedy_text_of_the_teacher():
    prompts = [torch.tensor([1, 2]), torch.tensor([2]), torch.tensor([2, 2, 1])]
    student, teacher = Trigram(seed=1), Trigram()
    found = sample_speculatively(student, teacher, prompts, draft=3, max_new_tokens=12, temperature=0.0, end=END)
    greedy = continue_greedily(teacher, prompts, max_new_tokens=12, end=END)
    assert [text.tolist() for text in found.texts] == [text.tolist() for text in greedy]


def test_a_student_with_padded_rows_drafts_only_tokens_that_the_teacher_has():
    teacher, student = Trigram(), Trigram(vocabulary=5, seed=1)
    plain = Trigram(seed=1)
    student.table.data[:3, :3, :3] = plain.table.data
    student.table.data[..., 3:] = 9.0  # the padded rows are the most likely ones
    prompts = [torch.tensor([1, 2]), torch.tensor([2])] * 10
    aligned = AlignedTeacher(ModelTeacher(teacher), VocabularyAlignment(torch.arange(3), torch.arange(3), 5, 3, {}))
    found = sample_speculatively(student, aligned, prompts, max_new_tokens=12, end=END)
    expected = sample_speculatively(plain, teacher, prompts, max_new_tokens=12, end=END)
    # The draws differ, because the number of tokens does.
    assert found.acceptance == pytest.approx(expected.acceptance, abs=0.2)
    assert max(int(text.max()) for text in found.texts) < 3


def test_only_the_chosen_tokens_are_written():
    model, plain = Trigram(vocabulary=5), Trigram(seed=1)
    model.table.data[:3, :3, :3] = plain.table.data
    model.table.data[..., 3:] = 9.0
    prompts = [torch.tensor([1, 2]), torch.tensor([2])]
    found = continue_greedily(model, prompts, max_new_tokens=9, tokens=torch.arange(3))
    expected = continue_greedily(plain, prompts, max_new_tokens=9)
    assert [text.tolist() for text in found] == [text.tolist() for text in expected]


def test_prompts_of_several_lengths_are_continued_as_alone():
    prompts = [torch.tensor([1, 2]), torch.tensor([2]), torch.tensor([2, 2, 1, 2, 1])]
    model = Trigram()
    together = continue_greedily(model, prompts, max_new_tokens=6)
    alone = [continue_greedily(model, [prompt], max_new_tokens=6)[0] for prompt in prompts]
    assert all(torch.equal(a, b) for a, b in zip(together, alone, strict=True))
    assert all(len(text) == 6 for text in together)


def test_continuations_are_those_of_transformers():
    transformers = pytest.importorskip("transformers")
    torch.manual_seed(0)
    config = transformers.GPT2Config(vocab_size=20, n_embd=16, n_layer=2, n_head=2, n_positions=40)
    model = transformers.GPT2LMHeadModel(config).eval()
    nn.init.normal_(model.transformer.wte.weight, std=1.0)
    prompts = [torch.tensor([1, 3, 7]), torch.tensor([2])]
    found = continue_greedily(model, prompts, max_new_tokens=10)
    for prompt, text in zip(prompts, found, strict=True):
        expected = model.generate(prompt[None], do_sample=False, max_new_tokens=10, pad_token_id=0, eos_token_id=None)
        assert text.tolist() == expected[0, len(prompt) :].tolist()
    few = torch.tensor([3, 4, 9])
    assert torch.isin(torch.cat(continue_greedily(model, prompts, max_new_tokens=10, tokens=few)), few).all()


def test_answers_are_compared_with_references():
    assert exact_match(["a b", " c", "d"], ["a b", "c ", "e"]).value == pytest.approx(2 / 3)
    with pytest.raises(DataError):
        exact_match(["a"], [])


def test_chrf_is_that_of_sacrebleu():
    pytest.importorskip("sacrebleu")
    assert chrf(["the cat"], ["the cat"]) == pytest.approx(100.0)
    assert 0 < chrf(["the dog"], ["the cat"]) < 100


@pytest.mark.parametrize(
    ("change", "error"),
    [
        ({"draft": 0}, ArgumentError),
        ({"max_new_tokens": 0}, ArgumentError),
        ({"temperature": -1.0}, ArgumentError),
        ({"temperature": math.nan}, ArgumentError),
        ({"prompts": [torch.tensor([], dtype=torch.long)]}, DataError),
        ({"student": Trigram(vocabulary=5)}, LimbeckError),
    ],
)
def test_what_does_not_fit_is_one_sentence(change, error):
    arguments = {"student": Trigram(seed=1), "teacher": Trigram(), "prompts": [torch.tensor([1])], **change}
    with pytest.raises(error):
        sample_speculatively(arguments.pop("student"), arguments.pop("teacher"), arguments.pop("prompts"), **arguments)
