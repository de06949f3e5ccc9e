"""Models of transformers that write their own texts in a run: fused losses, adapters, checkpoints, encoder-decoders."""

from __future__ import annotations

import pytest
import torch

from engine.rollout_stories import WORDS, loader, rollouts, rows, tokenizer, weights
from limbeck.data import ShuffledLoader, TokenPairDataset
from limbeck.engine import distill
from limbeck.functional import cross_entropy, kl_divergence, reverse_kl
from limbeck.losses import Loss
from limbeck.recipe import Optimizer, Stage

transformers = pytest.importorskip("transformers")
SGD = Optimizer("sgd", lr=0.1, decay="constant")


def gpt2(seed=0, width=16):
    torch.manual_seed(seed)
    config = transformers.GPT2Config(
        n_embd=width, n_layer=1, n_head=2, n_positions=48, vocab_size=WORDS, pad_token_id=0, bos_token_id=None,
        eos_token_id=tokenizer().eos_token_id, resid_pdrop=0.0, embd_pdrop=0.0, attn_pdrop=0.0,
    )  # fmt: skip
    model = transformers.GPT2LMHeadModel(config)
    model.transformer.wte.weight.data.mul_(8)
    return model


def t5(seed=0, width=16):
    torch.manual_seed(seed)
    config = transformers.T5Config(
        vocab_size=WORDS, d_model=width, d_ff=16, num_layers=1, num_heads=2, d_kv=8, decoder_start_token_id=0,
        pad_token_id=0, eos_token_id=tokenizer().eos_token_id, dropout_rate=0.0,
    )  # fmt: skip
    return transformers.T5ForConditionalGeneration(config)


def train(student, *, teacher=None, data=None, objective=None, share=0.6, steps=5, **setting):
    stage = Stage(
        objective or Loss(reverse_kl), teacher=teacher or gpt2(1, 32), steps=steps, optimizer=SGD,
        loader=rollouts(share, replay=True),
    )  # fmt: skip
    return distill(student, stage, data or loader(), log_every=1, **setting)


def test_losses_that_need_no_logits_are_those_of_dense_ones_on_the_same_texts():
    students = gpt2().double(), gpt2().double()
    teacher = gpt2(1, 32).double()
    objective = Loss(reverse_kl) + 0.3 * Loss(cross_entropy, where="given")
    runs = [
        train(student, teacher=teacher, objective=objective, fuse_output_layer=fuse).finish()
        for student, fuse in zip(students, (True, False), strict=True)
    ]
    torch.testing.assert_close(weights(students[0]), weights(students[1]), rtol=1e-8, atol=1e-10)
    texts = [[(one.generation["finished"], one.generation["cut_off"]) for one in run.history] for run in runs]
    assert texts[0] == texts[1]
    assert any(map(any, texts[0]))


def test_gradient_checkpointing_changes_nothing():
    plain, checkpointed = gpt2(), gpt2()
    enable = "activation_checkpointing_enable"
    getattr(checkpointed, enable if hasattr(checkpointed, enable) else "gradient_checkpointing_enable")()
    for student in (plain, checkpointed):
        train(student).finish()
    torch.testing.assert_close(weights(plain), weights(checkpointed), rtol=1e-5, atol=1e-7)


@pytest.mark.filterwarnings("ignore::FutureWarning:peft.*", "ignore::FutureWarning:transformers.*")
@pytest.mark.filterwarnings("ignore::UserWarning:peft.*")
def test_an_adapter_learns_on_its_own_texts(tmp_path):
    peft = pytest.importorskip("peft")

    def adapted():
        config = peft.LoraConfig(target_modules=["c_attn"], fan_in_fan_out=True, task_type="CAUSAL_LM")
        return peft.get_peft_model(gpt2(), config)

    whole, broken, again = adapted(), adapted(), adapted()
    before = weights(whole)
    for student in (broken, again):
        student.load_state_dict(whole.state_dict())
    train(whole).finish()
    assert not torch.equal(before, weights(whole))
    next(iter(train(broken, out=tmp_path / "run", checkpoint_seconds=0.0)))
    train(again, out=tmp_path / "run", resume=True).finish()
    assert torch.equal(weights(whole), weights(again))


@pytest.mark.parametrize("share", [0.5, 1.0])
def test_an_encoder_decoder_learns_on_its_own_texts(tmp_path, share):
    pairs = [{"source": row["prompt"], "target": row["completion"]} for row in rows()]
    data = ShuffledLoader(TokenPairDataset(pairs, tokenizer=tokenizer(), max_length=32), batch_size=4)
    options = {"teacher": t5(1, 32), "data": data, "objective": Loss(kl_divergence), "share": share}
    whole, again = t5(), t5(5)
    run = train(whole, **options).finish()
    assert sum(one.generation["finished"] + one.generation["cut_off"] for one in run.history) > 0
    next(iter(train(t5(), out=tmp_path / "run", checkpoint_seconds=0.0, **options)))
    train(again, out=tmp_path / "run", resume=True, **options).finish()
    assert torch.equal(weights(whole), weights(again))


def test_texts_are_written_in_the_precision_of_the_run():
    run = train(gpt2(), precision="bf16-mixed").finish()
    assert all(torch.isfinite(torch.tensor(one.loss)) for one in run.history)
