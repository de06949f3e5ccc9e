"""Other layouts of image folders, missing labels and foreign files are read or refused."""

from __future__ import annotations

import json

import numpy as np
import pytest
from PIL import Image

from limbeck.data import load_data
from limbeck.errors import DataError, UnknownNameError


def _lines(path, rows, charset="utf-8"):
    path.write_bytes("".join(json.dumps(row) + "\n" for row in rows).encode(charset))
    return path


def _pictures(folder, classes="ab", per=4, seed=0):
    random = np.random.default_rng(seed)
    for name in classes:
        (folder / name).mkdir(parents=True, exist_ok=True)
        for place in range(per):
            Image.fromarray(random.integers(0, 255, (8, 8), dtype=np.uint8)).save(folder / name / f"{place}.png")
    return folder


def _texts(count=40):
    return [{"text": f"word{place} here", "label": "ab"[place % 2]} for place in range(count)]


@pytest.mark.parametrize("change", [{"label": None}, {"label": ""}, {"label": "  "}, {"lable": "a", "label": None}])
def test_a_line_without_a_label_has_none_and_that_is_counted(tmp_path, change):
    pytest.importorskip("transformers")
    rows = [{**row, **change} if place % 4 == 0 else row for place, row in enumerate(_texts())]
    data = load_data(_lines(tmp_path / "d.jsonl", rows))
    assert sum(part.unlabeled for part in data.summary.parts) == 10
    assert any("10 of 40" in note for note in data.summary.notes)


@pytest.mark.parametrize("key", [{}, {"label": None}])
def test_lines_of_which_none_has_a_label_are_refused(tmp_path, key):
    with pytest.raises(DataError, match="'label'"):
        load_data(_lines(tmp_path / "d.jsonl", [{"text": "w", **key}] * 10), task="classification")


def test_spaces_around_labels_are_removed_and_that_is_said(tmp_path):
    pytest.importorskip("transformers")
    rows = [{**row, "label": f" {row['label']}"} if place < 9 else row for place, row in enumerate(_texts())]
    data = load_data(_lines(tmp_path / "d.jsonl", rows))
    assert data.class_names == ("a", "b")
    assert any("spaces" in note for note in data.summary.notes)


def test_one_list_is_no_lines(tmp_path):
    (tmp_path / "d.jsonl").write_text(json.dumps(_texts()))
    with pytest.raises(DataError, match="one entry per line"):
        load_data(tmp_path / "d.jsonl")


def test_lines_in_utf16_are_named_so(tmp_path):
    with pytest.raises(DataError, match="utf-16"):
        load_data(_lines(tmp_path / "d.jsonl", _texts(), "utf-16"))


@pytest.mark.parametrize(
    ("name", "way"),
    [("d.json", "jsonl"), ("d.npy", "savez"), ("d.csv.gz", "unpack"), ("d.xlsx", "CSV"), ("d.arrow", "Parquet"),
     ("d.png", "folder"), ("d", "npz")],
)  # fmt: skip
def test_a_file_that_is_no_data_is_named_with_what_would_be(tmp_path, name, way):
    (tmp_path / name).write_bytes(b"x")
    with pytest.raises(DataError, match=way):
        load_data(tmp_path / name)


@pytest.mark.parametrize("name", ["pictures/", "./pictures", "nothing/here/at/all", "cats.png", "rows.xlsx"])
def test_a_path_at_which_there_is_nothing_is_no_unknown_name(tmp_path, monkeypatch, name):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(DataError, match="There is no"):
        load_data(name)


def test_the_nearest_folder_is_named(tmp_path):
    _pictures(tmp_path / "pictures")
    with pytest.raises(DataError, match="Did you mean"):
        load_data(tmp_path / "picturs")
    with pytest.raises(UnknownNameError):
        load_data("mnits")


def test_the_parts_of_pictures_may_lie_elsewhere(tmp_path):
    train, test, val = (_pictures(tmp_path / name, seed=place) for place, name in enumerate("xyz"))
    data = load_data(train, test=test, val=val)
    assert [len(part) for part in (data.train, data.development, data.test)] == [8, 8, 8]
    assert not data.held_out
    with pytest.raises(DataError, match="There is no folder"):
        load_data(train, test=tmp_path / "w")
    with pytest.raises(DataError, match="'c'"):
        load_data(train, test=_pictures(tmp_path / "more", "abc"))


def test_what_a_system_leaves_behind_is_no_class(tmp_path):
    folder = _pictures(tmp_path / "p")
    (folder / "__MACOSX").mkdir()
    assert load_data(folder).class_names == ("a", "b")


def test_parts_inside_classes_are_said(tmp_path):
    for name in "ab":
        _pictures(tmp_path / "p" / name, ("train", "test"))
    assert any("named like a split" in note for note in load_data(tmp_path / "p").summary.notes)


def test_folders_that_are_numbers_say_their_order(tmp_path):
    data = load_data(_pictures(tmp_path / "p", [str(number) for number in range(12)], per=3))
    assert any("0, 1, 10, 11" in note for note in data.summary.notes)
    few = load_data(_pictures(tmp_path / "q", [str(number) for number in range(4)], per=3))
    assert not any("order" in note for note in few.summary.notes)
