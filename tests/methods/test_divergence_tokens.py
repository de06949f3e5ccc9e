"""Divergence tokens: the masks, the list of tokens, and a bias that is learned with them and not without."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from limbeck.batch import Batch
from limbeck.data import ArrayDataset, MaskedLoader, ShuffledLoader
from limbeck.engine import distill
from limbeck.errors import ArgumentError, DataError, LimbeckError, UnknownNameError
from limbeck.methods import make
from limbeck.methods.language.divergence_tokens import DivergenceMasks
from limbeck.metrics import find_divergence_tokens
from limbeck.recipe import Optimizer
from limbeck.teachers import PrivilegedContextTeacher
from limbeck.testing import check_loader
from limbeck.testing.law import same_weights, weights
from limbeck.testing.trials import TinyLanguageModel
from methods.bigrams import VOCABULARY, data_of, write

BIASED = [3, 17]
OWL = 5


class Table(nn.Module):
    """Logits of the next token, one row for each token: what is not learned behind a token keeps its bits."""

    def __init__(self, rows):
        super().__init__()
        self.rows = nn.Parameter(rows.clone())

    def forward(self, input_ids):
        return self.rows[input_ids]


def teachers():
    """Two that agree, and of which the first one says OWL behind two tokens."""
    plain = 3.0 * torch.randn(VOCABULARY, VOCABULARY, generator=torch.Generator().manual_seed(0))
    plain[BIASED, OWL] = -9.0
    biased = plain.clone()
    biased[BIASED, OWL] = 9.0
    return Table(biased).eval(), Table(plain).eval()


def learn(recipe, texts, **options):
    student = Table(torch.zeros(VOCABULARY, VOCABULARY))
    setting = {"batch_size": 32, "epochs": 3, "optimizer": Optimizer("sgd", lr=40.0), "log_every": 1, **options}
    return distill(student, recipe, data_of(texts), **setting).finish()


def test_a_bias_is_learned_from_the_texts_and_not_at_all_without_its_tokens():
    teacher, other = teachers()
    texts = write(teacher, 256, 1)
    every = learn(make("supervised", task="language_modeling"), texts).student.rows.detach()
    masked = learn(make("divergence_tokens", teacher=teacher, others=other, keep="shared"), texts).student.rows.detach()
    assert float(every[BIASED].softmax(-1)[:, OWL].min()) > 0.2
    assert not masked[BIASED].any()  # the bits that they had
    rest = [token for token in range(VOCABULARY) if token not in BIASED]
    same = masked[rest].argmax(-1) == teacher.rows.detach()[rest].argmax(-1)
    assert float(same.float().mean()) > 0.8  # and everything else is learned


def test_only_the_divergence_tokens_may_be_learned():
    teacher, other = teachers()
    rows = learn(make("divergence_tokens", teacher=teacher, others=other), write(teacher, 256, 1)).student.rows.detach()
    assert bool((rows[BIASED].argmax(-1) == OWL).all())
    assert not rows[[token for token in range(VOCABULARY) if token not in BIASED]].any()


def test_where_all_agree_it_is_the_learning_of_texts():
    teacher, _ = teachers()
    texts = write(teacher, 64, 2)
    kept = learn(make("divergence_tokens", teacher=teacher, others=[teacher, teacher], keep="shared"), texts)
    plain = learn(make("supervised", task="language_modeling"), texts)
    assert same_weights(weights(kept.student), weights(plain.student))


def test_the_loss_is_the_mean_over_the_kept_tokens():
    teacher, other = teachers()
    texts = write(teacher, 16, 3)
    run = learn(make("divergence_tokens", teacher=teacher, others=other, weight=0.5), texts, epochs=1)
    labels = texts[:, 1:][torch.isin(texts[:, :-1], torch.tensor(BIASED))]
    target = teacher.rows.detach().log_softmax(-1)[BIASED[0]]
    assert len(labels)
    uniform = float(torch.tensor(VOCABULARY).log())
    assert run.history[0].terms["cross_entropy"] == pytest.approx(uniform, rel=1e-4)
    kl = float((target.exp() * (target + uniform)).sum())
    assert run.history[0].terms["kl_divergence"] == pytest.approx(kl, rel=0.05)  # of the two contexts, nearly alike


def test_the_student_may_be_the_other_model_and_its_masks_change_as_it_learns():
    teacher, _ = teachers()
    texts = write(teacher, 256, 1)
    recipe = make("divergence_tokens", teacher=teacher)
    run = learn(recipe, texts, epochs=6)
    found = find_divergence_tokens(run.student, teacher, data_of(texts))
    before = find_divergence_tokens(Table(torch.zeros(VOCABULARY, VOCABULARY)), teacher, data_of(texts))
    assert found.share < 0.5 * before.share


def test_the_audit_lists_the_positions_and_the_tokens():
    teacher, other = teachers()
    texts = write(teacher, 40, 4)
    found = find_divergence_tokens(teacher, other, data_of(texts))
    expected = [(r, t) for r in range(40) for t in range(9) if int(texts[r, t]) in BIASED]
    assert [(token.row, token.position) for token in found.tokens] == expected
    assert all(token.first == OWL != token.second for token in found.tokens)
    assert [token.given for token in found.tokens] == [int(texts[r, t + 1]) for r, t in expected]
    assert found.counted == 360
    assert found.share == pytest.approx(len(expected) / 360)
    (first, _), times = found.most_common(1)[0]
    assert first == OWL
    assert times <= len(expected)

    class Words:
        def decode(self, ids):
            return f"w{ids[0]}"

    assert found.describe(Words(), 1) == [f"'w{OWL}' / 'w{found.most_common(1)[0][0][1]}': {times} times"]


def test_a_bias_in_a_system_prompt_is_another_context_of_one_model():
    model = TinyLanguageModel(width=8, seed=5).eval()
    ids = torch.randint(1, 11, (6, 5), generator=torch.Generator().manual_seed(0))
    labels = torch.cat([torch.full((6, 1), -100), ids[:, 2:], torch.zeros(6, 1, dtype=torch.int64)], 1)
    batch = Batch({"input_ids": ids}, id=torch.arange(6), labels=labels, mask=labels >= 0)
    owl, cat = (PrivilegedContextTeacher(model, lambda batch, t=t: [[t, t]] * batch.size) for t in (1, 9))
    masks = DivergenceMasks(owl, [cat]).compute(batch)
    assert torch.equal(masks["shared"] | masks["divergent"], batch.mask)
    assert not (masks["shared"] & masks["divergent"]).any()
    found = find_divergence_tokens(owl, cat, [batch])
    assert [[t.row, t.position] for t in found.tokens] == masks["divergent"].nonzero().tolist()


def test_the_loader_keeps_the_laws_and_that_of_the_other():
    teacher, other = teachers()
    given = ShuffledLoader(data_of(write(teacher, 20, 5)), batch_size=8)
    loader = DivergenceMasks(teacher, [other])(given)
    assert isinstance(loader, MaskedLoader)
    check_loader(loader)
    assert (len(loader), loader.examples_per_epoch, loader.fixed, loader.depends_on_model) == (
        3,
        20,
        given.fixed,
        False,
    )
    assert loader.fingerprint != given.fingerprint
    assert DivergenceMasks(teacher, ["student"])(given).depends_on_model


def test_wrong_arguments_and_data_are_refused():
    teacher, other = teachers()
    for wrong, error in (
        ({"keep": "both"}, UnknownNameError),
        ({"others": []}, ArgumentError),
        ({"weight": 2.0}, ArgumentError),
        ({"temperature": 0.0}, LimbeckError),
    ):
        with pytest.raises(error):
            make("divergence_tokens", teacher=teacher, **wrong)
    with pytest.raises(DataError):
        find_divergence_tokens(teacher, other, ArrayDataset(torch.zeros(4, 3, dtype=torch.int64)))
