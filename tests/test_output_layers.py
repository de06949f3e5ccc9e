"""The output layer of language models: what multiplies and bounds the logits, compared with the models' own logits."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from limbeck.errors import MissingOutputError
from limbeck.model_call import check_output_layer, find_output_layer, get_output_layer
from limbeck.models import seeded

pytestmark = pytest.mark.filterwarnings("ignore::FutureWarning")

IDS = torch.tensor([[3, 4, 5, 6], [9, 8, 7, 6]])
SMALL = {"hidden_size": 16, "num_attention_heads": 2, "num_key_value_heads": 1, "intermediate_size": 16, "head_dim": 8,
         "num_hidden_layers": 1, "vocab_size": 30, "pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2}  # fmt: skip
MODELS = {
    "GPT2LMHeadModel": {"n_embd": 16, "n_head": 2, "n_layer": 1, "vocab_size": 30, "bos_token_id": 1,
                        "eos_token_id": 2},
    "LlamaForCausalLM": SMALL,
    "Qwen3ForCausalLM": {**SMALL, "tie_word_embeddings": True},
    "Gemma2ForCausalLM": {**SMALL, "final_logit_softcapping": 0.05},
    "CohereForCausalLM": {**SMALL, "logit_scale": 0.0625},
    "GraniteForCausalLM": {**SMALL, "logits_scaling": 8.0},
    "PhiForCausalLM": SMALL,  # a bias
    "T5ForConditionalGeneration": {"d_model": 16, "d_kv": 8, "d_ff": 16, "num_layers": 1, "num_heads": 2,
                                   "vocab_size": 30},
}  # fmt: skip


def small(name):
    transformers = pytest.importorskip("transformers", reason="transformers is not installed (extra hf)")
    kind = getattr(transformers, name)
    known = kind.config_class().to_dict()
    with seeded(0):
        model = kind(kind.config_class(**{key: value for key, value in MODELS[name].items() if key in known}))
        for parameter in model.parameters():
            nn.init.normal_(parameter, std=0.3)  # also biases, which begin at zero
    return model.eval()


def inputs_of(model):
    more = {"decoder_input_ids": IDS} if model.config.is_encoder_decoder else {}
    return {"input_ids": IDS, **more}


@pytest.mark.parametrize("name", MODELS)
def test_hidden_states_and_the_layer_give_the_logits(name):
    model = small(name)
    layer = check_output_layer(model, inputs_of(model))
    hidden = []
    module = find_output_layer(model)[1]
    module.register_forward_hook(lambda _, given, __: hidden.append(given[0]))
    logits = model(**inputs_of(model)).logits
    torch.testing.assert_close(layer.logits(hidden[0]), logits, rtol=1e-5, atol=1e-6)
    assert layer.weight is module.weight, "the parameter itself, so that gradients reach it"
    assert layer.softcap == (0.05 if "Gemma" in name else None)
    assert layer.scale == {"CohereForCausalLM": 0.0625, "GraniteForCausalLM": 0.125}.get(name, 1.0)
    assert (layer.bias is not None) is (name == "PhiForCausalLM")


@pytest.mark.parametrize("name", ["GPT2LMHeadModel", "Gemma2ForCausalLM", "T5ForConditionalGeneration"])
def test_the_layer_of_tied_weights_is_the_embedding(name):
    model = small(name)
    assert get_output_layer(model).weight is model.get_input_embeddings().weight


@pytest.mark.parametrize("operation", [torch.tanh, lambda logits: logits / 3])
def test_trap_what_follows_the_output_layer_is_not_forgotten(operation):
    """Losses over hidden states that leave out a bound or a factor of the logits are wrong (TRL #6629)."""
    model = small("LlamaForCausalLM")
    model.lm_head.register_forward_hook(lambda _, __, output: operation(output))
    with pytest.raises(MissingOutputError, match="lm_head"):
        check_output_layer(model, inputs_of(model))


def test_half_precision_is_compared_with_its_own_rounding():
    model = small("Gemma2ForCausalLM").to(torch.bfloat16)
    assert check_output_layer(model, inputs_of(model)).softcap == 0.05


def test_any_module_from_ids_to_logits():
    model = nn.Sequential(nn.Embedding(30, 4), nn.Linear(4, 4), nn.Linear(4, 30))
    layer = check_output_layer(model, IDS)
    assert layer.weight is model[2].weight


class Scaled(nn.Module):
    def __init__(self):
        super().__init__()
        self.inner = nn.Sequential(nn.Embedding(30, 4), nn.Linear(4, 30))
        self.factor = nn.Parameter(torch.tensor(2.0))

    def forward(self, ids):
        return self.inner(ids) * self.factor


class Twice(nn.Module):
    def __init__(self):
        super().__init__()
        self.inner, self.last = nn.Embedding(30, 30), nn.Linear(30, 30)

    def forward(self, ids):
        return self.last(self.last(self.inner(ids)))


@pytest.mark.parametrize("model", [Scaled(), Twice(), nn.Sequential(nn.Embedding(30, 4))])
def test_other_logits_are_refused(model):
    with pytest.raises(MissingOutputError):
        check_output_layer(model, IDS)


def test_an_adapter_on_the_output_layer_is_no_plain_layer():
    """Its low-rank part is zero at first, so that a comparison of numbers would not see it."""
    peft = pytest.importorskip("peft", reason="peft is not installed (extra hf)")
    inside = peft.get_peft_model(small("LlamaForCausalLM"), peft.LoraConfig(r=2, target_modules=["q_proj"]))
    assert check_output_layer(inside, inputs_of(inside)).weight is inside.get_base_model().lm_head.weight
    on_it = peft.get_peft_model(small("LlamaForCausalLM"), peft.LoraConfig(r=2, target_modules=["lm_head"]))
    assert get_output_layer(on_it) is None
    with pytest.raises(MissingOutputError, match="lm_head"):
        check_output_layer(on_it, inputs_of(on_it))


def test_a_whole_copy_that_peft_trains_is_the_layer():
    peft = pytest.importorskip("peft", reason="peft is not installed (extra hf)")
    config = peft.LoraConfig(r=2, target_modules=["q_proj"], modules_to_save=["lm_head"])
    model = peft.get_peft_model(small("LlamaForCausalLM"), config)
    with torch.no_grad():
        model.get_base_model().lm_head.modules_to_save["default"].weight.mul_(2)
    layer = check_output_layer(model, inputs_of(model))
    assert layer.weight.requires_grad
