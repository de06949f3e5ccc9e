"""A student with an adapter of peft (LoRA): its folder opens here, in stock transformers and in stock peft."""

from __future__ import annotations

import json
import warnings

import pytest
import torch
from torch import nn

transformers = pytest.importorskip("transformers", reason="transformers is not installed (extra hf)")
with warnings.catch_warnings():
    warnings.simplefilter("ignore")
    peft = pytest.importorskip("peft", reason="peft is not installed (extra hf)")

from limbeck.errors import LimbeckError  # noqa: E402
from limbeck.export import to_folder, to_hf  # noqa: E402
from limbeck.models import fingerprint, load, name_classes, save, seeded  # noqa: E402

pytestmark = [
    pytest.mark.filterwarnings("ignore::FutureWarning"),
    pytest.mark.filterwarnings("ignore::UserWarning:peft.*"),
]

IDS = {"input_ids": torch.tensor([[3, 4, 5, 6], [9, 8, 7, 6]])}


def bert():
    config = transformers.BertConfig(
        vocab_size=30, hidden_size=16, num_hidden_layers=2, num_attention_heads=2, intermediate_size=24, num_labels=3,
        max_position_embeddings=16,
    )  # fmt: skip
    with seeded(0):
        return transformers.BertForSequenceClassification(config).eval()


def gpt2(dtype=torch.float32):
    config = transformers.GPT2Config(
        vocab_size=30, n_embd=8, n_layer=2, n_head=2, n_positions=16, bos_token_id=0, eos_token_id=0
    )
    with seeded(0):
        return transformers.GPT2LMHeadModel(config).to(dtype).eval()


def moved(model):
    """The model as if it had been trained: what learns is drawn anew."""
    with seeded(1), torch.no_grad():
        for parameter in model.parameters():
            if parameter.requires_grad:
                parameter.normal_(std=0.3)
    return model.eval()


def lora(base, **more):
    targets = {"target_modules": ["c_attn"]} if isinstance(base, transformers.GPT2LMHeadModel) else {}
    task = "CAUSAL_LM" if targets else "SEQ_CLS"
    settings = {"r": 2, "task_type": task, "fan_in_fan_out": bool(targets)} | targets | more
    with seeded(0):
        return moved(peft.get_peft_model(base, peft.LoraConfig(**settings)))


def added(base):
    """An adapter that transformers itself puts in: the class stays, the layers are peft's."""
    base.add_adapter(peft.LoraConfig(r=2, target_modules=["query", "value"]))
    return moved(base)


KINDS = {
    "classifier": lambda: lora(bert()),
    "language model": lambda: lora(gpt2()),
    "dora": lambda: lora(gpt2(), use_dora=True),
    "rank-stabilised, all linear": lambda: lora(gpt2(), use_rslora=True, target_modules=["c_attn", "c_proj", "c_fc"]),
    "ia3": lambda: moved(
        peft.get_peft_model(
            bert(), peft.IA3Config(task_type="SEQ_CLS", target_modules=["query", "key"], feedforward_modules=[])
        )
    ),
    "add_adapter": lambda: added(bert()),
}


def close(one, other, **tolerance):
    torch.testing.assert_close(one, other, **({"rtol": 1e-5, "atol": 1e-5} | tolerance))


@pytest.mark.parametrize("make", KINDS.values(), ids=KINDS)
def test_the_folder_opens_here_in_transformers_and_in_peft(tmp_path, make):
    model = make()
    expected, before = model(**IDS).logits.detach(), fingerprint(model)
    torch.manual_seed(5)
    drawn = torch.rand(1)
    torch.manual_seed(5)
    folder = save(model, tmp_path / "s")
    assert torch.equal(torch.rand(1), drawn)
    assert fingerprint(model) == before
    close(model(**IDS).logits, expected, rtol=0, atol=0)

    plain = load(folder)
    base = type(model.get_base_model() if hasattr(model, "get_base_model") else model)
    assert type(plain) is base
    close(plain(**IDS).logits, expected)
    close(base.from_pretrained(folder)(**IDS).logits, expected)
    fresh = gpt2() if base is transformers.GPT2LMHeadModel else bert()
    close(peft.PeftModel.from_pretrained(fresh, str(folder / "adapter")).eval()(**IDS).logits, expected)
    assert not [name for name in plain.state_dict() if "lora" in name or "base_layer" in name]


def test_a_later_save_replaces_both_and_equal_students_give_equal_files(tmp_path):
    model = lora(bert())
    folder = save(model, tmp_path / "s")
    first = {file.relative_to(folder): file.read_bytes() for file in folder.rglob("*") if file.is_file()}
    save(model, tmp_path / "t")
    assert first == {file.relative_to(folder): (tmp_path / "t" / file.relative_to(folder)).read_bytes()
                     for file in folder.rglob("*") if file.is_file()}  # fmt: skip
    told = json.loads((folder / "adapter" / "adapter_config.json").read_text())
    assert told["target_modules"] == sorted(told["target_modules"])
    with torch.no_grad():
        for parameter in model.parameters():
            parameter += 0.1 * parameter.requires_grad
    expected = model(**IDS).logits
    save(model, folder)
    close(load(folder)(**IDS).logits, expected)
    close(peft.PeftModel.from_pretrained(bert(), str(folder / "adapter")).eval()(**IDS).logits, expected)
    save(load(folder), folder)
    assert not (folder / "adapter").exists()  # it is no adapter of these weights


def test_an_adapter_of_someone_else_in_the_folder_is_left_alone(tmp_path):
    theirs = tmp_path / "adapter" / "adapter_config.json"
    theirs.parent.mkdir()
    theirs.write_text("{}")
    with pytest.raises(LimbeckError, match="adapter"):
        save(lora(bert()), tmp_path)
    save(bert(), tmp_path)
    assert theirs.read_text() == "{}"


def test_the_base_is_named_where_peft_knows_it(tmp_path):
    bert().save_pretrained(tmp_path / "base")
    base = transformers.BertForSequenceClassification.from_pretrained(tmp_path / "base")
    folder = save(lora(base), tmp_path / "s")
    told = json.loads((folder / "adapter" / "adapter_config.json").read_text())
    assert told["base_model_name_or_path"] == str(tmp_path / "base")
    opened = peft.AutoPeftModelForSequenceClassification.from_pretrained(str(folder / "adapter"), num_labels=3).eval()
    close(opened(**IDS).logits, load(folder)(**IDS).logits)


def test_class_names_reach_the_configuration(tmp_path):
    model = name_classes(lora(bert()), ["bad", "fair", "good"])
    assert load(save(model, tmp_path / "s")).config.id2label == {0: "bad", 1: "fair", 2: "good"}


def test_a_module_of_the_user_comes_back_with_its_build(tmp_path):
    def build():
        with seeded(0):
            return nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 3))

    model = moved(peft.get_peft_model(build(), peft.LoraConfig(r=2, target_modules=["0", "2"])))
    inputs = torch.ones(2, 4)
    again = load(save(model, tmp_path / "s"), build=build)
    assert type(again) is nn.Sequential
    close(again(inputs), model(inputs))


def test_exports_hold_the_merged_weights(tmp_path):
    model = lora(bert())
    close(load(to_folder(model, tmp_path / "folder"))(**IDS).logits, model(**IDS).logits)
    opened = transformers.AutoModelForSequenceClassification.from_pretrained(to_hf(model, tmp_path / "hf"))
    close(opened(**IDS).logits, model(**IDS).logits)
    again = transformers.AutoModelForSequenceClassification.from_pretrained(to_hf(added(bert()), tmp_path / "added"))
    close(again(**IDS).logits, added(bert())(**IDS).logits)


def test_an_adapter_that_cannot_be_merged_is_refused(tmp_path):
    prompt = peft.get_peft_model(gpt2(), peft.PromptTuningConfig(task_type="CAUSAL_LM", num_virtual_tokens=2))
    with pytest.raises(LimbeckError, match="save_pretrained"):
        save(prompt, tmp_path / "s")
    assert not (tmp_path / "s").exists()
