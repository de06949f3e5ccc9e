"""The likelihood of texts under a teacher with another tokenizer, beside that of the model itself."""

from __future__ import annotations

import pytest
import torch

from limbeck.data import TokenDataset, train_byte_level_tokenizer
from limbeck.metrics import TextSumsState
from limbeck.metrics.other_tokenizer import complete_sums
from limbeck.tasks import LanguageModeling
from limbeck.teachers import CrossTokenizerTeacher, TeacherContext

transformers = pytest.importorskip("transformers")

TEXTS = ["the quick brown fox and the lazy dog", "Größe 東京 and the fox", "a", "the other fox\n the dog"]


@pytest.fixture(scope="module")
def tokenizer():
    return train_byte_level_tokenizer(TEXTS, vocabulary=280)


@pytest.fixture(scope="module")
def model(tokenizer):
    torch.manual_seed(0)
    config = transformers.GPT2Config(
        vocab_size=len(tokenizer), n_positions=64, n_embd=8, n_layer=1, n_head=1, bos_token_id=None, eos_token_id=0
    )
    return transformers.GPT2LMHeadModel(config).eval()


@pytest.mark.parametrize("how", [{}, {"packing": True, "max_length": 64}], ids=["padded", "packed"])
def test_with_the_same_tokenizer_the_measures_are_those_of_the_model(tokenizer, model, how):
    data = TokenDataset(TEXTS, tokenizer=tokenizer, **how)
    task = LanguageModeling().fit(data)
    own = task.evaluate(model, data)
    other = task.evaluate(CrossTokenizerTeacher(model, tokenizer, tokenizer), data)
    for name in ("nll", "perplexity", "bits_per_byte"):
        assert other.measures[name] == pytest.approx(own.measures[name], rel=1e-5)
    torch.testing.assert_close(torch.as_tensor(other.scores), torch.as_tensor(own.scores), rtol=1e-4, atol=1e-4)
    assert set(other.measures) == {"nll", "perplexity", "bits_per_byte"}
    assert torch.equal(other.outputs[:, :3], own.outputs[:, :3])  # the same texts, tokens and bytes


def test_windows_that_cut_characters_have_the_mean_of_the_other_tokens(tokenizer, model):
    data = TokenDataset(TEXTS, tokenizer=tokenizer, max_length=7)
    task = LanguageModeling().fit(data)
    own, other = (task.evaluate(one, data) for one in (model, CrossTokenizerTeacher(model, tokenizer, tokenizer)))
    assert other.measures["nll"] == pytest.approx(own.measures["nll"], rel=1e-2)
    assert torch.equal(other.outputs[:, :3], own.outputs[:, :3])


def test_a_student_is_not_compared_by_token_with_a_teacher_of_other_tokens(tokenizer, model):
    data = TokenDataset(TEXTS, tokenizer=tokenizer)
    task = LanguageModeling().fit(data)
    alone = task.evaluate(model, data)
    beside = task.evaluate(model, data, teacher=CrossTokenizerTeacher(model, tokenizer, tokenizer))
    assert beside.measures == alone.measures


def test_unknown_tokens_get_the_mean_of_the_known_ones_of_their_text():
    sums, tokens, known = torch.tensor([6.0, 4.0, 0.0]), torch.tensor([4.0, 2.0, 5.0]), torch.tensor([3.0, 2.0, 0.0])
    torch.testing.assert_close(complete_sums(sums, tokens, known), torch.tensor([8.0, 4.0, 10.0]))


def test_the_sums_do_not_depend_on_the_batches(tokenizer, model):
    other = train_byte_level_tokenizer(TEXTS[:2], vocabulary=270)
    teacher = CrossTokenizerTeacher(model, other, tokenizer)
    data = TokenDataset(TEXTS, tokenizer=other)
    tables = []
    for size in (1, len(data)):
        state = TextSumsState()
        with teacher.open(TeacherContext()) as session:
            for index in torch.arange(len(data)).split(size):
                batch = data.take(index)
                state.update(session(batch).partial["logits"], batch)
        tables.append(state.compute().table)
    torch.testing.assert_close(*tables, equal_nan=True)
