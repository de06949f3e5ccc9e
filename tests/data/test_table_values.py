"""Values of a table are read by their kind, and reported where that fails."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch

pa = pytest.importorskip("pyarrow", reason="pyarrow is not installed: pip install 'limbeck[table]'")
from pyarrow import parquet  # noqa: E402

from limbeck.data import CategoryColumn, NumberColumn, TableEncoding, load_data, read_table, silenced  # noqa: E402
from limbeck.errors import DataError, LimbeckWarning  # noqa: E402


def _csv(path, header, rows):
    path.write_text("\n".join([header, *(",".join(map(str, row)) for row in rows)]) + "\n")
    return path


def _raw(data):
    return data.take(torch.arange(len(data))).extra["raw"]


# --- the target ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("word", ["NA", '"NA"', "null", "NULL", "n/a", "nan", "None", "#N/A", "?"])
def test_a_class_may_be_called_as_a_missing_value_is(tmp_path, word):
    rows = [(i % 7, (word, "EU", "AS")[i % 3]) for i in range(60)]
    data = load_data(_csv(tmp_path / "a.csv", "size,kind", rows), target="kind")
    assert sorted(data.class_names) == sorted(["AS", "EU", word.strip('"')])
    assert int((data.train.labels == -100).sum()) == 0
    assert "read as a class" in data.note
    with_option = load_data(tmp_path / "a.csv", target="kind", missing=[word.strip('"')])
    assert sorted(with_option.class_names) == ["AS", "EU"]
    assert with_option.summary.parts[0].unlabeled == 16


def test_among_numbers_it_is_a_missing_label_and_that_is_reported(tmp_path):
    rows = [(i % 7, ("NA", "10", "9")[i % 3]) for i in range(60)]
    data = load_data(_csv(tmp_path / "a.csv", "size,kind", rows), target="kind")
    assert data.class_names == ("9", "10")
    assert "'NA' (20 rows)" in data.note
    assert sum(part.unlabeled for part in data.summary.parts) == 20


def test_a_placeholder_among_number_classes_is_pointed_at(tmp_path):
    data = load_data(_csv(tmp_path / "a.csv", "x,y", [(i % 7, "12?"[i % 3]) for i in range(60)]), target="y")
    assert "'?' (20 rows) in the target 'y' is read as a class" in data.note


def test_a_quantity_is_no_class_and_where_it_is_learned_is_reported(tmp_path):
    with pytest.raises(DataError, match="regression"):
        load_data(_csv(tmp_path / "a.csv", "x,y", [(1, 1.5), (2, 2.5)]), target="y", task="classification")


# --- columns ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("word", ["?", "NA", "-", "None", "unknown", " ?", "N/A", "nan"])
def test_a_word_among_numbers_is_a_missing_number(tmp_path, word):
    rows = [(word if i % 5 == 0 else i % 40, "ab"[i % 2]) for i in range(200)]
    data = load_data(_csv(tmp_path / "a.csv", "age,y", rows), target="y")
    (age,) = data.encoding.columns
    assert isinstance(age, NumberColumn)
    assert age.missing
    assert sum(int(_raw(part).isnan().sum()) for part in (data.train, data.test)) == 40
    column = data.summary.columns[0]
    assert column.kind == "number"
    assert column.missing == int(_raw(data.train).isnan().sum())
    assert repr(word.strip()) in column.note


def test_a_column_that_is_numbers_but_for_a_few_is_one_of_numbers_and_warned_of(tmp_path):
    rows = [("old" if i == 150 else i % 40, "ab"[i % 2]) for i in range(200)]
    with pytest.warns(LimbeckWarning, match=r"'age' contains numbers except 'old' \(1 row\)"):
        data = load_data(_csv(tmp_path / "a.csv", "age,y", rows), target="y")
    assert isinstance(data.encoding.columns[0], NumberColumn)


def test_a_column_of_names_among_which_are_numbers_is_warned_of(tmp_path):
    rows = [(i % 40 if i % 5 else f"w{i % 3}", "ab"[i % 2]) for i in range(200)]
    with pytest.warns(LimbeckWarning, match="is read as a category, although 160 of 200 values are numbers"):
        data = load_data(_csv(tmp_path / "a.csv", "age,y", rows), target="y")
    assert isinstance(data.encoding.columns[0], CategoryColumn)
    few = [(("0", "1", "2", "3+")[i % 4], "ab"[i % 2]) for i in range(200)]
    data = load_data(_csv(tmp_path / "b.csv", "children,y", few), target="y")
    assert data.encoding.columns[0].values == ("0", "1", "2", "3+")


def test_numbers_with_commas_that_differ_in_every_row_are_no_row_names(tmp_path):
    with pytest.warns(LimbeckWarning, match="look like numbers"):
        data = load_data(_csv(tmp_path / "a.csv", "x,y", [(f'"{i},5"', "ab"[i % 2]) for i in range(40)]), target="y")
    assert data.encoding.columns[0].name == "x"


@pytest.mark.parametrize("form", ["{},5", "{}%", "$ {}.50", "1.{}.0"])
def test_names_that_look_like_numbers_are_warned_of(tmp_path, form):
    rows = [('"' + form.format(i % 40) + '"', "ab"[i % 2]) for i in range(200)]
    with pytest.warns(LimbeckWarning, match="look like numbers"):
        load_data(_csv(tmp_path / "a.csv", "price,y", rows), target="y")


def test_a_number_may_stand_for_a_missing_one(tmp_path):
    rows = [(-999 if i % 5 == 0 else i % 40, "ab"[i % 2]) for i in range(200)]
    data = load_data(_csv(tmp_path / "a.csv", "age,y", rows), target="y", missing=-999)
    assert float(_raw(data.train).nan_to_num().min()) == 0
    encoding = TableEncoding.from_dict(json.loads(json.dumps(data.encoding.to_dict())))
    again, _ = read_table(tmp_path / "a.csv", target="y", encoding=encoding)
    assert int(_raw(again).isnan().sum()) == 40


def test_spaces_around_values_and_names_are_removed_and_that_is_reported(tmp_path):
    (tmp_path / "a.csv").write_text(
        "x, sex, y\n" + "".join(f"{i % 9}, {'MF'[i % 2]}, {'ab'[i % 2]}\n" for i in range(60))
    )
    for target in ("y", " y"):
        data = load_data(tmp_path / "a.csv", target=target)
        assert data.class_names == ("a", "b")
        assert data.encoding.columns[1].values == ("F", "M")
        assert "spaces around the values" in data.note


@pytest.mark.parametrize("width", [200, 30_000])
def test_a_line_break_in_quotes_belongs_to_its_value(tmp_path, width):
    values = [f'one\r\n7,7,"" b\n{"x" * width}{i}' for i in range(3)]
    count = 3_000_000 // width if width > 1000 else 60
    (tmp_path / "a.csv").write_text(
        "note,z,y\n" + "".join(f'"{values[i % 3]}",{i % 7},{"ab"[i % 2]}\n' for i in range(count)), newline=""
    )
    _, encoding = read_table(tmp_path / "a.csv", target="y")
    assert set(encoding.columns[0].values) == {one.replace('""', '"') for one in values}


# --- row numbers -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["", "Unnamed: 0", "id", "row_id", "PassengerId", "index"])
@pytest.mark.parametrize("shuffled", [False, True])
def test_what_numbers_the_rows_is_left_out_and_that_is_reported(tmp_path, name, shuffled):
    numbers = np.random.default_rng(0).permutation(60) if shuffled else range(1, 61)
    rows = [(number, i % 9, "ab"[i // 30]) for i, number in enumerate(numbers)]
    data = load_data(_csv(tmp_path / "a.csv", f"{name},x,y", rows), target="y")
    assert data.encoding.features == ("x",)
    assert "row numbers" in data.note
    assert data.summary.columns[0].kind == "left out"


def test_the_index_of_pandas_and_texts_that_differ_in_every_row_are_left_out(tmp_path):
    told = {b"pandas": json.dumps({"index_columns": ["when"]}).encode()}
    columns = {"x": [i % 7 for i in range(60)], "who": [f"n{i}" for i in range(60)], "y": ["a", "b"] * 30}
    table = pa.table({**columns, "when": [i * 2.5 for i in range(60)]}).replace_schema_metadata(told)
    parquet.write_table(table, tmp_path / "a.parquet")
    data = load_data(tmp_path / "a.parquet", target="y")
    assert data.encoding.features == ("x",)
    assert "a different text in each row" in data.note


def test_the_only_feature_is_kept_and_pointed_at_where_it_goes_up_by_one(tmp_path):
    data = load_data(_csv(tmp_path / "a.csv", "year,y", [(1900 + i, "ab"[i % 2]) for i in range(60)]), target="y")
    assert data.encoding.features == ("year",)
    assert "row number" in data.note


@pytest.mark.parametrize("name", ["Kunden-Nr", "Laufende", "z1"])
def test_what_goes_up_by_one_in_every_row_is_left_out_whatever_it_is_called(tmp_path, name):
    rows = [(1000 + i, i % 9, i / 2, "ab"[i // 30]) for i in range(60)]
    data = load_data(_csv(tmp_path / "a.csv", f"{name},x,half,y", rows), target="y")
    assert data.encoding.features == ("x", "half")
    assert name in data.note
    assert data.summary.columns[0].kind == "left out"
    rows[7] = (5, *rows[7][1:])
    other = load_data(_csv(tmp_path / "b.csv", "z1,x,half,y", rows), target="y")
    assert other.encoding.features == ("z1", "x", "half")


# --- values that are too large or too long ---------------------------------------------------------------------------


@pytest.mark.parametrize("value", ["1e300", "-1e200", "1e39"])
def test_a_number_that_float32_cannot_hold_is_refused_in_any_part(tmp_path, value):
    good = [(i % 9, i % 7, "ab"[i % 2]) for i in range(40)]
    train = _csv(tmp_path / "train.csv", "x,z,y", good)
    bad = _csv(tmp_path / "bad.csv", "x,z,y", [*good, (3, value, "a")])
    for given in ({"name": bad}, {"name": train, "test": bad}):
        with pytest.raises(DataError, match=r"'z' contains -?1e\+\d+ in row 40"):
            load_data(given.pop("name"), target="y", **given)
    assert read_table(bad, target="y", missing=[value])[1].features == ("x", "z", "z missing")


def test_a_cell_of_megabytes_is_cut_where_it_is_shown(tmp_path):
    rows = [(i, i % 7, "ab"[i % 2]) for i in range(60)]
    rows[5] = ("x" * 3_000_000, 1, "a")
    with pytest.warns(LimbeckWarning, match="'z' contains numbers except 'xxx") as caught:
        read_table(_csv(tmp_path / "a.csv", "z,x,y", rows), target="y")
    assert max(len(str(one.message)) for one in caught) < 400


def test_the_encoding_remembers_separator_and_charset(tmp_path):
    text = "größe;y\n" + "\n".join(f"{'äöü'[i % 3]};{'ab'[i % 2]}" for i in range(40))
    for name in ("train", "new"):
        (tmp_path / f"{name}.csv").write_bytes(text.encode("latin-1"))
    rows, encoding = read_table(tmp_path / "train.csv", target="y", separator=";", charset="latin-1")
    again = TableEncoding.from_dict(json.loads(json.dumps(encoding.to_dict())))
    assert again == encoding
    assert torch.equal(_raw(read_table(tmp_path / "new.csv", encoding=again)[0]), _raw(rows))
    (tmp_path / "other.csv").write_text(text.replace(";", ","), encoding="utf-8")
    other, _ = read_table(tmp_path / "other.csv", encoding=again, separator=",", charset="utf-8")
    assert torch.equal(_raw(other), _raw(rows))


# --- another table ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("ours", "theirs"),
    [
        (("True", "False"), ("1", "0")), (("True", "False"), ("yes", "no")), (("Male", "Female"), ("male", "FEMALE")),
        (("M", "F"), (" M", "F ")), (("01", "X"), ("1", "x")), (("1", "B"), ("1.0", "b")),
        (("0", "1"), ("False", "True")),
    ],
)  # fmt: skip
def test_values_that_are_written_otherwise_are_matched_and_that_is_reported(tmp_path, ours, theirs):
    for name, words in (("train", ours), ("test", theirs)):
        rows = [(words[i // 2 % 2], i % 5, "ab"[i % 2]) for i in range(40)]
        _csv(tmp_path / f"{name}.csv", "f,x,y", rows)
    data = load_data(tmp_path / "train.csv", target="y", test=tmp_path / "test.csv")
    assert torch.equal(_raw(data.train), _raw(data.test))
    assert data.note


def test_a_column_without_a_known_value_is_refused_and_an_empty_one_warned_of(tmp_path):
    train = _csv(tmp_path / "train.csv", "f,y", [("MF"[i % 2], "ab"[i % 3 % 2]) for i in range(40)])
    with pytest.raises(DataError, match=r"'f' has 'man', 'woman' in 40 of 40 rows.* ignore=\['f'\]"):
        load_data(
            train, target="y",
            test=_csv(tmp_path / "a.csv", "f,y", [(("man", "woman")[i % 2], "ab"[i % 3 % 2]) for i in range(40)]),
        )  # fmt: skip
    with pytest.warns(LimbeckWarning, match="'f' has no value in any row"):
        load_data(train, target="y", test=_csv(tmp_path / "b.csv", "f,y", [("", "ab"[i % 2]) for i in range(40)]))
    with pytest.warns(LimbeckWarning, match=r"'X' in 10 of 40 rows"):
        load_data(train, target="y", test=_csv(tmp_path / "c.csv", "f,y", [("MXFM"[i % 4], "a") for i in range(40)]))


def test_columns_that_only_the_test_table_has_are_reported(tmp_path):
    train = _csv(tmp_path / "train.csv", "x,z,y", [(i % 5, i % 3, "ab"[i % 2]) for i in range(40)])
    test = _csv(tmp_path / "test.csv", "w,x,z,y", [(i, "?", i % 3, "ab"[i % 2]) for i in range(40)])
    with pytest.warns(LimbeckWarning, match=r"'x' has no number in any row, only '\?'"):
        data = load_data(train, target="y", test=test)
    assert "are not in the training table are left out ('w')" in data.note


def test_labels_that_are_written_otherwise_are_matched_and_a_development_file_is_read(tmp_path):
    train = _csv(tmp_path / "train.csv", "x,y", [(i % 5, ("Yes", "No")[i % 2]) for i in range(40)])
    val = _csv(tmp_path / "val.csv", "x,y", [(i % 5, (" yes", "NO")[i % 2]) for i in range(20)])
    data = load_data(train, target="y", val=val, test=val)
    assert data.test.labels.tolist() == [1, 0] * 10
    assert len(data.development) == 20
    assert [part.name for part in data.summary.parts] == ["train", "development", "test"]
    assert "'yes' as 'Yes'" in data.note
    alone = load_data(train, target="y", val=val)
    assert (len(alone.train), len(alone.development), len(alone.test)) == (32, 20, 8)


# --- files -----------------------------------------------------------------------------------------------------------


def test_another_separator_and_charset_are_named_in_the_error(tmp_path):
    rows = "".join(f"{i % 5};{'ab'[i % 2]}\n" for i in range(60))
    (tmp_path / "a.csv").write_text("größe;y\n" + rows)
    with pytest.raises(DataError, match=r"data\.separator="):
        load_data(tmp_path / "a.csv", target="y")
    (tmp_path / "b.csv").write_bytes(("größe;y\n" + rows).encode("cp1252"))
    with pytest.raises(DataError, match=r"data\.charset=cp1252"):
        load_data(tmp_path / "b.csv", target="y", separator=";")
    for name, charset in (("a.csv", None), ("b.csv", "cp1252")):
        data = load_data(tmp_path / name, target="y", separator=";", charset=charset)
        assert data.encoding.features == ("größe",)
    (tmp_path / "c.csv").write_bytes(("x,y\n" + rows.replace(";", ",")).encode("utf-16"))
    with pytest.raises(DataError, match=r"data\.charset=utf-16"):
        load_data(tmp_path / "c.csv", target="y")
    assert len(load_data(tmp_path / "c.csv", target="y", charset="utf-16").train) == 48


def test_classes_can_be_given_in_an_order(tmp_path):
    train = _csv(tmp_path / "a.csv", "x,y", [(i % 5, ("neg", "pos")[i % 2]) for i in range(40)])
    data = load_data(train, target="y", class_names=["pos", "neg"])
    assert data.class_names == ("pos", "neg")
    assert int((data.train.labels == 0).sum()) == 16
    with pytest.raises(DataError, match="class_names lacks the class 'neg'"):
        load_data(train, target="y", class_names=["pos", "negative"])
    with silenced():
        assert load_data(train, target="y").class_names == ("neg", "pos")
