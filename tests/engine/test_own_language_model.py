"""Any module from token ids to logits is a language model, and is never given texts that it would mix up."""

from __future__ import annotations

from logging import Handler

import pytest
import torch
from torch import nn

from limbeck.batch import IGNORED
from limbeck.data import ShuffledLoader, TokenDataset, train_tokenizer
from limbeck.engine import distill
from limbeck.errors import LimbeckError, MissingOutputError
from limbeck.functional import cross_entropy, kl_divergence
from limbeck.losses import Loss
from limbeck.metrics import predict
from limbeck.model_call import call, check_output_layer
from limbeck.models import load, save, seeded
from limbeck.recipe import Optimizer, Stage
from limbeck.tap import Tapped
from limbeck.tasks import LanguageModeling

pytest.importorskip("transformers", reason="transformers is not installed (extra hf)")

TEXTS = ["a b c d e f g", "c d e f", "b c d e f g a b", "d e", "e f g a b c"] * 3


@pytest.fixture(scope="module")
def tokenizer():
    return train_tokenizer(["a b c d e f g"], vocabulary=30)


def tokens(tokenizer, **options):
    return TokenDataset(TEXTS, tokenizer=tokenizer, max_length=12, add_eos_token=False, **options)


class Lstm(nn.Module):
    """A language model as people write it: one argument, a tensor of logits."""

    def __init__(self, vocabulary: int, width: int = 8) -> None:
        super().__init__()
        self.embedding = nn.Embedding(vocabulary, width)
        self.lstm = nn.LSTM(width, width, batch_first=True)
        self.output = nn.Linear(width, vocabulary)

    def forward(self, ids):
        return self.output(self.lstm(self.embedding(ids))[0])


class Named(Lstm):
    """The same with the names of transformers, and one more of its own."""

    def forward(self, input_ids, attention_mask=None, *, scale: float = 1.0):
        return scale * super().forward(input_ids)


def lstm(tokenizer, width=8, seed=0, kind=Lstm):
    with seeded(seed):
        return kind(len(tokenizer), width)


@pytest.mark.parametrize("kind", [Lstm, Named])
def test_an_lstm_learns_from_an_lstm(kind, tokenizer, tmp_path):
    data, task = tokens(tokenizer), LanguageModeling()
    task = task.fit(data)
    teacher, student = lstm(tokenizer, 24, kind=kind), lstm(tokenizer, seed=1, kind=kind)
    fast = Optimizer("adam", lr=2e-2)
    distill(teacher, Stage(Loss(cross_entropy), steps=40, optimizer=fast), data, accelerator="cpu").finish()
    before = task.evaluate(student, data, teacher=teacher).measures
    stage = Stage(Loss(kl_divergence), teacher=teacher, steps=40, optimizer=fast)
    distill(student, stage, data, accelerator="cpu").finish()
    after = task.evaluate(student, data, teacher=teacher).measures
    assert after["kl_to_teacher"] < 0.5 * before["kl_to_teacher"]
    save(student, tmp_path / "student")
    again = load(tmp_path / "student", build=lambda: lstm(tokenizer, kind=kind))
    torch.testing.assert_close(predict(again, data).student, predict(student, data).student)


def test_the_loss_is_that_of_each_text_alone(tokenizer):
    """Padding behind a text counts nothing."""
    data, model = tokens(tokenizer), lstm(tokenizer)
    whole = data.take(torch.arange(5))
    logits = call(model, whole.inputs)
    for i in range(5):
        one = data.take(torch.tensor([i]))
        length = int(one.mask.sum())
        torch.testing.assert_close(logits[i, :length], call(model, one.inputs)[0])
        assert (whole.labels[i, length:] == IGNORED).all()


def test_trap_packed_texts_would_read_each_other(tokenizer):
    batch = tokens(tokenizer, packing=True).take(torch.arange(5))
    with pytest.raises(MissingOutputError, match="packing"):
        call(lstm(tokenizer), batch.inputs)


def test_trap_packed_texts_of_one_token_would_read_each_other(tokenizer):
    """No position is 1 in them."""
    ids = torch.arange(5, 10)[None]
    inputs = {"input_ids": ids, "position_ids": torch.zeros_like(ids), "use_cache": False}
    with pytest.raises(MissingOutputError, match="packing"):
        call(lstm(tokenizer), inputs)


def test_trap_left_padding_would_be_read(tokenizer):
    batch = tokens(tokenizer, padding_side="left").take(torch.arange(4))
    with pytest.raises(MissingOutputError, match="right"):
        call(lstm(tokenizer), batch.inputs)
    same = tokens(tokenizer, padding_side="left").take(torch.tensor([0, 5]))  # of one length
    assert call(lstm(tokenizer), same.inputs).shape[:2] == same.labels.shape


def test_an_input_that_is_no_detail_is_not_left_out(tokenizer):
    with pytest.raises(TypeError):
        call(lstm(tokenizer), {"input_ids": torch.zeros(1, 2, dtype=torch.int64), "pixel_values": torch.zeros(1)})


def transformers_model(name, **small):
    import transformers

    kind = getattr(transformers, name)
    with seeded(0):
        return kind(kind.config_class(vocab_size=40, **small)).eval()


def test_packed_texts_and_a_model_without_position_ids(tokenizer):
    model = transformers_model("BloomForCausalLM", hidden_size=8, n_layer=1, n_head=2)
    with pytest.raises(MissingOutputError, match="packing"):
        call(model, tokens(tokenizer, packing=True).take(torch.arange(5)).inputs)
    plain = tokens(tokenizer).take(torch.arange(4))
    assert call(model, plain.inputs).logits.shape[:2] == plain.labels.shape


SMALL = {"hidden_size": 8, "num_hidden_layers": 2, "num_attention_heads": 2, "bos_token_id": 0, "eos_token_id": 0}


@pytest.mark.parametrize(
    ("name", "more"),
    [
        ("OPTForCausalLM", {"ffn_dim": 8, "word_embed_proj_dim": 8, "pad_token_id": 0}),
        ("FalconForCausalLM", {}),
        (
            "Lfm2ForCausalLM",
            {"num_key_value_heads": 2, "intermediate_size": 8, "layer_types": ["conv", "full_attention"]},
        ),
    ],
)
def test_trap_models_that_take_positions_and_read_the_text_in_front(name, more, tokenizer):
    """They attend to all earlier tokens of a row, or have a convolution over them, whatever the positions are."""
    model = transformers_model(name, **SMALL, **more).train()
    with pytest.raises(MissingOutputError, match="packing"):
        call(model, tokens(tokenizer, packing=True).take(torch.arange(3)).inputs)
    assert all(module.training for module in model.modules())
    with pytest.raises(MissingOutputError, match="packing"):
        LanguageModeling().evaluate(model, tokens(tokenizer, packing=True))
    plain = tokens(tokenizer).take(torch.arange(4))
    assert call(model, plain.inputs).logits.shape[:2] == plain.labels.shape


class Places(Lstm):
    """It takes positions, and its state runs on all the same."""

    def forward(self, ids, position_ids):
        return super().forward(ids) + 0.0 * position_ids[..., None]


def test_trap_an_own_model_that_takes_positions_and_reads_the_text_in_front(tokenizer):
    with pytest.raises(MissingOutputError, match="packing"):
        call(lstm(tokenizer, kind=Places), tokens(tokenizer, packing=True).take(torch.arange(5)).inputs)


@pytest.mark.parametrize(
    ("name", "small"),
    [
        ("RwkvForCausalLM", {"hidden_size": 8, "num_hidden_layers": 2, "attention_hidden_size": 8}),
        (
            "BartForCausalLM",
            {"d_model": 8, "decoder_layers": 1, "decoder_attention_heads": 2, "decoder_ffn_dim": 8, "pad_token_id": 0,
             "max_position_embeddings": 32},
        ),
    ],
)  # fmt: skip
def test_trap_left_padding_that_a_model_reads_though_it_takes_a_mask(name, small, tokenizer):
    """RWKV does not use its mask, and BART counts positions from the padding."""
    model = transformers_model(name, **small).train()
    left = tokens(tokenizer, padding_side="left").take(torch.arange(4))
    with pytest.raises(MissingOutputError, match="padding_side=right"):
        call(model, left.inputs)
    assert all(module.training for module in model.modules())
    right = tokens(tokenizer).take(torch.arange(4))
    assert call(model, right.inputs).logits.shape[:2] == right.labels.shape
    loader = ShuffledLoader(tokens(tokenizer, padding_side="left"), batch_size=4)
    with pytest.raises(LimbeckError, match="padding_side=right"):
        distill(model, Stage(Loss(cross_entropy), steps=1), loader, accelerator="cpu").finish()


@pytest.mark.parametrize("fuse", [False, True])
def test_padding_is_tried_once_and_what_is_read_is_not_that_call(fuse, tokenizer):
    """The first rows have no padding, so that the trial comes in the middle of the training."""
    model = transformers_model("LlamaForCausalLM", **SMALL, num_key_value_heads=2, intermediate_size=8)
    data, calls, shapes = tokens(tokenizer, padding_side="left"), [], []
    model.register_forward_pre_hook(lambda *_: calls.append(1))
    with Tapped(model, ["logits:in"] if fuse else ["logits", "model.layers.0"]) as tapped:
        for rows in ([0, 5], [0, 1, 2], [1, 2]):
            batch = data.take(torch.tensor(rows))
            outputs = tapped(batch.inputs)
            shapes += [tensor.shape[:2] == batch.labels.shape for tensor in outputs.values()]
        assert all(shapes)
        assert len(calls) == 3 + 2 + (1 if fuse else 0)  # and once to find the output layer


def test_a_sharded_model_is_not_tried_because_other_ranks_may_have_no_padding(tokenizer):
    model = transformers_model("RwkvForCausalLM", hidden_size=8, num_hidden_layers=2, attention_hidden_size=8)
    model.__class__ = type("FSDPRwkvForCausalLM", (type(model),), {})  # as fully_shard does
    left = tokens(tokenizer, padding_side="left").take(torch.arange(4))
    assert call(model, left.inputs).logits.shape[:2] == left.labels.shape


def test_packed_texts_are_tried_once(tokenizer):
    model = transformers_model("LlamaForCausalLM", **SMALL, num_key_value_heads=2, intermediate_size=8)
    inputs, calls = tokens(tokenizer, packing=True).take(torch.arange(3)).inputs, []
    model.register_forward_pre_hook(lambda *_: calls.append(1))
    for _ in range(2):
        call(model, inputs)
    assert len(calls) == 2 + 2


def test_transformers_does_not_ask_for_a_mask_that_packed_rows_must_not_have(tokenizer):
    from transformers.utils import logging

    model = transformers_model("GPT2LMHeadModel", n_embd=8, n_layer=1, n_head=2, pad_token_id=0)
    inputs = tokens(tokenizer, packing=True).take(torch.arange(3)).inputs
    inputs = {**inputs, "input_ids": inputs["input_ids"].index_fill(1, torch.tensor([0]), 0)}
    said: list[str] = []
    handler = NoteHandler(said)
    logging.get_logger("transformers").addHandler(handler)
    try:
        logging.warning_once.cache_clear()
        model(**inputs)
        assert any("attention_mask" in one for one in said), "the library says it by itself"
        logging.warning_once.cache_clear()
        said.clear()
        call(model, inputs)
        assert said == []
    finally:
        logging.get_logger("transformers").removeHandler(handler)


class NoteHandler(Handler):
    """Notes what is logged."""

    def __init__(self, said: list[str]) -> None:
        super().__init__()
        self.said = said

    def emit(self, record) -> None:
        self.said.append(record.getMessage())


def test_the_output_layer_of_packed_texts_is_found(tokenizer):
    """The calls that try packed texts are not those of the check of the output layer."""
    model = transformers_model("LlamaForCausalLM", **SMALL, num_key_value_heads=2, intermediate_size=8)
    inputs = tokens(tokenizer, packing=True).take(torch.arange(3)).inputs
    assert check_output_layer(model, inputs).weight is model.lm_head.weight


def test_a_model_that_counts_positions_from_the_padding_token_counts_them_itself(tokenizer):
    """RoBERTa's first position is not 0, so positions from 0 would be those of padding."""
    model = transformers_model(
        "RobertaForCausalLM", hidden_size=8, num_hidden_layers=1, num_attention_heads=2, intermediate_size=8,
        is_decoder=True, pad_token_id=0, max_position_embeddings=32,
    )  # fmt: skip
    inputs = tokens(tokenizer).take(torch.arange(4)).inputs
    own = model(input_ids=inputs["input_ids"], attention_mask=inputs["attention_mask"]).logits
    torch.testing.assert_close(call(model, inputs).logits, own)


@pytest.mark.parametrize("kind", [Lstm, Named])
def test_labels_at_their_own_token_are_refused_for_it(kind, tokenizer):
    """A DataLoader of Hugging Face batches: nothing says that this model is causal, so it is not guessed."""
    batch = tokens(tokenizer).take(torch.arange(5))
    ids, mask = batch.inputs["input_ids"], batch.inputs["attention_mask"]
    item = {"input_ids": ids, "attention_mask": mask, "labels": ids.masked_fill(mask == 0, IGNORED)}
    with pytest.raises(LimbeckError, match="copy"):
        distill(lstm(tokenizer, kind=kind), Stage(Loss(cross_entropy), steps=1), [item], accelerator="cpu").finish()
