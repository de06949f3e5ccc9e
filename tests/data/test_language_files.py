"""Texts for language models from files: forms, splits by text, tokenizers, and mistakes that get one sentence."""

from __future__ import annotations

import gzip
import json
import re

import pytest
import torch

pytest.importorskip("transformers")

from limbeck.batch import IGNORED
from limbeck.data import (
    TokenDataset,
    hash_tokenizer,
    load_data,
    open_tokenizer,
    split_texts,
    tokenize_texts,
    train_byte_level_tokenizer,
)
from limbeck.data.text_files import read_json_rows
from limbeck.errors import DataError, LimbeckError

SENTENCES = [f"Word {number} is told to word {number + 1}." for number in range(20)]
PAIRS = [{"prompt": f"{a} and {a}:", "completion": f" {2 * a}"} for a in range(12)]
TEMPLATE = (
    "{% for m in messages %}<{{ m['role'] }}>{{ m['content'] }}{% endfor %}"
    "{% if add_generation_prompt %}<assistant>{% endif %}"
)


def _lines(path, rows):
    path.write_text("\n".join(json.dumps(row) for row in rows))
    return path


def _texts(data):
    """All texts of a dataset: each window begins with a new token, and ends with the label of the last."""
    batch = data.take(torch.arange(len(data)))
    ids, labels, numbers = batch.inputs["input_ids"], batch.labels, batch.extra["text_number"]
    decoded = {}
    for number in data.text_numbers.tolist():
        there = numbers == number
        last = labels[there & (labels != IGNORED)][-1:]
        decoded[number] = data.tokenizer.decode(torch.cat([ids[there], last]), skip_special_tokens=True)
    return decoded


@pytest.fixture
def tokenizer(tmp_path):
    tokenizer = train_byte_level_tokenizer([*SENTENCES, *map(str, PAIRS)], vocabulary=300)
    tokenizer.chat_template = TEMPLATE
    tokenizer.save_pretrained(tmp_path / "tokenizer")
    return tokenizer


def test_half_a_character_in_a_file_is_named_and_a_whole_pair_is_text(tmp_path):
    path = _lines(tmp_path / "texts.jsonl", [{"text": "whole \U0001f642"}, {"text": "half \ud83d"}])
    with pytest.raises(DataError, match="line 2"):
        list(read_json_rows(path))
    assert list(read_json_rows(_lines(path, [{"text": "whole \U0001f642"}]))) == [(1, {"text": "whole \U0001f642"})]


@pytest.mark.parametrize("text", ["plain words\n", "  two  spaces\t\ttabs ", "Zoë 東京 🙂\r\n", "<|not special|> \x07"])
def test_a_byte_level_tokenizer_gives_back_every_text(tokenizer, text):
    assert tokenizer.decode(tokenizer(text)["input_ids"]) == text


def test_the_same_texts_give_the_same_tokenizer():
    one, other = (train_byte_level_tokenizer(SENTENCES, vocabulary=280) for _ in range(2))
    assert hash_tokenizer(one) == hash_tokenizer(other)
    assert (one.eos_token_id, one.pad_token_id, len(one)) == (0, 0, 280)
    with pytest.raises(LimbeckError, match="256"):
        train_byte_level_tokenizer(SENTENCES, vocabulary=256)


def test_trap_12_pad_token_is_end_token_and_the_first_end_is_learned(tmp_path):
    (tmp_path / "t.txt").write_text("\n".join(SENTENCES))
    train = load_data(tmp_path / "t.txt", vocabulary=280).train
    assert train.tokenizer.pad_token_id == train.tokenizer.eos_token_id
    batch = train.take(torch.arange(len(train)))
    ends = (batch.labels == train.tokenizer.eos_token_id).sum(1)
    assert ends.tolist() == [1] * len(train)  # of each text, and no padding
    assert bool((batch.mask == (batch.labels != IGNORED)).all())


@pytest.mark.parametrize(
    ("text", "by", "expected"),
    [
        ("a a\nb b\n\nc c\n \nd d\n", None, ["a a\nb b", "c c", "d d"]),
        ("a a\nb b\nc c\n\n\n", None, ["a a", "b b", "c c"]),
        ("a a\r\nb b\n\nc c\n", "line", ["a a", "b b", "c c"]),
        ("\n\na a\n\n\n\n  b b\n", "paragraph", ["a a", "  b b"]),
    ],
)
def test_texts_of_a_text_file(tmp_path, text, by, expected):
    (tmp_path / "t.txt").write_bytes(text.encode())
    data = load_data(tmp_path / "t.txt", sample_by=by, vocabulary=260)
    assert data.task == "language_modeling"
    assert [text for _, text in sorted((_texts(data.train) | _texts(data.test)).items())] == expected


def test_a_folder_has_its_parts(tmp_path):
    for part, rows in (("train", SENTENCES[:10]), ("valid", SENTENCES[10:13]), ("test", SENTENCES[13:15])):
        (tmp_path / f"{part}.txt").write_text("\n".join(rows))
    data = load_data(tmp_path, vocabulary=280)
    found = [list(_texts(part).values()) for part in (data.train, data.development, data.test)]
    assert found == [SENTENCES[:10], SENTENCES[10:13], SENTENCES[13:15]]
    assert data.tokenizer.get_vocab() == train_byte_level_tokenizer(SENTENCES[:10], vocabulary=280).get_vocab()


def test_a_whole_file_is_one_text_where_the_test_part_is_another(tmp_path):
    for part in ("train", "test"):
        (tmp_path / f"{part}.txt").write_text("\n\n".join(SENTENCES))
    data = load_data(tmp_path, vocabulary=280, sample_by="document", max_length=16)
    assert (len(data.train.text_numbers), _texts(data.train)[0]) == (1, "\n\n".join(SENTENCES))
    assert len(data.train) > 5


def test_packed_texts_and_gzip(tmp_path):
    with gzip.open(tmp_path / "t.txt.gz", "wt") as file:
        file.write("\n".join(SENTENCES))
    data = load_data(tmp_path / "t.txt.gz", packing=True, vocabulary=280, max_length=64)
    assert len(data.train) < len(data.train.text_numbers) == 16
    assert set(data.train.take(torch.tensor([0])).inputs) == {"input_ids", "position_ids", "use_cache"}


@pytest.mark.parametrize("packing", [False, True])
def test_texts_are_split_and_not_their_windows(tokenizer, packing):
    data = TokenDataset(SENTENCES, tokenizer=tokenizer, max_length=8, packing=packing)
    rest, holdout = split_texts(data, fraction=0.25, seed=3)
    ours, theirs = (set(part.text_numbers.tolist()) for part in (rest, holdout))
    assert (len(ours), len(theirs), ours & theirs) == (15, 5, set())
    assert rest.labeled_tokens + holdout.labeled_tokens == data.labeled_tokens
    assert {*_texts(rest).values(), *_texts(holdout).values()} == set(SENTENCES)
    again = split_texts(data, fraction=0.25, seed=3)
    assert [part.fingerprint for part in again] == [rest.fingerprint, holdout.fingerprint]
    assert len({data.fingerprint, rest.fingerprint, split_texts(data, fraction=0.25, seed=4)[0].fingerprint}) == 3


def test_prompts_are_not_learned_unless_asked(tmp_path, tokenizer):
    file, own = _lines(tmp_path / "p.jsonl", PAIRS), str(tmp_path / "tokenizer")
    answers = load_data(file, tokenizer=own)
    batch = answers.test.take(torch.tensor([0]))
    row = PAIRS[int(answers.test.text_numbers[0])]
    assert tokenizer.decode(batch.labels[batch.mask]) == row["completion"] + "<|endoftext|>"
    assert (
        answers.train.labeled_tokens < load_data(file, tokenizer=own, completion_only_loss=False).train.labeled_tokens
    )


def test_columns_have_other_names_and_chats_use_the_template(tmp_path, tokenizer):
    own = str(tmp_path / "tokenizer")
    renamed = [{"question": row["prompt"], "answer": row["completion"]} for row in PAIRS]
    named = load_data(_lines(tmp_path / "q.jsonl", renamed), prompt="question", completion="answer", tokenizer=own)
    plain = load_data(_lines(tmp_path / "p.jsonl", PAIRS), tokenizer=own)
    assert named.train.fingerprint == plain.train.fingerprint
    chats = [
        {"messages": [{"role": "user", "content": row["prompt"]}, {"role": "assistant", "content": row["completion"]}]}
        for row in PAIRS
    ]
    batch = load_data(_lines(tmp_path / "c.jsonl", chats), tokenizer=own).test.take(torch.tensor([0]))
    assert tokenizer.decode(batch.inputs["input_ids"][0]).startswith("<user>")
    assert tokenizer.decode(batch.labels[batch.mask]).endswith("<|endoftext|>")


def test_the_task_is_inferred_from_rows_without_labels(tmp_path):
    plain = [{"text": text} for text in SENTENCES]
    assert load_data(_lines(tmp_path / "a.jsonl", plain), vocabulary=280).task == "language_modeling"
    labeled = [{"text": text, "label": number % 2} for number, text in enumerate(SENTENCES)]
    file = _lines(tmp_path / "b.jsonl", labeled)
    assert load_data(file).task == "classification"
    assert load_data(file, task="language_modeling", vocabulary=280).task == "language_modeling"


def test_tokens_are_stored_once_and_mapped(tmp_path, tokenizer):
    file, cache = _lines(tmp_path / "p.jsonl", PAIRS), tmp_path / "cache"
    options = {"tokenizer": str(tmp_path / "tokenizer"), "cache_dir": str(cache)}
    first = load_data(file, **options)
    stored = sorted(cache.iterdir())
    assert len(stored) == 1
    assert load_data(file, **options).fingerprint == first.fingerprint
    assert sorted(cache.iterdir()) == stored
    load_data(file, **options, completion_only_loss=False)
    assert len(list(cache.iterdir())) == 2


@pytest.mark.parametrize(
    ("row", "options", "typed"),
    [
        ({"id": "1", "prompt": "1 and 1:", "answer": "2"}, {}, "data.completion=answer"),
        ({"prompt": "1 and 1:", "answer": "2"}, {"prompt": "prompt"}, "data.completion=answer"),
        ({"question": "1 and 1:", "reply": "2"}, {"prompt": "question"}, "data.completion=reply"),
        ({"prompt": "1 and 1:", "a": "2", "b": "2"}, {}, "data.completion=COLUMN"),
        ({"prompt": "1 and 1:"}, {}, "limbeck.data.PromptDataset"),
        ({"prompt": "1 and 1:"}, {"prompt": "prompt"}, "limbeck.data.PromptDataset"),
        ({"prompt": "1 and 1:"}, {"task": "language_modeling"}, "limbeck generate"),
    ],
)
def test_prompts_without_completions_say_what_to_type(tmp_path, row, options, typed):
    file = _lines(tmp_path / "prompts.jsonl", [row, row])
    with pytest.raises(DataError, match=re.escape(typed)):
        load_data(file, **options)


def test_answers_of_another_column_are_completions(tmp_path):
    rows = [{"prompt": row["prompt"], "answer": row["completion"]} for row in PAIRS]
    data = load_data(_lines(tmp_path / "prompts.jsonl", rows), completion="answer")
    assert data.task == "language_modeling"
    assert len(data.train) + len(data.test) == len(PAIRS)


def test_prompts_with_a_label_are_texts_with_classes(tmp_path):
    rows = [{"prompt": f"word {n} a", "label": n % 2} for n in range(20)]
    assert load_data(_lines(tmp_path / "c.jsonl", rows), text="prompt").task == "classification"


ROW = {"prompt": "1 and 1:", "completion": " 2"}
WRONG_ROWS = {
    "empty answer": ([ROW, {"prompt": "x", "completion": " "}], "line 2.*empty answer"),
    "empty text": ([{"text": "a"}, {"text": ""}], "line 2.*empty text"),
    "mixed keys": ([ROW, ROW, {"text": "a"}], "line 3.*text.*line 1.*prompt and completion"),
    "labels already shifted": ([{"input_ids": [1, 2], "labels": [2, 3]}], "shifted"),
    "no answer": ([ROW, {"prompt": "x"}], "line 2.*'completion'"),
    "a list": ([ROW, [1]], "line 2.*list"),
    "a number": ([{"text": "a"}, {"text": 5}], "line 2.* 5 .*quotes"),
    "only masked tokens": ([{"messages": [{"role": "user", "content": "a"}]}] * 3, "assistant"),
    "one text": ([{"text": "a b c"}], "one text only"),
}


@pytest.mark.parametrize("name", WRONG_ROWS)
def test_wrong_rows_get_one_sentence_with_the_line(tmp_path, tokenizer, name):
    rows, message = WRONG_ROWS[name]
    with pytest.raises(DataError, match=message) as caught:
        load_data(_lines(tmp_path / "w.jsonl", rows), tokenizer=str(tmp_path / "tokenizer"))
    assert "w.jsonl" in str(caught.value)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "empty"),
        (b" \n\n\t\n", "white space"),
        (b"one line\n", "one text only"),
        (b"text\n\0\1\2\n", "binary"),
        (b"caf\xe9\nau lait\n", "cp1252"),
        ("a\n\nb\n".encode("utf-16"), "utf-16"),
    ],
)
def test_wrong_text_files_get_one_sentence(tmp_path, content, message):
    (tmp_path / "w.txt").write_bytes(content)
    with pytest.raises(DataError, match=message):
        load_data(tmp_path / "w.txt")


def test_a_prompt_that_does_not_fit_is_named_with_its_line(tmp_path, tokenizer):
    rows = [*PAIRS, {"prompt": "long " * 40, "completion": " 1"}]
    file, own = _lines(tmp_path / "p.jsonl", rows), str(tmp_path / "tokenizer")
    with pytest.raises(DataError, match=r"line 13.*max_length=32"):
        load_data(file, tokenizer=own, max_length=32)
    data = load_data(file, tokenizer=own, max_length=32, too_long="drop")
    assert len(data.train.text_numbers) + len(data.test.text_numbers) == len(PAIRS)
    whole = load_data(file, tokenizer=own, max_length=len(tokenizer(rows[-1]["prompt"])["input_ids"]) + 8)
    assert len(whole.train.text_numbers) + len(whole.test.text_numbers) == len(rows)


def test_a_row_whose_answer_is_null_is_said_to_have_none(tmp_path):
    file = _lines(tmp_path / "p.jsonl", [*PAIRS, {"prompt": "1 + 1 =", "completion": None}])
    with pytest.raises(DataError, match=r"line 13, has no 'completion'; it has 'prompt'\. "):
        load_data(file, tokenizer=str(tmp_path / "tokenizer"))


def test_a_tokenizer_without_an_end_token_is_refused(tmp_path, tokenizer):
    tokenizer.eos_token = None
    tokenizer.save_pretrained(tmp_path / "endless")
    file = _lines(tmp_path / "p.jsonl", PAIRS)
    with pytest.raises(LimbeckError, match="eos_token"):
        load_data(file, tokenizer=str(tmp_path / "endless"))
    data = load_data(file, tokenizer=str(tmp_path / "endless"), add_eos_token=False)
    assert data.train.tokenizer.eos_token_id is None


def test_a_tokenizer_without_padding_pads_with_its_end(tmp_path, tokenizer):
    tokenizer.pad_token = None
    tokenizer.save_pretrained(tmp_path / "padless")
    data = load_data(_lines(tmp_path / "p.jsonl", PAIRS), tokenizer=f"hf:{tmp_path / 'padless'}")
    assert data.tokenizer.pad_token_id == data.tokenizer.eos_token_id
    batch = data.train.take(torch.arange(len(data.train)))
    assert (batch.labels == data.tokenizer.eos_token_id).sum() == len(data.train)


@pytest.mark.parametrize(
    "option",
    [{"sample_by": "word"}, {"padding_side": "top"}, {"too_long": "cut"}, {"overlap": -1}, {"packing": "maybe"}],
)
def test_wrong_options_are_refused(tmp_path, option):
    (tmp_path / "t.txt").write_text("\n".join(SENTENCES))
    with pytest.raises(LimbeckError, match=next(iter(option))):
        load_data(tmp_path / "t.txt", **option)


def test_a_text_file_has_no_classes(tmp_path):
    (tmp_path / "t.txt").write_text("\n".join(SENTENCES))
    with pytest.raises(DataError, match="language_modeling"):
        load_data(tmp_path / "t.txt", task="classification")


def test_a_damaged_tokenizer_folder_is_named(tmp_path):
    with pytest.raises(DataError, match="tokenizer"):
        open_tokenizer(tmp_path)
    assert len(tokenize_texts(["a b"], train_byte_level_tokenizer(["a b"], vocabulary=258))) == 1


def test_trap_11_the_mask_is_shifted_with_the_labels(tmp_path, tokenizer):
    data = load_data(_lines(tmp_path / "p.jsonl", PAIRS), tokenizer=str(tmp_path / "tokenizer"))
    batch = data.train.take(torch.arange(len(data.train)))
    for row, number in enumerate(data.train.text_numbers.tolist()):
        prompt = len(tokenizer(PAIRS[number]["prompt"])["input_ids"])
        counted = batch.mask[row].nonzero()[:, 0]
        assert int(counted[0]) == prompt - 1  # the last token of the prompt predicts the first of the answer
        assert int(counted[-1]) < int(batch.inputs["attention_mask"][row].sum())


def test_pairs_of_an_encoder_decoder_are_split_by_pair(tmp_path, tokenizer):
    file = _lines(tmp_path / "p.jsonl", PAIRS)
    data = load_data(file, tokenizer=str(tmp_path / "tokenizer"), encoder_decoder=True)
    assert (len(data.train), len(data.test)) == (10, 2)
    batch = data.test.take(torch.tensor([0]))
    row = PAIRS[int(data.test.text_numbers[0])]
    assert tokenizer.decode(batch.inputs["input_ids"][0]) == row["prompt"] + "<|endoftext|>"
    assert tokenizer.decode(batch.labels[batch.mask]) == row["completion"] + "<|endoftext|>"
    with pytest.raises(DataError, match=r"line 1.*max_length=3"):
        load_data(file, tokenizer=str(tmp_path / "tokenizer"), encoder_decoder=True, max_length=3)


@pytest.mark.parametrize("decoder", [False, True])
def test_a_text_that_was_cut_off_has_no_end_to_learn(tmp_path, decoder):
    rows = [{"prompt": "a b", "completion": " c d", "stop_reason": reason} for reason in ("stop", "length", "stop")]
    path = tmp_path / "texts.jsonl"
    path.write_text("\n".join(map(json.dumps, rows)))
    data = load_data({"name": str(path), "test": str(path), "encoder_decoder": decoder or None}).train
    ends = [int((data.take(torch.tensor([i])).labels == data.tokenizer.eos_token_id).sum()) for i in range(3)]
    assert ends == [1, 0, 1]
