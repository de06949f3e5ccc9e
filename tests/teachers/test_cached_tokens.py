"""Outputs for token data sets: stored where a loss reads them, whatever the padding, windows or packing."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from limbeck import ShuffledLoader
from limbeck.cache import CacheReader
from limbeck.data import TokenDataset, train_tokenizer
from limbeck.teachers import CachedTeacher, ShuffledTeacher, TeacherContext, fill_cache
from limbeck.teachers.fingerprints import input_marks, marks_differ

ROWS = [
    {"prompt": "a b c d", "completion": " e f"},
    {"prompt": "a", "completion": " b c d e f g h"},
    {"prompt": "h g f e d", "completion": " c"},
    {"prompt": "b c", "completion": " d e f"},
    {"prompt": "g", "completion": " a b"},
]
TOKENIZER = train_tokenizer(["a b c d e f g h"], vocabulary=30)
VOCABULARY = len(TOKENIZER)


class Causal(nn.Module):
    """The answer at a token depends on the tokens of its text before it and on their places, as attention does."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.embed, self.place = nn.Embedding(VOCABULARY, 6), nn.Embedding(16, 6)
        self.out = nn.Linear(6, VOCABULARY)

    def forward(self, input_ids, position_ids, attention_mask=None, use_cache=None):
        own = self.embed(input_ids) + self.place(position_ids)
        if attention_mask is not None:
            own = own * attention_mask.unsqueeze(-1)
        return self.out(torch.stack([self._history(own, position_ids, t) for t in range(own.shape[1])], 1))

    def _history(self, own, position_ids, t):
        """The mean over the text up to position t; packed texts begin at position id 0."""
        steps = position_ids[:, t : t + 1] - (t - torch.arange(own.shape[1]))
        inside = (torch.arange(own.shape[1]) <= t) & (steps >= 0)
        return (own * inside.unsqueeze(-1)).sum(1) / (position_ids[:, t : t + 1] + 1)


def dataset(**how) -> TokenDataset:
    return TokenDataset(ROWS, tokenizer=TOKENIZER, add_eos_token=False, **{"max_length": 16, **how})


def filled(folder, data, *, batch_size=2, encoding="float32") -> CachedTeacher:
    teacher = CachedTeacher(Causal(), folder, encoding=encoding)
    list(fill_cache(teacher, ShuffledLoader(data, batch_size=batch_size, shuffle=False)))
    return teacher


def stored_answers(teacher, data, *, batch_size, seed=1):
    """The stored logits by (text, place of the token in its text)."""
    loader = ShuffledLoader(data, batch_size=batch_size, seed=seed)
    found = {}
    with CachedTeacher(None, teacher.where).open(TeacherContext(loader=loader)) as answer:
        for batch in loader.batches(0, 0):
            logits = answer(batch)["logits"]
            place = batch.inputs["position_ids"]
            for row, column in batch.mask.nonzero().tolist():
                key = int(batch.extra["text_number"][row, column]), int(place[row, column])
                assert key not in found
                found[key] = logits[row, column]
    return found


LAYOUTS = [
    {},
    {"padding_side": "left"},
    {"packing": True},
    {"max_length": 4, "too_long": "window"},
    {"max_length": 16, "packing": True},
]


@pytest.mark.parametrize("how", LAYOUTS[1:3])
def test_padding_and_packing_give_the_same_stored_answers(how, tmp_path):
    plain = stored_answers(filled(tmp_path / "plain", dataset()), dataset(), batch_size=5)
    other = stored_answers(filled(tmp_path / "other", dataset(**how)), dataset(**how), batch_size=1)
    assert plain.keys() == other.keys()
    for key, logits in plain.items():
        torch.testing.assert_close(other[key], logits, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("how", LAYOUTS)
def test_every_token_gets_its_own_answer_in_another_order(how, tmp_path):
    data, network = dataset(**how), Causal()
    teacher = filled(tmp_path / "s", data)
    for batch_size, seed in ((1, 0), (3, 1), (5, 2)):
        loader = ShuffledLoader(data, batch_size=batch_size, seed=seed)
        with CachedTeacher(None, teacher.where).open(TeacherContext(loader=loader)) as answer, torch.no_grad():
            for batch in loader.batches(0, 0):
                expected = network(**batch.inputs)[batch.mask]
                torch.testing.assert_close(answer(batch)["logits"][batch.mask], expected, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("how", LAYOUTS)
def test_prompts_and_padding_take_no_bytes(how, tmp_path):
    data = dataset(**how)
    reader = CacheReader(filled(tmp_path / "s", data).where)
    assert int(reader.keys.positions.sum()) == data.labeled_tokens
    everything = sum(len(TOKENIZER(row["prompt"] + row["completion"])["input_ids"]) for row in ROWS)
    assert data.labeled_tokens < everything / 2 + len(ROWS) * 2


def test_the_marks_of_a_packed_text_see_its_prompt():
    """Packed rows have no attention mask, and the labels leave the prompt out."""
    batch = dataset(packing=True).take(torch.arange(1))
    ids = batch.inputs["input_ids"].clone()
    assert not bool(batch.mask[0, 1])
    ids[0, 1] = 9 if int(ids[0, 1]) != 9 else 8
    other = batch._replace(inputs={**batch.inputs, "input_ids": ids})
    assert marks_differ(input_marks(other), input_marks(batch)).tolist() == [True]


@pytest.mark.parametrize("side", ["right", "left"])
@pytest.mark.parametrize("encoding", [None, "float32", {"name": "top-k", "k": 5, "bits": 32}])
def test_shuffled_texts_get_outputs_for_tokens_and_never_for_padding(side, encoding, tmp_path):
    """The control must not depend on padding: a text may be longer than the one whose outputs it gets."""
    data, network = dataset(padding_side=side), Causal()
    teacher = network if encoding is None else filled(tmp_path, data, encoding=encoding)
    batch = data.take(torch.arange(len(ROWS)))
    with ShuffledTeacher(teacher).open(TeacherContext(loader=ShuffledLoader(data, batch_size=5))) as answer:
        outputs = answer(batch)
    logits = outputs.partial["logits"].spread() if outputs.partial else outputs["logits"]
    own = network(**batch.inputs).detach()
    if outputs.partial:
        logits, own = logits.topk(5).indices, own.topk(5).indices
    for row in range(len(ROWS)):
        theirs = own[(row + 1) % len(ROWS)][batch.mask[(row + 1) % len(ROWS)]]
        given = logits[row][batch.mask[row]]
        torch.testing.assert_close(given, theirs[torch.arange(len(given)) % len(theirs)], rtol=1e-5, atol=1e-6)
