"""Token datasets for language models: windows, labels, masks, packing, padding."""

from __future__ import annotations

import copy

import numpy as np
import pytest
import torch

import limbeck as lb
from limbeck.batch import IGNORED
from limbeck.data import train_tokenizer
from limbeck.data.token_dataset import TokenDataset
from limbeck.data.tokenized_texts import TokenizedTexts, hash_tokenizer, tokenize_texts
from limbeck.errors import ArgumentError, DataError, LimbeckError, TextTooLongError
from limbeck.functional import cross_entropy, kl_divergence

TEXTS = ["a b c d e f g h", "b c", "c d e f a a b", "h"]
PROMPTS = [{"prompt": "a b", "completion": " c d"}, {"prompt": "e f g", "completion": " h"}]
TEMPLATE = (
    "{% for m in messages %}{{ m['role'] }}: {{ m['content'] }} . {% endfor %}"
    "{% if add_generation_prompt %}assistant: {% endif %}"
)


@pytest.fixture(scope="module")
def tokenizer():
    words = " ".join([*TEXTS, "user assistant : ."])
    tokenizer = train_tokenizer([words], vocabulary=60)
    tokenizer.eos_token = "[SEP]"
    return tokenizer


def rows_of(data):
    batch = data.take(torch.arange(len(data)))
    return batch.inputs["input_ids"], batch.labels, batch


@pytest.mark.parametrize("packing", [False, True])
@pytest.mark.parametrize("overlap", [0, 2])
@pytest.mark.parametrize("max_length", [3, 5, 100])
def test_each_token_but_the_first_is_a_label_once(tokenizer, max_length, overlap, packing):
    data = TokenDataset(TEXTS, tokenizer=tokenizer, max_length=max_length, overlap=overlap, packing=packing)
    _, labels, batch = rows_of(data)
    number = batch.extra["text_number"]
    for i, text in enumerate(TEXTS):
        expected = tokenizer(text)["input_ids"]
        found = labels[(number == i) & (labels != IGNORED)].tolist()
        assert found == expected[1:]
        assert expected[-1] == tokenizer.eos_token_id
    assert data.labeled_tokens == sum(len(tokenizer(text)["input_ids"]) - 1 for text in TEXTS)


def test_a_label_is_the_token_behind_its_position(tokenizer):
    for data in (
        TokenDataset(TEXTS, tokenizer=tokenizer, max_length=4),
        TokenDataset(TEXTS, tokenizer=tokenizer, max_length=6, packing=True),
        TokenDataset(TEXTS, tokenizer=tokenizer, max_length=6, padding_side="left"),
    ):
        ids, labels, batch = rows_of(data)
        same = (batch.extra["text_number"][:, :-1] == batch.extra["text_number"][:, 1:]) & (labels[:, :-1] != IGNORED)
        assert bool((labels[:, :-1][same] == ids[:, 1:][same]).all())
        assert torch.equal(batch.mask, labels != IGNORED)


def test_position_ids_begin_at_zero_whatever_the_padding(tokenizer):
    """Trap 12 and defect D5: left padding without position ids gives GPT-2 wrong positions."""
    left = TokenDataset(TEXTS, tokenizer=tokenizer, padding_side="left").take(torch.tensor([0, 1]))
    right = TokenDataset(TEXTS, tokenizer=tokenizer).take(torch.tensor([0, 1]))
    for one in (left, right):
        inside = one.inputs["attention_mask"].bool()
        assert one.inputs["position_ids"][1][inside[1]].tolist() == list(range(int(inside[1].sum())))
    assert left.inputs["attention_mask"][1, -1] == 1
    assert right.inputs["attention_mask"][1, 0] == 1
    assert torch.equal(left.labels[left.mask], right.labels[right.mask])


def test_a_long_text_keeps_all_its_tokens():
    """Defect D4: 128 of 338,025 tokens were kept."""
    text = " ".join("abcdefgh"[i % 8] for i in range(3000))
    tokenizer = train_tokenizer([text], vocabulary=40)
    data = TokenDataset([text], tokenizer=tokenizer, max_length=128, add_eos_token=False)
    assert data.labeled_tokens == len(tokenizer(text)["input_ids"]) - 1


def test_prompt_tokens_are_read_and_not_learned(tokenizer):
    ids, labels, batch = rows_of(TokenDataset(PROMPTS, tokenizer=tokenizer))
    for i, row in enumerate(PROMPTS):
        learned = tokenizer.decode(labels[i][labels[i] != IGNORED])
        assert learned == f"{row['completion'].strip()}[SEP]"
        assert tokenizer.decode(ids[i][batch.extra["masks"]["text"][i]]).startswith(f"[CLS] {row['prompt']}")


def test_a_token_that_spans_the_end_of_the_prompt_is_learned():
    tokenizer = train_tokenizer(["foobar foobar foobar"], vocabulary=40)
    tokens = tokenize_texts([{"prompt": "foo", "completion": "bar"}], tokenizer, add_eos_token=False)
    assert tokenizer.convert_ids_to_tokens(tokens.ids[tokens.is_target])[0].strip("▁") == "foobar"


def test_the_end_token_counts_also_where_it_pads(tokenizer):
    """Trap 12: a mask made from padding ids hides the first end token."""
    other = train_tokenizer([" ".join(TEXTS)], vocabulary=40)
    other.eos_token = other.pad_token = "[SEP]"
    _, labels, batch = rows_of(TokenDataset(TEXTS, tokenizer=other))
    ends = (labels == other.eos_token_id).sum(1)
    assert ends.tolist() == [1] * len(TEXTS)
    assert batch.extra["masks"]["text"].sum(1).tolist() == [len(other(text)["input_ids"]) - 1 for text in TEXTS]


def test_only_the_answers_of_a_chat_are_learned(tokenizer):
    tokenizer.chat_template = TEMPLATE
    chat = [
        {"role": "user", "content": "a b"}, {"role": "assistant", "content": "c d"},
        {"role": "user", "content": "e"}, {"role": "assistant", "content": "f"},
    ]  # fmt: skip
    tokens = tokenize_texts([{"messages": chat}], tokenizer)
    assert tokenizer.decode(tokens.ids[tokens.is_target]).replace(" ", "") == "cd.f.[SEP]"
    assert tokenizer.decode(tokens.ids).count("[CLS]") == 0  # the template writes the special tokens


@pytest.mark.parametrize("family", ["gpt2", "llama"])
def test_packed_texts_and_left_padding_give_the_logits_of_each_text_alone(tokenizer, family):
    """Trap of packing: without new positions, or with a cache or a mask, texts see each other."""
    hf = pytest.importorskip("transformers")
    torch.manual_seed(0)
    size = {"vocab_size": len(tokenizer), "bos_token_id": 1, "eos_token_id": 1}
    if family == "gpt2":
        config = hf.GPT2Config(n_embd=16, n_layer=2, n_head=2, n_positions=64, **size)
        model = hf.GPT2LMHeadModel(config).eval()
    else:
        config = hf.LlamaConfig(
            hidden_size=16, intermediate_size=24, num_hidden_layers=2, num_attention_heads=2, **size
        )
        model = hf.LlamaForCausalLM(config).eval()
    with torch.no_grad():
        alone = {
            i: model(input_ids=torch.tensor([tokenizer(text)["input_ids"][:-1]])).logits[0]
            for i, text in enumerate(TEXTS)
        }
        for options in ({"packing": True, "max_length": 16}, {"padding_side": "left"}, {}):
            data = TokenDataset(TEXTS, tokenizer=tokenizer, **options)
            batch = data.take(torch.arange(len(data)))
            logits = model(**batch.inputs).logits
            for i, expected in alone.items():
                torch.testing.assert_close(logits[batch.extra["text_number"] == i], expected, rtol=0, atol=1e-5)


def test_packed_rows_are_full_and_fewer(tokenizer):
    apart = TokenDataset(TEXTS * 5, tokenizer=tokenizer, max_length=20)
    packed = TokenDataset(TEXTS * 5, tokenizer=tokenizer, max_length=20, packing=True)
    assert len(packed) < len(apart)
    assert packed.labeled_tokens == apart.labeled_tokens
    assert max(packed.take(torch.tensor([i])).inputs["input_ids"].shape[1] for i in range(len(packed))) <= 20


def test_tokens_are_stored_once_and_mapped(tokenizer, tmp_path, monkeypatch):
    first = TokenDataset(TEXTS, tokenizer=tokenizer, max_length=4, folder=tmp_path)
    monkeypatch.setattr("limbeck.data.tokenized_texts._tokenize", lambda *_: pytest.fail("tokenized again"))
    second = TokenDataset(TEXTS, tokenizer=tokenizer, max_length=4, folder=tmp_path)
    assert first.fingerprint == second.fingerprint
    assert torch.equal(rows_of(first)[0], rows_of(second)[0])
    assert len(list(tmp_path.iterdir())) == 1


def test_other_texts_or_another_tokenizer_are_stored_apart(tokenizer, tmp_path):
    other = train_tokenizer(["x y z"], vocabulary=30)
    other.eos_token = "[SEP]"
    for texts, one in ((TEXTS, tokenizer), (TEXTS[:2], tokenizer), (TEXTS, other)):
        tokenize_texts(texts, one, folder=tmp_path)
    assert len(list(tmp_path.iterdir())) == 3
    assert hash_tokenizer(tokenizer) != hash_tokenizer(other)


def test_damaged_tokens_are_refused(tokenizer, tmp_path):
    tokenize_texts(TEXTS, tokenizer, folder=tmp_path)
    (file,) = tmp_path.glob("*/ids.bin")
    content = bytearray(file.read_bytes())
    content[5] ^= 1
    file.write_bytes(content)
    with pytest.raises(DataError):
        tokenize_texts(TEXTS, tokenizer, folder=tmp_path)
    file.unlink()
    with pytest.raises(DataError):
        tokenize_texts(TEXTS, tokenizer, folder=tmp_path)


def test_the_fingerprint_changes_with_content_and_cut(tokenizer):
    base = TokenDataset(TEXTS, tokenizer=tokenizer, max_length=8).fingerprint
    others = [
        TokenDataset(TEXTS[:3], tokenizer=tokenizer, max_length=8),
        TokenDataset(TEXTS, tokenizer=tokenizer, max_length=4),
        TokenDataset(TEXTS, tokenizer=tokenizer, max_length=8, overlap=1),
        TokenDataset(TEXTS, tokenizer=tokenizer, max_length=8, packing=True),
        TokenDataset(TEXTS, tokenizer=tokenizer, max_length=8, padding_side="left"),
    ]
    assert len({base, *(one.fingerprint for one in others)}) == 6
    assert TokenDataset(TEXTS, tokenizer=tokenizer, max_length=8).fingerprint == base


@pytest.mark.parametrize(
    "texts",
    [
        [], ["a", 3], [{"prompt": "a"}], [{"prompt": "a", "completion": ""}], [{"text": None}], [{"other": "a"}],
        [{"messages": [{"role": "user", "content": "a"}]}], [{"messages": "a"}],
    ],
)  # fmt: skip
def test_wrong_texts_are_refused(tokenizer, texts):
    tokenizer.chat_template = TEMPLATE
    with pytest.raises(DataError):
        TokenDataset(texts, tokenizer=tokenizer)


def test_a_prompt_that_is_too_long_is_refused_dropped_or_cut(tokenizer):
    texts = [*PROMPTS, {"prompt": "a b c d e f g", "completion": " h a b"}]
    with pytest.raises(TextTooLongError) as caught:
        TokenDataset(texts, tokenizer=tokenizer, max_length=7)
    TokenDataset(texts, tokenizer=tokenizer, max_length=caught.value.needed)
    with pytest.raises(TextTooLongError):
        TokenDataset(texts, tokenizer=tokenizer, max_length=caught.value.needed - 1)
    assert len(TokenDataset(texts, tokenizer=tokenizer, max_length=7, too_long="drop")) == 2
    cut = TokenDataset(texts, tokenizer=tokenizer, max_length=7, too_long="window")
    labels = cut.take(torch.arange(len(cut))).labels
    assert tokenizer.decode(labels[labels != IGNORED][-4:]) == "h a b[SEP]"
    with pytest.raises(DataError):
        TokenDataset(texts[2:], tokenizer=tokenizer, max_length=7, too_long="drop")


@pytest.mark.parametrize(
    ("argument", "value"),
    [
        ("max_length", 0),
        ("max_length", True),
        ("overlap", 4),
        ("overlap", -1),
        ("padding_side", "top"),
        ("too_long", "x"),
    ],
)
def test_wrong_arguments_are_refused(tokenizer, argument, value):
    with pytest.raises(ArgumentError) as caught:
        TokenDataset(TEXTS, tokenizer=tokenizer, **{"max_length": 4, argument: value})
    assert caught.value.argument == argument


def test_a_tokenizer_without_an_end_is_refused():
    with pytest.raises(LimbeckError):
        TokenDataset(TEXTS, tokenizer=train_tokenizer(TEXTS, vocabulary=40))


def test_rows_are_the_same_whatever_the_order(tokenizer):
    data = TokenDataset(TEXTS, tokenizer=tokenizer, max_length=5)
    whole = data.take(torch.arange(len(data)))
    order = torch.from_numpy(np.random.default_rng(0).permutation(len(data)))
    some = data.take(order)
    width = some.inputs["input_ids"].shape[1]
    for name in ("input_ids", "position_ids", "attention_mask"):
        assert torch.equal(whole.inputs[name][order][:, :width], some.inputs[name])
    assert torch.equal(whole.id[order], some.id)


def test_a_row_may_have_the_columns_of_the_other_forms_without_values(tokenizer):
    rows = [
        {"text": "a b", "prompt": None, "completion": None, "messages": None},
        {"text": None, "prompt": "a b", "completion": " c", "messages": None},
    ]
    plain = tokenize_texts(["a b", {"prompt": "a b", "completion": " c"}], tokenizer)
    assert tokenize_texts(rows, tokenizer).fingerprint == plain.fingerprint


def test_one_text_is_a_list_of_one(tokenizer):
    expected = tokenize_texts(["a b"], tokenizer).fingerprint
    assert tokenize_texts("a b", tokenizer).fingerprint == expected
    assert tokenize_texts({"text": "a b"}, tokenizer).fingerprint == expected


def test_a_chat_without_messages_is_refused(tokenizer):
    chats = copy.deepcopy(tokenizer)
    chats.chat_template = TEMPLATE
    with pytest.raises(DataError, match="Row 1"):
        tokenize_texts(["a", {"messages": []}], chats)


def test_texts_keep_their_tokenizer(tokenizer):
    texts = tokenize_texts(TEXTS, tokenizer)
    other = train_tokenizer(["x y z"], vocabulary=20)
    with pytest.raises(ArgumentError):
        TokenDataset(texts, tokenizer=other)
    without_padding = copy.deepcopy(tokenizer)
    without_padding.pad_token = None
    with pytest.raises(LimbeckError, match="padding token"):
        TokenDataset(TokenizedTexts(texts.ids, texts.is_target, texts.starts, tokenizer=without_padding))


@pytest.mark.parametrize("packing", [False, True])
def test_no_rows_are_an_empty_batch(tokenizer, packing):
    batch = TokenDataset(TEXTS, tokenizer=tokenizer, packing=packing).take(torch.arange(0))
    assert batch.size == 0
    assert batch.labels.shape == (0, 0)


def test_a_run_has_the_same_loss_with_and_without_packing(tokenizer):
    """The inputs pass through loader, accumulation and engine, and no text sees another one."""
    hf = pytest.importorskip("transformers")
    size = {"vocab_size": len(tokenizer), "bos_token_id": 1, "eos_token_id": 1}
    dropout = {"attn_pdrop": 0.0, "embd_pdrop": 0.0, "resid_pdrop": 0.0}
    losses = []
    for packing in (False, True):
        torch.manual_seed(0)
        student, teacher = (
            hf.GPT2LMHeadModel(hf.GPT2Config(n_embd=16, n_layer=1, n_head=2, n_positions=64, **size, **dropout))
            for _ in range(2)
        )
        data = TokenDataset(TEXTS * 2, tokenizer=tokenizer, max_length=16, packing=packing)
        loader = lb.ShuffledLoader(data, batch_size=-(-len(data) // 2), shuffle=False)
        stage = lb.Stage(lb.Loss(cross_entropy) + lb.Loss(kl_divergence), teacher=teacher, steps=1)
        run = lb.distill(student, stage, loader, accumulate=2, accelerator="cpu", log_every=1).finish()
        losses.append(run.history[0].loss)
    assert losses[0] == pytest.approx(losses[1], rel=1e-5)
    assert losses[0] > 1
