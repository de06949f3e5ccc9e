""".npz files are read; damage is reported with the name of the file."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from limbeck.data import read_npz
from limbeck.errors import DataError

X, Y = np.arange(48, dtype=np.uint8).reshape(6, 2, 4), np.array([0, 1, 2, 0, 1, 2], np.uint8)


def _write(path, **arrays):
    np.savez_compressed(path, **arrays)
    return path


def test_both_parts_are_read(tmp_path):
    names = np.array(["a", "b", "c"])
    path = _write(tmp_path / "d.npz", x_train=X, y_train=Y, x_test=X[:2], y_test=Y[:2], class_names=names)
    train, test = read_npz(path)
    assert (len(train), len(test)) == (6, 2)
    assert train.labels.tolist() == Y.tolist()
    assert train.class_names == test.class_names == ("a", "b", "c")
    assert train.take(torch.tensor([5])).inputs.equal(torch.from_numpy(X[5:]))


def test_one_part_and_named_arrays(tmp_path):
    path = _write(tmp_path / "d.npz", x=X, y=Y, other=X * 0)
    train, test = read_npz(path)
    assert test is None
    assert train.labels.tolist() == Y.tolist()
    other, _ = read_npz(path, inputs="other", labels="y")
    assert int(other.take(torch.arange(6)).inputs.sum()) == 0
    assert read_npz(path, inputs="other")[0].labels is None


def test_labels_may_be_absent(tmp_path):
    train, test = read_npz(_write(tmp_path / "d.npz", x_train=X, x_test=X))
    assert train.labels is None
    assert test.labels is None


def test_further_arrays_of_a_part_come_along(tmp_path):
    path = _write(tmp_path / "d.npz", x_train=X, y_train=Y, coarse_train=Y // 2, note_train=np.zeros(3))
    batch = read_npz(path)[0].take(torch.tensor([2, 4]))
    assert set(batch.extra) == {"coarse"}
    assert batch.extra["coarse"].tolist() == [1, 0]


def _truncated(path):
    whole = _write(path, x=np.random.default_rng(0).random((500, 20))).read_bytes()
    path.write_bytes(whole[: len(whole) // 2])


def _flipped(path):
    whole = bytearray(_write(path, x=np.random.default_rng(0).random((500, 20)), y=np.zeros(500, int)).read_bytes())
    whole[2000:2040] = bytes(40)
    path.write_bytes(whole)


def _header_damaged(path):
    np.savez(path, x=X)
    path.write_bytes(path.read_bytes().replace(b"'descr': '|u1'", b"'descr': 'zzz'"))


@pytest.mark.parametrize(
    ("make", "sentence"),
    [
        (lambda p: None, "no file .*d.npz"),
        (lambda p: p.mkdir(), "d.npz is a folder"),
        (lambda p: p.write_bytes(b""), "d.npz is empty"),
        (lambda p: p.write_text("x,y\n1,2\n"), "d.npz is not an .npz file"),
        (lambda p: p.write_bytes(b"\x93NUMPY" + bytes(200)), "d.npz is not an .npz file"),
        (_truncated, "d.npz is not an .npz file, or is truncated"),
        (_flipped, "d.npz: array 'x' is damaged"),
        (_header_damaged, "d.npz: array 'x' is damaged"),
        (lambda p: np.savez(p, x=np.array([{}, 1], object)), "array 'x' contains Python objects"),
        (
            lambda p: _write(p, first=X, second=Y),
            r"contains the arrays first \[6, 2, 4\], second \[6\]; expected x_train",
        ),
        (lambda p: _write(p), "contains the arrays none"),
        (lambda p: _write(p, x=X, y=Y[:3]), "d.npz, x and y: .*inputs has 6, labels has 3"),
        (lambda p: _write(p, x_train=X, y_train=Y, x_test=X), "y_train but no y_test"),
        (lambda p: _write(p, x=X[:0]), "no examples"),
        (lambda p: _write(p, x=np.array(3.0)), "single number"),
        (lambda p: _write(p, x_train=np.array(3.0)), "single number"),
    ],
)
def test_every_damage_has_its_sentence(tmp_path, make, sentence):
    make(tmp_path / "d.npz")
    with pytest.raises(DataError, match=sentence) as error:
        read_npz(tmp_path / "d.npz")
    assert "\n" not in str(error.value)


def test_the_nearest_name_is_offered(tmp_path):
    path = _write(tmp_path / "digits.npz", x=X, labels=Y)
    with pytest.raises(DataError, match=r"Did you mean 'digits\.npz'"):
        read_npz(tmp_path / "digit.npz")
    with pytest.raises(DataError, match=r"no array 'label'\. Did you mean 'labels'"):
        read_npz(path, inputs="x", labels="label")
