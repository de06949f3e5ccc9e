"""Data from a function in one's own file."""

from __future__ import annotations

import pytest
import torch

from limbeck.data import load_data
from limbeck.errors import DataError, LimbeckError, UnknownNameError

FILE = """
import numpy as np
import torch
from torch.utils.data import TensorDataset
import limbeck as lb
from limbeck.data import DataSplits

def rows(n, seed):
    draw = torch.Generator().manual_seed(seed)
    x = torch.randn(n, 4, generator=draw)
    return x, (x[:, 0] > 0).long()

def pair(size=40):
    return rows(size, 0), rows(12, 1)

def datasets():
    return TensorDataset(*rows(40, 0)), TensorDataset(*rows(12, 1))

def mapping():
    return {"train": rows(40, 0), "test": rows(12, 1), "development": rows(8, 2), "class_names": ["no", "yes"],
            "preprocess": lambda batch: batch.inputs * 2}

def train_alone():
    return {"train": rows(40, 0)}

def whole():
    train, test = (lb.ArrayDataset(*part) for part in pair())
    return DataSplits("inner", train, test, lambda batch: batch.inputs, ("no", "yes"))

def typo():
    return {"train": rows(40, 0), "tets": rows(12, 1)}

def number():
    return 3

def between():
    x, y = rows(40, 0)
    return TensorDataset(x, y), TensorDataset(x, y + 0.7)

def lists():
    x, y = rows(40, 0)
    return (x.tolist(), y.tolist()), rows(12, 1)

def row_numbers():
    x, y = rows(40, 0)
    return (x, y * 2_000_000_000), rows(12, 1)

def fails():
    raise KeyError("gone")
"""


@pytest.fixture
def file(tmp_path):
    path = tmp_path / "mydata.py"
    path.write_text(FILE)
    return path


@pytest.mark.parametrize("function", ["pair", "datasets", "mapping", "whole"])
def test_every_way_to_return_parts_gives_the_same_examples(file, function):
    data = load_data(f"{file}:{function}")
    assert (len(data.train), len(data.test)) == (40, 12)
    expected = load_data(f"{file}:pair").train.take(torch.arange(40))
    found = data.train.take(torch.arange(40))
    assert found.inputs.equal(expected.inputs)
    assert found.labels.equal(expected.labels)


def test_a_mapping_says_development_names_and_reads(file):
    data = load_data(f"{file}:mapping")
    assert len(data.development) == 8
    assert data.class_names == ("no", "yes")
    batch = data.test.take(torch.arange(2))
    assert data.preprocess(batch).equal(2 * batch.inputs)


def test_options_are_its_arguments_and_a_missing_test_part_is_held_out(file):
    assert len(load_data({"name": f"{file}:pair", "size": 20}).train) == 20
    data = load_data(f"{file}:train_alone")
    assert (len(data.train), len(data.test)) == (32, 8)
    assert "held out" in data.note


@pytest.mark.parametrize(
    ("function", "options", "error"),
    [
        ("pair", {"sise": 3}, LimbeckError),
        ("typo", {}, UnknownNameError),
        ("number", {}, DataError),
        ("fails", {}, LimbeckError),
        ("between", {}, DataError),
        ("lists", {}, DataError),
        ("row_numbers", {}, DataError),
        ("missing", {}, UnknownNameError),
    ],
)
def test_what_is_wrong_is_one_sentence(file, function, options, error):
    with pytest.raises(error):
        load_data({"name": f"{file}:{function}", **options})
