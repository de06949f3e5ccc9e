"""Folders of Hugging Face students open here and in transformers, without own code."""

from __future__ import annotations

import json
import sys

import pytest
import torch

transformers = pytest.importorskip("transformers", reason="transformers is not installed (extra hf)")

from limbeck.errors import DataError, LimbeckError  # noqa: E402
from limbeck.models import fingerprint, load, name_classes, open_model, read_config, save, seeded  # noqa: E402

IDS = {"input_ids": torch.tensor([[3, 4, 5, 6]])}


def bert(dtype=torch.float32):
    config = transformers.BertConfig(
        vocab_size=30, hidden_size=16, num_hidden_layers=2, num_attention_heads=2, intermediate_size=24, num_labels=3,
        max_position_embeddings=16,
    )  # fmt: skip
    with seeded(0):
        return transformers.BertForSequenceClassification(config).to(dtype).eval()


def gpt2():
    config = transformers.GPT2Config(
        vocab_size=30, n_embd=8, n_layer=1, n_head=2, n_positions=16, bos_token_id=0, eos_token_id=0
    )
    with seeded(0):
        return transformers.GPT2LMHeadModel(config).eval()


def changed(folder, **keys):
    """The folder with other keys in its config.json, and without its checksum, as a stranger would write it."""
    file = folder / "config.json"
    told = {key: value for key, value in json.loads(file.read_text()).items() if key != "checksum"}
    file.write_text(json.dumps({**told, **keys}))
    return folder


@pytest.mark.parametrize("make", [bert, lambda: bert(torch.bfloat16), gpt2], ids=["bert", "bfloat16", "tied"])
def test_a_saved_student_opens_without_build(tmp_path, make):
    model = make()
    torch.manual_seed(5)
    expected = torch.rand(1)
    torch.manual_seed(5)
    again = load(save(model, tmp_path / "s", metadata={"preprocess": {"preprocess": "unchanged"}}))
    assert torch.equal(torch.rand(1), expected)
    assert type(again) is type(model)
    assert fingerprint(again) == fingerprint(model)
    assert not again.training
    torch.testing.assert_close(again(**IDS).logits, model(**IDS).logits, rtol=0, atol=1e-6)
    assert fingerprint(open_model(str(tmp_path / "s"), classes=3)) == fingerprint(model)
    assert read_config(tmp_path / "s")["model"]["class"].startswith("transformers.")


def test_tied_weights_stay_tied(tmp_path):
    again = load(save(gpt2(), tmp_path / "s"))
    assert again.lm_head.weight is again.transformer.wte.weight


def test_stock_transformers_opens_it_and_what_it_writes_opens_here(tmp_path):
    model = name_classes(bert(), ["no", "maybe", "yes"])
    save(model, tmp_path / "s")
    stock, found = transformers.AutoModelForSequenceClassification.from_pretrained(
        tmp_path / "s", output_loading_info=True
    )
    assert not found["missing_keys"]
    assert not found["unexpected_keys"]
    assert fingerprint(stock) == fingerprint(model)
    assert stock.config.id2label == {0: "no", 1: "maybe", 2: "yes"}
    assert stock.config.label2id == {"no": 0, "maybe": 1, "yes": 2}
    for place, one in (("again", stock), ("plain", model)):
        one.save_pretrained(tmp_path / place)
        opened = load(tmp_path / place)
        assert fingerprint(opened) == fingerprint(model)
        assert opened.config.id2label[2] == "yes"
        assert not opened.training


def test_names_of_another_number_of_classes_are_left_out():
    assert name_classes(bert(), ["no", "yes"]).config.id2label[0] == "LABEL_0"
    assert name_classes(bert(), None).config.id2label[0] == "LABEL_0"


@pytest.mark.parametrize("stock", [False, True], ids=["limbeck", "stock"])
def test_no_code_of_the_folder_runs(tmp_path, stock):
    folder = tmp_path / "s"
    bert().save_pretrained(folder) if stock else save(bert(), folder)
    (folder / "own.py").write_text("raise SystemExit('code of the folder ran')")
    theirs = {"AutoConfig": "own.Config", "AutoModelForSequenceClassification": "own.Model"}
    changed(folder, auto_map=theirs, _attn_implementation="somebody/kernels", attn_implementation="somebody/kernels")
    opened = load(folder)
    assert fingerprint(opened) == fingerprint(bert())
    assert "somebody" not in str(opened.config._attn_implementation)
    for named in (["own.Model"], ["pipeline"], ["BertTokenizer"], ["os"], [3], {"a": "BertModel"}, 7, "Trainer"):
        with pytest.raises(DataError, match="which is no model of transformers"):
            load(changed(folder, architectures=named))


@pytest.mark.parametrize("stock", [False, True], ids=["limbeck", "stock"])
def test_no_other_file_of_weights_is_named_by_a_configuration(tmp_path, stock):
    """timm, called by transformers, unpickles what `checkpoint_path` names."""
    folder = tmp_path / "s"
    bert().save_pretrained(folder) if stock else save(bert(), folder)
    opened = load(changed(folder, model_args={"checkpoint_path": "own.pth", "drop": 0.1}))
    assert opened.config.model_args == {"drop": 0.1}


@pytest.mark.parametrize("stock", [False, True], ids=["limbeck", "stock"])
def test_a_damaged_configuration_is_one_sentence(tmp_path, stock):
    folder = tmp_path / "s"
    bert().save_pretrained(folder) if stock else save(bert(), folder)
    for keys, said in (
        ({"model_type": "gpt2"}, "is of the kind 'bert', not 'gpt2'"),
        ({"model_type": "bert", "hidden_size": 15}, "15"),
        ({"hidden_size": 8}, "classifier|shape|size|does not fit"),
        ({"hidden_size": 16, "num_hidden_layers": 10**9}, "num_hidden_layers=1000000000"),
        ({"num_hidden_layers": 2, "part": {"decoder_layers": 10**400}}, "decoder_layers"),
    ):
        with pytest.raises(DataError, match=said) as error:
            load(changed(folder, **keys))
        assert "\n" not in str(error.value)


def test_a_pickle_is_refused_and_missing_weights_are_noticed(tmp_path):
    bert().save_pretrained(tmp_path)
    (tmp_path / "model.safetensors").unlink()
    torch.save(bert().state_dict(), tmp_path / "pytorch_model.bin")
    with pytest.raises(DataError, match="cannot be opened as a BertForSequenceClassification"):
        load(tmp_path)
    from safetensors.torch import save_file

    state = {name: tensor for name, tensor in bert().state_dict().items() if name != "classifier.bias"}
    save_file(state, tmp_path / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(DataError, match=r"lacks weights.*classifier\.bias"):
        load(tmp_path)


@pytest.mark.parametrize("stock", [False, True], ids=["limbeck", "stock"])
def test_without_transformers_the_extra_is_named(tmp_path, monkeypatch, stock):
    bert().save_pretrained(tmp_path / "s") if stock else save(bert(), tmp_path / "s")
    monkeypatch.setitem(sys.modules, "transformers", None)
    with pytest.raises(LimbeckError, match=r"needs transformers; type: pip install 'limbeck\[hf\]'$"):
        load(tmp_path / "s")


def test_a_folder_of_transformers_has_a_name_in_jobs(tmp_path):
    bert().save_pretrained(tmp_path / "s")
    with pytest.raises(LimbeckError, match="is a folder of transformers; type hf:"):
        open_model(str(tmp_path / "s"))
