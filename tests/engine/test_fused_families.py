"""Students of transformers and peft learn the same without their logits as with them."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn

from engine.language_stories import SGD, WORDS, Tokens, assert_same, both, objective, train
from limbeck.batch import Batch
from limbeck.data import ShuffledLoader
from limbeck.engine import distill
from limbeck.errors import LimbeckError
from limbeck.recipe import Optimizer, Stage


@pytest.mark.filterwarnings("ignore::FutureWarning", "ignore::UserWarning:peft.*")
def test_a_student_of_transformers_with_checkpointing_and_lora():
    transformers = pytest.importorskip("transformers", reason="transformers is not installed (extra hf)")
    peft = pytest.importorskip("peft", reason="peft is not installed (extra hf)")

    def gpt(seed: int = 0) -> Any:
        with torch.random.fork_rng():
            torch.manual_seed(seed)
            sizes = {"vocab_size": WORDS, "n_positions": 16, "n_embd": 8, "n_layer": 2, "n_head": 2}
            drop = {"resid_pdrop": 0, "embd_pdrop": 0, "attn_pdrop": 0, "bos_token_id": 0, "eos_token_id": 1}
            return transformers.GPT2LMHeadModel(transformers.GPT2Config(**sizes, **drop))

    def checkpointed() -> Any:
        made = gpt()
        made.activation_checkpointing_enable()
        return made

    def lora() -> Any:
        with torch.random.fork_rng():
            torch.manual_seed(0)
            return peft.get_peft_model(gpt(), peft.LoraConfig(r=2, target_modules=["c_attn"], fan_in_fan_out=True))

    teacher = gpt(1).double()
    for make in (gpt, checkpointed, lora):
        fused, dense, *_ = both(make, stage=lambda: Stage(objective(), teacher=teacher, steps=3, optimizer=SGD))
        assert_same(fused, dense)
    on_head = peft.get_peft_model(gpt(), peft.LoraConfig(r=2, target_modules=["lm_head"]))
    with pytest.raises(LimbeckError, match="lm_head"):
        train(on_head, True, stage=Stage(objective(), teacher=gpt(1), steps=1))


class Pairs(Tokens):
    """The same tokens, read by an encoder and a decoder."""

    def take(self, index: Tensor) -> Batch:
        batch = super().take(index)
        ids = batch.inputs["input_ids"]
        return batch._replace(inputs={"input_ids": ids, "decoder_input_ids": ids})


SMALL = {"hidden_size": 8, "num_attention_heads": 2, "num_key_value_heads": 1, "intermediate_size": 8, "head_dim": 4,
         "num_hidden_layers": 1, "pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2,
         "vocab_size": WORDS}  # fmt: skip
MODELS = {
    "Gemma2ForCausalLM": {**SMALL, "final_logit_softcapping": 0.5},
    "CohereForCausalLM": {**SMALL, "logit_scale": 0.25},
    "PhiForCausalLM": SMALL,  # a bias
    "T5ForConditionalGeneration": {"d_model": 8, "d_kv": 4, "d_ff": 8, "num_layers": 1, "num_heads": 2,
                                   "vocab_size": WORDS, "dropout_rate": 0.0, "decoder_start_token_id": 0},
}  # fmt: skip


@pytest.mark.filterwarnings("ignore::FutureWarning")
@pytest.mark.parametrize("name", MODELS)
def test_students_of_other_families(name):
    transformers = pytest.importorskip("transformers", reason="transformers is not installed (extra hf)")

    def make(seed: int = 0) -> Any:
        kind = getattr(transformers, name)
        known = kind.config_class().to_dict()
        with torch.random.fork_rng():
            torch.manual_seed(seed)
            model = kind(kind.config_class(**{key: value for key, value in MODELS[name].items() if key in known}))
            for parameter in model.parameters():
                nn.init.normal_(parameter, std=0.3)
        return model.double()

    data, students = Pairs() if "T5" in name else Tokens(), (make(), make())
    teacher = make(1)
    for student, fuse in zip(students, (True, False), strict=True):
        stage = Stage(objective(), teacher=teacher, steps=3, optimizer=Optimizer("sgd", lr=0.05))
        distill(student, stage, ShuffledLoader(data, batch_size=4), fuse_output_layer=fuse).finish()
    assert_same(*students, close=1e-9)


@pytest.mark.filterwarnings("ignore::FutureWarning", "ignore::UserWarning:peft.*")
def test_a_whole_copy_of_the_output_layer_that_peft_trains():
    transformers = pytest.importorskip("transformers", reason="transformers is not installed (extra hf)")
    peft = pytest.importorskip("peft", reason="peft is not installed (extra hf)")

    def make() -> Any:
        sizes = {
            "vocab_size": WORDS,
            "n_positions": 16,
            "n_embd": 8,
            "n_layer": 1,
            "n_head": 2,
            "resid_pdrop": 0,
            "embd_pdrop": 0,
            "attn_pdrop": 0,
            "bos_token_id": 0,
            "eos_token_id": 1,
            "tie_word_embeddings": False,
        }
        with torch.random.fork_rng():
            torch.manual_seed(0)
            base = transformers.GPT2LMHeadModel(transformers.GPT2Config(**sizes))
            kinds = {"target_modules": ["c_attn"], "modules_to_save": ["lm_head"], "fan_in_fan_out": True}
            return peft.get_peft_model(base, peft.LoraConfig(r=2, **kinds))

    fused, dense, *_ = both(make)
    assert_same(fused, dense)
    moved = fused.base_model.model.lm_head
    assert not torch.equal(moved.modules_to_save["default"].weight, moved.original_module.weight)
