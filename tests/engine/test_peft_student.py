"""A student with LoRA in a run: its folder opens at any moment, and it resumes to the same bits."""

from __future__ import annotations

import warnings

import pytest
import torch

transformers = pytest.importorskip("transformers", reason="transformers is not installed (extra hf)")
with warnings.catch_warnings():
    warnings.simplefilter("ignore")
    peft = pytest.importorskip("peft", reason="peft is not installed (extra hf)")

import limbeck as lb  # noqa: E402
from limbeck.data import TextDataset, train_tokenizer  # noqa: E402
from limbeck.errors import LimbeckError, LimbeckWarning  # noqa: E402
from limbeck.functional import cross_entropy, kl_divergence, state_squared_error  # noqa: E402
from limbeck.models import fingerprint, load, seeded  # noqa: E402

pytestmark = [
    pytest.mark.filterwarnings("ignore::FutureWarning"),
    pytest.mark.filterwarnings("ignore::UserWarning:peft.*"),
]

ADAM = lb.Optimizer("adam", lr=0.05)


def bert(seed):
    config = transformers.BertConfig(
        vocab_size=30, hidden_size=16, num_hidden_layers=2, num_attention_heads=2, intermediate_size=24, num_labels=3,
        max_position_embeddings=16,
    )  # fmt: skip
    with seeded(seed):
        return transformers.BertForSequenceClassification(config)


def lora():
    with seeded(0):
        return peft.get_peft_model(bert(0), peft.LoraConfig(r=2, task_type="SEQ_CLS", lora_dropout=0.2))


def texts():
    words = ["a fine film", "dull", "moving and funny", "far too long"] * 4
    return TextDataset(words, [2, 0, 1, 0] * 4, tokenizer=train_tokenizer(words, vocabulary=30))


def begun(student, **more):
    hidden = lb.Loss(
        state_squared_error, student="base_model.model.bert.encoder.layer.0", teacher="bert.encoder.layer.0"
    )
    soft = 0.5 * lb.Loss(cross_entropy) + 0.5 * lb.Loss(kl_divergence) + 0.1 * hidden
    return lb.distill(
        student, lb.Stage(soft, teacher=bert(1)), texts(), epochs=2, batch_size=4, log_every=1, optimizer=ADAM, **more
    )


def test_the_folder_opens_at_any_moment_and_the_run_resumes_to_the_same_bits(tmp_path):
    alone = lora()
    begun(alone).finish()

    student, out = lora(), tmp_path / "run"
    frozen = {name: value.clone() for name, value in student.named_parameters() if not value.requires_grad}
    run = begun(student, out=out, checkpoint_seconds=0.0)
    assert fingerprint(load(out / "student")) == fingerprint(bert(0))  # LoRA begins as no change
    for report in run:
        load(out / "student")
        if report.step == 3:
            break
    resumed = lora()
    begun(resumed, out=out, checkpoint_seconds=0.0, resume=True).finish()
    assert fingerprint(resumed) == fingerprint(alone)
    assert all(torch.equal(value, frozen[name]) for name, value in student.named_parameters() if name in frozen)

    resumed.eval()
    inputs = texts().take(torch.arange(4)).inputs
    opened = transformers.AutoModelForSequenceClassification.from_pretrained(out / "student")
    in_peft = peft.PeftModel.from_pretrained(bert(0), str(out / "student" / "adapter")).eval()
    for again in (load(out / "student"), opened, in_peft):
        torch.testing.assert_close(again(**inputs).logits, resumed(**inputs).logits, rtol=1e-5, atol=1e-5)
    with torch.no_grad():
        assert not torch.allclose(opened(**inputs).logits, bert(0).eval()(**inputs).logits, atol=1e-3)


def test_a_learned_prompt_is_refused_before_the_first_step(tmp_path):
    config = transformers.GPT2Config(
        vocab_size=30, n_embd=8, n_layer=1, n_head=2, n_positions=16, bos_token_id=0, eos_token_id=0
    )
    prompt = peft.get_peft_model(
        transformers.GPT2LMHeadModel(config), peft.PromptTuningConfig(task_type="CAUSAL_LM", num_virtual_tokens=2)
    )
    data = [{"input_ids": torch.ones(2, 3, dtype=torch.long), "labels": torch.ones(2, 3, dtype=torch.long)}]
    with (
        pytest.warns(LimbeckWarning, match="cannot be resumed"),
        pytest.raises(LimbeckError, match="cannot be merged"),
    ):
        lb.distill(prompt, lb.Stage(lb.Loss(cross_entropy)), data, epochs=1, out=tmp_path / "run")
