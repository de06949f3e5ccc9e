"""Warnings about splits that differ in classes, scale or shape, or that overlap."""

from __future__ import annotations

import numpy as np
import pytest
from PIL import Image

from limbeck.data import load_data
from limbeck.errors import DataError, LimbeckWarning

RANDOM = np.random.default_rng(0)
X = RANDOM.normal(size=(60, 4)).astype(np.float32)
Y = np.arange(60) % 3
OTHER = RANDOM.normal(size=(30, 4)).astype(np.float32)


def _write(path, **arrays):
    np.savez(path, **arrays)
    return path


def _warnings(path, **options):
    with pytest.warns(LimbeckWarning):
        return " ".join(load_data(path, **options).summary.warnings)


def _notes(path, **options):
    return " ".join(load_data(path, **options).summary.notes)


def _quiet(recwarn, path, **options):
    data = load_data(path, **options)
    assert not recwarn.list
    return data


def test_plain_parts_have_no_warning(tmp_path, recwarn):
    data = _quiet(recwarn, _write(tmp_path / "d.npz", x_train=X, y_train=Y, x_test=OTHER, y_test=Y[:30]))
    assert data.summary.warnings == ()


@pytest.mark.parametrize("classes", [("Yes", "yes", "no"), ("no", "yes", " yes "), ("café", "cafe\u0301", "tee")])
def test_classes_that_are_written_alike(tmp_path, classes):
    rows = "".join(f'{x:.3f},"{classes[y]}"\n' for x, y in zip(X[:, 0], Y, strict=True))
    (tmp_path / "d.csv").write_text("a,y\n" + rows, encoding="utf-8")
    said = (
        load_data(tmp_path / "d.csv", target="y") if " yes " in classes else _warnings(tmp_path / "d.csv", target="y")
    )
    assert "similar" in said if isinstance(said, str) else said.class_names == ("no", "yes")


def test_classes_without_an_example(tmp_path):
    assert "1 to 9" in _warnings(_write(tmp_path / "d.npz", x=X, y=np.array([1, 5, 9])[Y]))
    marked = np.where(Y == 0, 255, Y).astype(np.uint8)  # 255 for "no label", as segmentation sets have it
    assert "255" in _warnings(_write(tmp_path / "e.npz", x=X, y=marked))


def test_a_class_that_only_the_test_part_has(tmp_path):
    names = np.array(["a", "b", "c"])
    said = _warnings(
        _write(tmp_path / "d.npz", x_train=X, y_train=Y % 2, x_test=OTHER, y_test=Y[:30], class_names=names)
    )
    assert "c (10)" in said


def test_more_classes_than_examples_can_teach(tmp_path):
    rows = "".join(f"{x:.3f},{place}\n" for place, x in enumerate(X[:, 0]))
    (tmp_path / "d.csv").write_text("a,y\n" + rows)
    assert "quantity" in _warnings(tmp_path / "d.csv", target="y")


def test_parts_of_other_shapes_are_refused(tmp_path):
    path = _write(tmp_path / "d.npz", x_train=X, y_train=Y, x_test=RANDOM.normal(size=(30, 5)), y_test=Y[:30])
    with pytest.raises(DataError, match=r"\[5\].*\[4\]"):
        load_data(path)


def test_bytes_in_one_part_and_floats_in_the_other_are_refused(tmp_path):
    images = RANDOM.integers(0, 255, (60, 3, 8, 8), dtype=np.uint8)
    path = _write(tmp_path / "d.npz", x_train=images, y_train=Y, x_test=images / 255.0, y_test=Y)
    with pytest.raises(DataError, match="uint8"):
        load_data(path)


@pytest.mark.parametrize("change", [lambda x: x * 255, lambda x: x + 100, lambda x: x / 1000])
def test_parts_on_another_scale(tmp_path, change):
    assert "scale" in _warnings(_write(tmp_path / "d.npz", x_train=X, y_train=Y, x_test=change(OTHER), y_test=Y[:30]))


def test_one_column_of_a_table_in_other_units(tmp_path):
    for name, part, unit in (("train", X, 1), ("test", OTHER, 1000)):
        rows = "".join(f"{10 + x[0]:.3f},{unit * (60 + x[1]):.3f},{y}\n" for x, y in zip(part, Y, strict=False))
        (tmp_path / f"{name}.csv").write_text("a,size,y\n" + rows)
    assert "'size'" in _warnings(tmp_path, target="y")


def test_a_test_part_that_is_the_training_part(tmp_path):
    rows = "".join(f"{x[0]:.4f},{x[1]:.4f},{y}\n" for x, y in zip(X, Y, strict=True))
    (tmp_path / "d.csv").write_text("a,b,y\n" + rows)
    assert "60 of 60" in _notes(tmp_path / "d.csv", target="y", test=tmp_path / "d.csv")
    assert "60 of 60" in _notes(_write(tmp_path / "d.npz", x_train=X, y_train=Y, x_test=X, y_test=Y))


def test_texts_that_are_in_both(tmp_path):
    pytest.importorskip("transformers")
    lines = "".join(f'{{"text": "word{place} is here", "label": {place % 2}}}\n' for place in range(40))
    (tmp_path / "d.jsonl").write_text(lines)
    assert "40 of 40" in _notes(tmp_path / "d.jsonl", test=tmp_path / "d.jsonl")


def test_images_that_are_in_both(tmp_path):
    for place in range(24):
        pixels = RANDOM.integers(0, 255, (8, 8), dtype=np.uint8)
        for part in ("train", "test"):
            folder = tmp_path / part / "ab"[place % 2]
            folder.mkdir(parents=True, exist_ok=True)
            Image.fromarray(pixels).save(folder / f"{place}.png")
    assert "24 of 24" in _notes(tmp_path)


def test_a_few_that_are_in_both_are_a_note(tmp_path, recwarn):
    some = np.concatenate([X[:3], OTHER[3:]])
    data = _quiet(recwarn, _write(tmp_path / "d.npz", x_train=X, y_train=Y, x_test=some, y_test=Y[:30]))
    assert any("3 of 30" in note for note in data.summary.notes)


PARTS = {"x_train": X, "x_val": OTHER + 0.01, "x_test": OTHER, "y_test": Y[:30]}


def test_a_development_part_without_labels_is_reported(tmp_path):
    unlabeled = np.full(30, -100)
    assert "development" in _warnings(_write(tmp_path / "d.npz", **PARTS, y_train=Y, y_val=unlabeled))


def test_a_development_part_with_few_labels_is_not(tmp_path, recwarn):
    few = np.where(np.arange(30) < 3, Y[:30], -100)
    _quiet(recwarn, _write(tmp_path / "d.npz", **PARTS, y_train=Y, y_val=few))


def test_a_development_part_without_targets_is_reported(tmp_path):
    numbers = {"y_train": X[:, 0] * 1.5, "y_val": np.full(30, np.nan), "y_test": OTHER[:, 0]}
    path = _write(tmp_path / "d.npz", **{**PARTS, **numbers})
    with pytest.warns(LimbeckWarning, match="development"):
        load_data(path, task="regression")
