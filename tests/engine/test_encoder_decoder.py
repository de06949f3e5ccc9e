"""Encoder-decoders (T5, BART): what the decoder reads is made in one place, by the model's own rule."""

from __future__ import annotations

import pytest
import torch
from torch import nn

transformers = pytest.importorskip("transformers", reason="transformers is not installed (extra hf)")

from limbeck.batch import IGNORED, Batch  # noqa: E402
from limbeck.data import TokenPairDataset, TorchLoader, train_tokenizer  # noqa: E402
from limbeck.data.tokenizer import find_label_format, is_causal_lm, is_encoder_decoder  # noqa: E402
from limbeck.engine import distill  # noqa: E402
from limbeck.errors import ArgumentError, DataError, LimbeckError, MissingOutputError  # noqa: E402
from limbeck.functional import cross_entropy, kl_divergence  # noqa: E402
from limbeck.integrations import DistillationLoss  # noqa: E402
from limbeck.losses import Loss  # noqa: E402
from limbeck.metrics import predict  # noqa: E402
from limbeck.model_call import call  # noqa: E402
from limbeck.models import fingerprint, load, open_model, save  # noqa: E402
from limbeck.recipe import Optimizer, Stage  # noqa: E402
from limbeck.tasks import LanguageModeling  # noqa: E402
from limbeck.teachers import CachedTeacher, ModelTeacher  # noqa: E402

WORDS = ["one", "two", "three", "four", "five", "six"]
PAIRS = [{"source": f"{a} {b} {c}", "target": f"{c} {a}"} for a in WORDS for b in WORDS[:2] for c in WORDS[2:5]]
T5 = {"num_layers": 1, "d_model": 16, "d_kv": 8, "d_ff": 16, "num_heads": 2, "dropout_rate": 0.0}
BART = {"encoder_layers": 1, "decoder_layers": 1, "d_model": 8, "encoder_ffn_dim": 8, "decoder_ffn_dim": 8,
        "encoder_attention_heads": 2, "decoder_attention_heads": 2, "dropout": 0.0}  # fmt: skip


@pytest.fixture(scope="module")
def tokenizer():
    tokenizer = train_tokenizer(WORDS, vocabulary=60)
    tokenizer.bos_token, tokenizer.eos_token = tokenizer.cls_token, tokenizer.sep_token
    return tokenizer


@pytest.fixture(scope="module")
def data(tokenizer):
    return TokenPairDataset(PAIRS, tokenizer=tokenizer, max_length=12)


def small(name, tokenizer, seed=0, **more):
    own = T5 if name == "t5" else BART
    return open_model(
        f"hf:{name}", head="language_modeling", tokenizer=tokenizer, seed=seed, pretrained=False, **{**own, **more}
    )


def item(data, count=5):
    """As DataCollatorForSeq2Seq without a model gives it."""
    batch = data.take(torch.arange(count) * 7)
    return {name: batch.inputs[name] for name in ("input_ids", "attention_mask")} | {"labels": batch.labels}


def pure(batch):
    return {name: value for name, value in batch.inputs.items() if name != "labels"}


@pytest.mark.parametrize("name", ["t5", "bart"])
def test_the_loss_is_transformers_own(name, tokenizer, data):
    student, given = small(name, tokenizer), item(data)
    with torch.no_grad():
        wanted = float(student(**given).loss)
    for source in ([given], data.select(torch.arange(5) * 7)):
        run = distill(student, Stage(Loss(cross_entropy), steps=1), source, batch_size=5, accelerator="cpu")
        before = {key: tensor.clone() for key, tensor in student.state_dict().items()}
        assert next(iter(run)).loss == pytest.approx(wanted, rel=1e-5)
        student.load_state_dict(before)


@pytest.mark.parametrize("name", ["t5", "bart"])
def test_the_decoder_reads_the_labels_behind_its_start_token(name, tokenizer, data):
    model, batch, seen = small(name, tokenizer), data.take(torch.arange(3)), {}
    handle = model.register_forward_pre_hook(lambda _, __, named: seen.update(named), with_kwargs=True)
    call(model, batch.inputs)
    handle.remove()
    ids, labels = seen["decoder_input_ids"], batch.labels
    assert "labels" not in seen, "it would compute a loss of its own over all logits"
    assert (ids[:, 0] == model.config.decoder_start_token_id).all()
    assert torch.equal(ids[:, 1:], labels[:, :-1].masked_fill(labels[:, :-1] == IGNORED, tokenizer.pad_token_id))


def test_a_start_token_makes_them_in_the_data(tokenizer):
    named = TokenPairDataset(PAIRS, tokenizer=tokenizer, decoder_start_token_id=tokenizer.pad_token_id)
    plain = TokenPairDataset(PAIRS, tokenizer=tokenizer)
    model = small("t5", tokenizer).eval()
    one, other = (call(model, part.take(torch.arange(9)).inputs).logits for part in (named, plain))
    there = plain.take(torch.arange(9)).mask
    torch.testing.assert_close(one[there], other[there])


def test_a_module_of_ones_own_without_a_rule_is_told_what_to_give(tokenizer, data):
    class Own(nn.Module):
        def forward(self, input_ids, attention_mask, decoder_input_ids):
            return torch.zeros(*decoder_input_ids.shape, len(tokenizer))

    with pytest.raises(MissingOutputError, match="decoder_start_token_id"):
        call(Own(), data.take(torch.arange(2)).inputs)


def test_targets_of_different_lengths_do_not_move_each_other(tokenizer):
    rows = [{"source": "one", "target": "two"}, {"source": "one two three four", "target": "two three four five"}]
    data = TokenPairDataset(rows, tokenizer=tokenizer)
    model = small("t5", tokenizer).eval()
    both = predict(model, data.take(torch.tensor([0, 1])))
    alone = predict(model, data.take(torch.tensor([0])))
    torch.testing.assert_close(both.student[: len(alone.student)], alone.student, rtol=1e-4, atol=1e-5)


def test_a_loop_of_ones_own_agrees(tokenizer, data):
    student, teacher = small("t5", tokenizer), small("t5", tokenizer, seed=1, d_ff=32)
    objective = 0.5 * Loss(cross_entropy) + 0.5 * Loss(kl_divergence)
    given = item(data)
    with DistillationLoss(student, objective, teacher, example=given) as distillation:
        own = float(distillation(given).loss.detach())
    report = next(iter(distill(student, Stage(objective, teacher=teacher, steps=1), [given], accelerator="cpu")))
    assert report.loss == pytest.approx(own, rel=1e-5)
    loader = TorchLoader([given])
    loader.bind({"student": student})
    assert torch.equal(loader.peek().mask, given["labels"] != IGNORED)


def test_a_student_learns_from_its_teacher_is_saved_and_writes(tokenizer, data, tmp_path):
    teacher, student = small("t5", tokenizer, d_ff=32), small("t5", tokenizer, seed=2)
    task = LanguageModeling().fit(data)
    stage = Stage(Loss(cross_entropy), steps=60, optimizer=Optimizer("adam", lr=1e-2))
    distill(teacher, stage, data, batch_size=24, accelerator="cpu").finish()
    objective = 0.5 * Loss(cross_entropy) + 0.5 * Loss(kl_divergence)
    before = task.evaluate(student, data).measures["nll"]
    stage = Stage(objective, teacher=ModelTeacher(teacher), steps=60, optimizer=Optimizer("adam", lr=1e-2))
    distill(student, stage, data, batch_size=24, accelerator="cpu").finish()
    assert task.evaluate(student, data).measures["nll"] < 0.6 * before
    save(student, tmp_path / "student")
    tokenizer.save_pretrained(tmp_path / "student")
    again = transformers.AutoModelForSeq2SeqLM.from_pretrained(tmp_path / "student")
    assert fingerprint(again) == fingerprint(student) == fingerprint(load(tmp_path / "student"))
    stock = transformers.AutoTokenizer.from_pretrained(tmp_path / "student")
    inputs = stock(["one two three"], return_tensors="pt", return_token_type_ids=False)
    assert torch.equal(
        again.generate(**inputs, max_new_tokens=5, do_sample=False),
        student.eval().generate(**inputs, max_new_tokens=5, do_sample=False),
    )


def test_stored_answers_of_the_teacher_are_those_of_the_same_pairs(tokenizer, data, tmp_path):
    teacher = small("t5", tokenizer, seed=1).eval()
    cached = CachedTeacher(ModelTeacher(teacher), tmp_path / "cache", encoding="float32")
    stage = Stage(Loss(kl_divergence), teacher=cached, steps=6)
    live = Stage(Loss(kl_divergence), teacher=ModelTeacher(teacher), steps=6)
    losses = [
        [
            report.loss
            for report in distill(
                small("t5", tokenizer, seed=2), one, data, batch_size=9, accelerator="cpu", log_every=1
            )
        ]
        for one in (stage, stage, live)
    ]
    assert losses[0] == losses[1]
    assert losses[0] == pytest.approx(losses[2], rel=1e-4)


def test_the_formats_of_models(tokenizer):
    t5 = small("t5", tokenizer)
    gpt = open_model("hf:gpt2", head="causal_lm", pretrained=False, n_layer=1, n_embd=8, n_head=2)
    assert (is_encoder_decoder(t5), is_causal_lm(t5)) == (True, False)
    assert [find_label_format(m) for m in (t5, gpt, nn.Linear(1, 1))] == ["decoder", "token", "output"]
    with pytest.raises(LimbeckError, match="one kind"):
        find_label_format(t5, gpt)


@pytest.mark.parametrize(("rows", "kind"), [
    ([], DataError), ([{"source": "a"}], DataError), (["a"], DataError), ([{"source": "a", "target": ""}], DataError),
    ([{"source": " ".join(WORDS * 3), "target": "one"}], DataError),
])  # fmt: skip
def test_rows_that_are_no_pairs_are_refused(rows, kind, tokenizer):
    with pytest.raises(kind):
        TokenPairDataset(rows, tokenizer=tokenizer, max_length=12)


def test_long_pairs_can_be_dropped_and_numbers_stay(tokenizer):
    rows = [PAIRS[0], {"source": " ".join(WORDS * 3), "target": "one"}, PAIRS[1]]
    data = TokenPairDataset(rows, tokenizer=tokenizer, max_length=12, too_long="drop")
    batch = data.take(torch.arange(2))
    assert len(data) == 2
    assert batch.extra["text_number"][:, 0].tolist() == [0, 2]
    assert data.labeled_tokens == int(batch.mask.sum())
    with pytest.raises(ArgumentError):
        TokenPairDataset(rows, tokenizer=tokenizer, max_length=0)


def test_the_fingerprint_tells_pairs_apart(tokenizer):
    one, same, other = (
        TokenPairDataset(rows, tokenizer=tokenizer).fingerprint for rows in (PAIRS[:4], PAIRS[:4], PAIRS[1:5])
    )
    assert one == same != other


def test_a_copying_decoder_is_refused_and_a_copying_task_is_not(tokenizer):
    same = TokenPairDataset([{"source": word, "target": word} for word in WORDS], tokenizer=tokenizer)
    distill(small("t5", tokenizer), Stage(Loss(cross_entropy), steps=1), same, accelerator="cpu").finish()
    batch = same.take(torch.arange(6))
    wrong = Batch({**pure(batch), "decoder_input_ids": batch.labels.clamp_min(0)}, labels=batch.labels)
    loader = TorchLoader([0], to_batch=lambda _: wrong)
    with pytest.raises(LimbeckError, match="copy"):
        distill(small("t5", tokenizer), Stage(Loss(cross_entropy), steps=1), loader, accelerator="cpu").finish()
