"""Dates, headers, nameless and similar columns, and leaking columns in tables."""

from __future__ import annotations

import datetime

import numpy as np
import pytest

from limbeck.data import load_data
from limbeck.data.options import parse_data_options
from limbeck.errors import DataError, LimbeckError, LimbeckWarning

A = [f"{value:.3f}" for value in np.random.default_rng(0).normal(size=60)]
Y = [place % 2 for place in range(60)]


def _table(path, header, *columns, separator=","):
    lines = [separator.join(map(str, row)) for row in zip(*columns, strict=True)]
    path.write_text("\n".join([header, *lines]) + "\n", encoding="utf-8")
    return path


def _said(path, **options):
    with pytest.warns(LimbeckWarning):
        return " ".join(load_data(path, target="y", **options).summary.warnings)


@pytest.mark.parametrize(
    "write",
    [
        lambda i: f"2020-01-{i % 28 + 1:02d}",
        lambda i: f"{i % 12 + 1}/{i % 28 + 1}/2020",
        lambda i: f"{i % 3 + 1}/1/20",
        lambda i: f"{i % 28 + 1:02d}.{i % 12 + 1:02d}.2020",
        lambda i: f"2020/{i % 12 + 1:02d}/01 10:30",
        lambda i: f"{i % 28 + 1} Jan 2020",
        lambda i: f"March {i % 28 + 1}, 2020",
        lambda i: f"{i % 28 + 1}-Dec-20",
        lambda i: f"2020-01-{i % 3 + 1:02d}T10:00:00Z",
        lambda i: f"{i % 12 + 1}:30 PM",
        lambda i: "?" if i % 9 == 0 else f"{i % 12 + 1}/1/2020",
    ],
)
def test_dates_are_named_as_dates(tmp_path, write):
    path = _table(tmp_path / "d.csv", "when,a,y", [f'"{write(i)}"' for i in range(60)], A, Y)
    with pytest.raises(DataError, match="'when' contains dates or times"):
        load_data(path, target="y")
    assert [column.name for column in load_data(path, target="y", ignore="when").summary.columns if column.note == ""]


@pytest.mark.parametrize("write", ["1.2.{}", "10.0.0.{}", "A/{}", "5-{}", "May {}"])
def test_what_is_no_date_is_a_name(tmp_path, write):
    path = _table(tmp_path / "d.csv", "version,a,y", [write.format(i % 4) for i in range(60)], A, Y)
    assert load_data(path, target="y").summary.columns[0].kind == "category"


@pytest.mark.parametrize("write", ["'{}'", "0x{:02x}", "\u2212{}", "\u2018{}\u2019"])
def test_numbers_in_another_dress_are_pointed_at(tmp_path, write):
    path = _table(tmp_path / "d.csv", "size,a,y", [write.format(i % 20) for i in range(60)], A, Y)
    assert "look like numbers" in _said(path)


def test_columns_without_a_name_or_a_value_are_left_out(tmp_path):
    path = _table(tmp_path / "d.csv", "a,y,,", A, Y, [""] * 60, [""] * 60)
    data = load_data(path, target="y")
    assert any("without name" in note for note in data.summary.notes)
    assert data.encoding.columns[0].name == "a"
    with pytest.raises(DataError, match="without a name"):
        load_data(_table(tmp_path / "e.csv", ",,y", A, A[::-1], Y), target="y")


def test_a_first_row_that_is_no_header(tmp_path):
    path = tmp_path / "d.csv"
    path.write_text("5.1,3.5,setosa\n" + "".join(f"{a},{b},{'setosa' if y else 'virginica'}\n"
                                                for a, b, y in zip(A, A[::-1], Y, strict=True)))  # fmt: skip
    with pytest.warns(LimbeckWarning, match="header"):
        load_data(path, target="setosa")
    with pytest.raises(DataError, match="header"):
        load_data(path, target="species")


def test_whole_numbers_may_be_names_of_columns(tmp_path, recwarn):
    load_data(_table(tmp_path / "d.csv", "2019,2020,1", A, A[::-1], Y), target=1)
    assert not recwarn.list


def test_a_row_with_one_value_more_names_no_separator_that_is_used_already(tmp_path):
    path = tmp_path / "d.csv"
    path.write_text("a,b,y\n1,2,0\n1,2,3,1\n")
    with pytest.raises(DataError) as error:
        load_data(path, target="y")
    assert "separator=','" not in str(error.value)
    assert "quoted" in str(error.value)


@pytest.mark.parametrize("word", ["?", "unknown", "None", "-"])
def test_a_class_that_may_stand_for_no_label_is_reported(tmp_path, word):
    classes = [[word, "a", "b"][i % 3] for i in range(60)]
    data = load_data(_table(tmp_path / "d.csv", "a,y", A, classes), target="y")
    assert any(f"missing=[{word!r}]" in note for note in data.summary.notes)


def test_names_of_a_feature_that_are_written_alike_are_reported(tmp_path):
    sexes = [["Male", "male", "Female"][i % 3] for i in range(60)]
    data = load_data(_table(tmp_path / "d.csv", "sex,a,y", sexes, A, Y), target="y")
    assert any("'Male' and 'male'" in note for note in data.summary.notes)


@pytest.mark.parametrize("copy", [lambda y: y, lambda y: "ab"[y], lambda y: 10 - y, lambda y: f"class {y}"])
def test_a_column_that_holds_the_answer_is_pointed_at(tmp_path, copy):
    path = _table(tmp_path / "d.csv", "code,a,y", [copy(y) for y in Y], A, Y)
    assert any("'code' has exactly one value" in note for note in load_data(path, target="y").summary.notes)


def test_a_column_that_nearly_holds_the_answer_is_a_feature(tmp_path, recwarn):
    column = [1 - Y[0], *Y[1:]]
    data = load_data(_table(tmp_path / "d.csv", "code,a,y", column, A, Y), target="y")
    assert not recwarn.list
    assert not any("'code'" in note for note in data.summary.notes)


def test_the_views_of_newer_arrow_files_are_texts(tmp_path):
    pa = pytest.importorskip("pyarrow")
    from pyarrow import parquet

    table = pa.table({"a": list(map(float, A)), "y": pa.array([f"class {y}" for y in Y]).cast(pa.string_view())})
    table = table.append_column("c", pa.array(["x", "z", "w"] * 20).cast(pa.string_view()))
    parquet.write_table(table, tmp_path / "d.parquet")
    data = load_data(tmp_path / "d.parquet", target="y")
    assert data.class_names == ("class 0", "class 1")


def test_a_date_is_a_name_where_yaml_makes_one_of_it():
    day = datetime.date(2020, 1, 2)
    assert parse_data_options({"target": day, "ignore": [day]}).ignore == ("2020-01-02",)
    assert parse_data_options({"target": datetime.datetime(2020, 1, 2, 3, 4)}).target == "2020-01-02 03:04:00"
    with pytest.raises(LimbeckError):
        parse_data_options({"target": datetime.timedelta(1)})
