"""MiniLLM: its estimator against all texts of a tiny vocabulary, in float64."""

from __future__ import annotations

import itertools

import pytest
import torch

from limbeck.data import ArrayDataset, RolloutLoader, ShuffledLoader
from limbeck.engine import distill
from limbeck.errors import ArgumentError, DataError, UnknownNameError
from limbeck.functional import kl_divergence, reverse_kl
from limbeck.losses import Loss
from limbeck.methods import make
from limbeck.methods.language.minillm import PolicyGradientLoss, policy_gradient_terms
from limbeck.recipe import Stage
from methods.bigrams import Bigram, data_of, learn, make_teacher, write

VOCABULARY, LONGEST, END = 3, 3, 0


def all_texts():
    """All texts: they end with token 0, or are cut off after three tokens."""
    texts = set()
    for tokens in itertools.product(range(VOCABULARY), repeat=LONGEST):
        end = tokens.index(END) + 1 if END in tokens else LONGEST
        texts.add(tokens[:end])
    return sorted(texts)


TEXTS = all_texts()
PREFIXES = sorted({text[:i] for text in TEXTS for i in range(len(text))})


class Tables:
    """Logits of the next token for every prefix: a student with a parameter each, a teacher, and another writer."""

    def __init__(self):
        draw = torch.Generator().manual_seed(0)
        self.student, self.teacher, self.other = (
            torch.randn(len(PREFIXES), VOCABULARY, generator=draw, dtype=torch.float64) for _ in range(3)
        )
        self.student.requires_grad_()

    def logits(self, table):
        """The logits at each position of all texts, padded; and the tokens, and where there are any."""
        rows = torch.zeros(len(TEXTS), LONGEST, VOCABULARY, dtype=torch.float64)
        tokens = torch.full((len(TEXTS), LONGEST), -100)
        index = torch.zeros(len(TEXTS), LONGEST, dtype=torch.int64)
        for i, text in enumerate(TEXTS):
            for t, token in enumerate(text):
                tokens[i, t], index[i, t] = token, PREFIXES.index(text[:t])
        rows = table[index]
        return rows, tokens, tokens >= 0

    def log_probability(self, table):
        rows, tokens, counted = self.logits(table)
        return rows.log_softmax(-1).gather(-1, tokens.clamp_min(0)[..., None])[..., 0].masked_fill(~counted, 0.0)

    def exact_gradient(self):
        """That of the reverse KL divergence of whole texts, by the sum over all of them."""
        q, p = (self.log_probability(table).sum(1) for table in (self.student, self.teacher))
        return torch.autograd.grad((q.exp() * (q - p)).sum(), self.student)[0]

    def expected_gradient(self, writer, **options):
        """The expectation of the estimator over all texts of the writer."""
        student, tokens, counted = self.logits(self.student)
        teacher = self.logits(self.teacher)[0]
        behavior = self.log_probability(writer).detach()
        values = policy_gradient_terms(student, teacher, tokens, counted, behavior, **options)
        return torch.autograd.grad((behavior.sum(1).exp() * values.sum(1)).sum(), self.student)[0]


@pytest.mark.parametrize("importance", ["token", "prefix", "none"])
def test_on_policy_its_expectation_is_the_gradient_of_whole_texts(importance):
    tables = Tables()
    estimate = tables.expected_gradient(tables.student, length_normalized=False, importance=importance)
    torch.testing.assert_close(estimate, tables.exact_gradient(), rtol=1e-10, atol=1e-12)


def test_with_weights_of_prefixes_so_it_is_for_texts_of_another_writer():
    tables = Tables()
    exact = tables.exact_gradient()
    right = tables.expected_gradient(tables.other, length_normalized=False, importance="prefix")
    torch.testing.assert_close(right, exact, rtol=1e-10, atol=1e-12)
    for importance in ("token", "none"):
        biased = tables.expected_gradient(tables.other, length_normalized=False, importance=importance)
        assert float((biased - exact).abs().max()) > 0.01


@pytest.mark.parametrize("share", [0.2, 0.7])
def test_texts_of_a_mixture_with_the_teacher_have_weights_too(share):
    tables = Tables()
    q, p = (table.detach().softmax(-1) for table in (tables.student, tables.teacher))
    mixture = ((1 - share) * q + share * p).log()
    exact = tables.exact_gradient()
    estimate = tables.expected_gradient(mixture, length_normalized=False, importance="prefix")
    torch.testing.assert_close(estimate, exact, rtol=1e-10, atol=1e-12)


def test_whitened_rewards_have_mean_0_and_variance_1_by_loops():
    draw = torch.Generator().manual_seed(3)
    student, teacher = (torch.randn(3, 5, 4, generator=draw, dtype=torch.float64) for _ in range(2))
    tokens, lengths = torch.randint(4, (3, 5), generator=draw), (5, 2, 4)
    counted = torch.arange(5) < torch.tensor(lengths)[:, None]
    log_q, log_p = (
        table.log_softmax(-1).gather(-1, tokens[..., None])[..., 0].masked_fill(~counted, 0.0)
        for table in (student, teacher)
    )
    rewards = [[sum((log_p - log_q)[row, t + 1 : length].tolist()) / max(length - t - 1, 1) for t in range(length)]
               for row, length in enumerate(lengths)]  # fmt: skip
    flat = [value for row in rewards for value in row]
    mean = sum(flat) / len(flat)
    scale = (sum((value - mean) ** 2 for value in flat) / len(flat)) ** 0.5
    gradients = {}
    for whiten in (False, True):
        logits = student.clone().requires_grad_()
        values = policy_gradient_terms(logits, teacher, tokens, counted, log_q, importance="none", whiten=whiten)
        gradients[whiten] = torch.autograd.grad(values.sum(), logits)[0]
    for row, length in enumerate(lengths):
        for t in range(length):
            step = torch.nn.functional.one_hot(tokens[row, t], 4) - student[row, t].softmax(0)
            change = (rewards[row][t] - mean) / scale - rewards[row][t]
            torch.testing.assert_close(gradients[True][row, t], gradients[False][row, t] - change * step)
    assert not gradients[True][~counted].any()


def test_the_teacher_is_mixed_in_by_default_and_the_weights_know_it():
    teacher = make_teacher(0)
    loaders = {
        share: next(make("minillm", teacher=teacher, teacher_share=share).stages()).loader for share in (0.2, 0.0)
    }
    assert next(make("minillm", teacher=teacher).stages()).loader.describe() == loaders[0.2].describe()
    assert (loaders[0.2].mixed_in, loaders[0.2].mixed_in_share) == (teacher, 0.2)
    assert loaders[0.0].mixed_in is None
    assert next(make("minillm", teacher=teacher, writer="teacher").stages()).loader.mixed_in is None
    texts = write(teacher, 16, 0)
    prompts, student = ArrayDataset({"input_ids": texts[:, :2]}, texts[:, 1:3]), Bigram(2, 0)
    loader = RolloutLoader(ShuffledLoader(prompts, batch_size=4), loaders[0.2])
    loader.bind({"student": student})
    batch = loader.complete(loader.peek())
    with torch.no_grad():
        q, p = (model(batch.inputs["input_ids"]).double().softmax(-1) for model in (student, teacher))
    there = batch.labels >= 0
    mixture = (0.8 * q + 0.2 * p).log().gather(-1, batch.labels.clamp_min(0)[..., None])[..., 0]
    torch.testing.assert_close(batch.extra["behavior_logprobs"][there].double(), mixture[there], rtol=1e-4, atol=1e-5)


def test_without_the_part_of_the_future_it_would_be_biased():
    tables = Tables()
    student, _, counted = tables.logits(tables.student)
    behavior = tables.log_probability(tables.student).detach()
    next_only = reverse_kl(student, tables.logits(tables.teacher)[0]).masked_fill(~counted, 0.0)
    gradient = torch.autograd.grad((behavior.sum(1).exp() * next_only.sum(1)).sum(), tables.student)[0]
    assert float((gradient - tables.exact_gradient()).abs().max()) > 0.01


def test_its_value_is_the_divergence_of_each_token():
    tables = Tables()
    student, tokens, counted = tables.logits(tables.student)
    teacher, behavior = tables.logits(tables.teacher)[0], tables.log_probability(tables.student).detach()
    values = policy_gradient_terms(student, teacher, tokens, counted, behavior)
    torch.testing.assert_close(values, reverse_kl(student, teacher).masked_fill(~counted, 0.0))
    assert float(values.detach()[~counted].abs().sum()) == 0.0


def one_text(**options):
    """A text of three tokens: the gradient by the student's logits at each position."""
    torch.manual_seed(1)
    student = torch.randn(1, 3, 4, dtype=torch.float64, requires_grad=True)
    teacher, tokens = torch.randn(1, 3, 4, dtype=torch.float64), torch.tensor([[1, 0, 3]])
    counted = torch.ones(1, 3, dtype=torch.bool)
    log_q = student.detach().log_softmax(-1).gather(-1, tokens[..., None])[..., 0]
    reward = teacher.log_softmax(-1).gather(-1, tokens[..., None])[..., 0] - log_q
    behavior = log_q - torch.tensor([[options.pop("shift", 0.0), 0.0, 0.0]], dtype=torch.float64)
    values = policy_gradient_terms(student, teacher, tokens, counted, behavior, **options)
    exact = torch.autograd.grad(reverse_kl(student, teacher).sum(), student, retain_graph=True)[0]
    future = torch.autograd.grad(values.sum(), student)[0] - exact
    direction = torch.nn.functional.one_hot(tokens, 4) - student.detach().softmax(-1)
    return future, reward, direction


def test_the_reward_is_what_follows_as_a_mean_or_a_sum_and_the_last_token_has_none():
    for mean in (True, False):
        future, reward, direction = one_text(length_normalized=mean)
        both = reward[0, 1] + reward[0, 2]
        torch.testing.assert_close(future[0, 0], -(both / 2 if mean else both) * direction[0, 0])
        torch.testing.assert_close(future[0, 1], -reward[0, 2] * direction[0, 1])
        torch.testing.assert_close(future[0, 2], torch.zeros(4, dtype=torch.float64), rtol=0, atol=1e-12)


def test_a_ratio_beyond_the_bound_gets_no_gradient_where_the_step_would_widen_it():
    reward = one_text(length_normalized=False, shift=1.0)[1]
    advantage = reward[0, 1] + reward[0, 2]
    gradients = {}
    for shift in (1.0, -1.0):
        clipped = one_text(length_normalized=False, shift=shift, clip=0.2)[0]
        unbounded = one_text(length_normalized=False, shift=shift)[0]
        gradients[shift] = float((unbounded - clipped)[0, 0].abs().sum())
    widens = 1.0 if float(advantage) > 0 else -1.0
    assert gradients[widens] > 1e-3
    assert gradients[-widens] == pytest.approx(0.0, abs=1e-12)


@torch.no_grad()
def divergence_of_texts(student, teacher, *, seed=9):
    """The reverse KL divergence of whole texts, in nats, estimated from texts of the student."""
    texts = write(student, 800, seed)
    tokens = texts[:, 1:, None]
    q, p = (model(texts[:, :-1]).log_softmax(-1).gather(-1, tokens).sum() for model in (student, teacher))
    return float(q - p) / len(texts)


def test_it_lowers_the_divergence_of_whole_texts():
    teacher = make_teacher(0)
    texts = write(teacher, 256, 0)
    prompts = ArrayDataset({"input_ids": texts[:, :2]}, texts[:, 1:3])
    start = learn(Bigram(2, 0), Stage(Loss(kl_divergence), teacher=teacher), data_of(texts), epochs=20, lr=2e-2)
    recipe = make("minillm", teacher=teacher, max_new_tokens=6)
    student = learn(start, recipe, prompts, epochs=15, lr=1e-2)
    before, after = (divergence_of_texts(model, teacher) for model in (start, student))
    print(before, after)
    assert after < 0.9 * before


def test_batches_of_given_texts_are_learned_by_their_cross_entropy_alone():
    teacher = make_teacher(1)
    texts = write(teacher, 64, 1)
    data = ArrayDataset({"input_ids": texts[:, :-1]}, texts[:, 1:])
    recipe = make("minillm", teacher=teacher, max_new_tokens=2, share=0.5)
    run = distill(Bigram(2, 1), recipe, data, batch_size=8, epochs=1, log_every=1).finish()
    terms = [tuple(value != 0 for value in report.terms.values()) for report in run.history]
    assert set(terms) == {(True, False), (False, True)}


def test_texts_without_a_writer_and_wrong_arguments_are_refused():
    teacher = make_teacher(0)
    with pytest.raises(DataError, match="Rollouts"):
        distill(
            Bigram(2, 0), Stage(PolicyGradientLoss(), teacher=teacher, steps=1), data_of(write(teacher, 8, 0))
        ).finish()
    for wrong, error in (
        ({"share": 0.0}, ArgumentError),
        ({"importance": "tokens"}, UnknownNameError),
        ({"clip": -0.1}, ArgumentError),
        ({"label_weight": -1.0}, ArgumentError),
        ({"teacher_share": 1.2}, ArgumentError),
    ):
        with pytest.raises(error):
            make("minillm", teacher=teacher, **wrong)


@pytest.mark.parametrize("importance", ["token", "prefix"])
def test_texts_that_were_just_written_have_the_weight_1_in_bfloat16_too(importance):
    """Log-probabilities in bfloat16 have three digits, so products of ratios would be far from 1."""
    draw = torch.Generator().manual_seed(0)
    student, teacher = (3 * torch.randn(2, 64, 50, generator=draw) for _ in range(2))
    student, teacher = student.bfloat16(), teacher.bfloat16()
    tokens, counted = torch.randint(50, (2, 64), generator=draw), torch.ones(2, 64, dtype=torch.bool)
    behavior = student.float().log_softmax(-1).gather(-1, tokens[..., None])[..., 0]

    def compute(dtype):
        logits = student.to(dtype).requires_grad_()
        values = policy_gradient_terms(logits, teacher.to(dtype), tokens, counted, behavior, importance=importance)
        return values.double(), torch.autograd.grad(values.sum(), logits)[0].double()

    values, gradient = compute(torch.bfloat16)
    exact, slope = compute(torch.float64)
    torch.testing.assert_close(values, exact, rtol=1e-4, atol=1e-6)
    assert float((gradient - slope).norm() / slope.norm()) < 0.003  # the last rounding, of the gradient itself
