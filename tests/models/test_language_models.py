"""Language models of transformers by name: causal ones and encoder-decoders, new and trained, fitted to a tokenizer."""

from __future__ import annotations

import re

import pytest
import torch

transformers = pytest.importorskip("transformers", reason="transformers is not installed (extra hf)")

from limbeck.data import open_tokenizer, train_tokenizer  # noqa: E402
from limbeck.errors import LimbeckError, UnknownNameError  # noqa: E402
from limbeck.models import fingerprint, open_model  # noqa: E402

SMALL = {
    "gpt2": {"n_layer": 2, "n_embd": 8, "n_head": 2},
    "llama": {"num_hidden_layers": 2, "hidden_size": 8, "num_attention_heads": 2, "intermediate_size": 16},
    "qwen3": {"num_hidden_layers": 2, "hidden_size": 8, "num_attention_heads": 2, "head_dim": 4},
    "t5": {"num_layers": 2, "d_model": 8, "d_kv": 4, "d_ff": 16, "num_heads": 2},
    "bart": {"encoder_layers": 1, "decoder_layers": 1, "d_model": 8, "encoder_ffn_dim": 8, "decoder_ffn_dim": 8,
             "encoder_attention_heads": 2, "decoder_attention_heads": 2},
}  # fmt: skip


@pytest.fixture(scope="module")
def tokenizer():
    tokenizer = train_tokenizer(["one two three", "four five"], vocabulary=40)
    tokenizer.bos_token, tokenizer.eos_token = tokenizer.cls_token, tokenizer.sep_token
    return tokenizer


def new(name, tokenizer=None, **more):
    small = {**SMALL[name], **more}
    return open_model(
        f"hf:{name}", head="language_modeling", tokenizer=tokenizer, seed=0, **{"pretrained": False, **small}
    )


@pytest.mark.parametrize(("name", "ending"), [
    ("gpt2", "LMHeadModel"), ("llama", "ForCausalLM"), ("qwen3", "ForCausalLM"),
    ("t5", "ForConditionalGeneration"), ("bart", "ForConditionalGeneration"),
])  # fmt: skip
def test_a_new_model_has_the_tokens_of_the_tokenizer_and_generates(name, ending, tokenizer):
    model = new(name, tokenizer)
    assert type(model).__name__.endswith(ending)
    assert model.config.vocab_size == len(tokenizer)
    assert model.generation_config.eos_token_id == tokenizer.eos_token_id
    assert model.generation_config.pad_token_id == tokenizer.pad_token_id
    inputs = tokenizer(["one two", "three"], return_tensors="pt", padding=True, return_token_type_ids=False)
    made = model.eval().generate(**inputs, max_new_tokens=3, do_sample=False)
    assert made.shape[0] == 2
    assert int(made.max()) < len(tokenizer)


def test_the_teachers_padded_vocabulary_may_be_said(tokenizer):
    model = new("gpt2", tokenizer, vocab_size=64)
    assert model.config.vocab_size == 64
    assert model.config.eos_token_id == tokenizer.eos_token_id


@pytest.mark.parametrize(("name", "parts"), [("gpt2", 2), ("qwen3", 2), ("t5", 4)])
def test_a_smaller_copy_of_a_configuration_has_fewer_layers_throughout(name, parts, tmp_path):
    start = {"num_layers": 4} if name == "t5" else {"num_hidden_layers": 4}
    larger = {key: value for key, value in SMALL[name].items() if key != "n_layer"} | start
    open_model(f"hf:{name}", head="language_modeling", pretrained=False, **larger).save_pretrained(tmp_path)
    fewer = dict.fromkeys(start, 2)
    student = open_model(f"hf:{tmp_path}", head="language_modeling", pretrained=False, **fewer)
    blocks = [m for m in student.modules() if type(m).__name__ in ("GPT2Block", "Qwen3DecoderLayer", "T5Block")]
    assert len(blocks) == parts
    student.save_pretrained(tmp_path / "again")  # transformers checks the lengths of its lists
    assert len(student.config.to_dict().get("layer_types") or "ab") == 2


def test_trained_weights_come_back(tmp_path, tokenizer):
    for name in ("gpt2", "t5"):
        model = new(name, tokenizer)
        model.save_pretrained(tmp_path / name)
        again = open_model(f"hf:{tmp_path / name}", head="language_modeling", tokenizer=tokenizer)
        assert fingerprint(again) == fingerprint(model)


def test_a_trained_classifier_is_no_language_model(tmp_path):
    open_model("hf:llama", pretrained=False, head="sequence_classification", **SMALL["llama"]).save_pretrained(tmp_path)
    with pytest.raises(LimbeckError, match="lm_head"):
        open_model(f"hf:{tmp_path}", head="language_modeling")


def test_a_tokenizer_with_more_tokens_than_the_model_is_refused(tmp_path, tokenizer):
    new("gpt2", vocab_size=20, bos_token_id=0, eos_token_id=0).save_pretrained(tmp_path)
    with pytest.raises(LimbeckError, match="20"):
        open_model(f"hf:{tmp_path}", head="language_modeling", tokenizer=tokenizer)


def test_a_model_that_sees_the_next_token_is_refused():
    bert = {"num_hidden_layers": 1, "hidden_size": 8, "num_attention_heads": 2, "intermediate_size": 8}
    with pytest.raises(LimbeckError, match="is_decoder"):
        open_model("hf:bert", head="language_modeling", pretrained=False, **bert)
    model = open_model("hf:bert", head="language_modeling", pretrained=False, is_decoder=True, **bert)
    assert model.training
    ids = torch.tensor([[1, 2, 3], [1, 2, 4]])
    logits = model.eval()(ids).logits
    torch.testing.assert_close(logits[0, :2], logits[1, :2])


@pytest.mark.parametrize("kernel", ["eager", "sdpa"])
def test_the_attention_implementation_of_new_weights_is_chosen(kernel):
    bert = {"num_hidden_layers": 1, "hidden_size": 8, "num_attention_heads": 2, "intermediate_size": 8}
    model = open_model("hf:bert", classes=2, pretrained=False, attn_implementation=kernel, **bert)
    assert model.config._attn_implementation == kernel


@pytest.mark.parametrize("name", ["mlp", "timm:resnet10t"])
def test_other_libraries_have_no_language_models(name):
    with pytest.raises(LimbeckError, match="hf:gpt2"):
        open_model(name, head="language_modeling")


@pytest.mark.parametrize("open_named", [open_model, open_tokenizer])
def test_a_name_that_is_no_folder_where_the_hub_cannot_be_reached_says_both(open_named, monkeypatch):
    constants = pytest.importorskip("huggingface_hub").constants
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    with pytest.raises(LimbeckError, match=r"no folder no-folder here.*hub"):
        open_named("hf:no-folder")


def test_an_unknown_head_is_named():
    with pytest.raises(UnknownNameError, match="causal_lm"):
        open_model("hf:gpt2", head="causal", pretrained=False)


def test_a_function_of_the_users_gets_the_tokenizer_and_its_size(tmp_path, monkeypatch, tokenizer):
    (tmp_path / "my.py").write_text(
        "from torch import nn\n"
        "def build(vocab_size, width=4):\n"
        "    return nn.Sequential(nn.Embedding(vocab_size, width), nn.Linear(width, vocab_size))\n"
    )
    monkeypatch.chdir(tmp_path)
    model = open_model("my.py:build", head="language_modeling", tokenizer=tokenizer)
    assert model[0].num_embeddings == len(tokenizer)


@pytest.mark.parametrize(
    ("name", "sizes", "named"),
    [
        ("llama", {"num_attention_heads": 0}, "num_attention_heads=0"),
        ("llama", {"hidden_size": -8}, "hidden_size=-8"),
        ("llama", {"hidden_act": "nope"}, "hidden_act='nope'"),
        ("llama", {"num_hidden_layers": "two"}, "num_hidden_layers='two'"),
        ("gpt2", {"n_head": 3}, "n_head=3"),
        ("gpt2", {"n_head": 0}, "n_head=0"),
        ("t5", {"num_heads": -1}, "num_heads=-1"),
        ("bart", {"decoder_attention_heads": 0}, "decoder_attention_heads=0"),
    ],
)
def test_sizes_that_do_not_fit_are_one_sentence(name, sizes, named):
    with pytest.raises(LimbeckError, match=re.escape(named)) as error:
        new(name, **sizes)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("sizes", [{"num_attention_heads": 0}, {"hidden_size": 9}, {"hidden_act": "nope"}])
def test_so_are_those_of_a_classifier(sizes):
    small = {"num_hidden_layers": 1, "hidden_size": 8, "num_attention_heads": 2, "intermediate_size": 8}
    with pytest.raises(LimbeckError, match="hf:bert"):
        open_model("hf:bert", classes=3, pretrained=False, **{**small, **sizes})
