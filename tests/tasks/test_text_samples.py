"""Texts that language models write for prompts of the test data."""

from __future__ import annotations

import json

import pytest
import torch
from torch import nn

from limbeck.data import ArrayDataset, TokenPairDataset, train_tokenizer
from limbeck.data.token_dataset import TokenDataset
from limbeck.tasks import Classification, LanguageModeling
from limbeck.tasks.text_samples import FEW, select_prompts

PLAIN = ["a b c d e f g h a b c d e f", "b c d e f g h", "h g", "c d"]
PROMPTED = [{"prompt": "a b c", "completion": " d e"}, {"prompt": "e f", "completion": " g h"}]


@pytest.fixture(scope="module")
def tokenizer():
    tokenizer = train_tokenizer([" ".join(PLAIN)], vocabulary=60)
    tokenizer.eos_token = "[SEP]"
    return tokenizer


class Alphabet(nn.Module):
    """Writes the next letter of a fixed text after each letter, and then ends."""

    def __init__(self, tokenizer, text="a b c d e f g h"):
        super().__init__()
        ids = tokenizer(text)["input_ids"]
        self.weight = nn.Parameter(torch.zeros(len(tokenizer), len(tokenizer)))
        self.weight.data[ids[:-1], ids[1:]] = 9.0

    def forward(self, input_ids, **_):
        return self.weight[input_ids]


def test_prompts_are_continued_and_compared_with_the_reference(tokenizer):
    data = TokenDataset(PROMPTED, tokenizer=tokenizer)
    task = LanguageModeling().fit(data)
    model = Alphabet(tokenizer)
    found = task.sample_texts(model, data, teacher=model)
    first, second = found["texts"]
    assert (first["prompt"].split(), first["reference"].split()) == (["a", "b", "c"], ["d", "e"])
    assert (first["answer"].split(), second["answer"].split()) == (["d", "e", "f"], ["g", "h"])
    assert (found["exact_match"], found["answers"]) == (0.5, 2)
    assert 0 <= found["ended"] <= 1
    assert found["speculative"]["proposed"] > 0
    assert found["speculative"]["acceptance"] > 0.9
    assert json.loads(json.dumps(found)) == found


def test_plain_texts_are_continued_from_their_beginning(tokenizer):
    data = TokenDataset(PLAIN, tokenizer=tokenizer, max_length=8)
    found = LanguageModeling().fit(data).sample_texts(Alphabet(tokenizer), data)
    assert "exact_match" not in found
    assert "speculative" not in found
    assert found["texts"][0]["prompt"].split() + found["texts"][0]["reference"].split() == PLAIN[0].split()[:7]


def test_only_texts_of_the_given_examples_are_continued(tokenizer):
    data = TokenDataset(PLAIN * 10, tokenizer=tokenizer, max_length=8)
    some = data.select(torch.arange(20, len(data)))
    first = int(some.take(torch.tensor([0])).extra["text_number"].max())
    found = LanguageModeling().fit(data).sample_texts(Alphabet(tokenizer), some)
    assert len(found["texts"]) == FEW
    assert min(one["text"] for one in found["texts"]) == first


def test_answers_fit_into_the_context(tokenizer):
    seen = []

    class Watching(Alphabet):
        def forward(self, input_ids, **_):
            seen.append(input_ids.shape[1])
            return super().forward(input_ids)

    data = TokenDataset(PLAIN, tokenizer=tokenizer, max_length=6)
    LanguageModeling().fit(data).sample_texts(Watching(tokenizer), data)
    assert max(seen) <= 6


def test_the_source_of_a_pair_is_the_prompt(tokenizer):
    data = TokenPairDataset([{"source": "a b", "target": "c d"}], tokenizer=tokenizer, add_eos_token=False)
    (prompt,) = select_prompts(data, torch.tensor([0]))
    assert tokenizer.decode(prompt.tokens, skip_special_tokens=True).split() == ["a", "b"]
    assert tokenizer.decode(prompt.reference, skip_special_tokens=True).split() == ["c", "d"]


def test_an_encoder_decoder_answers_as_in_transformers(tokenizer):
    transformers = pytest.importorskip("transformers")
    torch.manual_seed(0)
    config = transformers.T5Config(
        vocab_size=len(tokenizer), d_model=16, d_kv=8, d_ff=16, num_layers=1, num_heads=2, decoder_start_token_id=0,
        pad_token_id=tokenizer.pad_token_id, eos_token_id=tokenizer.eos_token_id,
    )  # fmt: skip
    model = transformers.T5ForConditionalGeneration(config).eval()
    nn.init.normal_(model.shared.weight, std=2.0)
    rows = [{"source": "a b c d", "target": "c d e f g"}, {"source": "h g", "target": "a"}]
    data = TokenPairDataset(rows, tokenizer=tokenizer, add_eos_token=False)
    found = LanguageModeling().fit(data).sample_texts(model, data)
    for row, one in zip(rows, found["texts"], strict=True):
        ids = torch.tensor([tokenizer(row["source"])["input_ids"]])
        text = model.generate(ids, do_sample=False, max_new_tokens=found["max_new_tokens"])
        assert one["answer"] == tokenizer.decode(text[0], skip_special_tokens=True)


def test_other_tasks_write_no_texts():
    assert Classification(3).sample_texts(nn.Identity(), ArrayDataset(torch.zeros(2, 3))) is None
