"""A text that is padded on the left is read as it is alone: the places of its tokens are its own."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import nn

from limbeck.data import TextDataset, train_tokenizer
from limbeck.engine import distill
from limbeck.functional import kl_divergence
from limbeck.losses import Loss
from limbeck.metrics import predict
from limbeck.model_call import call
from limbeck.recipe import Stage
from limbeck.tap import Tapped

transformers = pytest.importorskip("transformers")
LINES = ["a fine film", "dull", "a long and winding film about a dull road", "fine"]


def model(name: str) -> Any:
    torch.manual_seed(0)
    small: dict[str, Any] = {"vocab_size": 80, "hidden_size": 8, "num_hidden_layers": 1, "num_attention_heads": 2}
    if name == "gpt2":
        config = transformers.GPT2Config(vocab_size=80, n_positions=64, n_embd=8, n_layer=1, n_head=2)
        return transformers.GPT2LMHeadModel(config).eval()
    kind = {"bert": "Bert", "roberta": "Roberta", "llama": "Llama"}[name]
    more = {"intermediate_size": 8, "max_position_embeddings": 64, "pad_token_id": 0}
    config = getattr(transformers, f"{kind}Config")(**small, **more)
    end = "ForCausalLM" if name == "llama" else "ForTokenClassification"
    return getattr(transformers, kind + end)(config).eval()


def texts(side: str) -> TextDataset:
    tokenizer = train_tokenizer(LINES, vocabulary=80)
    tokenizer.padding_side = side
    return TextDataset(LINES, tokenizer=tokenizer, max_length=32)


@pytest.mark.parametrize("name", ["gpt2", "bert", "roberta", "llama"])
@pytest.mark.parametrize("side", ["left", "right"])
def test_its_answers_are_those_of_the_text_alone(name, side):
    asked, data = model(name), texts(side)
    with torch.no_grad():
        together = data.take(torch.arange(4))
        shown = call(asked, together.inputs).logits
        with Tapped(asked) as tapped:
            assert torch.equal(tapped(together.inputs)["logits"], shown)
        for row in range(4):
            alone = asked(**data.take(torch.tensor([row])).inputs).logits[0]
            torch.testing.assert_close(shown[row][together.mask[row]], alone, rtol=1e-4, atol=1e-5)


def test_training_and_measuring_read_them_alike():
    student, teacher, data = model("gpt2"), model("gpt2"), texts("left")
    found = predict(student, data).student
    alone = [predict(student, data.select(torch.tensor([row]))).student for row in range(4)]
    torch.testing.assert_close(found, torch.cat(alone), rtol=1e-4, atol=1e-5)
    stage = Stage(Loss(kl_divergence), teacher=teacher, steps=1)
    report = next(iter(distill(student, stage, data, batch_size=4, log_every=1, accelerator="cpu")))
    assert report.step == 1


def test_a_model_without_such_an_argument_is_called_as_it_was():
    class Plain(nn.Module):
        def forward(self, input_ids, attention_mask):
            return input_ids.float()

    inputs = {"input_ids": torch.ones(1, 3), "attention_mask": torch.tensor([[0, 1, 1]])}
    assert call(Plain(), inputs).shape == (1, 3)
