"""Tables become standardized numbers, with the same encoding for test data."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch

from limbeck.data import TableEncoding, read_split_table, read_table
from limbeck.errors import DataError

pa = pytest.importorskip("pyarrow", reason="pyarrow is not installed: pip install 'limbeck[table]'")
from pyarrow import csv, parquet  # noqa: E402

TRAIN = {
    "age": [20, 30, None, 50],
    "color": ["red", "blue", None, "red"],
    "flag": [True, False, True, True],
    "flat": [7.0, 7.0, 7.0, 7.0],
    "kind": ["cat", "dog", None, "cat"],
}
TEST = {"color": ["green", "red"], "age": [None, 40], "flat": [8.0, 7.0], "flag": [False, True], "kind": ["dog", None]}


def _write(path, columns):
    table = pa.table(columns)
    (parquet.write_table if path.suffix == ".parquet" else csv.write_csv)(table, path)
    return path


def _all(data):
    return data.take(torch.arange(len(data)))


@pytest.mark.parametrize("suffix", [".csv", ".parquet"])
def test_features_are_those_worked_out_by_hand(tmp_path, suffix):
    train, encoding = read_table(_write(tmp_path / f"train{suffix}", TRAIN), target="kind")
    ages = np.array([20, 30, 50.0])
    scaled = (ages - ages.mean()) / ages.std()
    expected = [
        [scaled[0], 0, 0, 1, 0, 0, 1, 0, 0],
        [scaled[1], 0, 1, 0, 0, 1, 0, 0, 0],
        [0, 1, 0, 0, 1, 0, 1, 0, 0],
        [scaled[2], 0, 0, 1, 0, 0, 1, 0, 0],
    ]
    batch = _all(train)
    assert encoding.features == (
        "age",
        "age missing",
        "color=blue",
        "color=red",
        "color other",
        "flag=false",
        "flag=true",
        "flag other",
        "flat",
    )
    assert batch.inputs.dtype == torch.float32
    torch.testing.assert_close(batch.inputs, torch.tensor(expected).float())
    assert batch.labels.tolist() == [0, 1, -100, 0]
    assert train.class_names == ("cat", "dog")
    raw = [[20, 1, 1, 7], [30, 0, 0, 7], [np.nan, np.nan, 1, 7], [50, 1, 1, 7]]
    torch.testing.assert_close(batch.extra["raw"], torch.tensor(raw), equal_nan=True)


@pytest.mark.parametrize("suffix", [".csv", ".parquet"])
def test_a_test_table_is_encoded_as_the_training_table_was(tmp_path, suffix):
    _, encoding = read_table(_write(tmp_path / f"train{suffix}", TRAIN), target="kind")
    encoding = TableEncoding.from_dict(json.loads(json.dumps(encoding.to_dict())))
    test, same = read_table(_write(tmp_path / f"test{suffix}", TEST), target="kind", encoding=encoding)
    assert same == encoding
    batch = _all(test)
    scaled = (40 - 100 / 3) / np.std([20, 30, 50])
    expected = [[0, 1, 0, 0, 1, 1, 0, 0, 1], [scaled, 0, 0, 1, 0, 0, 1, 0, 0]]
    torch.testing.assert_close(batch.inputs, torch.tensor(expected).float())
    assert batch.labels.tolist() == [1, -100]
    raw = [[np.nan, np.nan, 0, 8], [40, 1, 1, 7]]
    torch.testing.assert_close(batch.extra["raw"], torch.tensor(raw), equal_nan=True)


def test_whole_numbers_are_classes_in_their_own_order(tmp_path):
    for values in ([10, 9, 2, 10], [10.0, 9.0, 2.0, 10.0]):
        data, encoding = read_table(_write(tmp_path / "a.parquet", {"x": [1, 2, 3, 4], "y": values}), target="y")
        assert encoding.class_names == ("2", "9", "10")
        assert data.labels.tolist() == [2, 1, 0, 2]


def test_texts_that_look_like_numbers_stay_texts_in_a_test_table(tmp_path):
    train = _write(tmp_path / "a.parquet", {"code": ["01", "1x", "02"], "y": ["a", "b", "a"]})
    _, encoding = read_table(train, target="y")
    test = tmp_path / "b.csv"
    test.write_text("code,y\n01,b\n02,a\n")
    data, _ = read_table(test, target="y", encoding=encoding)
    assert _all(data).extra["raw"].flatten().tolist() == [0.0, 1.0]


def test_dictionaries_are_names(tmp_path):
    column = pa.array(["u", "v", "u"]).dictionary_encode()
    data, encoding = read_table(_write(tmp_path / "a.parquet", {"c": column, "y": [0, 1, 0]}), target="y")
    assert encoding.features == ("c=u", "c=v", "c other")
    assert _all(data).extra["raw"].flatten().tolist() == [0.0, 1.0, 0.0]


def test_a_column_missing_throughout_a_test_table_is_missing(tmp_path):
    _, encoding = read_table(_write(tmp_path / "a.csv", TRAIN), target="kind")
    empty = {**TEST, "age": pa.nulls(2), "color": pa.nulls(2)}
    data, _ = read_table(_write(tmp_path / "b.parquet", empty), target="kind", encoding=encoding)
    assert _all(data).inputs[:, :5].tolist() == [[0, 1, 0, 0, 1]] * 2


def test_columns_can_be_left_out(tmp_path):
    path = _write(tmp_path / "a.csv", {"id": [f"u{i // 2}" for i in range(2400)], "x": range(2400), "y": [0, 1] * 1200})
    with pytest.raises(DataError, match=r"'id' has 1200 different texts, more than 1000.*ignore=\['id'\]"):
        read_table(path, target="y")
    assert read_table(path, target="y", ignore=["id"])[1].features == ("x",)


def test_a_split_table_learns_its_encoding_from_the_rest_alone(tmp_path):
    columns = {"x": np.arange(50.0) ** 2, "y": np.arange(50) % 2}
    rest, held, encoding = read_split_table(_write(tmp_path / "a.csv", columns), target="y", fraction=0.2, seed=0)
    assert (len(rest), len(held)) == (40, 10)
    kept, tested = (_all(part).extra["raw"].flatten() for part in (rest, held))
    assert sorted(kept.tolist() + tested.tolist()) == sorted(columns["x"].tolist())
    assert encoding.columns[0].mean == pytest.approx(float(kept.mean()))
    assert abs(float(_all(rest).inputs.mean())) < 1e-6
    assert held.labels.bincount().tolist() == [5, 5]


def _text(content):
    return lambda path: path.write_text(content)


@pytest.mark.parametrize(
    ("make", "sentence"),
    [
        (lambda p: None, "no file"),
        (_text(""), "is empty"),
        (_text("x,y\n"), "a header but no rows"),
        (_text("x,y\n1,2,3\n"), "cannot be read as a table"),
        (_text("x,x,y\n1,2,3\n"), "two columns named 'x'"),
        (_text("x,Y\n1,2\n"), "no column 'y'"),
        (_text("y\n1\n"), "no features: its columns are y"),
        (_text("x,y\n1,1.5\n2,1\n"), "'y' is 1.5 in row 0, which is not a class"),
        (_text("x,y\n1,\n2,\n"), "no row has a value in the target"),
        (_text("x,e,y\n1,,1\n2,,2\n"), r"'e' has no values. Leave it out with ignore=\['e'\]"),
        (_text("x,y\ninf,1\n2,2\n"), "'x' contains infinity in 1 rows, first in row 0"),
        (_text("x,y\n2020-01-01,1\n"), "'x' contains dates or times, such as 2020-01-01"),
    ],
)
def test_every_damage_has_its_sentence(tmp_path, make, sentence):
    make(tmp_path / "t.csv")
    with pytest.raises(DataError, match=sentence) as error:
        read_table(tmp_path / "t.csv", target="y")
    assert "t.csv" in str(error.value)
    assert "\n" not in str(error.value)


def test_a_damaged_parquet_file_is_named(tmp_path):
    path = _write(tmp_path / "a.parquet", TRAIN)
    path.write_bytes(path.read_bytes()[:-20])
    with pytest.raises(DataError, match=r"a.parquet cannot be read"):
        read_table(path, target="kind")
    other = tmp_path / "a.xlsx"
    other.write_text("x")
    with pytest.raises(DataError, match=r"not a .csv, .tsv or .parquet"):
        read_table(other, target="kind")


def test_the_nearest_column_is_offered(tmp_path):
    path = _write(tmp_path / "a.csv", TRAIN)
    with pytest.raises(DataError, match=r"no column 'kin'\. Did you mean 'kind'"):
        read_table(path, target="kin")
    with pytest.raises(DataError, match=r"no column 'ages'\. Did you mean 'age'"):
        read_table(path, target="kind", ignore=["ages"])


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        ({"age": ["old", None]}, "'age' has numbers in the training part, but here it has 'old'"),
        ({"kind": ["cow", "dog"]}, "row 0 has the class 'cow' in column 'kind', which is not one of cat, dog"),
        ({"age": None}, "no column 'age'"),
    ],
)
def test_a_test_table_of_another_kind_is_refused(tmp_path, change, sentence):
    _, encoding = read_table(_write(tmp_path / "a.csv", TRAIN), target="kind")
    columns = {name: column for name, column in {**TEST, **change}.items() if column is not None}
    path = _write(tmp_path / "b.csv", columns)
    with pytest.raises(DataError, match=sentence):
        read_table(path, target="kind", encoding=encoding)
    with pytest.raises(DataError, match="not the target of the encoding"):
        read_table(_write(tmp_path / "c.csv", TEST), target="flat", encoding=encoding)


def test_a_broken_encoding_is_refused():
    with pytest.raises(Exception, match="valid table encoding"):
        TableEncoding.from_dict({"target": "y"})


def test_a_table_without_answers_is_read_with_an_encoding(tmp_path):
    (tmp_path / "train.csv").write_text("a,b,grade\n1,x,good\n2,y,bad\n3,x,good\n")
    (tmp_path / "new.csv").write_text("a,b\n4,y\n5,z\n")
    _, encoding = read_table(tmp_path / "train.csv", target="grade")
    new, same = read_table(tmp_path / "new.csv", target="grade", encoding=encoding)
    assert same == encoding
    assert new.labels.tolist() == [-100, -100]
    with pytest.raises(DataError, match="grade"):
        read_table(tmp_path / "new.csv", target="grade")


def test_the_groups_of_a_metric_do_not_change_the_training_data(tmp_path):
    path, groups = _write(tmp_path / "train.csv", TRAIN), {"groups": "color"}
    (plain, _), (grouped, _) = (read_table(path, target="kind", **more) for more in ({}, groups))
    assert list(grouped.extra_column("groups")) == ["red", "blue", "(missing)", "red"]
    assert grouped.fingerprint == plain.fingerprint
    grouped.hash_groups()
    assert grouped.fingerprint != plain.fingerprint
