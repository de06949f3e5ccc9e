"""Text labels and other usual array names in .npz files."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from limbeck.data import load_data, read_npz
from limbeck.errors import DataError

X = np.random.default_rng(0).normal(size=(60, 4)).astype(np.float32)
Y = np.arange(60) % 3


def _write(path, **arrays):
    np.savez(path, **arrays)
    return path


def _labels(data):
    whole = torch.cat([data.train.labels, data.test.labels])
    return sorted(data.class_names[number] for number in whole.tolist() if number >= 0)


@pytest.mark.parametrize("kind", ["U", "S"])
def test_texts_are_classes(tmp_path, kind):
    texts = np.array(["tee", "café", "10"])[Y]
    stored = texts if kind == "U" else np.char.encode(texts, "utf-8")
    data = load_data(_write(tmp_path / "d.npz", x=X, y=stored))
    assert data.class_names == ("10", "café", "tee")
    assert _labels(data) == sorted(texts.tolist())


def test_numbers_written_as_texts_are_in_the_order_of_the_numbers(tmp_path):
    data = load_data(_write(tmp_path / "d.npz", x=X, y=np.array(["10", "2", "1"])[Y]))
    assert data.class_names == ("1", "2", "10")


def test_class_names_in_the_file_say_the_order(tmp_path):
    names = np.array(["tee", "milk", "cup"])
    data = load_data(_write(tmp_path / "d.npz", x=X, y=np.array(["cup", "milk", "tee"])[Y], class_names=names))
    assert data.class_names == ("tee", "milk", "cup")
    train, _ = read_npz(tmp_path / "d.npz")
    assert train.labels.tolist() == (2 - Y).tolist()


def test_another_part_is_read_by_the_training_parts_classes(tmp_path):
    parts = {"x_train": X, "y_train": np.array(["cup", "tee", "mug"])[Y], "x_test": X[:3]}
    data = load_data(_write(tmp_path / "d.npz", **parts, y_test=np.array(["Tee", "cup", ""])))
    assert data.test.labels.tolist() == [2, 0, -100]
    assert any("Tee" in note for note in data.summary.notes)
    with pytest.raises(DataError, match="dog"):
        load_data(_write(tmp_path / "e.npz", **parts, y_test=np.array(["dog", "cup", "tee"])))


def test_numbers_in_one_part_and_texts_in_the_other_are_the_same_classes(tmp_path):
    parts = {"x_train": X, "y_train": Y, "x_test": X + 0.01, "y_test": Y.astype(str)}
    data = load_data(_write(tmp_path / "d.npz", **parts))
    assert data.test.labels.tolist() == data.train.labels.tolist() == Y.tolist()


def test_an_order_that_is_requested_moves_numbers_with_their_names(tmp_path):
    path = _write(
        tmp_path / "d.npz", x_train=X, y_train=Y, x_test=X + 0.01, y_test=Y, class_names=np.array(["a", "b", "c"])
    )
    data = load_data(path, class_names=["c", "a", "b"])
    assert data.class_names == ("c", "a", "b")
    assert [data.class_names[number] for number in data.train.labels[:3]] == ["a", "b", "c"]
    assert data.test.labels.tolist() == ((Y + 1) % 3).tolist()


def test_labels_without_names_get_those_that_are_given(tmp_path):
    data = load_data(_write(tmp_path / "d.npz", x=X, y=Y), class_names=["a", "b", "c"])
    assert data.class_names == ("a", "b", "c")
    with pytest.raises(DataError):
        load_data(tmp_path / "d.npz", class_names=["a", "b"])


@pytest.mark.parametrize("names", [np.array(["a", "a", "b"]), np.array([["a", "b", "c"]])])
def test_class_names_that_are_none_are_refused(tmp_path, names):
    with pytest.raises(DataError, match="class_names"):
        load_data(_write(tmp_path / "d.npz", x=X, y=Y, class_names=names))


@pytest.mark.parametrize("texts", [Y, Y.astype(str)])
def test_labels_in_one_column_are_one_for_each_example(tmp_path, texts):
    data = load_data(
        _write(tmp_path / "d.npz", x_train=X, y_train=texts[:, None], x_test=X + 0.01, y_test=texts[:, None])
    )
    assert data.train.labels.tolist() == data.test.labels.tolist() == Y.tolist()


def test_names_of_bytes_are_texts(tmp_path):
    data = load_data(_write(tmp_path / "d.npz", x=X, y=Y, class_names=np.array([b"a", b"b", b"c"])))
    assert data.class_names == ("a", "b", "c")


def test_objects_are_refused_with_what_to_save_instead(tmp_path):
    path = tmp_path / "d.npz"
    np.savez(path, x=X, y=np.array(["a", "b", "c"])[Y].astype(object))
    with pytest.raises(DataError, match="astype"):
        load_data(path)


@pytest.mark.parametrize(
    ("inputs", "labels"),
    [("X_{}", "y_{}"), ("{}_images", "{}_labels"), ("x{}", "y{}"), ("{}_X", "{}_Y"), ("features_{}", "targets_{}")],
)
def test_other_usual_names_are_detected_and_reported(tmp_path, inputs, labels):
    arrays = {}
    for part, rows in (("train", 60), ("valid", 30), ("test", 15)):
        arrays |= {inputs.format(part): X[:rows] + rows / 1000, labels.format(part): Y[:rows]}
    data = load_data(_write(tmp_path / "d.npz", **arrays))
    assert [len(part) for part in (data.train, data.development, data.test)] == [60, 30, 15]
    assert any(inputs.format("valid") in note for note in data.summary.notes)


def test_one_part_under_another_name(tmp_path):
    data = load_data(_write(tmp_path / "d.npz", data=X, target=Y))
    assert len(data.train) + len(data.test) == 60
    assert sorted(torch.cat([data.train.labels, data.test.labels]).tolist()) == sorted(Y.tolist())


def test_names_that_could_mean_two_things_stay_refused(tmp_path):
    with pytest.raises(DataError, match="features"):
        load_data(_write(tmp_path / "d.npz", features=X, images=X, y=Y))


@pytest.mark.parametrize("kind", [np.float32, np.int64, np.bool_])
def test_a_number_for_each_class_is_refused_with_what_to_type(tmp_path, kind):
    with pytest.raises(DataError, match="argmax"):
        load_data(_write(tmp_path / "d.npz", x=X, y=np.eye(3, dtype=kind)[Y]))


def test_floats_that_are_whole_numbers_are_classes_and_the_summary_says_so(tmp_path):
    data = load_data(_write(tmp_path / "d.npz", x=X, y=Y.astype(np.float64)))
    assert data.task == "classification"
    assert "--task regression" in data.note
    assert "--task" not in load_data(_write(tmp_path / "e.npz", x=X, y=Y)).note
    assert load_data(_write(tmp_path / "d.npz", x=X, y=Y.astype(np.float64)), task="regression").task == "regression"
