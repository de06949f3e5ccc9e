"""Texts are tokenized once, padded correctly, and known by name."""

from __future__ import annotations

import gzip
import json

import pytest
import torch

transformers = pytest.importorskip("transformers", reason="transformers is not installed (extra hf)")

from limbeck.data import ShuffledLoader, TextDataset, load_data, open_tokenizer, train_tokenizer  # noqa: E402
from limbeck.errors import DataError, LimbeckError, LimbeckWarning, UnknownNameError  # noqa: E402

LINES = ["a fine film", "dull", "a very very long and winding film", "flat , flat , flat"] * 5


@pytest.fixture(scope="module")
def tokenizer():
    return train_tokenizer(LINES, vocabulary=80)


@pytest.mark.parametrize("side", ["right", "left"])
def test_a_batch_is_what_the_tokenizer_itself_pads(tokenizer, side):
    tokenizer.padding_side = side
    data = TextDataset(LINES, [0, 1] * 10, tokenizer=tokenizer, max_length=6)
    index = torch.tensor([3, 1, 2])
    batch = data.take(index)
    expected = tokenizer([LINES[i] for i in index], padding=True, truncation=True, max_length=6, return_tensors="pt")
    tokenizer.padding_side = "right"
    assert batch.inputs.keys() == expected.keys()
    assert all(torch.equal(column, batch.inputs[name]) for name, column in expected.items())
    assert torch.equal(batch.mask, expected["attention_mask"].bool())
    assert batch.labels.tolist() == [1, 1, 0]
    assert batch.extra["text"] == [LINES[i] for i in index]


def test_pairs_are_joined_by_the_tokenizer(tokenizer):
    data = TextDataset(LINES, pairs=LINES[::-1], tokenizer=tokenizer)
    expected = tokenizer([LINES[0]], [LINES[-1]], return_tensors="pt")
    assert all(torch.equal(column, data.take(torch.tensor([0])).inputs[name]) for name, column in expected.items())


def test_the_same_texts_give_the_same_tokenizer_and_fingerprint(tokenizer):
    again = train_tokenizer(LINES, vocabulary=80)
    assert again.get_vocab() == tokenizer.get_vocab()
    first, second = (TextDataset(LINES, tokenizer=made).fingerprint for made in (tokenizer, again))
    assert first == second
    assert first != TextDataset(LINES[::-1], tokenizer=tokenizer).fingerprint
    assert first != TextDataset(LINES, [0] * 20, tokenizer=tokenizer).fingerprint


def test_a_tokenizer_comes_back_from_its_folder(tokenizer, tmp_path):
    tokenizer.save_pretrained(tmp_path)
    assert open_tokenizer(tmp_path)(LINES)["input_ids"] == tokenizer(LINES)["input_ids"]


def test_a_source_pads_each_batch_to_its_own_longest(tokenizer):
    widths = [
        batch.inputs["input_ids"].shape[1]
        for batch in ShuffledLoader(TextDataset(LINES, tokenizer=tokenizer), batch_size=1, shuffle=False)
    ]
    assert set(widths) == {len(row) for row in tokenizer(LINES)["input_ids"]}


def written(path, rows):
    with gzip.open(path, "wt") if path.suffix == ".gz" else open(path, "w") as file:
        file.writelines(json.dumps(row) + "\n" for row in rows)
    return path


def test_files_of_json_lines(tmp_path):
    rows = [{"review": line, "stars": "many" if i % 2 else "few"} for i, line in enumerate(LINES)]
    file = written(tmp_path / "rows.jsonl", rows)
    data = load_data(file, text="review", target="stars", vocabulary=80)
    assert (len(data.train), len(data.test), data.class_names) == (16, 4, ("few", "many"))
    assert "held out" in data.note
    other = written(tmp_path / "more.jsonl.gz", rows[:4])
    apart = load_data(file, text="review", target="stars", vocabulary=80, test=other)
    assert (len(apart.train), len(apart.test)) == (20, 4)
    with pytest.raises(DataError, match=r"line 1, has no 'text'. It has: review, stars"):
        load_data(file)
    file.write_text("{")
    with pytest.raises(DataError, match="JSON lines"):
        load_data(file)


def test_sst2(real_data, tmp_path):
    if not (real_data / "sst2").is_dir():
        pytest.skip("no sst2/ in LIMBECK_DATA")
    data = load_data("sst2_sentences", folder=real_data, vocabulary=500, max_length=64)
    assert "1,140 of 6,920 texts (16%) of the train file are longer than 64 tokens" in data.note
    assert (len(data.train), len(data.test), data.class_names) == (6920, 1821, ("negative", "positive"))
    assert len(data.tokenizer) == 500
    with pytest.raises(DataError, match="sst2 is not on this machine: put glue_train"):
        load_data("sst2", folder=tmp_path)


@pytest.mark.usefixtures("unchecked")
def test_bad_input_is_one_sentence(tokenizer, tmp_path):
    without = train_tokenizer(LINES, vocabulary=80)
    without.pad_token = None
    for said, kind, make in (
        ("Texts need a tokenizer, but there is none", LimbeckError, lambda: TextDataset(LINES, tokenizer=None)),
        ("no padding token", LimbeckError, lambda: TextDataset(LINES, tokenizer=without)),
        ("20 texts but 2 labels", DataError, lambda: TextDataset(LINES, [0, 1], tokenizer=tokenizer)),
        ("texts is a single string", DataError, lambda: TextDataset("a film", tokenizer=tokenizer)),
        (r"texts\[1\] is a NoneType", DataError, lambda: TextDataset(["a", None], tokenizer=tokenizer)),
        ("There are no texts", DataError, lambda: TextDataset([], tokenizer=tokenizer)),
        ("There is no tokenizer in", DataError, lambda: open_tokenizer(tmp_path)),
        ("vocabulary=3", LimbeckError, lambda: train_tokenizer(LINES, vocabulary=3)),
        ("'sst2'", UnknownNameError, lambda: load_data("sst")),
        ("vocabulary=9", LimbeckError, lambda: load_data("sst2", tokenizer=tmp_path, vocabulary=9)),
    ):
        with pytest.raises(kind, match=said):
            make()


# --- labels, columns, cut texts --------------------------------------------------------------------------------------


@pytest.mark.parametrize("label", [int, float, str])
def test_classes_that_are_numbers_are_in_their_own_order(tmp_path, label):
    rows = [{"text": f"topic {i % 12}", "label": label(i % 12)} for i in range(48)]
    data = load_data(written(tmp_path / "a.jsonl", rows), vocabulary=60)
    assert data.class_names == tuple(map(str, range(12)))
    first = data.train.take(torch.arange(len(data.train)))
    assert [f"topic {label}" for label in first.labels.tolist()] == first.extra["text"]


def test_a_text_that_is_a_number_and_other_odd_rows(tmp_path):
    good = [{"text": "a b", "label": i % 2} for i in range(20)]
    data = load_data(written(tmp_path / "a.jsonl", [*good, {"text": 5, "label": 1}]), vocabulary=40)
    assert "1 of 21 texts are numbers" in data.note
    for row in ({"text": ["a"], "label": 1}, {"text": True, "label": 1}, {"text": "a", "label": 0.5},
                {"text": "a", "label": [1]}, {"text": None, "label": 1}):  # fmt: skip
        with pytest.raises(DataError, match="line 21"):
            load_data(written(tmp_path / "b.jsonl", [*good, row]), vocabulary=40)
    with pytest.raises(DataError, match="is a number in every line"):
        load_data(written(tmp_path / "c.jsonl", [{"text": i, "label": i % 2} for i in range(9)]))


def test_texts_in_the_columns_of_a_table(tmp_path):
    pytest.importorskip("pyarrow", reason="pyarrow is not installed: pip install 'limbeck[table]'")
    rows = "".join(f'{10 - i % 3},"Title, {i}","two\nlines {i % 3}"\n' for i in range(60)) + '8,t,""\n'
    (tmp_path / "a.csv").write_text("topic,title,body\n" + rows)
    data = load_data(tmp_path / "a.csv", text="body", target="topic", vocabulary=60, val=tmp_path / "a.csv")
    assert data.class_names == ("8", "9", "10")
    assert (len(data.train), len(data.development), len(data.test)) == (49, 61, 12)
    assert data.development.take(torch.tensor([1])).extra["text"] == ["two\nlines 1"]
    assert "1 rows have an empty text" in data.note
    with pytest.raises(DataError, match=r"no column 'text'"):
        load_data(tmp_path / "a.csv", text="text", target="topic")


def test_texts_that_are_cut_are_counted_and_reported(tokenizer, tmp_path):
    long = [" ".join(["film"] * 150), "dull", " ".join(["film"] * 160)]
    with pytest.warns(LimbeckWarning, match="2 of 3 texts are longer than 128 tokens"):
        assert TextDataset(long, tokenizer=tokenizer).cut == 2
    assert TextDataset(long, tokenizer=tokenizer, max_length=152).cut == 1
    assert TextDataset([" ".join(["film"] * 126)], tokenizer=tokenizer).cut == 0
    rows = [{"text": "word " * 90 + str(i % 2), "label": i % 2} for i in range(20)]
    with pytest.warns(LimbeckWarning, match=r"20 of 20 texts \(100%\) .* longer than 64 tokens"):
        load_data(written(tmp_path / "a.jsonl", rows), vocabulary=40)
    assert "truncated" in load_data(tmp_path / "a.jsonl", vocabulary=40, max_length=80).note
    assert "truncated" not in load_data(tmp_path / "a.jsonl", vocabulary=40, max_length=200).note


def test_a_text_ends_with_the_token_that_reports_it(tokenizer):
    texts = ["a fine film", "dull", " ".join(["film"] * 9), ""]
    tokenizer.eos_token = "[MASK]"
    end = tokenizer.eos_token_id
    plain = TextDataset(texts, tokenizer=tokenizer, max_length=8)
    ended = TextDataset(texts, tokenizer=tokenizer, max_length=8, add_eos_token=True)
    for place in range(len(texts)):
        row, more = (part.take(torch.tensor([place])).inputs["input_ids"][0].tolist() for part in (plain, ended))
        assert more == (row if len(row) == 8 else [*row, end])
    assert ended.fingerprint != plain.fingerprint
    assert ended.cut == plain.cut == 1
    assert ended.take(torch.arange(4)).mask.sum() == plain.take(torch.arange(4)).mask.sum() + 3


def test_an_end_that_the_tokenizer_lacks_is_refused(tokenizer):
    tokenizer.eos_token = None
    with pytest.raises(LimbeckError, match="eos_token"):
        TextDataset(["a"], tokenizer=tokenizer, add_eos_token=True)
