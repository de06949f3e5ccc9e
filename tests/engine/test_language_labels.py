"""A language model's label at a token is the next one, in the engine, in a loop of one's own, and when measured."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn

from limbeck.batch import IGNORED, Batch
from limbeck.data import ArrayDataset, TorchLoader
from limbeck.data.tokenizer import is_causal_lm, labels_are_inputs, token_batch
from limbeck.engine import distill
from limbeck.errors import LimbeckError
from limbeck.functional import cross_entropy, kl_divergence
from limbeck.integrations import DistillationLoss, to_batch
from limbeck.losses import Loss
from limbeck.metrics import accuracy, predict
from limbeck.recipe import Stage

transformers = pytest.importorskip("transformers")
WORDS = 17


def gpt(seed: int = 0) -> Any:
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        config = transformers.GPT2Config(
            vocab_size=WORDS, n_positions=12, n_embd=8, n_layer=1, n_head=2, resid_pdrop=0, embd_pdrop=0, attn_pdrop=0
        )
        return transformers.GPT2LMHeadModel(config)


def items(*, side: str = "right", prompt: int = 0) -> list[dict[str, Tensor]]:
    """Three batches of two texts, as DataCollatorForLanguageModeling makes them."""
    draw, found = torch.Generator().manual_seed(0), []
    for lengths in ((6, 3), (5, 5), (2, 7)):
        wide = max(lengths)
        ids = torch.zeros(2, wide, dtype=torch.int64)
        mask = torch.arange(wide) < torch.tensor(lengths)[:, None]
        mask = mask.flip(1) if side == "left" else mask
        ids[mask] = torch.randint(1, WORDS, (sum(lengths),), generator=draw)
        labels = ids.masked_fill(~mask, IGNORED)
        labels[:, :prompt] = IGNORED
        found.append({"input_ids": ids, "attention_mask": mask.long(), "labels": labels})
    return found


@pytest.mark.parametrize("prompt", [0, 2])
def test_the_loss_is_transformers_own(prompt):
    student, given = gpt(), items(prompt=prompt)
    with torch.no_grad():
        wanted = [float(student(**item).loss) for item in given]
    stage = Stage(Loss(cross_entropy), steps=1)
    for item, own in zip(given, wanted, strict=True):
        run = distill(student, stage, [item], log_every=1, accelerator="cpu")
        before = {name: tensor.clone() for name, tensor in student.state_dict().items()}
        assert next(iter(run)).loss == pytest.approx(own, rel=1e-5)
        student.load_state_dict(before)


def test_a_loop_of_ones_own_agrees():
    student, teacher, objective = gpt(), gpt(1), 0.5 * Loss(cross_entropy) + 0.5 * Loss(kl_divergence)
    item = items()[0]
    with DistillationLoss(student, objective, teacher, example=item) as distillation:
        own = float(distillation(item).loss.detach())
    report = next(iter(distill(student, Stage(objective, teacher=teacher, steps=1), [item], accelerator="cpu")))
    assert report.loss == pytest.approx(own, rel=1e-5)
    batch = to_batch(item, label_format="token")
    loader = TorchLoader([item])
    loader.bind({"student": student})
    assert torch.equal(loader.peek().labels, batch.labels)
    assert torch.equal(loader.peek().mask, batch.mask)


def test_accuracy_is_of_the_next_token():
    class Copies(nn.Module):
        """What a model says that has learnt to copy."""

        def forward(self, input_ids: Tensor, attention_mask: Tensor) -> Tensor:
            del attention_mask
            return nn.functional.one_hot(input_ids, WORDS).float()

    Copies.__name__ = "CopiesForCausalLM"
    for data in (items(), TorchLoader(items())):
        assert accuracy(predict(Copies(), data)).value < 0.4
        assert len(predict(Copies(), data).student) == sum(length - 1 for length in (6, 3, 5, 5, 2, 7))


@pytest.mark.parametrize("prompt", [0, 2])
def test_labels_that_are_the_inputs_are_refused(prompt):
    item = items(prompt=prompt)[1]
    inputs = {name: item[name] for name in ("input_ids", "attention_mask")}
    ways = [
        ArrayDataset(inputs, item["labels"]),
        TorchLoader([item], to_batch=lambda one: Batch(inputs, labels=one["labels"])),
    ]
    for data in ways:
        with pytest.raises(LimbeckError, match="learn to copy"):
            distill(gpt(), Stage(Loss(cross_entropy), steps=1), data, accelerator="cpu").finish()


def test_labels_that_are_shifted_already_are_left():
    item = items()[1]
    labels = torch.cat([item["labels"][:, 1:], torch.full((2, 1), IGNORED)], 1)
    shifted = {**item, "labels": labels}
    found = token_batch(Batch({k: v for k, v in shifted.items() if k != "labels"}, labels=labels), label_format="token")
    assert torch.equal(found.labels, labels)
    own = distill(gpt(), Stage(Loss(cross_entropy), steps=1), [item], accelerator="cpu")
    other = distill(gpt(), Stage(Loss(cross_entropy), steps=1), [shifted], accelerator="cpu")
    assert next(iter(own)).loss == next(iter(other)).loss


def test_a_tagger_is_judged_at_the_token_itself():
    config = transformers.BertConfig(
        vocab_size=WORDS, hidden_size=8, num_hidden_layers=1, num_attention_heads=2, intermediate_size=8, num_labels=3,
        hidden_dropout_prob=0.0, attention_probs_dropout_prob=0.0,
    )  # fmt: skip
    tagger = transformers.BertForTokenClassification(config)
    item = items()[0]
    item["labels"] = (item["labels"] % 3).masked_fill(item["labels"] == IGNORED, IGNORED)
    with torch.no_grad():
        wanted = float(tagger(**item).loss)
    report = next(iter(distill(tagger, Stage(Loss(cross_entropy), steps=1), [item], accelerator="cpu")))
    assert report.loss == pytest.approx(wanted, rel=1e-5)


def test_who_shifts():
    assert is_causal_lm(gpt())
    assert is_causal_lm(torch.compile(gpt()))
    assert not is_causal_lm(nn.Linear(2, 2))
    assert not is_causal_lm(type("T5ForConditionalGeneration", (nn.Module,), {})())
    assert not is_causal_lm(type("XLNetLMHeadModel", (nn.Module,), {})())


def test_what_is_no_copy():
    ids = torch.tensor([[1, 2, 3], [4, 4, 4]])
    assert labels_are_inputs(ids, {"input_ids": ids})
    assert labels_are_inputs(ids.masked_fill(torch.tensor([[True, False, False]]), IGNORED), {"input_ids": ids})
    assert not labels_are_inputs(torch.full_like(ids, IGNORED), {"input_ids": ids})
    assert not labels_are_inputs(ids.roll(1, 1), {"input_ids": ids})
    assert not labels_are_inputs(ids[1:], {"input_ids": ids[1:]}), "one word over and over is its own next"
    assert not labels_are_inputs(ids[:, 0], {"input_ids": ids[:, 0]})


def test_an_encoders_mask_is_not_its_decoders():
    inputs = {
        "input_ids": torch.zeros(2, 5),
        "attention_mask": torch.ones(2, 5),
        "decoder_input_ids": torch.zeros(2, 3),
    }
    assert token_batch(Batch(inputs, labels=torch.zeros(2, 3, dtype=torch.int64))).mask is None
    assert token_batch(Batch(inputs | {"decoder_attention_mask": torch.ones(2, 3)})).mask.shape == (2, 3)
